"""`OutputText`: what is streamed is the final text, with and without stop strings, on both kinds of routes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_tokenizers import TOKENIZERS, any_ids

from engine.text.detokenize import detokenizer
from engine.text.output import OutputText, Piece
from engine.text.stop import StopMatcher
from engine.text.tokenizer import Tokenizer
from engine.types import TokenScore

LAW = settings(derandomize=True, deadline=None, database=None, max_examples=200)
BYTES = TOKENIZERS["byte_level"]
END = BYTES.encode("<|im_end|>")[0]


def run(output: OutputText, ids: list[int]) -> tuple[list[Piece], str]:
    """All pieces, and what came at the end."""
    pieces = [piece for token_id in ids if (piece := output.push(token_id))]
    return pieces, output.flush()


def shown_stream(tokenizer: Tokenizer, prompt: list[int], ids: list[int]) -> list[tuple[str, bool]]:
    """What TGI would stream without stop strings: (character, of a special token)."""
    plain = detokenizer(tokenizer, prompt, skip_special_tokens=True)
    chars = []
    for token_id in ids:
        special = token_id in tokenizer.special_ids
        text = tokenizer.token_text(token_id) if special else plain.push(token_id)
        chars += [(char, special) for char in text]
    return chars + [(char, False) for char in plain.flush()]


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("keep_stop", [True, False])
def test_the_pieces_are_the_text_up_to_the_stop_string(kind: str, keep_stop: bool) -> None:
    tokenizer = TOKENIZERS[kind]

    @LAW
    @given(st.data(), any_ids(tokenizer), any_ids(tokenizer))
    def check(data: st.DataObject, prompt: list[int], ids: list[int]) -> None:
        chars = shown_stream(tokenizer, prompt, ids)
        stream = "".join(char for char, _ in chars)
        spans = st.tuples(st.integers(0, len(stream)), st.integers(1, 4))
        stops = data.draw(
            st.lists(spans.map(lambda span: stream[span[0] :][: span[1]]) | st.text(max_size=2), max_size=3)
        )
        match = StopMatcher(stops).push(stream)
        end = len(stream) if match is None else match.stop if keep_stop else match.start

        output = OutputText(tokenizer, prompt, stop=stops, keep_stop=keep_stop)
        pieces, rest = run(output, ids)

        assert output.finished == (match is not None)
        assert output.text == "".join(char for char, special in chars[:end] if not special)
        counted = [piece for piece in pieces if not (keep_stop and piece.special)]
        assert "".join(piece.text for piece in counted) + rest == output.text
        assert [piece.id for piece in pieces] == ids[: output.num_tokens]
        if keep_stop:
            assert "".join(piece.text for piece in pieces) + rest == stream[:end]

    check()


@pytest.mark.parametrize("keep_stop", [True, False])
def test_without_stop_strings_text_is_the_decoded_answer(keep_stop: bool) -> None:
    @LAW
    @given(any_ids(BYTES))
    def check(ids: list[int]) -> None:
        output = OutputText(BYTES, [], keep_stop=keep_stop)
        run(output, ids)
        assert (output.text, output.num_tokens, output.finished) == (BYTES.decode(ids), len(ids), False)

    check()


def test_an_end_token_is_visible_in_its_piece_only() -> None:
    ids = [*BYTES.encode("hi"), END]
    native = OutputText(BYTES, [], keep_stop=True)
    pieces, rest = run(native, ids)
    assert (pieces[-1].text, pieces[-1].special, native.text, rest) == ("<|im_end|>", True, "hi", "")
    assert native.num_tokens == len(ids)
    openai = OutputText(BYTES, [], keep_stop=False)
    pieces, rest = run(openai, ids)
    assert (pieces[-1].text, pieces[-1].special, openai.text, rest) == ("", True, "hi", "")


def test_the_literal_text_of_a_special_token_is_a_stop_string() -> None:
    ids = [*BYTES.encode("hi!"), END, *BYTES.encode("more")]
    for keep_stop in (True, False):
        output = OutputText(BYTES, [], stop=["!<|im_end|>"], keep_stop=keep_stop)
        pieces, rest = run(output, ids)
        assert output.finished
        assert pieces[-1].id == END
        assert (output.text, rest) == ("hi!" if keep_stop else "hi", "")


def test_tokens_after_a_stop_string_are_dropped() -> None:
    output = OutputText(BYTES, [], stop=["o w"], keep_stop=True)
    pieces, _ = run(output, [*BYTES.encode("hello world"), *BYTES.encode(" again")])
    assert output.text == "hello w"
    assert output.num_tokens == len(pieces)
    assert output.push(5) is None
    assert output.num_tokens == len(pieces)


def test_text_waits_for_a_stop_string_and_comes_back_if_there_is_none() -> None:
    output = OutputText(BYTES, [], stop=["\n\nUser:"], keep_stop=False)
    shown = [piece.text for token in ("a", "\n", "\n", "Us", "b", "\n") for piece in run_text(output, token)]
    assert "".join(shown) == "a\n\nUsb"
    assert shown[0] == "a"
    assert output.flush() == "\n"
    assert output.text == "a\n\nUsb\n"


def run_text(output: OutputText, text: str) -> list[Piece]:
    return [piece for token_id in BYTES.encode(text) if (piece := output.push(token_id))]


def test_a_native_stream_does_not_wait() -> None:
    output = OutputText(BYTES, [], stop=["hello world!"], keep_stop=True)
    assert "".join(piece.text for piece in run_text(output, "hello world")) == "hello world"


def test_an_unfinished_character_is_empty_until_the_end() -> None:
    ids = BYTES.encode("\U0001f49c")
    assert len(ids) == 4
    output = OutputText(BYTES, [], keep_stop=True)
    assert [piece.text for piece in run(output, ids)[0]] == ["", "", "", "\U0001f49c"]
    output = OutputText(BYTES, [], keep_stop=True)
    pieces, rest = run(output, ids[:3])
    assert ([piece.text for piece in pieces], rest, output.text) == (["", "", ""], "\ufffd", "\ufffd")


def test_scores_travel_with_their_piece() -> None:
    top = [TokenScore(4, -0.5), TokenScore(5, -1.5)]
    piece = OutputText(BYTES, [], keep_stop=False).push(4, -0.5, top)
    assert piece == Piece(4, BYTES.token_text(4), -0.5, False, tuple(top))
