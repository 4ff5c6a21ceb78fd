"""Telling people that a run failed: an event for automations, and a message through a notification block.

Which block, says the environment variable ``SHEARLINE_NOTIFICATION_BLOCK`` or else the Prefect variable
``shearline_notification_block``, for example ``slack-webhook/ops``; without either, nothing is sent.

A run that another run started is not told one by one, as the one that started it reports it. A message that cannot be
sent is a line in the log and changes nothing else.
"""

from __future__ import annotations

import inspect
import os
import re
from typing import TYPE_CHECKING, Any, TypedDict

from prefect.blocks.abstract import NotificationBlock
from prefect.blocks.core import Block
from prefect.events import emit_event
from prefect.logging.loggers import flow_run_logger
from prefect.settings import PREFECT_UI_URL
from prefect.utilities.asyncutils import run_coro_as_sync
from prefect.variables import Variable

from tasks.archive.inbox import for_people

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.client.schemas.objects import FlowRun, State
    from prefect.client.types.flexible_schedule_list import FlexibleScheduleList  # noqa: F401

FAILED_EVENT = "shearline.flow.failed"
BLOCK_VARIABLE = "shearline_notification_block"
BLOCK_ENVIRONMENT = "SHEARLINE_NOTIFICATION_BLOCK"

MAX_SENTENCE = 1000
MAX_NAME = 80
RAISED = re.compile(r"^.*?encountered an exception: (?:\w+\.)*(?P<sentence>\w+: .*)$", re.DOTALL)
SECRET_NAME = r"(?i)\b([\w-]*(?:secret|token|passw|signature|credential|access_?key|api_?key)[\w-]*)"
SECRETS = (
    # user and password in an address
    (re.compile(r"(?<=://)[^/\s]+@"), "***@"),
    # the address of a webhook is its secret
    (re.compile(r"(?i)(?<=://)(hooks\.[\w.-]+|[\w.-]+\.webhook\.[\w.-]+)/[^\s'\"]+"), r"\1/***"),
    # keys, tokens and signatures in queries, settings and headers; quotes may be those of JSON within JSON
    (re.compile(SECRET_NAME + r"([\\'\"]*\s*[=:]\s*)(\\?['\"])(?:(?!\3).)+"), r"\1\2\3***"),
    (re.compile(SECRET_NAME + r"([\\'\"]*\s*[=:]\s*)[^\s&'\",;}\\]+"), r"\1\2***"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{8,}"), r"\1 ***"),
)
# what chat services read as links, mentions and calls of whole channels, and what is shown instead: entities would be
# escaped once more by services that escape, and shown as they are by e-mail
MARKUP = str.maketrans({"<": "\u2039", ">": "\u203a"})
MENTION = re.compile(r"(?<![\w*])@(?=\w)")


def tell_operators(flow: Flow[..., Any], flow_run: FlowRun, state: State) -> None:
    """Tell the operators that a run failed or crashed; a hook for Prefect.

    Parameters
    ----------
    flow, flow_run, state
        What failed and how, as Prefect gives them to its hooks.
    """
    logger = flow_run_logger(flow_run, flow)
    subject, sentence = subject_of(flow, flow_run), sentence_of(state)
    became = (state.name or state.type.value).lower()
    try:
        _emit(flow, flow_run, became, subject, sentence)
        if flow_run.parent_task_run_id is not None:
            logger.info("The run that started this one reports that %s failed.", subject)
            return
        send(f"Shearline: {subject} {became}", _body(flow_run, subject, sentence))
    except NotToldError as error:
        logger.warning("Nobody was told that %s failed: %s", subject, error)
    except Exception as error:  # noqa: BLE001 (a broken notification never changes a run)
        # its text may hold the address that is the secret of a webhook
        logger.warning("Nobody was told that %s failed: %s while telling.", subject, type(error).__name__)


class NotToldError(Exception):
    """A message could not be sent."""


def send(subject: str, body: str) -> bool:
    """Send a message through the notification block of the operators.

    Parameters
    ----------
    subject
        One line.
    body
        What happened; secrets that look like such are blotted out, and markup of chat services shows as text.

    Returns
    -------
    bool
        Whether there is a block to send through.

    Raises
    ------
    NotToldError
        If there is one and it does not work; the sentence holds no secret.
    """
    name = notification_block_name()
    if not name:
        return False
    try:
        block = Block.load(name)
    except Exception as error:
        raise NotToldError(
            f"the block {without_secrets(name)!r} cannot be loaded ({type(error).__name__}); {BLOCK_VARIABLE} must "
            "name one as type/name, such as slack-webhook/ops."
        ) from error
    if not isinstance(block, NotificationBlock):
        raise NotToldError(f"the block {name!r} is of type {type(block).__name__}, which cannot send messages.")
    try:
        notified: object = block.notify(_for_chat(body), _for_chat(subject))
        if inspect.iscoroutine(notified):
            run_coro_as_sync(notified)
    except Exception as error:
        raise NotToldError(
            f"the block {name!r} failed with {type(error).__name__}; test it in the Prefect UI."
        ) from error
    return True


def notification_block_name() -> str:
    """Return the block that messages go through, as type and name; empty if none is configured."""
    chosen = os.environ.get(BLOCK_ENVIRONMENT) or Variable.get(BLOCK_VARIABLE, default="")
    return str(chosen or "").strip()


def subject_of(flow: Flow[..., Any], flow_run: FlowRun) -> str:
    """Return what a run is about, as people say it: ``exposure 2113737``, ``tile 210.296``, ``nightly``."""
    name = flow_run.parameters.get(flow.name)
    return f"{flow.name} {for_people(str(name), MAX_NAME)}" if isinstance(name, str | int) else flow.name


def sentence_of(state: State) -> str:
    """Return the sentence of the error that ended a run, without Prefect's words around it and without secrets."""
    text = " ".join((state.message or f"the run ended as {state.name}, without a message").split())
    found = RAISED.match(text)
    sentence = without_secrets(found["sentence"] if found else text)
    return sentence if len(sentence) <= MAX_SENTENCE else f"{sentence[:MAX_SENTENCE]} …"


def without_secrets(text: str) -> str:
    """Return a text in which what looks like a password, token or signature is blotted out."""
    for pattern, blot in SECRETS:
        text = pattern.sub(blot, text)
    return text


def _for_chat(text: str) -> str:
    return MENTION.sub("\uff20", without_secrets(text).translate(MARKUP))


def _emit(flow: Flow[..., Any], flow_run: FlowRun, became: str, subject: str, sentence: str) -> None:
    emit_event(
        FAILED_EVENT,
        resource={"prefect.resource.id": f"shearline.{subject.replace(' ', '.')}", "prefect.resource.name": subject},
        related=[
            {
                "prefect.resource.id": f"prefect.flow-run.{flow_run.id}",
                "prefect.resource.role": "flow-run",
                "prefect.resource.name": flow_run.name,
            }
        ],
        payload={"flow": flow.name, "subject": subject, "state": became, "sentence": sentence},
    )


def _body(flow_run: FlowRun, subject: str, sentence: str) -> str:
    lines = [f"{subject}: {sentence}", f"run: {flow_run.name} ({flow_run.id})"]
    address = PREFECT_UI_URL.value()
    if address:
        lines.append(f"{address.rstrip('/')}/runs/flow-run/{flow_run.id}")
    return "\n".join(lines)


class Hooks(TypedDict):
    """Hooks of a flow."""

    on_failure: list[Any]
    on_crashed: list[Any]


TELL: Hooks = {"on_failure": [tell_operators], "on_crashed": [tell_operators]}
"""The hooks of every flow that an operator watches."""
