"""Sending signed notifications to a receiver."""

from __future__ import annotations

import json
import time

import httpx

from blocks.store import StoreError
from flows.receiver.service import PATH
from flows.receiver.signatures import MIN_SECRET_LENGTH, sign
from tasks.archive.inbox import for_people
from tasks.errors import ConfigError

TRIES = 5
TIMEOUT_S = 30.0
ACCEPTED = 202
TRY_AGAIN = frozenset({408, 500, 502, 503, 504})


def send_notification(url: str, secret: str, content: dict[str, str]) -> list[str]:
    """Send one notification to a receiver; every try is signed anew.

    Parameters
    ----------
    url
        Address of the receiver, such as ``http://127.0.0.1:8700``.
    secret
        What sender and receiver share.
    content
        ``{"exposure": NAME}`` or ``{"uri": URI}``.

    Returns
    -------
    list of str
        Names of the exposures that are announced now; empty if the receiver ignores such files.

    Raises
    ------
    ConfigError
        If the receiver refuses the notification.
    StoreError
        If the receiver or its store cannot be reached.
    """
    if len(secret) < MIN_SECRET_LENGTH:
        raise ConfigError(f"The shared secret has {len(secret)} characters; it needs {MIN_SECRET_LENGTH}.")
    body = json.dumps(content).encode()
    reason, address = "", url.rstrip("/") + PATH
    with httpx.Client(timeout=TIMEOUT_S) as http:
        for attempt in range(TRIES):
            if attempt:
                time.sleep(min(2.0**attempt, 10.0))
            try:
                answer = http.post(
                    address, content=body, headers={**sign(secret, body), "Content-Type": "application/json"}
                )
            except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
                raise ConfigError(
                    f"{for_people(url, 80)!r} is not the address of a receiver, such as http://127.0.0.1:8700."
                ) from error
            except httpx.TransportError as error:
                reason = f"{type(error).__name__}: {error}"
                continue
            if answer.status_code == ACCEPTED:
                return [str(name) for name in answer.json()["accepted"]]
            reason = f"{answer.status_code} {for_people(answer.text, 200)}"
            if answer.status_code not in TRY_AGAIN:
                raise ConfigError(f"The receiver {address} refuses the notification: {reason}")
    raise StoreError(f"The receiver {address} could not be told in {TRIES} tries: {reason}")
