"""How an S3 service is reached, how patiently, and what its failures mean."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import fsspec
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, IncompleteReadError
from botocore.exceptions import ConnectionError as NoConnectionError
from botocore.parsers import ResponseParserError

DEFAULT_TIMEOUT_S = 15.0
DEFAULT_ATTEMPTS = 4
LONGEST_CONNECT_S = 5.0
CONNECTIONS = 32
MAY_PASS = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT, HTTPStatus.TOO_MANY_REQUESTS}
MAY_PASS_CODES = {"SlowDown", "RequestTimeout", "RequestTimeTooSkewed", "Throttling", "InternalError", "BadDigest"}

# what else is answered with 404 says nothing of an object
MAY_BE_ABSENT = {"HeadObject", "GetObject", "DeleteObject"}

_file_systems: dict[tuple[int, S3Access], Any] = {}
_opening = threading.Lock()


def _after_fork() -> None:
    # the event loop of the parent does not run in the child, and its lock may be held for good
    global _opening
    _opening = threading.Lock()
    _file_systems.clear()


os.register_at_fork(after_in_child=_after_fork)


@dataclass(frozen=True)
class S3Access:
    """Address, credentials and patience."""

    endpoint_url: str | None
    access_key: str | None
    secret_key: str | None = field(repr=False)
    timeout_s: float = DEFAULT_TIMEOUT_S
    attempts: int = DEFAULT_ATTEMPTS

    def file_system(self, *, repeat: bool = False) -> Any:  # noqa: ANN401 (fsspec has no types)
        """Return the file system of s3fs, one for all threads of this process.

        Parameters
        ----------
        repeat
            Whether botocore repeats requests; if not, the caller does.
        """
        place = (os.getpid(), self) if not repeat else (-os.getpid(), self)
        with _opening:
            if place not in _file_systems:
                _file_systems[place] = self._open(self.attempts if repeat else 1)
            return _file_systems[place]

    def _open(self, attempts: int) -> Any:  # noqa: ANN401 (fsspec has no types)
        system = fsspec.filesystem(
            "s3",
            endpoint_url=self.endpoint_url,
            key=self.access_key,
            secret=self.secret_key,
            # others write too
            use_listings_cache=False,
            # s3fs keeps an instance per thread; a client is too dear for that
            skip_instance_cache=True,
            config_kwargs={
                "connect_timeout": min(self.timeout_s, LONGEST_CONNECT_S),
                "read_timeout": self.timeout_s,
                "retries": {"mode": "standard", "total_max_attempts": attempts},
                "max_pool_connections": CONNECTIONS,
            },
        )
        # botocore repeats requests and not bodies that break off; s3fs repeats both, so only once more
        system.retries = min(attempts, 2)
        return system


def status_of(error: BaseException | None) -> int:
    """Return the HTTP status of a refusal; 0 of anything else."""
    return int(error.response["ResponseMetadata"].get("HTTPStatusCode", 0)) if isinstance(error, ClientError) else 0


def code_of(error: BaseException | None) -> str:
    """Return the S3 error code of a refusal; empty of anything else."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def is_refused(error: BaseException | None) -> bool:
    """Tell whether a write was refused because its condition is not met."""
    # the bucket, too, may be what is not found
    is_gone = status_of(error) == HTTPStatus.NOT_FOUND and code_of(error) == "NoSuchKey"
    return is_gone or status_of(error) in {HTTPStatus.PRECONDITION_FAILED, HTTPStatus.CONFLICT}


def may_pass(error: BaseException) -> bool:
    """Tell whether a request that failed so may work when it is repeated."""
    if isinstance(error, ClientError):
        status = status_of(error)
        unsupported = status == HTTPStatus.NOT_IMPLEMENTED
        return (status >= HTTPStatus.INTERNAL_SERVER_ERROR and not unsupported) or (
            status in MAY_PASS or code_of(error) in MAY_PASS_CODES
        )
    if isinstance(error, BotoCoreError):
        return isinstance(error, (NoConnectionError, HTTPClientError, IncompleteReadError, ResponseParserError))
    return isinstance(error, OSError)


def explain(error: BaseException, access: S3Access, attempts: int) -> OSError:
    """Return a failure in words, as an error that has the original as its cause."""
    code, status = code_of(error), status_of(error)
    if code == "NoSuchBucket":
        return OSError("there is no such bucket; create it, or correct the address of the store")
    if code == "NoSuchUpload":
        return OSError("the upload in parts is gone, as somebody has aborted it; write it again")
    if status == HTTPStatus.NOT_FOUND:
        if isinstance(error, ClientError) and error.operation_name in MAY_BE_ABSENT:
            return FileNotFoundError("there is no such object")
        return OSError(f"the service answered 404 {code}: it has no such place; correct the address of the store")
    tried = f" (tried {attempts} times)" if attempts > 1 else ""
    if isinstance(error, TimeoutError) or "timeout" in type(error).__name__.lower():
        return OSError(f"{access.endpoint_url or 'the S3 service'} did not answer in {access.timeout_s:g} s{tried}")
    if isinstance(error, ClientError):
        said = error.response.get("Error", {}).get("Message", "")
        return OSError(f"the service answered {status} {code or '-'}: {said or 'nothing more'}{tried}")
    return OSError(f"{str(error) or type(error).__name__}{tried}")
