"""The `shearline` command; `deployments.cli` adds what starts and deploys."""

import typer

from flows.cli.arrival import notify, receive, watch
from flows.cli.night import plan, run_night
from flows.cli.references import references_app
from flows.cli.run import demo, run_app
from flows.cli.settings import config_app
from flows.cli.shell import Exit
from flows.cli.stage import stage_app
from flows.cli.status import status_app

__all__ = ["Exit", "app"]

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="From telescope exposures to a weak-lensing shape catalogue.",
)
app.command()(demo)
app.command()(notify)
app.command()(watch)
app.command()(receive)
app.command()(plan)
run_app.command("night")(run_night)
app.add_typer(run_app, name="run")
app.add_typer(status_app, name="status")
app.add_typer(stage_app, name="stage")
app.add_typer(references_app, name="references")
app.add_typer(config_app, name="config")
