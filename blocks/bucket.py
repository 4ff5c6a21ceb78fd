"""An S3 bucket as a store: requests with a time limit, repeated with growing pauses, and checked afterwards.

The requests go through the client of s3fs, in its event loop. Repeating them is done here and not there: s3fs repeats
what botocore has repeated already, so that a dead service is asked 25 times; neither of them repeats a body that broke
off; and a conditional request that is repeated must be asked whether its first attempt was the one that won.
"""

from __future__ import annotations

import asyncio
import functools
import os
import random
import threading
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

import aiohttp
from botocore.exceptions import BotoCoreError, ClientError
from fsspec.asyn import sync

from blocks.objects import ABANDONED_AFTER_S, PROBE, PROBES_ABANDONED_AFTER_S, Found, LocalCopyError
from blocks.ranged import PIECE_BYTES, RangedFile, pieces
from blocks.s3_access import S3Access, code_of, explain, is_refused, may_pass, status_of

T = TypeVar("T")
Answer = dict[str, Any]
Part = Callable[[int, int], bytes]

MULTIPART_BYTES = 32 << 20
PART_BYTES = 16 << 20
MAX_PARTS = 10_000
AT_ONCE = 4
# slower than this is as good as hanging
SLOWEST_BYTES_PER_S = 128 << 10
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 10.0
# writers of one key that see each other's objects write again
WRITES = 3

_conditions: dict[tuple[str | None, str], bool] = {}
_asking = threading.Lock()


def _after_fork() -> None:
    # a thread of the parent may have been asking
    global _asking
    _asking = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


