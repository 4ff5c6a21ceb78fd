"""What a notification says: S3 events as AWS and MinIO send them, or our own short form."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote_plus

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from blocks.store import KEY, MAX_KEY_LENGTH, DataStore
from flows.receiver.refusals import RefusedError
from tasks.archive.inbox import for_people
from tasks.archive.raw_names import RawNames
from tasks.products.identity import ExposureId
from tasks.products.instrument import Instrument

MAX_RECORDS = 1000
TEST_EVENT = "s3:TestEvent"
CREATED = ("ObjectCreated:", "s3:ObjectCreated:")


class _Bucket(BaseModel):
    name: str


class _Object(BaseModel):
    key: str


class _S3(BaseModel):
    bucket: _Bucket
    object: _Object


class _Record(BaseModel):
    eventName: str
    s3: _S3


class _Notification(BaseModel):
    Records: list[_Record] = Field(max_length=MAX_RECORDS)


class _Short(BaseModel):
    model_config = ConfigDict(extra="forbid")

    exposure: str | None = None
    uri: str | None = None


@dataclass
class Message:
    """What a notification means for this survey."""

    exposures: dict[ExposureId, str] = field(default_factory=dict)
    """Exposures of which a file arrived, and where from, for people."""
    ignored: int = 0
    """Events that mean nothing here: deleted objects, files of no exposure, tests."""
    refused: list[str] = field(default_factory=list)
    """Why events were refused."""


def read_message(body: bytes, raw: DataStore, instrument: Instrument) -> Message:
    """Return what a notification means.

    Parameters
    ----------
    body
        JSON, from outside.
    raw
        The raw store: files elsewhere are refused.
    instrument
        Names of the camera's files.

    Raises
    ------
    RefusedError
        If it is no notification, or every event in it was refused.
    """
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RefusedError("The body is not JSON.") from error
    if not isinstance(content, dict):
        raise RefusedError("The body is not a JSON object.")
    message = Message()
    if content.get("Event") == TEST_EVENT:
        message.ignored = 1
        return message
    names = RawNames(instrument)
    for uri, is_new in _uris(content, names, message):
        if is_new:
            _take_file(uri, raw, names, message)
        else:
            message.ignored += 1
    if message.refused and not message.exposures and not message.ignored:
        raise RefusedError(message.refused[0])
    return message


def _uris(content: dict[str, Any], names: RawNames, message: Message) -> Iterator[tuple[str, bool]]:
    """Yield the URI of every event and whether a file was created; an exposure is taken by its name."""
    try:
        if "Records" in content:
            for record in _Notification.model_validate(content).Records:
                place = f"s3://{record.s3.bucket.name}/{unquote_plus(record.s3.object.key)}"
                yield place, record.eventName.startswith(CREATED)
            return
        short = _Short.model_validate(content)
    except ValidationError as error:
        fault = error.errors(include_input=False)[0]
        path = for_people(".".join(map(str, fault["loc"])), 80)
        raise RefusedError(f"The body is no notification: {path}: {fault['msg']}.") from error
    if (short.exposure is None) == (short.uri is None):
        raise RefusedError("The body needs `Records`, as S3 sends them, or one of `exposure` and `uri`.")
    if short.uri is not None:
        yield short.uri, True
        return
    exposure = names.exposure_named(short.exposure or "")
    if exposure is None:
        message.refused.append(f"{for_people(str(short.exposure), 80)!r} is no exposure of {names.instrument.name}.")
    else:
        message.exposures[exposure] = "named by a notification"


def _take_file(uri: str, raw: DataStore, names: RawNames, message: Message) -> None:
    base = raw.url.removeprefix("file://") + "/"
    key = uri.removeprefix("file://").removeprefix(base)
    shown = for_people(uri, 80)
    if not uri.removeprefix("file://").startswith(base):
        message.refused.append(f"{shown!r} is not in the raw store.")
    elif len(key) > MAX_KEY_LENGTH or not KEY.fullmatch(key):
        message.refused.append(f"{shown!r} cannot be the name of a raw file.")
    elif (file := names.file_named(key)) is None:
        message.ignored += 1
    else:
        message.exposures[file[0]] = uri
