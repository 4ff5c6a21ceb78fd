"""`shearline references`: which reference file an image has and why, fetching them, and adding one's own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.shell import guarded

if TYPE_CHECKING:
    from blocks.crds import CrdsCache
    from flows.references import BestReference

references_app = typer.Typer(no_args_is_help=True, help="Reference files, and the rules of CRDS that choose them.")

CacheRoot = Annotated[str, typer.Option("--cache", help="Folder or s3:// URL of the CRDS cache.")]
Observatory = Annotated[
    str, typer.Option("--observatory", "-o", help="Observatory of the cache, such as jwst; by default its only one.")
]
Context = Annotated[str, typer.Option("--context", help="Rules to use; by default those that are operational.")]
Checksum = Annotated[
    str, typer.Option("--checksum", help="What to do with rules of a wrong checksum: strict, warn or ignore.")
]
Types = Annotated[
    list[str] | None,
    typer.Option("--type", "-t", help="Reference type, such as mask or dark; repeatable. By default that of flags."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


@references_app.command("best")
def best(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="FITS files; only their headers are read.")],
    cache: CacheRoot,
    observatory: Observatory = "",
    context: Context = "",
    types: Types = None,
    checksum: Checksum = "strict",
    as_json: AsJson = False,
) -> None:
    """Say which reference each file has, by which rule and why; offline, nothing is written."""

    def work() -> None:
        from flows.references import best_reference

        opened = _open(cache, observatory, context, checksum)
        found = [best_reference(file, opened, kind) for file in files for kind in types or [""]]
        if as_json:
            import json

            typer.echo(json.dumps([one.model_dump(mode="json") for one in found], indent=1))
            return
        for one in found:
            typer.echo(describe(one))

    guarded(work)


@references_app.command("sync")
def sync(
    server: Annotated[str, typer.Option("--server", help="CRDS server, such as https://jwst-crds.stsci.edu.")],
    cache: CacheRoot,
    observatory: Annotated[str, typer.Option("--observatory", "-o", help="hst, jwst or roman.")],
    files: Annotated[
        list[str] | None, typer.Argument(metavar="[FILE]...", help="FITS files whose references are fetched too.")
    ] = None,
    context: Context = "",
    types: Types = None,
    everything: Annotated[
        bool, typer.Option("--everything", help="Fetch every reference of the context: this can be terabytes.")
    ] = False,
    timeout: Annotated[float, typer.Option("--timeout", min=1, help="Seconds without an answer of the server.")] = 60.0,
    as_json: AsJson = False,
) -> None:
    """Fetch rules, and references of the files, from a CRDS server into a local cache; one process at a time."""

    def work() -> None:
        from flows.references import sync_references

        opened = _open(cache, observatory, context, "strict")
        rules, references = sync_references(
            opened, server, files or [], types or [], everything=everything, timeout_s=timeout,
            tell=lambda line: typer.echo(line, err=True),
        )  # fmt: skip
        if as_json:
            import json
            from dataclasses import asdict

            typer.echo(json.dumps({"rules": asdict(rules), "references": asdict(references) if references else None}))
            return
        for what, done in (("mappings", rules), ("references", references)):
            if done is not None:
                typer.echo(
                    f"{done.context}: {len(done.names)} {what}, {len(done.fetched)} of them fetched now "
                    f"({done.n_bytes} bytes)"
                )

    guarded(work)


@references_app.command("add")
def add(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Reference file; its name is the one it will have.")],
    cache: CacheRoot,
    observatory: Annotated[
        str, typer.Option("--observatory", "-o", help="Observatory of the cache, such as ligeriri.")
    ],
    types: Annotated[
        str, typer.Option("--type", "-t", help="Reference type; by default that of flags: mask or dq.")
    ] = "",
    match: Annotated[
        list[str] | None,
        typer.Option("--match", metavar="KEY=VALUE", help="Images it is for; by default those of its DETECTOR."),
    ] = None,
    instrument: Annotated[str, typer.Option("--instrument", help="By default the INSTRUME of its header.")] = "",
    use_after: Annotated[
        str, typer.Option("--use-after", metavar="DATE", help="By default the USEAFTER of its header.")
    ] = "",
    context: Context = "",
) -> None:
    """Put a reference of your own into a local cache, with a rule that chooses it; a cache that is missing is begun."""

    def work() -> None:
        from flows.references import add_reference_file

        added = add_reference_file(
            cache, observatory, file, reference_type=types, match=_pairs(match or []), instrument=instrument,
            use_after=use_after, context=context,
        )  # fmt: skip
        typer.echo(f"{added.path} is chosen by {added.rule}; the context is {added.context} now")

    guarded(work)


def describe(best: BestReference) -> str:
    """Return in words what the rules say of a file."""
    record = best.record
    rules = " > ".join(record.mappings)
    asked = ", ".join(f"{name}={value!r}" for name, value in record.parameters.items())
    if record.outcome != "selected":
        lines = [f"{best.file}: no {record.reference_type} applies ({record.reason})"]
    else:
        lines = [f"{best.file}: {record.reference_type} is {record.name}", f"  file   {best.path}"]
        lines += [f"  for    {case}" for case in best.because]
    lines.append(f"  rules  {rules}")
    if asked:
        lines.append(f"  asked  {asked}")
    return "\n".join(lines)


def _open(root: str, observatory: str, context: str, checksum: str) -> CrdsCache:
    from flows.references import open_cache

    return open_cache(root, observatory, context, checksum)


def _pairs(texts: list[str]) -> dict[str, str]:
    from tasks.errors import ConfigError

    pairs = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not (key and equals and value):
            raise ConfigError(f"--match {text[:80]!r} is not of the form KEY=VALUE, such as DETECTOR=IMG1.")
        pairs[key.strip()] = value.strip()
    return pairs
