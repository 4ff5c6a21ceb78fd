"""Proving who sends a notification.

A signed request carries a time, a nonce and an HMAC-SHA256 of both and the body under a secret that sender and
receiver share. It cannot be changed on its way, and together with the nonces that the receiver remembers it cannot be
sent again by somebody who has seen it. A bearer token proves only that the sender knows the token: whoever has seen
one request can send it, and any other, again. It is there for senders that cannot sign, and has to be allowed.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from flows.receiver.refusals import UnauthorizedError
from tasks.errors import ConfigError

TIMESTAMP = "X-Shearline-Timestamp"
NONCE = "X-Shearline-Nonce"
SIGNATURE = "X-Shearline-Signature"
SCHEME = "v1="
"""Version of what is signed: the decimal Unix time, the nonce and the body, with a line feed after the first two."""

MAX_AGE_S = 300
MIN_SECRET_LENGTH = 32
NONCE_PATTERN = re.compile(r"[A-Za-z0-9_-]{16,64}")
TIMESTAMP_PATTERN = re.compile(r"[0-9]{1,11}")


class Stamp(NamedTuple):
    """When a request was signed, and its number used once."""

    timestamp: int
    nonce: str


def sign(secret: str, body: bytes) -> dict[str, str]:
    """Return the headers that sign a request now, with a nonce of their own.

    Parameters
    ----------
    secret
        What sender and receiver share.
    body
        The bytes that are sent.
    """
    stamp = Stamp(int(time.time()), secrets.token_urlsafe(24))
    return {TIMESTAMP: str(stamp.timestamp), NONCE: stamp.nonce, SIGNATURE: SCHEME + _mac(secret, stamp, body)}


def _mac(secret: str, stamp: Stamp, body: bytes) -> str:
    message = f"{stamp.timestamp}\n{stamp.nonce}\n".encode() + body
    return hmac.new(secret.encode(), message, hashlib.sha256).hexdigest()


@dataclass(frozen=True)
class Credentials:
    """What the receiver knows of its senders."""

    secret: str | None = field(default=None, repr=False)
    """Shared with senders that sign; none accepts no signed requests."""
    token: str | None = field(default=None, repr=False)
    """Bearer token of senders that cannot sign; none accepts no bearer tokens."""

    def __post_init__(self) -> None:
        for value, name in ((self.secret, "shared secret"), (self.token, "bearer token")):
            if value is not None and len(value) < MIN_SECRET_LENGTH:
                raise ConfigError(
                    f"The {name} has {len(value)} characters; it needs {MIN_SECRET_LENGTH}. "
                    "`openssl rand -hex 32` prints one."
                )
        if self.secret is None and self.token is None:
            raise ConfigError("The receiver has neither a shared secret nor a bearer token, so it could trust nobody.")

    def by_token(self, headers: Mapping[str, str]) -> bool:
        """Tell, before the body is read, whether a request has the bearer token; otherwise it must be signed.

        Raises
        ------
        UnauthorizedError
            If it has a wrong token, or none and no signature.
        """
        given = headers.get("Authorization")
        if given is not None and SIGNATURE not in headers:
            scheme, _, token = given.partition(" ")
            if self.token is None:
                raise UnauthorizedError("This receiver accepts no bearer tokens; sign the request.")
            # digests have one length: a comparison of the tokens themselves would tell that of the right one
            if scheme.lower() == "bearer" and hmac.compare_digest(_digest(token.strip()), _digest(self.token)):
                return True
            raise UnauthorizedError("The bearer token is wrong.")
        missing = [name for name in (TIMESTAMP, NONCE, SIGNATURE) if name not in headers]
        if missing:
            raise UnauthorizedError(f"The request is not signed: there is no header {missing[0]}.")
        return False

    def by_signature(self, headers: Mapping[str, str], body: bytes, now: float) -> Stamp:
        """Return when and with which nonce a request was signed, if the signature is right.

        Parameters
        ----------
        headers
            Headers of the request; upper and lower case must not matter in their names.
        body
            Its bytes.
        now
            Unix time in seconds.

        Raises
        ------
        UnauthorizedError
            If the signature is wrong, or older or newer than five minutes.
        """
        if self.secret is None:
            raise UnauthorizedError("This receiver accepts no signed requests; it has no shared secret.")
        timestamp, nonce, signature = (headers.get(name, "") for name in (TIMESTAMP, NONCE, SIGNATURE))
        if not TIMESTAMP_PATTERN.fullmatch(timestamp):
            raise UnauthorizedError(f"{TIMESTAMP} is not a Unix time in whole seconds.")
        if not NONCE_PATTERN.fullmatch(nonce):
            raise UnauthorizedError(f"{NONCE} is not a word of 16 to 64 letters, digits, '_' and '-'.")
        stamp = Stamp(int(timestamp), nonce)
        right = SCHEME + _mac(self.secret, stamp, body)
        if not hmac.compare_digest(_digest(signature), _digest(right)):
            raise UnauthorizedError("The signature is wrong.")
        # after the signature: only who knows the secret learns how the clocks differ
        if abs(now - stamp.timestamp) > MAX_AGE_S:
            raise UnauthorizedError(
                f"The request was signed {now - stamp.timestamp:.0f} s ago; {MAX_AGE_S} s are allowed: check the clock."
            )
        return stamp


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
