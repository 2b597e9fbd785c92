"""The playground in a real browser without a network, over the fake engine.

The screenshots lie in pytest's temporary folder.
"""

import asyncio
import json
from collections.abc import Iterator

import pytest
from chromium import Page, chromium, find_chromium
from fake_engine import INFO
from serving import listening

from engine.config import ServerOptions
from engine.errors import GenerationFailed
from engine.types import EngineStats

ENTER, ESCAPE = ("Enter", 13, "\r"), ("Escape", 27)
IDLE = "running === null && turns.length > 0"
LAST = "document.querySelector('#turns li:last-child')"
LOOKS = {"wide": (1280, "light"), "dark": (1280, "dark"), "narrow": (390, "light")}

# Answers every request with these chunks, so that the page is tried with what no fake engine says.
SPEAK = """
window.fetch = async (path, { body } = {}) => {
  if (!path.endsWith("chat/completions")) return new Response("", { status: 200 });
  window.sent = JSON.parse(body);
  const text = CHUNKS.map((chunk) => `data: ${typeof chunk === "string" ? chunk : JSON.stringify(chunk)}\\n\\n`);
  return new Response(text.join(""), { status: STATUS, headers: HEADERS });
};
"""


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    program = find_chromium()
    if program is None:
        pytest.skip("there is no Chromium")
    with chromium(program) as browser:
        yield browser.page()


@pytest.fixture
def playground(page: Page, url: str) -> Page:
    """The page, just opened, with the cursor in the field for the message."""
    page.look(1280)
    page.requests.clear()
    page.complaints.clear()
    page.open(f"{url}/ui")
    page.evaluate("sessionStorage.clear(); document.getElementById('message').focus()")
    return page


def ask(page: Page, text: str = "Who are you?") -> None:
    page.evaluate("document.getElementById('message').focus()")
    page.write(text)
    page.press(*ENTER)


def speak(page: Page, *chunks: object, status: int = 200, **headers: str) -> None:
    """Replace the server by a script."""
    words = {"CHUNKS": chunks, "STATUS": status, "HEADERS": headers}
    script = SPEAK
    for name, value in words.items():
        script = script.replace(name, json.dumps(value))
    page.evaluate(script)


def delta(finish_reason: str | None = None, **said: object) -> dict[str, object]:
    return {"choices": [{"index": 0, "delta": said, "finish_reason": finish_reason}]}


def text(page: Page, selector: str) -> str:
    found: str = page.evaluate(f"{LAST}.querySelector({json.dumps(selector)})?.textContent ?? ''")
    return found


def test_a_message_is_answered_and_nothing_else_is_asked(playground, url):
    ask(playground)
    playground.until(IDLE)
    assert text(playground, ".question") == "Who are you?"
    assert text(playground, ".answer") == " is deep."
    assert "4 tokens" in text(playground, ".figures")
    assert "first token after" in text(playground, ".figures")
    assert playground.evaluate("document.getElementById('model').textContent") == "the/model"
    playground.until("document.getElementById('running').textContent !== '–'")
    assert playground.evaluate("document.getElementById('health').className") == "dot good"
    assert playground.complaints == []
    assert {address for address in playground.requests if not address.startswith((url, "data:"))} == set()


def test_gauges_show_what_the_metrics_say(page, make_app, engine):
    engine.stats = EngineStats(blocks_total=INFO.num_blocks, blocks_used=64, running=3, waiting=2)
    with listening(make_app(), ServerOptions(model_id="the/model")) as address:
        page.open(f"{address}/ui")
        page.until("document.getElementById('running').textContent !== '–'")
        shown = [page.evaluate(f"document.getElementById('{id}').textContent") for id in ("running", "queued", "kv")]
    assert shown == ["3", "2", "25%"]


def test_stop_ends_the_request_and_keeps_what_came(page, make_app, engine):
    engine.gate, engine.gate_step = asyncio.Event(), 2  # the rest never comes
    with listening(make_app(), ServerOptions(model_id="the/model")) as address:
        for stop in (lambda: page.evaluate("document.getElementById('stop').click()"), lambda: page.press(*ESCAPE)):
            page.look(1280)
            page.complaints.clear()
            page.open(f"{address}/ui")
            ask(page)
            page.until(f"{LAST}?.querySelector('.answer').textContent === ' is deep'")
            assert page.evaluate("document.getElementById('send').hidden")
            page.settle()
            stop()
            page.until(IDLE)
            assert text(page, ".answer") == " is deep"
            assert "stopped" in text(page, ".figures")
            assert page.complaints == []
    assert len(engine.cancelled) == 2


