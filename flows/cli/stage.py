"""`shearline stage`: one stage on files, without a flow and without a server.

The commands are made from the stages themselves: a stage's inputs and settings are its options.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, MutableMapping
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic.fields import FieldInfo
from rich.markup import escape
from typer.core import TyperGroup

from flows.cli.shell import Exit, fail, guarded

if TYPE_CHECKING:
    from flows.standalone.parameters import Parameters
    from flows.standalone.results import StageResult
    from flows.standalone.stages import StageEntry

PARAMETER_FILES = (".cfg", ".yaml", ".yml")
PANELS = {"options": "Options", "settings": "Settings of the stage", "inputs": "Inputs"}
ONE_NAME: dict[str, Callable[[str], str]] = {"token_normalize_func": lambda name: name.replace("-", "_")}
"""``--output-dir`` is ``--output_dir``, and ``dq-init`` is ``dq_init``."""


class StageCommands(MutableMapping[str, Any]):
    """The commands of all stages by name, each made when it is asked for; a parameter file's name is one too."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:  # noqa: ANN401 (typer's own type of commands has no public name)
        from flows.standalone.stages import STAGES

        if name.lower().endswith(PARAMETER_FILES):
            return _command_of_file(name)
        if name not in self._made:
            self._made[name] = _make_command(STAGES[name])
        return self._made[name]

    def __setitem__(self, name: str, command: Any) -> None:  # noqa: ANN401
        self._made[name] = command

    def __delitem__(self, name: str) -> None:
        del self._made[name]

    def __iter__(self) -> Iterator[str]:
        from flows.standalone.stages import STAGES

        return iter(STAGES)

    def __len__(self) -> int:
        from flows.standalone.stages import STAGES

        return len(STAGES)


