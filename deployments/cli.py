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
    Collection,
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
    collection: Annotated[str, typer.Option("--collection", help="Collection of the stores.")] = "",
    observatory: Annotated[str | None, typer.Option("--observatory", help="Observatory of the caches.")] = None,
    context: Annotated[str, typer.Option("--context", help="CRDS context of the caches; none: operational.")] = "",
    endpoint_url: Endpoint = None,
    access_key: AccessKey = None,
    secret_key_from: SecretFrom = None,
    make_buckets: MakeBuckets = False,
) -> None:
    """Make the block types known to the server, and save stores, caches and results under names."""

    def work() -> None:
        server_needed()
        from deployments.registration import make_bucket, make_cache, make_store, register_types, save_block
        from tasks.errors import ConfigError

        access = s3_access(endpoint_url, access_key, secret_key_from)
        changes = register_types()
        for name, url in map(named, stores or ()):
            changes += make_bucket(url, access) if make_buckets else []
            changes.append(save_block(make_store(url, collection, access), name))
        if caches and not observatory:
            raise ConfigError("--cache needs --observatory, such as jwst.")
        for name, url in map(named, caches or ()):
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
    collection: Collection = "main",
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
    endpoint_url: Endpoint = None,
    access_key: AccessKey = None,
    secret_key_from: SecretFrom = None,
    make_buckets: MakeBuckets = False,
) -> None:
    """Deploy the flows with the settings of a survey: work pool, deployments, schedules and automations."""

    def work() -> None:
        server_needed()
        from deployments.declared import pool_type_of
        from deployments.deploy import Target
        from deployments.deploy import deploy as deploy_survey
        from deployments.registration import make_bucket, store_block
        from flows.config import load_survey

        config = load_survey(survey, changes or ())
        where = make_runner(runner, workers, scheduler)
        access = s3_access(endpoint_url, access_key, secret_key_from)
        target = Target(
            pool=pool,
            pool_type=pool_type_of(pool_type),
            image=image,
            cron=cron,
            timezone=timezone,
            results=results is not None,
            active=not paused,
        )
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
            from deployments.trial import run_trial

            run_trial(place, survey, changes or (), workers, runs, simulate, watch, typer.echo)

    guarded(work)


def server_needed() -> None:
    """Refuse to work without a Prefect server that stays.

    Raises
    ------
    ConfigError
        If no address of an API is set.
    """
    from prefect.settings import get_current_settings

    from tasks.errors import ConfigError

    if not get_current_settings().api.url:
        raise ConfigError(
            "There is no Prefect server to deploy to: set PREFECT_API_URL, such as http://127.0.0.1:4200/api, "
            "or start one with `shearline up`."
        )


def s3_access(endpoint_url: str | None, access_key: str | None, secret_key_from: str | None) -> S3Access:
    """Return how S3 is reached; the secret comes from the environment, as a command line can be read by others.

    Raises
    ------
    ConfigError
        If the variable is not set, or one of the two keys is missing.
    """
    from pydantic import SecretStr

    from deployments.registration import S3Access
    from tasks.errors import ConfigError

    secret = os.environ.get(secret_key_from) if secret_key_from else None
    if secret_key_from and not secret:
        raise ConfigError(f"--secret-key-from {secret_key_from}: that environment variable is not set.")
    if (access_key is None) != (secret is None):
        raise ConfigError("--access-key and --secret-key-from belong together: give both, or none of them.")
    return S3Access(endpoint_url, access_key, SecretStr(secret) if secret else None)


def results_saved(url: str | None, access: S3Access, make_buckets: bool) -> list[Change]:
    """Save the block of Prefect's results, if one is wanted."""
    from deployments.deploy import RESULTS_BLOCK
    from deployments.registration import make_bucket, make_results, save_block

    if url is None:
        return []
    change = save_block(make_results(url, access.endpoint_url), RESULTS_BLOCK)
    return [*(make_bucket(url, access) if make_buckets else []), change]


def named(text: str) -> tuple[str, str]:
    """Return name and URL of ``NAME=URL``.

    Raises
    ------
    ConfigError
        If one of the two is missing.
    """
    from tasks.errors import ConfigError

    name, _, url = text.partition("=")
    if not name or not url:
        raise ConfigError(f"{text!r} is not of the form NAME=URL, such as products=s3://bucket/products.")
    return name, url


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
