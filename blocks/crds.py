"""A CRDS cache: the folder or bucket with the rules and reference files of one observatory.

Bytes and names only. What the rules say is worked out by `tasks.science.crds_rules`, which needs neither a server nor
environment variables. The layout is that of every CRDS cache::

    config/<observatory>/server_config                    optional: the operational context, files known to be bad
    mappings/<observatory>/<observatory>_0001.pmap        and .imap, .rmap
    references/<observatory>[/<instrument>]/<name>        with or without a folder per instrument
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import re
from pathlib import Path
from typing import Any, ClassVar, Literal

import fsspec
from prefect.blocks.core import Block
from pydantic import Field, SecretStr, field_validator

from blocks.file_hashes import file_sha256
from blocks.s3_access import DEFAULT_ATTEMPTS, DEFAULT_TIMEOUT_S, S3Access
from blocks.store import ObjectNotFoundError, translated

OBSERVATORY = re.compile(r"[a-z][a-z0-9_]{0,31}")
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_+.-]{0,199}")
MAPPING_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_+.-]{0,199}\.[pir]map")
HASH_LENGTH = 32


class CacheError(Exception):
    """The cache, its context or one of its mappings is not there: no reference can be chosen."""


class ReferenceNotFoundError(Exception):
    """The rules name a reference file that the cache does not have."""


class ReferenceMarkedBadError(ReferenceNotFoundError):
    """The rules name a reference file that is marked as bad."""


class CrdsCache(Block):
    """Rules and reference files of one observatory, as the Calibration Reference Data System keeps them."""

    _block_type_name: ClassVar[str] = "Shearline CRDS cache"
    _block_type_slug: ClassVar[str] = "shearline-crds-cache"
    _description: ClassVar[str] = "Where reference files and the rules that choose them are: a folder or an S3 bucket."

    root: str = Field(description="Folder, file:// URL or s3:// URL that holds config, mappings and references.")
    observatory: str = Field(description="Name of the observatory in the cache, such as jwst or ligeriri.")
    context: str = Field(
        default="",
        description="Rules to use, such as jwst_0535.pmap; empty for the operational context of the cache, or for "
        "its only one.",
    )
    checksum: Literal["strict", "warn", "ignore"] = Field(
        default="strict", description="What to do with rules whose checksum does not match their text."
    )
    endpoint_url: str | None = Field(default=None, description="Address of an S3-compatible service; none for AWS.")
    access_key: str | None = Field(default=None, description="S3 access key; none uses the environment's.")
    secret_key: SecretStr | None = Field(default=None, description="S3 secret key; none uses the environment's.")
    timeout_s: float = Field(
        default=DEFAULT_TIMEOUT_S, gt=0, le=3600, description="Seconds without an answer of S3 after which it is late."
    )
    attempts: int = Field(
        default=DEFAULT_ATTEMPTS, ge=1, le=20, description="How often a request to S3 is sent before it has failed."
    )

    @field_validator("root")
    @classmethod
    def _root_is_absolute(cls, value: str) -> str:
        if "://" not in value:
            return str(Path(value).expanduser().resolve())
        scheme = value.split("://")[0]
        if scheme not in {"file", "s3"}:
            raise ValueError(f"{value!r}: a CRDS cache is a folder, file:// or s3://, not {scheme}://")
        return value.rstrip("/")

    @field_validator("observatory")
    @classmethod
    def _observatory_is_a_name(cls, value: str) -> str:
        if not OBSERVATORY.fullmatch(value.lower()):
            raise ValueError(f"{value!r} is not the name of an observatory: use letters, digits and '_'")
        return value.lower()

    @field_validator("context")
    @classmethod
    def _context_is_a_name(cls, value: str) -> str:
        if value and not (MAPPING_NAME.fullmatch(value) and value.endswith(".pmap")):
            raise ValueError(f"{value!r} is not the name of a CRDS context: these end in .pmap")
        return value

    # --- rules --------------------------------------------------------------------------------------------------------

    def list_contexts(self) -> list[str]:
        """Return the names of the contexts in the cache, sorted.

        Raises
        ------
        CacheError
            If there is no cache of the observatory at the root.
        """
        folder = self._path("mappings")
        try:
            with translated(f"CRDS cache {self.root}: cannot list the contexts"):
                paths = self._fs.ls(folder, detail=False)
        except ObjectNotFoundError as error:
            raise CacheError(
                f"There is no CRDS cache of observatory {self.observatory!r} at {self.root}: the folder "
                f"mappings/{self.observatory} is missing. Set the root to the folder that holds it."
            ) from error
        return sorted(name for name in map(_base_name, paths) if name.endswith(".pmap"))

    def resolve_context(self) -> str:
        """Return the context to use: the configured one, else the operational one, else the only one.

        Raises
        ------
        CacheError
            If that context is not in the cache, or there is no telling which one is meant.
        """
        available = self.list_contexts()
        wanted = self.context or self._operational_context()
        if not wanted and len(available) == 1:
            return available[0]
        listed = f"available: {', '.join(available) or 'none'}"
        if not wanted:
            raise CacheError(
                f"The CRDS cache {self.root} does not say which context of {self.observatory} is operational; "
                f"set one of them ({listed})."
            )
        if wanted not in available:
            origin = "" if self.context else ", which its server_config names as operational,"
            raise CacheError(f"Context {wanted}{origin} is not in the CRDS cache {self.root}; {listed}.")
        return wanted

    def read_mapping(self, name: str) -> str:
        """Return the text of a mapping file.

        Raises
        ------
        CacheError
            If the cache has no such mapping, or the name is not one.
        """
        if not MAPPING_NAME.fullmatch(name):
            raise CacheError(f"{name!r} is not the name of a CRDS mapping: they end in .pmap, .imap or .rmap.")
        text = self._read_text(self._path("mappings", name))
        if text is None:
            raise CacheError(
                f"Mapping {name} is named by the rules of {self.observatory} but is not in the CRDS cache {self.root}; "
                "copy it into the cache, or choose another context."
            )
        return text

    def server_config(self) -> dict[str, Any]:
        """Return what the cache says of its server: the operational context, files known to be bad; perhaps nothing.

        Raises
        ------
        CacheError
            If the file is there and cannot be read.
        """
        text = self._read_text(self._path("config", "server_config"))
        if text is None:
            return {}
        for parse in (json.loads, ast.literal_eval):  # JSON today, a Python literal before 2022
            try:
                parsed = parse(text)
            except (ValueError, SyntaxError):
                continue
            if isinstance(parsed, dict):
                return parsed
        raise CacheError(f"config/{self.observatory}/server_config in the CRDS cache {self.root} cannot be read.")

    def bad_files(self) -> frozenset[str]:
        """Return the names of references and mappings that the server has marked as bad."""
        config = self.server_config()
        listed = config.get("bad_files_list") or config.get("bad_files") or []
        return frozenset(listed.split() if isinstance(listed, str) else map(str, listed))

    def fingerprint(self) -> str:
        """Return a checksum of everything that the choice of references can depend on.

        That is the text of every mapping below the context, the policy, the files marked as bad, and name and content
        of every reference file that the rules name and the cache has: its SHA-256 in a folder, its ETag in a bucket. A
        copy of the folder has the same fingerprint; a copy in a bucket has another.

        Raises
        ------
        CacheError
            If there is no such cache or context.
        """
        context = self.resolve_context()
        digest = hashlib.sha256(f"{self.observatory} {context} {self.checksum}\n".encode())
        named: set[str] = set()
        waiting, seen = [context], {context}
        while waiting:
            name = waiting.pop()
            text = self._read_text(self._path("mappings", name))
            digest.update(f"{name} {hashlib.sha256((text or 'missing').encode()).hexdigest()}\n".encode())
            below = selected_names(text or "")
            named |= below
            children = sorted(child for child in below - seen if MAPPING_NAME.fullmatch(child))
            waiting += children
            seen |= set(children)
        for line in sorted(self._reference_lines(named)):
            digest.update(line.encode())
        digest.update(" ".join(sorted(self.bad_files())).encode())
        return digest.hexdigest()[:HASH_LENGTH]

    # --- references ---------------------------------------------------------------------------------------------------

    def locate_reference(self, name: str, instrument: str = "") -> str:
        """Return the path or URL of a reference file, in the folder of its instrument or beside the others.

        Raises
        ------
        ReferenceNotFoundError
            If the cache does not have it.
        ReferenceMarkedBadError
            If it is marked as bad.
        """
        if not FILE_NAME.fullmatch(name):
            raise ReferenceNotFoundError(f"{name[:80]!r} is not the name of a reference file.")
        if name in self.bad_files():
            raise ReferenceMarkedBadError(
                f"Reference {name} is marked as bad in config/{self.observatory}/server_config of the CRDS cache "
                f"{self.root}; choose a context without it."
            )
        places = [self._path("references", instrument.lower(), name)] if instrument else []
        places.append(self._path("references", name))
        for place in places:
            if self._is_there(place):
                return place if self._is_local else f"s3://{place}"
        raise ReferenceNotFoundError(
            f"Reference {name}, which the rules of {self.observatory} choose, is not in the CRDS cache {self.root}; "
            f"expected it at {' or '.join(place.removeprefix(self._base + '/') for place in places)}."
        )

    def read_reference(self, name: str, instrument: str = "") -> bytes:
        """Return the bytes of a reference file.

        Raises
        ------
        ReferenceNotFoundError
            If the cache does not have it, or it is marked as bad.
        """
        place = self.locate_reference(name, instrument)
        with translated(f"CRDS cache {self.root}: cannot read {name}"), self._fs.open(place, "rb") as handle:
            data: bytes = handle.read()
        return data

    # --- where --------------------------------------------------------------------------------------------------------

    @property
    def _is_local(self) -> bool:
        return not self.root.startswith("s3://")

    @property
    def _base(self) -> str:
        return self.root.removeprefix("file://").removeprefix("s3://")

    @property
    def _fs(self) -> Any:  # noqa: ANN401 (fsspec has no types)
        if self._is_local:
            return fsspec.filesystem("file")
        secret = self.secret_key.get_secret_value() if self.secret_key else None
        access = S3Access(self.endpoint_url, self.access_key, secret, self.timeout_s, self.attempts)
        return access.file_system(repeat=True)

    def _path(self, part: str, *names: str) -> str:
        return "/".join((self._base, part, self.observatory, *names))

    def _is_there(self, path: str) -> bool:
        # fsspec's own question takes every failure for a no
        try:
            with translated(f"CRDS cache {self.root}: cannot look up {path}"):
                return bool(self._fs.info(path)["type"] == "file")
        except ObjectNotFoundError:
            return False

    def _read_text(self, path: str) -> str | None:
        try:
            with translated(f"CRDS cache {self.root}: cannot read {path}"), self._fs.open(path, "rb") as handle:
                data: bytes = handle.read()
        except ObjectNotFoundError:
            return None
        return data.decode(errors="replace")

    def _operational_context(self) -> str:
        config = self.server_config()
        return str(config.get("latest_context") or config.get("operational_context") or "")

    def _reference_lines(self, named: set[str]) -> list[str]:
        try:
            with translated(f"CRDS cache {self.root}: cannot list the references"):
                found = self._fs.find(self._path("references"), detail=True)
        except ObjectNotFoundError:
            return []
        wanted = {path: info for path, info in found.items() if _base_name(path) in named}
        with translated(f"CRDS cache {self.root}: cannot read the references"):
            contents = {path: file_sha256(path) if self._is_local else info["ETag"] for path, info in wanted.items()}
        return [f"{path.removeprefix(self._base)} {contents[path]}\n" for path in wanted]


def _base_name(path: object) -> str:
    return str(path).rsplit("/", 1)[-1]


@functools.lru_cache(maxsize=4096)
def selected_names(text: str) -> frozenset[str]:
    """Return every name that the selector of a mapping file holds: mappings, references, and harmless match values.

    A text that is not a mapping holds none: loading it says what is wrong.
    """
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return frozenset()
    selectors = [
        statement.value
        for statement in tree.body
        if isinstance(statement, ast.Assign)
        and any(getattr(target, "id", "") == "selector" for target in statement.targets)
    ]
    constants = (node.value for part in selectors for node in ast.walk(part) if isinstance(node, ast.Constant))
    return frozenset(value for value in constants if isinstance(value, str) and FILE_NAME.fullmatch(value))