def test_the_conversation_goes_on(playground, engine):
    for question in ("One?", "Two?"):
        ask(playground, question)
        playground.until(IDLE)
    one, two = engine.requests
    assert len(two.prompt) > len(one.prompt)
    playground.evaluate("document.getElementById('clear').click()")
    ask(playground, "One?")
    playground.until(IDLE)
    assert engine.requests[-1].prompt == one.prompt


def test_settings_are_sent(playground):
    values = {"system": "Be brief.", "temperature": "0.5", "top_p": "0.9", "max_tokens": "3", "seed": "0"}
    values |= {"schema": '{"type": "object"}', "tools": '[{"type": "function", "function": {"name": "f"}}]'}
    speak(playground, delta("stop", content="yes"), "[DONE]")
    for id, value in values.items():
        playground.evaluate(f"document.getElementById('{id}').value = {json.dumps(value)}")
    ask(playground)
    playground.until(IDLE)
    sent = playground.evaluate("sent")
    assert sent == {
        "model": "tgi",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who are you?"}],
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        "temperature": 0.5,
        "top_p": 0.9,
        "max_tokens": 3,
        "seed": 0,
        "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}}},
        "tools": [{"type": "function", "function": {"name": "f"}}],
    }


def test_a_setting_that_makes_no_sense_is_pointed_at(playground):
    for id, value in {"schema": "{", "temperature": "-1"}.items():
        playground.evaluate(f"document.getElementById('{id}').value = '{value}'")
        ask(playground)
        assert playground.evaluate("turns.length") == 0
        assert playground.evaluate("document.querySelector('.wrong').id") == id
        playground.evaluate(
            f"document.getElementById('{id}').value = ''; document.getElementById('message').value = ''"
        )
        playground.evaluate("document.getElementById('message').focus()")
    ask(playground)
    assert playground.evaluate("turns.length") == 1
    playground.until(IDLE)


def test_markup_is_shown_as_text(playground):
    nasty = "<img src=x onerror=alert(1)><script>document.title = 'owned'</script>"
    speak(playground, delta("stop", content=nasty, reasoning_content=nasty), "[DONE]")
    ask(playground, nasty)
    playground.until(IDLE)
    assert [text(playground, place) for place in (".question", ".answer", "details div")] == [nasty] * 3
    assert playground.evaluate("document.querySelectorAll('#turns img, #turns script').length") == 0
    assert playground.complaints == []


def test_reasoning_is_folded_and_calls_are_json(playground):
    calls = [
        {"index": 0, "id": "a", "type": "function", "function": {"name": "weather", "arguments": ""}},
        {"index": 0, "function": {"arguments": '{"city":'}},
        {"index": 0, "function": {"arguments": '"Oslo"}'}},
        {"index": 1, "id": "b", "type": "function", "function": {"name": "time", "arguments": "{}"}},
    ]
    chunks = [delta(reasoning_content="Let me "), delta(reasoning_content="see."), delta(content="I will look.")]
    chunks += [delta(tool_calls=[call]) for call in calls]
    speak(playground, *chunks, delta("tool_calls"), "[DONE]")
    ask(playground)
    playground.until(IDLE)
    assert text(playground, "details div") == "Let me see."
    assert text(playground, "summary") == "Reasoning"
    assert playground.evaluate("document.querySelector('#turns details').open") is False
    assert text(playground, ".answer") == "I will look."
    assert playground.evaluate("[...document.querySelectorAll('.call pre')].map((each) => each.textContent)") == [
        '{\n  "city": "Oslo"\n}',
        "{}",
    ]
    assert "calls tools" in text(playground, ".figures")


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (401, {"error": {"message": "Missing"}}, "wants an API key"),
        (413, {"error": "length limit exceeded"}, "larger than the server accepts"),
        (422, {"error": {"message": "`top_p` must be > 0.0"}}, "`top_p` must be > 0.0"),
        (429, {"error": {"message": "Model is overloaded"}}, "Try again in 7 s"),
        (503, {"error": {"message": "gone"}}, "The engine is not running"),
        (502, None, "(502)"),
    ],
)
def test_refusals_are_told_in_plain_words(playground, status, body, words):
    speak(playground, status=status, **{"retry-after": "7"})
    if body is not None:
        playground.evaluate(f"""
          const empty = window.fetch;
          window.fetch = async (...given) => {{
            const {{ status, headers }} = await empty(...given);
            return new Response({json.dumps(json.dumps(body))}, {{ status, headers }});
          }};
        """)
    ask(playground)
    playground.until(IDLE)
    assert words in text(playground, ".failure")
    speak(playground, delta("stop", content="now"), "[DONE]")
    playground.evaluate("document.querySelector('.failure button').click()")
    playground.until(f"{IDLE} && {LAST}.querySelector('.failure') === null")
    assert text(playground, ".answer") == "now"
    assert playground.evaluate("sent.messages.length") == 1


