"""Frames survive any cut of the byte stream, and every kind of message comes back as it went in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.types import EngineStats, FinishReason, GenerateRequest, SamplingParams, Timings, TokenEvent, TokenScore
from engine.wire import (
    HEADER,
    MAX_FRAME,
    Cancel,
    FrameReader,
    Message,
    Refused,
    Reply,
    StartFailed,
    Step,
    Stop,
    Submit,
    decode_message,
    decode_reply,
    frame,
)

REQUEST = GenerateRequest(
    prompt=(1, 2, 3),
    params=SamplingParams(temperature=0.5, seed=2**64 - 1, logit_bias=((4, -1.5),), stop_token_ids=(7,)),
    priority=-2,
    salt=b"\x00\xff",
)
EVENT = TokenEvent(
    request_id=9,
    tokens=(5, 6),
    logprobs=(-0.5, float("-inf")),
    top=((TokenScore(5, -0.5), TokenScore(8, -1.0)), ()),
    finish_reason=FinishReason.EOS,
    seed=3,
    timings=Timings(queue=0.1, prefill=0.2, decode=0.3, cached_tokens=16),
)
MESSAGES: list[Message] = [Submit(1, REQUEST), Cancel(2), Stop()]
REPLIES: list[Reply] = [
    Refused(4, "InvalidRequest", "too long"),
    StartFailed("WeightsError", "no such tensor"),
    Step((EVENT,), EngineStats(running=1, blocks_used=2)),
    Step((), EngineStats()),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda item: type(item).__name__)
def test_messages_come_back_as_they_went_in(message: Message) -> None:
    (body,) = FrameReader().feed(frame(message))
    assert decode_message(body) == message


@pytest.mark.parametrize("reply", REPLIES, ids=lambda item: type(item).__name__)
def test_replies_come_back_as_they_went_in(reply: Reply) -> None:
    (body,) = FrameReader().feed(frame(reply))
    assert decode_reply(body) == reply


@given(st.lists(st.binary(max_size=40), max_size=8), st.lists(st.integers(1, 17), min_size=1, max_size=30))
def test_any_cut_of_the_stream_gives_the_same_frames(bodies: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(HEADER.pack(len(body)) + body for body in bodies)
    reader, got, position, turn = FrameReader(), [], 0, 0
    while position < len(stream):
        step = cuts[turn % len(cuts)]
        got += reader.feed(stream[position : position + step])
        position, turn = position + step, turn + 1
    assert got == bodies


def test_an_impossible_length_is_an_error() -> None:
    with pytest.raises(ValueError, match="larger than the limit"):
        FrameReader().feed(HEADER.pack(MAX_FRAME + 1))