@dataclass(frozen=True)
class Bucket:
    """Objects in a bucket; a path is ``bucket/key``."""

    access: S3Access
    name: str = field(compare=False)

    # --- read --------------------------------------------------------------------------------------------------------

    def find(self, path: str) -> Found:
        """Look up one object."""
        answer = self._ask("head_object", path)
        sha256, modified = answer.get("Metadata", {}).get("sha256", ""), answer["LastModified"].astimezone(UTC)
        return Found(int(answer["ContentLength"]), str(answer["ETag"]), sha256, modified)

    def open(self, path: str, doing: str) -> BinaryIO:
        """Open an object for reading at any position; only what is read is fetched."""

        def fetch(start: int, end: int, version: str) -> tuple[bytes, int, str]:
            return self._run(self._range, path, start, end, version)

        return cast("BinaryIO", RangedFile(f"{self.access.endpoint_url} {path}", fetch, doing))

    def read(self, path: str) -> tuple[bytes, str]:
        """Return the bytes of an object and the version that they are."""
        parts: dict[int, bytes] = {}
        version = self._run(self._copy, path, parts.__setitem__)
        return b"".join(parts[start] for start in sorted(parts)), version

    def download(self, path: str, target: Path) -> str:
        """Copy an object to a local file and return the version that it is.

        Raises
        ------
        LocalCopyError
            If the file cannot be written.
        """
        with _here():
            handle = target.open("wb")

        def write(start: int, data: bytes) -> None:
            with _here():
                handle.seek(start)
                handle.write(data)

        try:
            return self._run(self._copy, path, write)
        finally:
            with _here():
                handle.close()

    async def _copy(self, path: str, write: Callable[[int, bytes], object]) -> str:
        """Fetch an object in pieces, a few at a time, all of the same version."""
        data, size, version = await self._range(path, 0, PIECE_BYTES, "")
        write(0, data)
        gate = asyncio.Semaphore(AT_ONCE)

        async def fetch(start: int, end: int) -> None:
            async with gate:
                write(start, (await self._range(path, start, end, version))[0])

        await _all(fetch(start, end) for start, end in pieces(len(data), size))
        return version

    async def _range(self, path: str, start: int, end: int, version: str) -> tuple[bytes, int, str]:
        """Return the bytes of a range, the size of the whole object and its version."""
        condition = {"IfMatch": version} if version else {}

        async def fetch() -> tuple[bytes, int, str]:
            answer = await self._send("get_object", path, Range=f"bytes={start}-{end - 1}", **condition)
            try:
                async with answer["Body"] as body:
                    data: bytes = await body.read()
            except aiohttp.ClientError as error:
                # not an error of the operating system in aiohttp's view
                raise ConnectionError(f"the answer broke off: {error}") from error
            size = int(str(answer.get("ContentRange") or f"/{answer['ContentLength']}").rsplit("/", 1)[-1])
            if len(data) != min(end, size) - start:
                raise ConnectionError(f"{len(data)} bytes came instead of {min(end, size) - start}")
            return data, size, str(answer["ETag"])

        try:
            return await self._tried(fetch, end - start)
        except OSError as error:
            status = status_of(error.__cause__)
            if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and start == 0:
                return b"", 0, str((await self._tried(lambda: self._send("head_object", path)))["ETag"])
            if status == HTTPStatus.PRECONDITION_FAILED:
                raise OSError("it was written again while it was read") from error
            raise

    # --- write -------------------------------------------------------------------------------------------------------

    def put(self, path: str, data: bytes, sha256: str) -> None:
        """Publish bytes, replacing what was there."""
        self._put(path, len(data), lambda start, end: data[start:end], sha256)

    def put_file(self, path: str, source: Path, sha256: str) -> None:
        """Publish a local file, replacing what was there."""
        with source.open("rb") as handle:

            def part(start: int, end: int) -> bytes:
                handle.seek(start)
                return handle.read(end - start)

            self._put(path, source.stat().st_size, part, sha256)

    def _put(self, path: str, size: int, part: Part, sha256: str) -> str | None:
        """Publish, and see whether the service has it.

        Returns
        -------
        str or None
            The version that it is; none if another writer has replaced it since.
        """
        problem = ""
        seen: tuple[object, ...] = ()
        for _ in range(WRITES):
            metadata = {"sha256": sha256, "attempt": uuid.uuid4().hex}
            if size > MULTIPART_BYTES:
                self._run(self._put_parts, path, size, part, metadata)
            else:
                self._ask("put_object", path, size, Body=part(0, size), Metadata=metadata)
            try:
                found = self._ask("head_object", path)
            except FileNotFoundError:
                problem = "the service accepted it but does not have it"
                continue
            there, other = found.get("Metadata", {}), int(found["ContentLength"])
            if there.get("attempt") == metadata["attempt"] and other == size:
                return str(found["ETag"])
            if (there.get("sha256"), other) == (sha256, size):
                return None
            before, seen = seen, (found["ETag"], there.get("attempt"), found["LastModified"])
            if before and before != seen:
                # it came while we wrote, and so as if after us; what was there before may hide a write that was lost
                return None
            problem = f"the service has {other} bytes of it with other contents, {size} were written"
        raise OSError(f"{problem} (written {WRITES} times)")

    async def _put_parts(self, path: str, size: int, part: Part, metadata: dict[str, str]) -> None:
        """Upload in parts; nothing of it is visible before the last request, and nothing stays if one fails."""
        step = max(PART_BYTES, -(-size // MAX_PARTS))
        begun = await self._tried(lambda: self._send("create_multipart_upload", path, Metadata=metadata))
        upload = {"UploadId": begun["UploadId"]}
        gate = asyncio.Semaphore(AT_ONCE)

        async def send(number: int, start: int) -> Answer:
            async with gate:
                data = part(start, min(start + step, size))
                answer = await self._tried(
                    lambda: self._send("upload_part", path, PartNumber=number, Body=data, **upload), len(data)
                )
            return {"PartNumber": number, "ETag": answer["ETag"]}

        try:
            sent = await _all(send(number, start) for number, start in enumerate(range(0, size, step), 1))
            await self._complete(path, upload, list(sent), metadata["attempt"])
        except BaseException:
            # a cancelled upload must not stay either: parts cost as much as objects
            await asyncio.gather(
                asyncio.shield(self._send("abort_multipart_upload", path, **upload)), return_exceptions=True
            )
            raise

    async def _complete(self, path: str, upload: Answer, parts: list[Answer], attempt: str) -> None:
        whole = {"MultipartUpload": {"Parts": parts}}
        try:
            await self._tried(lambda: self._send("complete_multipart_upload", path, **upload, **whole))
        except OSError as error:
            # an answer that was lost on the way: the first attempt has completed the upload, which is gone since
            is_gone = code_of(error.__cause__) == "NoSuchUpload"
            if not is_gone or await self._version_of(path, attempt) is None:
                raise

    def put_new(self, path: str, data: bytes, sha256: str) -> str | None:
        """Publish bytes unless there is an object already; return the version that they are, none if there was one."""
        if self.honours_conditions():
            return self._run(self._put_conditionally, path, data, sha256, {"IfNoneMatch": "*"})
        try:
            self.find(path)
        except FileNotFoundError:
            return self._put(path, len(data), lambda start, end: data[start:end], sha256)
        return None

    def put_if_unchanged(self, path: str, data: bytes, sha256: str, version: str) -> str | None:
        """Publish bytes in the place of one version of an object; return the version that they are, or none."""
        if self.honours_conditions():
            return self._run(self._put_conditionally, path, data, sha256, {"IfMatch": version})
        try:
            unchanged = self.find(path).version == version
        except FileNotFoundError:
            return None
        return self._put(path, len(data), lambda start, end: data[start:end], sha256) if unchanged else None

    async def _put_conditionally(self, path: str, data: bytes, sha256: str, condition: Answer) -> str | None:
        metadata = {"sha256": sha256, "attempt": uuid.uuid4().hex}
        try:
            answer = await self._tried(
                lambda: self._send("put_object", path, Body=data, Metadata=metadata, **condition), len(data)
            )
        except OSError as error:
            if not is_refused(error.__cause__):
                raise
            # refused, perhaps because of our own first attempt, whose answer was lost on the way
            return await self._version_of(path, metadata["attempt"])
        if "ETag" not in answer:
            raise OSError("the service answered without saying what it has")
        return str(answer["ETag"])

    async def _version_of(self, path: str, attempt: str) -> str | None:
        """Return the version of an object if it is what an attempt has written."""
        try:
            answer = await self._tried(lambda: self._send("head_object", path))
        except FileNotFoundError:
            return None
        return str(answer["ETag"]) if answer.get("Metadata", {}).get("attempt") == attempt else None

    def honours_conditions(self) -> bool:
        """Tell whether the service refuses a write whose condition is not met; asked once per process and bucket."""
        bucket = self.name.split("/", 1)[0]
        place = (self.access.endpoint_url, bucket)
        with _asking:
            if place not in _conditions:
                _conditions[place] = self._run(self._try_conditions, f"{self.name}/probe-conditions-{uuid.uuid4().hex}")
            return _conditions[place]

    async def _try_conditions(self, path: str) -> bool:
        refused = []
        try:
            await self._tried(lambda: self._send("put_object", path, Body=b"1"))
            for condition in ({"IfNoneMatch": "*"}, {"IfMatch": '"0"'}):
                try:
                    await self._tried(functools.partial(self._send, "put_object", path, Body=b"2", **condition))
                except OSError as error:
                    status = status_of(error.__cause__)
                    if status not in {
                        HTTPStatus.PRECONDITION_FAILED,
                        HTTPStatus.NOT_IMPLEMENTED,
                        HTTPStatus.BAD_REQUEST,
                    }:
                        raise
                    refused.append(status == HTTPStatus.PRECONDITION_FAILED)
                else:
                    refused.append(False)
        finally:
            await self._tried(lambda: self._send("delete_object", path))
        return all(refused)

    def remove(self, path: str) -> None:
        """Remove an object; that there is none is fine."""
        with suppress(FileNotFoundError):
            self._ask("delete_object", path)

    def remove_if_unchanged(self, path: str, version: str) -> bool:
        """Remove one version of an object; tell whether it was removed."""
        try:
            if self.find(path).version != version:
                return False
            self._ask("delete_object", path, IfMatch=version)
        except FileNotFoundError:
            return False
        except OSError as error:
            status = status_of(error.__cause__)
            if status not in {HTTPStatus.NOT_IMPLEMENTED, HTTPStatus.BAD_REQUEST}:
                if status == HTTPStatus.PRECONDITION_FAILED:
                    return False
                raise
            # conditional removal is younger than conditional writing; it was compared a moment ago
            self.remove(path)
        return True

    # --- list --------------------------------------------------------------------------------------------------------

    def list_versions(self, path: str) -> dict[str, str]:
        """Return the version of every object below a folder, by path."""
        bucket = path.split("/", 1)[0]
        found: dict[str, str] = {}
        for page in self._run(self._pages, path, {}):
            found |= {f"{bucket}/{item['Key']}": str(item["ETag"]) for item in page.get("Contents", ())}
        return found

    def list_folders(self, path: str) -> list[str]:
        """Return the names directly below a folder that are folders themselves."""
        pages = self._run(self._pages, path, {"Delimiter": "/"})
        prefixes = [str(item["Prefix"]) for page in pages for item in page.get("CommonPrefixes", ())]
        return sorted(prefix.rstrip("/").rsplit("/", 1)[-1] for prefix in prefixes)

    async def _pages(self, path: str, options: Answer) -> list[Answer]:
        bucket, _, prefix = path.partition("/")
        where = {"Prefix": f"{prefix}/" if prefix else "", **options}
        pages: list[Answer] = []
        token: Answer = {}
        while not pages or token:
            page = await self._tried(functools.partial(self._send, "list_objects_v2", f"{bucket}/", **where, **token))
            pages.append(page)
            token = {"ContinuationToken": page["NextContinuationToken"]} if page.get("IsTruncated") else {}
        return pages

    def clear_abandoned(self, path: str) -> None:
        """Abort uploads that were begun a day ago or more, if the service lets us, and remove probes of last week."""
        now = datetime.now(UTC)
        bucket, _, prefix = path.partition("/")
        for page in self._run(self._pages, path, {"Prefix": f"{prefix}/probe-" if prefix else "probe-"}):
            for item in page.get("Contents", ()):
                old = item["LastModified"] < now - timedelta(seconds=PROBES_ABANDONED_AFTER_S)
                if old and PROBE.fullmatch(str(item["Key"]).rsplit("/", 1)[-1]):
                    self.remove(f"{bucket}/{item['Key']}")
        before = now - timedelta(seconds=ABANDONED_AFTER_S)
        try:
            begun = self._ask("list_multipart_uploads", f"{bucket}/", Prefix=f"{prefix}/" if prefix else "")
            for upload in begun.get("Uploads", ()):
                if upload["Initiated"] < before:
                    self._ask("abort_multipart_upload", f"{bucket}/{upload['Key']}", UploadId=upload["UploadId"])
        except OSError as error:
            # not every service has this, nor may every user do it; it costs room and nothing else
            if not isinstance(error.__cause__, ClientError):
                raise

    # --- ask ---------------------------------------------------------------------------------------------------------

    def _run(self, work: Callable[..., Awaitable[T]], *arguments: object) -> T:
        """Run a coroutine in the event loop of s3fs, from any thread."""
        done: T = sync(self.access.file_system().loop, work, *arguments)
        return done

    def _ask(self, method: str, path: str, size: int = 0, **options: object) -> Answer:
        return self._run(self._tried, lambda: self._send(method, path, **options), size)

    async def _send(self, method: str, path: str, **options: object) -> Answer:
        bucket, _, key = path.partition("/")
        client = await self.access.file_system().set_session()
        answer: Answer = await getattr(client, method)(Bucket=bucket, **({"Key": key} if key else {}), **options)
        return answer

    async def _tried(self, work: Callable[[], Awaitable[T]], size: int = 0) -> T:
        """Repeat what may pass, with growing random pauses; the last failure is raised in words."""
        limit_s = 2 * self.access.timeout_s + size / SLOWEST_BYTES_PER_S
        attempt = 0
        while True:
            attempt += 1
            try:
                return await asyncio.wait_for(work(), limit_s)
            except (OSError, BotoCoreError, ClientError) as error:
                if attempt >= self.access.attempts or not may_pass(error):
                    raise explain(error, self.access, attempt) from error
            pause_s = min(FIRST_PAUSE_S * 2 ** (attempt - 1), LONGEST_PAUSE_S)
            # else clients that failed together come back together
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))


@contextmanager
def _here() -> Iterator[None]:
    """Tell errors of this machine's files from those of the service."""
    try:
        yield
    except OSError as error:
        raise LocalCopyError(str(error)) from error


async def _all(work: Any) -> list[Any]:  # noqa: ANN401 (any coroutines)
    """Wait for every coroutine; the first failure cancels the others before it is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(item) for item in work]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]
