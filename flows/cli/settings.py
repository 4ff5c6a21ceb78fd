"""`shearline config`: the settings of a survey."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli.shell import Changes, guarded

config_app = typer.Typer(no_args_is_help=True, help="Show and check settings.")


@config_app.command("show")
def config_show(
    survey: Annotated[str, typer.Argument(help="Survey file, or the name of one that comes along.")],
    changes: Changes = None,
) -> None:
    """Print the resolved settings as YAML, every default written out."""

    def work() -> None:
        from flows.config import dump_survey, load_survey

        typer.echo(dump_survey(load_survey(survey, changes or ())), nl=False)

    guarded(work)


@config_app.command("check")
def config_check(
    survey: Annotated[str, typer.Argument(help="Survey file, or the name of one that comes along.")],
    changes: Changes = None,
) -> None:
    """Check a survey file: unknown keys, wrong types, values out of bounds."""

    def work() -> None:
        from flows.config import load_survey

        config = load_survey(survey, changes or ())
        typer.echo(f"{survey}: the settings of {config.name} are valid (fingerprint {config.fingerprint()}).")

    guarded(work)
