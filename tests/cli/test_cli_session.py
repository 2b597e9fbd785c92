"""The conversation without its terminal: turns, commands, settings, and a context that fills up."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import pytest

from engine.errors import ConfigError, GenerationFailed
from tgi_cli.reply import Message, Reply
from tgi_cli.sampling import FLAG, Sampling
from tgi_cli.session import Quit, Session


class EchoReply(Reply):
    def __init__(self, words: list[str]) -> None:
        super().__init__()
        self._words = words

    async def _run(self) -> AsyncGenerator[str, None]:
        for word in self._words:
            if word == "fail":
                raise GenerationFailed("as asked")
            self.num_tokens += 1
            yield word
        self.finish_reason = "stop"


class EchoBackend:
    """Repeats the last message, and has room for `room` characters of messages."""

    name = "echo"

    def __init__(self, room: int = 10_000) -> None:
        self.room = room
        self.asked: list[tuple[list[Message], Sampling]] = []

    async def start(self) -> None:
        pass

    async def aclose(self) -> None:
        pass

    def complete(self, prompt: str, sampling: Sampling) -> Reply:
        raise NotImplementedError

    def chat(self, messages: Sequence[Message], sampling: Sampling) -> Reply:
        self.asked.append((list(messages), sampling))
        return EchoReply(messages[-1]["content"].split())

    def fits(self, messages: Sequence[Message], sampling: Sampling) -> bool:
        return sum(len(message["content"]) for message in messages) <= self.room


def say(session: Session, text: str) -> str:
    async def collect() -> str:
        session.add_question(text)
        async with aclosing(session.answer()) as texts:
            return " ".join([piece async for piece in texts])

    return asyncio.run(collect())


@pytest.fixture
def session() -> Session:
    return Session(EchoBackend(), Sampling())


def asked(session: Session) -> tuple[list[Message], Sampling]:
    assert isinstance(session.backend, EchoBackend)
    return session.backend.asked[-1]


def test_every_turn_sees_those_before_it(session: Session) -> None:
    assert say(session, "one two") == "one two"
    say(session, "three")
    messages, _ = asked(session)
    assert messages == [
        {"role": "user", "content": "one two"},
        {"role": "assistant", "content": "onetwo"},
        {"role": "user", "content": "three"},
    ]


def test_reset_forgets_the_turns_and_keeps_the_rest(session: Session) -> None:
    session.command("/system Be brief.")
    session.command("/set temperature 0.5")
    say(session, "one")
    session.command("/reset")
    say(session, "two")
    messages, sampling = asked(session)
    assert messages == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "two"}]
    assert sampling.temperature == 0.5


def test_the_system_message_is_shown_and_replaced(session: Session) -> None:
    assert session.command("/system") == "no system message"
    session.command("/system Be brief.")
    assert session.command("/system") == "system: Be brief."
    session.command("/system Be long.")
    say(session, "one")
    assert asked(session)[0][0] == {"role": "system", "content": "Be long."}


GOOD = {
    "max_new_tokens": "5", "temperature": "0.2", "top_k": "3", "top_p": "0.9", "typical_p": "0.9", "min_p": "0.1",
    "repetition_penalty": "1.1", "frequency_penalty": "-1", "presence_penalty": "1", "seed": "4", "stop": "a, b",
    "ignore_eos": "true",
}  # fmt: skip


@pytest.mark.parametrize("name", FLAG)
def test_every_sampling_parameter_can_be_set(session: Session, name: str) -> None:
    spoken = name.replace("_", "-") if name == "top_k" else name
    assert name in session.command(f"/set {spoken} {GOOD[name]}")
    expected = {"stop": ("a, b",), "ignore_eos": True}.get(name, FLAG[name].kind(GOOD[name]))
    assert session.sampling.given == {name: expected}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("/set temperature -1", "must be a number of at least 0"),
        ("/set temperature hot", "'hot' must be a number"),
        ("/set temperature", "needs a value"),
        ("/set top_p 2", "at most 1"),
        ("/set warmth 1", "there is no parameter 'warmth'; there are: max_new_tokens, temperature"),
        ("/sing", "there is no command '/sing'; /help"),
        ("/", "there is no command '/'"),
    ],
)
def test_a_bad_command_says_why_and_changes_nothing(session: Session, line: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        session.command(line)
    assert words in str(caught.value)
    assert session.sampling == Sampling()


def test_settings_are_shown(session: Session) -> None:
    assert session.command("/set") == "temperature 0.0"
    session.command("/set max_tokens 7")
    assert session.command("/set") == "temperature 0.0, max_new_tokens 7"
    session.command("/set ignore_eos true")
    assert session.command("/set stop end") == "temperature 0.0, max_new_tokens 7, ignore_eos true, stop end"


@pytest.mark.parametrize("name", FLAG)
def test_none_unsets_a_parameter(session: Session, name: str) -> None:
    session.command(f"/set {name} {GOOD[name]}")
    assert session.command(f"/set {name} none") == "temperature 0.0"
    assert session.sampling == Sampling()


def test_help_lists_every_command(session: Session) -> None:
    text = session.command("/help")
    for name in ("/system", "/set", "/reset", "/stats", "/help", "/quit"):
        assert name in text


@pytest.mark.parametrize("line", ["/quit", "/exit", "  /quit  "])
def test_quit(session: Session, line: str) -> None:
    with pytest.raises(Quit):
        session.command(line)


def test_stats_count_what_was_said(session: Session) -> None:
    assert "0 answers, 0 tokens" in session.command("/stats")
    say(session, "one two three")
    assert "1 answer, 3 tokens" in session.command("/stats")
    say(session, "four")
    text = session.command("/stats")
    assert "model echo, 4 messages" in text
    assert "2 answers, 4 tokens" in text
    assert "last answer: 1 token" in text


def test_a_full_context_forgets_the_oldest_turns() -> None:
    session = Session(EchoBackend(room=30), Sampling(), system="0123456789")
    for word in ("aaaa", "bbbb"):
        say(session, word)
    assert session.add_question("cccc") == 0
    session.turns.pop()
    assert session.add_question("ddddddddd") == 2
    assert [turn["content"] for turn in session.messages] == ["0123456789", "bbbb", "bbbb", "ddddddddd"]


def test_a_message_too_long_for_the_context_is_sent_alone() -> None:
    session = Session(EchoBackend(room=5), Sampling())
    say(session, "aa")
    assert session.add_question("far too long") == 2
    assert len(session.messages) == 1


def test_an_answer_that_fails_leaves_no_trace(session: Session) -> None:
    say(session, "one")
    with pytest.raises(GenerationFailed):
        say(session, "fail at once")
    assert len(session.turns) == 2
    with pytest.raises(GenerationFailed):
        say(session, "half then fail")
    assert session.turns[2:] == [
        {"role": "user", "content": "half then fail"},
        {"role": "assistant", "content": "halfthen"},
    ]


def test_an_interrupted_answer_is_remembered_as_far_as_it_came(session: Session) -> None:
    async def interrupt() -> None:
        session.add_question("one two three")
        async with aclosing(session.answer()) as texts:
            assert await anext(texts) == "one"

    asyncio.run(interrupt())
    assert session.turns[-1] == {"role": "assistant", "content": "one"}
    assert say(session, "four") == "four"