class StageGroup(TyperGroup):
    """The group of the stages' commands."""

    def __init__(self, **attributes: Any) -> None:  # noqa: ANN401
        super().__init__(**attributes)
        self.commands = StageCommands()

    def format_help(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401
        """Write the help page, without loading the stages that it lists."""
        from flows.standalone.stages import STAGES

        self.commands = {name: _listed(name, entry.meaning) for name, entry in STAGES.items()}
        super().format_help(ctx, formatter)
        self.commands = StageCommands()


stage_app = typer.Typer(
    cls=StageGroup,
    context_settings=ONE_NAME,
    no_args_is_help=True,
    help="Run one stage on files, without a server. A parameter file can stand for the name of the stage.",
)


@stage_app.callback()
def stages() -> None:
    """Run one stage on files, without a server. A parameter file can stand for the name of the stage."""


def _command_of_file(name: str) -> Any:  # noqa: ANN401
    found: list[Any] = []

    def work() -> None:
        from flows.standalone.parameters import read_parameters
        from flows.standalone.stages import STAGES
        from tasks.errors import ConfigError

        read: Parameters = read_parameters(name)
        if read.stage is None:
            raise ConfigError(f"{name} does not say which stage it is for; add `stage`, or give it as --parameters.")
        found.append(_make_command(STAGES[read.stage], name))

    guarded(work)
    return found[0]


def _make_command(entry: StageEntry, parameters: str | None = None) -> Any:  # noqa: ANN401
    """Return the command of a stage."""

    def run(files: list[str] | None = None, **given: Any) -> None:  # noqa: ANN401
        given["parameters"] = given["parameters"] or parameters
        guarded(lambda: _run(entry, files or [], given))

    signature = inspect.Signature(list(_parameters(entry)))
    run.__signature__ = signature  # type: ignore[attr-defined]
    run.__annotations__ = {name: item.annotation for name, item in signature.parameters.items()}
    single = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    single.command(entry.name, help=_help(entry), context_settings=ONE_NAME)(run)
    return typer.main.get_command(single)


def _listed(name: str, meaning: str) -> Any:  # noqa: ANN401
    single = typer.Typer(add_completion=False)
    single.command(name, help=meaning)(lambda: None)
    return typer.main.get_command(single)


def _help(entry: StageEntry) -> str:
    from flows.standalone.stages import DQ_INIT, IN_ORDER, Takes, load_bodies

    if entry.name == DQ_INIT:
        return f"{entry.meaning} The output is a copy of the file, named with _dq_init beside it; see the stage's page."
    forms = []
    for body in load_bodies(entry):
        words = [name.upper() + "..." * (body.arguments[name] is Takes.FILES) for name in body.named(*IN_ORDER)]
        needs = " (with the store around them)" if body.reads_store else ""
        forms.append((" ".join(words) or "none") + needs)
    return f"{entry.meaning} Files: {', or '.join(forms)}."


def _parameters(entry: StageEntry) -> Iterator[inspect.Parameter]:
    """Return the parameters of a command: files, options, inputs by name, and settings of the stage."""
    from flows.standalone.running import identity_names, input_names, options_of
    from flows.standalone.stages import DQ_INIT, load_bodies

    bodies = load_bodies(entry)
    help_text = "Detector files." if entry.name == DQ_INIT else "Products, by path or by key in the store."
    required = entry.name == DQ_INIT
    yield _parameter(
        "files",
        Annotated[list[str] if required else list[str] | None, typer.Argument(metavar="FILE...", help=help_text)],
        inspect.Parameter.empty if required else None,
    )
    yield _option("parameters", "FILE", "Parameter file, YAML or .cfg, with options that are not given here.")
    for name, field in options_of(entry).model_fields.items():
        yield _setting(name, field, PANELS["options"])
    for name in input_names(entry, bodies):
        yield _option(name, "FILE", f"Input {name}, instead of by its place.", PANELS["inputs"], repeatable=True)
    for name in identity_names(bodies):
        yield _option(name, "NAME", f"Name of the {name}; by default that of the files.", PANELS["inputs"])
    for name, field in bodies[0].config.model_fields.items():
        yield _setting(name, field, PANELS["settings"])


def _setting(name: str, field: FieldInfo, panel: str) -> inspect.Parameter:
    from flows.standalone.options import default_words, words

    meaning = " ".join((field.description or "").replace("``", "`").split())
    default = default_words(field)
    told = default == "none" and "by default" in meaning.lower()
    return _option(name, words(field.annotation), meaning if told else f"{meaning} Default: {default}.", panel)


def _option(
    name: str, metavar: str, meaning: str, panel: str = PANELS["options"], *, repeatable: bool = False
) -> inspect.Parameter:
    option = typer.Option(f"--{name}", metavar=metavar, help=escape(meaning), rich_help_panel=panel, show_default=False)
    return _parameter(name, Annotated[list[str] | None if repeatable else str | None, option], None)


def _parameter(name: str, annotation: object, default: object) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _run(entry: StageEntry, files: list[str], given: dict[str, Any]) -> None:
    from flows.standalone.running import gather, run_on_products
    from flows.standalone.stages import DQ_INIT

    parameters = given.pop("parameters")
    # the result of a command is its file, unless it says otherwise
    stated = {name: value for name, value in given.items() if value is not None}
    sorted_out = gather(entry, parameters, stated)
    if entry.name == DQ_INIT:
        if sorted_out.options.save_results is None:
            sorted_out.options = sorted_out.options.model_copy(update={"save_results": True})
        _run_on_detector_files(sorted_out, files)
    else:
        _tell(entry.name, run_on_products(sorted_out, files))


def _run_on_detector_files(given: Any, files: list[str]) -> None:  # noqa: ANN401
    """Run on every file; a bad one does not keep the others from being done."""
    from flows.standalone.running import open_detector_files
    from tasks.errors import DataError, MissingProductError

    run, lost = open_detector_files(given, len(files)), []
    for number, file in enumerate(files):
        try:
            _tell(file, run.initialize(file, number))
        except (DataError, MissingProductError) as error:
            if len(files) == 1:
                raise
            typer.echo(f"shearline: {error}", err=True)
            lost.append(file)
    if lost:
        fail(Exit.DATA, f"Without these, which could not be processed: {', '.join(lost)}.")


def _tell(what: str, result: StageResult) -> None:
    for warning in result.warnings:
        typer.echo(f"shearline: {warning}", err=True)
    done = "reused" if result.reused else result.status
    by = f", reference {result.reference}" if result.reference else ""
    why = f" ({result.reason})" if result.reason else ""
    typer.echo(f"{what}: {done}{why}{by}: {result.path or 'nothing was written'}")
    if result.product is not None and result.product.summary:
        typer.echo("  " + ", ".join(f"{name} {value}" for name, value in result.product.summary.items()))
