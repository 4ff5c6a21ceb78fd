"""The entry point of the `shearline` command: the flows' commands, and those that start and deploy services."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli import app
from flows.cli.shell import (
    Changes,
    Exit,
    RunnerKind,
    Scheduler,
    Survey,
    Workers,
    fail,
    guarded,
    make_runner,
)

if TYPE_CHECKING:
    from deployments.registration import Change, S3Access

StoreBlock = Annotated[str, typer.Option("--store", help="Block, folder or s3:// URL of the products.")]
RawBlock = Annotated[str, typer.Option("--raw", help="Block, folder or s3:// URL of the raw files.")]
PoolName = Annotated[str, typer.Option("--pool", help="Work pool of the runs; created if it is missing.")]
Endpoint = Annotated[
    str | None, typer.Option("--endpoint-url", help="Address of an S3-compatible service; none for AWS.")
]
AccessKey = Annotated[str | None, typer.Option("--access-key", help="S3 access key; none uses the workers' own.")]
SecretFrom = Annotated[
    str | None,
    typer.Option("--secret-key-from", metavar="VARIABLE", help="Environment variable that holds the S3 secret key."),
]
Results = Annotated[
    str | None, typer.Option("--results", help="s3:// URL where Prefect keeps the results of flow runs.")
]
MakeBuckets = Annotated[bool, typer.Option("--make-buckets", help="Create S3 buckets that are missing.")]
Replace = Annotated[
    bool,
    typer.Option(
        "--replace", envvar="SHEARLINE_REPLACE", help="Let the survey take the place of another one on the server."
    ),
]

blocks_app = typer.Typer(no_args_is_help=True, help="Blocks in the Prefect server: stores and reference caches.")
app.add_typer(blocks_app, name="blocks")


@blocks_app.command("register")
def blocks_register(
    stores: Annotated[
        list[str] | None,
        typer.Option("--store", metavar="NAME=URL", help="Save a store under a name; repeatable."),
    ] = None,
    caches: Annotated[
        list[str] | None,
        typer.Option("--cache", metavar="NAME=URL", help="Save a cache of CRDS reference files; repeatable."),
    ] = None,
    results: Results = None,
    collection: Annotated[
        str | None, typer.Option("--collection", help="Collection of the stores; none for the root itself.")
    ] = None,
    observatory: Annotated[str | None, typer.Option("--observatory", help="Observatory of the caches.")] = None,
    context: Annotated[
        str | None, typer.Option("--context", help="CRDS context of the caches; none: operational.")
    ] = None,
    endpoint_url: Endpoint = None,
    access_key: AccessKey = None,
    secret_key_from: SecretFrom = None,
    make_buckets: MakeBuckets = False,
) -> None:
    """Make the block types known to the server, and save stores, caches and results under names.

    A block that is there keeps what is not given.
    """

    def work() -> None:
        from deployments.options import named, refuse_unused_access, refuse_without, s3_access
        from deployments.registration import make_bucket, make_cache, make_store, register_types, save_block
        from deployments.server import check_server
        from tasks.errors import ConfigError

        access = s3_access(endpoint_url, access_key, secret_key_from)
        stores_named, caches_named = [named(text) for text in stores or ()], [named(text) for text in caches or ()]
        if caches and not observatory:
            raise ConfigError("--cache needs --observatory, such as jwst.")
        refuse_without("--collection", collection, "--store", stores)
        refuse_without("--observatory", observatory, "--cache", caches)
        refuse_without("--context", context, "--cache", caches)
        refuse_unused_access(access, make_buckets, [results, *(url for _, url in stores_named + caches_named)])
        check_server()
        changes = register_types()
        for name, url in stores_named:
            changes += make_bucket(url, access) if make_buckets else []
            changes.append(save_block(make_store(url, collection, access), name))
        for name, url in caches_named:
            changes.append(save_block(make_cache(url, observatory or "", context, access), name))
        changes += results_saved(results, access, make_buckets)
        print_changes(changes)

    guarded(work)


@app.command()
def deploy(
    survey: Survey = "cfis",
    changes: Changes = None,
    store: StoreBlock = "products",
    raw: RawBlock = "raw",
    collection: Annotated[
        str | None,
        typer.Option("--collection", help="Collection of the products; none: that of the block, at first `main`."),
    ] = None,
    pool: PoolName = "shearline",
    pool_type: Annotated[str, typer.Option("--pool-type", help="`process`, `docker` or `kubernetes`.")] = "process",
    image: Annotated[str | None, typer.Option("--image", help="Container image of the runs.")] = None,
    cron: Annotated[str | None, typer.Option("--cron", help="When the nightly run starts, as a cron line.")] = None,
    timezone: Annotated[
        str | None, typer.Option("--timezone", help="Time zone of the cron line, such as Pacific/Honolulu.")
    ] = None,
    runner: RunnerKind = "local",
    workers: Workers = 2,
    scheduler: Scheduler = None,
    results: Results = None,
    paused: Annotated[bool, typer.Option("--paused", help="Leave schedules and triggers switched off.")] = False,
    replace: Replace = False,
    endpoint_url: Endpoint = None,
    access_key: AccessKey = None,
    secret_key_from: SecretFrom = None,
    make_buckets: MakeBuckets = False,
) -> None:
    """Deploy the flows with the settings of a survey: work pool, deployments, schedules and automations."""

    def work() -> None:
        from deployments.declared import pool_type_of
        from deployments.deploy import Target
        from deployments.deploy import deploy as deploy_survey
        from deployments.options import refuse_collection_of_block, refuse_unused_access, s3_access
        from deployments.registration import make_bucket, store_block
        from deployments.server import check_server, refuse_another_survey
        from flows.config import load_survey

        config = load_survey(survey, changes or ())
        where = make_runner(runner, workers, scheduler)
        access = s3_access(endpoint_url, access_key, secret_key_from)
        refuse_collection_of_block(collection, store)
        refuse_unused_access(access, make_buckets, (store, raw, results))
        target = Target(
            pool=pool,
            pool_type=pool_type_of(pool_type),
            image=image,
            cron=cron,
            timezone=timezone,
            results=results is not None,
            active=not paused,
        )
        check_server()
        if not replace:
            refuse_another_survey(config.name)
        done = [change for url in (store, raw) for change in (make_bucket(url, access) if make_buckets else ())]
        store_name, saved = store_block(store, "products", collection, access)
        raw_name, raw_saved = store_block(raw, "raw", "", access)
        done += [*saved, *raw_saved, *results_saved(results, access, make_buckets)]
        print_changes([*done, *deploy_survey(config, store_name, raw_name, where, target)])

    guarded(work)


@app.command()
def up(
    root: Annotated[Path, typer.Option("--root", help="Folder; everything stays in it.")] = Path("shearline-up"),
    survey: Survey = "demo",
    changes: Changes = None,
    host: Annotated[str, typer.Option("--host", help="Address on which the server listens.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port of server and UI.")] = 4200,
    workers: Workers = 2,
    runs: Annotated[int, typer.Option("--runs", min=1, help="Flow runs at the same time.")] = 2,
    simulate: Annotated[bool, typer.Option("--simulate", help="Simulate the survey's raw exposures first.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Also look for files that arrive in the raw store.")] = False,
    replace: Replace = False,
) -> None:
    """Start server, worker and a store on this machine to try Shearline; Ctrl-C stops everything."""
    from deployments.up import Place, claimed

    place = Place(root.expanduser().resolve(), host, port)
    # before Prefect is imported, and whatever server the user's own Prefect knows
    os.environ.update(place.environment())
    try:
        place.home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fail(Exit.CONFIG, f"--root {root} cannot be used: {error.strerror}.")

    def work() -> None:
        with claimed(place):
            # all of Prefect and of the numerics, which takes seconds
            from deployments.trial import Trial, run_trial

            trial = Trial(survey, tuple(changes or ()), workers, runs, simulate, watch, replace)
            run_trial(place, trial, typer.echo)

    guarded(work)


def results_saved(url: str | None, access: S3Access, make_buckets: bool) -> list[Change]:
    """Save the block of Prefect's results, if one is wanted."""
    from deployments.deploy import RESULTS_BLOCK
    from deployments.registration import make_bucket, make_results, save_block

    if url is None:
        return []
    change = save_block(make_results(url, access.endpoint_url), RESULTS_BLOCK)
    return [*(make_bucket(url, access) if make_buckets else []), change]


def print_changes(changes: Sequence[Change]) -> None:
    """Print what was created, changed or left as it was."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table()
    for column in ("what", "name", "", "detail"):
        table.add_column(column, overflow="fold")
    for change in changes:
        table.add_row(change.kind, change.name, change.outcome, change.detail)
    console.print(table)


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