def test_a_stream_that_fails_says_so_and_keeps_what_came(page, make_app, engine):
    engine.gate_step, engine.error = 1, GenerationFailed("the logits are not finite")
    with listening(make_app(), ServerOptions(model_id="the/model")) as address:
        page.open(f"{address}/ui")
        ask(page)
        page.until(IDLE)
        assert text(page, ".answer") == " is"
        assert "the logits are not finite" in text(page, ".failure")


def test_a_connection_that_ends_early_is_noticed(playground):
    speak(playground, delta(content="half"))
    ask(playground)
    playground.until(IDLE)
    assert text(playground, ".answer") == "half"
    assert "ended before the answer was whole" in text(playground, ".failure")


def test_the_key_is_sent_and_stays_in_the_tab(page, make_app):
    options = {"api_keys": ("secret",), "public_info": True}
    with listening(make_app(**options), ServerOptions(model_id="the/model")) as address:
        page.open(f"{address}/ui")
        ask(page)
        page.until(IDLE)
        assert "wants an API key" in text(page, ".failure")
        page.evaluate("document.getElementById('key').focus()")
        page.write("secret")
        page.evaluate("document.querySelector('.failure button').click()")
        page.until(f"{IDLE} && {LAST}.querySelector('.failure') === null")
        assert text(page, ".answer") == " is deep."
        assert page.evaluate("localStorage.length + document.cookie.length") == 0
        page.evaluate("sessionStorage.clear()")


@pytest.mark.parametrize("look", LOOKS)
def test_it_fits_every_window(playground, tmp_path, look):
    width, theme = LOOKS[look]
    playground.look(width, 800, theme=theme)
    playground.settle()
    playground.screenshot(tmp_path / f"empty-{look}.png")
    speak(playground, delta(reasoning_content="Rivers."), delta("stop", content="Water. " * 80), "[DONE]")
    ask(playground)
    playground.until(IDLE)
    playground.settle()
    playground.screenshot(tmp_path / f"answered-{look}.png")
    assert playground.evaluate("document.documentElement.scrollWidth") == width
    assert playground.evaluate("document.documentElement.scrollHeight") == 800
    dark = playground.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(15, 17, 21)"
    assert dark == (theme == "dark")
    playground.evaluate("document.getElementById('theme').click()")
    assert (playground.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(15, 17, 21)") != dark
    assert playground.complaints == []


def test_everything_is_reached_with_the_keyboard(playground):
    reached = set()
    for _ in range(40):
        playground.press("Tab", 9)
        reached.add(playground.evaluate("document.activeElement.id || document.activeElement.tagName"))
    controls = {"theme", "message", "send", "system", "temperature", "top_p", "max_tokens", "seed", "schema"}
    assert controls | {"tools", "key", "clear"} <= reached
    unnamed = playground.evaluate("""
      [...document.querySelectorAll("input, textarea, button")]
        .filter((each) => !(each.labels?.length || each.textContent.trim())).map((each) => each.id)
    """)
    assert unnamed == []


def test_swagger_ui_shows_the_document(page, url, tmp_path):
    page.look(1280)
    page.requests.clear()
    page.complaints.clear()
    page.open(f"{url}/docs")
    page.until("document.querySelector('#operations-OpenAI-post_v1_chat_completions')")
    page.screenshot(tmp_path / "docs.png")
    page.evaluate("document.querySelector('#operations-OpenAI-post_v1_chat_completions button').click()")
    page.until("document.querySelector('.responses-table')")
    page.screenshot(tmp_path / "docs-open.png")
    assert page.complaints == []
    assert {address for address in page.requests if not address.startswith((url, "data:"))} == set()
    assert f"{url}/api-doc/openapi.json" in page.requests
