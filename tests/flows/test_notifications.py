import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import uuid4

import pytest
from prefect import flow
from prefect.blocks.notifications import CustomWebhookNotificationBlock, SlackWebhook
from prefect.blocks.system import Secret
from prefect.client.schemas.objects import FlowRun
from prefect.states import Crashed, Failed
from prefect.variables import Variable

from flows.notifications import BLOCK_ENVIRONMENT, BLOCK_VARIABLE, TELL, sentence_of, tell_operators, without_secrets
from tasks.errors import DataError

pytestmark = pytest.mark.usefixtures("prefect_server")

SENTENCE = "Exposure 2113737 has 0 good CCDs of 40; it needs 1."


class Receiver(BaseHTTPRequestHandler):
    """What a chat service does: takes a message, or answers that it cannot."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.messages.append(body)
        self.send_response(self.server.answer)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""


class Chat(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Receiver)
        self.messages: list[dict[str, str]] = []
        self.answer = 200


@pytest.fixture
def chat(monkeypatch: pytest.MonkeyPatch) -> Iterator[Chat]:
    """A chat service, and a saved block that sends to it."""
    with Chat() as service:
        thread = threading.Thread(target=service.serve_forever, args=(0.01,))
        thread.start()
        CustomWebhookNotificationBlock(
            name="ops",
            url=f"http://127.0.0.1:{service.server_address[1]}/hook-of-the-operators",
            json_data={"title": "{{subject}}", "text": "{{body}}"},
        ).save("ops", overwrite=True)
        monkeypatch.setenv(BLOCK_ENVIRONMENT, "custom-webhook/ops")
        yield service
        service.shutdown()
        thread.join()


@flow(name="exposure", flow_run_name="exposure {exposure}", **TELL)
def refuses(exposure: str) -> None:
    raise DataError(SENTENCE)


@flow(name="nightly", **TELL)
def goes_on() -> str:
    with pytest.raises(DataError):
        refuses("2113737")
    return "done"


def test_a_failed_run_is_told_with_its_exposure_and_the_sentence(chat: Chat) -> None:
    with pytest.raises(DataError):
        refuses("2113737")

    [message] = chat.messages
    assert message["title"] == "Shearline: exposure 2113737 failed"
    assert message["text"].startswith(f"exposure 2113737: DataError: {SENTENCE}\nrun: exposure 2113737 (")


def test_what_fails_within_another_run_is_told_by_that_one(chat: Chat) -> None:
    assert goes_on() == "done"
    assert chat.messages == []


def test_a_crashed_run_is_told_from_outside_of_it(chat: Chat) -> None:
    run = FlowRun(flow_id=uuid4(), name="exposure 2113737", parameters={"exposure": "2113737"})
    tell_operators(flow=refuses, flow_run=run, state=Crashed(message="Flow run process exited with code -9."))

    [message] = chat.messages
    assert message["title"] == "Shearline: exposure 2113737 crashed"
    assert "exposure 2113737: Flow run process exited with code -9." in message["text"]


def test_the_variable_names_the_block_too(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(BLOCK_ENVIRONMENT)
    Variable.set(BLOCK_VARIABLE, "custom-webhook/ops", overwrite=True)
    try:
        with pytest.raises(DataError):
            refuses("2113737")
    finally:
        Variable.unset(BLOCK_VARIABLE)

    assert len(chat.messages) == 1


@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated")
def test_markup_of_slack_in_names_and_sentences_is_shown_and_not_obeyed(
    chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "apprise.plugins.slack.NotifySlack.webhook_url", f"http://127.0.0.1:{chat.server_address[1]}/services"
    )
    SlackWebhook(url="https://hooks.slack.com/services/T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ").save(
        "slack", overwrite=True
    )
    monkeypatch.setenv(BLOCK_ENVIRONMENT, "slack-webhook/slack")
    nasty = "<!channel> & <@U123|boss> @here <https://evil.example|a tile>"
    run = FlowRun(flow_id=uuid4(), name="exposure x", parameters={"exposure": "<!here>\n" + "9" * 10_000})
    tell_operators(flow=refuses, flow_run=run, state=Failed(message=nasty))

    [message] = chat.messages
    [shown] = message["attachments"]
    told = shown["text"].translate({0x2039: "{", 0x203A: "}", 0xFF20: "(at)"})
    assert "{!channel} &amp; {(at)U123|boss} (at)here {https://evil.example|a tile}" in told
    assert "<" not in shown["text"] + shown["title"]
    assert "@" not in shown["text"] + shown["title"]
    assert len(shown["title"]) < 200


def test_without_a_block_nothing_is_sent(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(BLOCK_ENVIRONMENT)

    with pytest.raises(DataError):
        refuses("2113737")
    assert chat.messages == []


@pytest.mark.parametrize("broken", ["answers 500", "is not there", "is no notification", "is nonsense"])
def test_a_broken_notification_is_a_log_line_without_secrets_and_the_run_fails_as_it_did(
    chat: Chat, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, broken: str
) -> None:
    chat.answer = 500
    if broken == "is not there":
        monkeypatch.setenv(BLOCK_ENVIRONMENT, "custom-webhook/nobody")
    elif broken == "is no notification":
        Secret(value="x").save("no-notification", overwrite=True)
        monkeypatch.setenv(BLOCK_ENVIRONMENT, "secret/no-notification")
    elif broken == "is nonsense":
        monkeypatch.setenv(BLOCK_ENVIRONMENT, "what?")

    state = refuses("2113737", return_state=True)

    assert state.is_failed()
    with pytest.raises(DataError, match="0 good CCDs"):
        state.result()
    [line] = [record.getMessage() for record in caplog.records if "Nobody was told" in record.getMessage()]
    assert "that exposure 2113737 failed: the block" in line
    assert "hook-of-the-operators" not in caplog.text


def test_every_failure_is_an_event_with_identity_and_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    emitted: list[dict[str, Any]] = []
    monkeypatch.setattr(
        "flows.notifications.emit_event", lambda event, **fields: emitted.append({"event": event} | fields)
    )

    goes_on()

    [event] = emitted
    assert event["event"] == "shearline.flow.failed"
    assert event["resource"] == {
        "prefect.resource.id": "shearline.exposure.2113737",
        "prefect.resource.name": "exposure 2113737",
    }
    assert event["payload"] == {
        "flow": "exposure",
        "subject": "exposure 2113737",
        "state": "failed",
        "sentence": f"DataError: {SENTENCE}",
    }
    assert event["related"][0]["prefect.resource.role"] == "flow-run"


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        ("Flow run encountered an exception: DataError: CCD 7 is dark.", "DataError: CCD 7 is dark."),
        ("Flow run encountered an exception: tasks.errors.ConfigError: no", "ConfigError: no"),
        ("Flow run process exited with code -9.", "Flow run process exited with code -9."),
        (None, "the run ended as Failed, without a message"),
        ("x" * 2000, "x" * 1000 + " …"),
    ],
)
def test_the_sentence_is_that_of_the_error(message: str | None, sentence: str) -> None:
    assert sentence_of(Failed(message=message)) == sentence


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("https://ops:hunter2@store.example/x is away", "https://***@store.example/x is away"),
        ("GET https://s3.example/k?X-Amz-Signature=abc123&a=1", "GET https://s3.example/k?X-Amz-Signature=***&a=1"),
        ("secret_key='abc123', root='x'", "secret_key='***', root='x'"),
        ('{"access_key": "AKIA123"}', '{"access_key": "***"}'),
        ("Authorization: Bearer abcdefgh12345", "Authorization: Bearer ***"),
        ("password=hunter2", "password=***"),
        ("password = 'two words'; next", "password = '***'; next"),
        (r"{\"token\": \"abc 123\", \"a\": 1}", r"{\"token\": \"***\", \"a\": 1}"),
        ("https://ops:hun@ter2@store.example/x", "https://***@store.example/x"),
        ("POST https://hooks.slack.com/services/T0/B0/abc failed", "POST https://hooks.slack.com/*** failed"),
        (SENTENCE, SENTENCE),
    ],
)
def test_secrets_are_blotted_out(text: str, left: str) -> None:
    assert without_secrets(text) == left
