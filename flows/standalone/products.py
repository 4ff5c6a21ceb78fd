"""Runs one stage on products: in their store, or in a temporary one if the product is to be a file elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from blocks.lease import LeaseHeldError
from blocks.store import DataStore, StoreError
from flows.claim import claim
from flows.config import SurveyConfig, load_survey
from flows.standalone.arguments import Surroundings, assign_files, base_settings, fill, references_in
from flows.standalone.hooks import apply_hooks, load_hooks
from flows.standalone.inputs import InputFile, Workspace, find_input, recorded
from flows.standalone.naming import output_folder, output_name
from flows.standalone.options import ProductOptions, validated
from flows.standalone.results import StageResult, copy_whole, save
from flows.standalone.stages import FROM_STORE, StageBody, Takes
from tasks.archive.documents import read_document
from tasks.errors import ConfigError
from tasks.products.identity import TILE_PARTS, Identity, ProductRef
from tasks.products.references import ReferenceRecord
from tasks.session import Outcome, session

if TYPE_CHECKING:
    from flows.standalone.running import Given

REFERENCES = "references"


class ProductRun:
    """One run of a stage on products.

    Parameters
    ----------
    given
        Stage, options, settings and names.
    files
        Its inputs in order.
    scratch
        An empty folder.

    Raises
    ------
    ConfigError
        If an option is wrong or a hook cannot be imported.
    MissingProductError
        If an input is not there.
    """

    def __init__(self, given: Given, files: Sequence[str], scratch: Path) -> None:
        self._given, self._scratch = given, scratch
        self._stage = given.entry.name
        self._options: ProductOptions = given.options
        self._survey: SurveyConfig | None = load_survey(self._options.survey) if self._options.survey else None
        named = _open_store(self._options.store, self._options.collection) if self._options.store else None
        self._before = load_hooks(self._options.pre_hooks, "pre_hooks")
        self._after = load_hooks(self._options.post_hooks, "post_hooks")
        self._body = self._choose_body(files)
        assigned = {
            name: self._hooked(texts)
            for name, texts in assign_files(self._body, self._stage, files, given.inputs).items()
        }
        of_raw = self._body.named(Takes.RAW_FILE)
        self._files = {name: self._find(texts, named) for name, texts in assigned.items() if name not in of_raw}
        self._store = named or self._common_store()
        self._files |= {name: self._find(texts, self._raw) for name, texts in assigned.items() if name in of_raw}

    def run(self) -> StageResult:
        """Run the stage and put its product where it belongs.

        Raises
        ------
        ConfigError
            If there is nowhere to write, or an argument or setting is missing or wrong.
        ShearlineError, StoreError
            As the stage itself.
        """
        target = self._workspace.store if self._to_file else self._target_store()
        if not self._to_file:
            target.probe()
        arguments = self._arguments(target)
        with self._alone(arguments, target), session(0) as current:
            product: ProductRef = self._body.task.fn(**arguments)
            reused = current.count(Outcome.REUSED) > 0
        path = self._save(product) if self._to_file else f"{target.url}/{product.key}"
        return StageResult(self._stage, "COMPLETE", path, product=product, reused=reused)

    # --- where --------------------------------------------------------------------------------------------------------

    @property
    def _to_file(self) -> bool:
        wanted = bool(self._options.output_dir or self._options.output_file)
        if self._given.entry.fills_store:
            if wanted:
                raise ConfigError(f"{self._stage} writes many files, which only a store can take; give store instead.")
            return False
        return wanted or self._store is None

    def _target_store(self) -> DataStore:
        if self._store is None:
            raise ConfigError(f"{self._stage} writes into a store: say where it is with store and collection.")
        if self._after:
            raise ConfigError("post_hooks change what a stage made, which a store does not take; give output_dir too.")
        return self._store

    @contextmanager
    def _alone(self, arguments: Mapping[str, object], store: DataStore) -> Iterator[None]:
        """Keep flows from working on the same exposure or tile meanwhile; what goes to a file disturbs nobody."""
        subject = _claimed(arguments)
        if self._to_file or self._given.entry.fills_store or not subject:
            yield
            return
        try:
            with claim(store, subject, wait_s=0):
                yield
        except LeaseHeldError as held:
            raise StoreError(f"{held}. Try again when it has ended, or write to a file with output_dir.") from held

    @cached_property
    def _workspace(self) -> Workspace:
        return Workspace(self._scratch, "work")

    @cached_property
    def _raw_workspace(self) -> Workspace:
        return Workspace(self._scratch, "raw")

    @cached_property
    def _raw(self) -> DataStore | None:
        if self._options.raw:
            return _open_store(self._options.raw, "")
        if self._store is None or self._store.collection == "raw":
            return None
        return self._store.model_copy(update={"collection": "raw"})

    def _common_store(self) -> DataStore | None:
        found = [item.store for items in self._files.values() for item in items if item.store is not None]
        all_inside = len(found) == sum(map(len, self._files.values()))
        return found[0] if found and all_inside and len({store.url for store in found}) == 1 else None

    # --- what ---------------------------------------------------------------------------------------------------------

    def _choose_body(self, files: Sequence[str]) -> StageBody:
        """Return the task for CCDs or for tiles, by the inputs that are named or what the first file is of."""
        fitting = [body for body in self._given.bodies if set(self._given.inputs) <= set(body.arguments)]
        if len(fitting) > 1 and files:
            first = find_input(files[0], self._named_store(), self._options.input_dir, self._options.subject)
            of_tile = TILE_PARTS.fullmatch(first.subject) is not None
            fitting = [body for body in fitting if ("coadd" in body.arguments) == of_tile]
        return fitting[0] if fitting else self._given.bodies[0]

    def _named_store(self) -> DataStore | None:
        return _open_store(self._options.store, self._options.collection) if self._options.store else None

    def _hooked(self, texts: Sequence[str]) -> list[str]:
        return [str(apply_hooks(self._before, Path(text))) for text in texts] if self._before else list(texts)

    def _find(self, texts: Sequence[str], store: DataStore | None) -> list[InputFile]:
        return [find_input(text, store, self._options.input_dir, self._options.subject) for text in texts]

    def _arguments(self, target: DataStore) -> dict[str, Any]:
        body = self._body
        config = validated(body.config, self._given.settings, base=base_settings(body, self._survey))
        around = Surroundings(
            self._stage, self._options, self._given.names, self._store, self._raw, self._survey, config
        )
        filled = dict(fill(body, around, self._files))
        if self._to_file and self._store is not None:
            for ref in references_in([filled[name] for name in body.named(*FROM_STORE)]):
                self._workspace.take_product(ref, self._store)
        return {name: self._argument(name, filled, config, target) for name in body.arguments}

    def _argument(self, name: str, filled: dict[str, Any], config: object, target: DataStore) -> object:
        kind, items = self._body.arguments[name], self._files.get(name, [])
        match kind:
            case Takes.STORE:
                return target
            case Takes.CONFIG:
                return config
            case Takes.RAW:
                return self._raw_workspace.store if self._raw is None or self._has_loose_raw_file else self._raw
            case Takes.RAW_FILE:
                return self._raw_file(items[0]) if items else None
            case Takes.FILE:
                return self._product(items[0], name)
            case Takes.FILES:
                return [self._product(item, f"{name}/{number}") for number, item in enumerate(items)]
            case _:
                return filled[name]

    def _product(self, item: InputFile, argument: str) -> ProductRef:
        if not self._to_file:
            return recorded(item, self._target_store())
        taken = self._workspace.take(item, argument)
        if argument == REFERENCES and item.store is not None:
            # the record names the copy of a reference file that is to be read with it
            copy = read_document(self._workspace.store, taken, ReferenceRecord).reference
            if copy is not None:
                self._workspace.take_product(copy, item.store)
        return taken

    @property
    def _has_loose_raw_file(self) -> bool:
        items = [item for name in self._body.named(Takes.RAW_FILE) for item in self._files.get(name, [])]
        return any(item.store is None or self._raw is None or item.store.url != self._raw.url for item in items)

    def _raw_file(self, item: InputFile) -> ProductRef:
        if self._raw is None or self._has_loose_raw_file:
            return self._raw_workspace.take(item, "files")
        return recorded(item, self._raw)

    # --- output -------------------------------------------------------------------------------------------------------

    def _save(self, product: ProductRef) -> str:
        made = self._scratch / "work" / product.key
        made = Path(apply_hooks(self._after, made))
        given = [item for items in self._files.values() for item in items]
        extension = Path(product.key).suffix
        base = self._options.output_file or product.subject or (given[0].key if given else self._stage)
        name = output_name(base, self._options, self._stage, extension)
        beside = next((item.path.parent for item in given if item.path is not None), Path.cwd())
        folder = output_folder(self._options, beside)
        inputs = [item.path for item in given if item.path is not None]
        if any(Path(folder, name).exists() and Path(folder, name).samefile(path) for path in inputs):
            raise ConfigError(f"{Path(folder, name)} is an input itself, which is never changed; choose another name.")
        return save(folder, name, lambda path: copy_whole(made, path))


def _claimed(arguments: Mapping[str, object]) -> str:
    """Return what flows claim while they work on the same products; empty for those of a whole survey."""
    things = (value for value in arguments.values() if isinstance(value, Identity | ProductRef))
    subject = next((thing.subject if isinstance(thing, ProductRef) else str(thing) for thing in things), "survey")
    if subject in {"", "survey"}:
        return ""
    return f"tile-{subject}" if TILE_PARTS.fullmatch(subject) else f"exposure-{subject.rpartition('-')[0] or subject}"


def _open_store(root: str, collection: str) -> DataStore:
    try:
        return DataStore(root=root, collection=collection)
    except ValidationError as error:
        raise ConfigError(error.errors()[0]["msg"].removeprefix("Value error, ")) from error
