"""The streams that our own server is known to send are read token for token."""

import json
from pathlib import Path

import pytest

from bench.api.corpus import Case, Expected
from bench.api.decode import decode
from bench.types import Api, Outcome, TokenSource

GOLDEN = Path(__file__).parents[2] / "server/golden"
APIS = {"/generate_stream": Api.TGI, "/": Api.TGI, "/v1/completions": Api.COMPLETIONS, "/v1/chat/completions": Api.CHAT}


STREAMS = {
    key: golden
    for name in ("native", "chat", "completions")
    for key, golden in json.loads((GOLDEN / f"{name}.json").read_text()).items()
    if "events" in golden
}


def read(golden):
    body = [f"data: {event if isinstance(event, str) else json.dumps(event)}\n\n" for event in golden["events"]]
    case = Case(name="golden", api=APIS[golden["path"]], kind="ours", body=body, expected=Expected())
    return decode(case.stream(), case.target, case.item)


def shows(event):
    """Whether a token can be seen in an event; an end token of OpenAI's streams cannot, and only usage tells of it."""
    return "token" in event or any(each.get("text") or each["delta"].get("content") for each in event["choices"])


@pytest.mark.parametrize("golden", STREAMS.values(), ids=STREAMS)
def test_a_golden_stream(golden):
    events = [event for event in golden["events"] if isinstance(event, dict)]
    record = read(golden)
    if any("error" in event for event in events):
        assert record.outcome is Outcome.STREAM_ERROR
        assert "Input validation error" in record.error
        return
    assert record.outcome is Outcome.OK
    counts = [event["usage"]["completion_tokens"] for event in events if event.get("usage")]
    wanted = counts[-1] if counts else sum(map(shows, events))
    assert record.output_tokens == pytest.approx(wanted)
    if not golden["request"].get("echo"):  # then an event carries the prompt, and only the count is known
        exact = counts or not golden["path"].startswith("/v1")
        assert record.token_source is (TokenSource.TGI_TOKEN if exact else TokenSource.EVENTS)
        assert [event.tokens for event in record.events] == [1.0] * wanted
