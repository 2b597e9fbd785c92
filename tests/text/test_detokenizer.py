"""Streaming text: the pieces are the text, no piece is taken back, and none ends inside a character."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_tokenizers import TOKENIZERS, any_ids

from engine.text.detokenize import WINDOW, detokenizer
from engine.text.tokenizer import Tokenizer

KINDS = pytest.mark.parametrize("kind", TOKENIZERS)
BYTES = "a\xe9\u20ac\U0001f49c".encode() + b"\xff\xed\xad"  # of characters of each length, of none and of a surrogate
LAW = settings(derandomize=True, deadline=None, database=None, max_examples=200)


def stream(tokenizer: Tokenizer, prompt: list[int], ids: list[int], skip: bool = True) -> list[str]:
    text = detokenizer(tokenizer, prompt, skip_special_tokens=skip)
    return [*(text.push(token_id) for token_id in ids), text.flush()]


@KINDS
@pytest.mark.parametrize("skip", [True, False])
def test_pieces_join_to_the_decoded_text(kind: str, skip: bool) -> None:
    tokenizer = TOKENIZERS[kind]

    @LAW
    @given(any_ids(tokenizer))
    def check(ids: list[int]) -> None:
        expected = tokenizer.decode(ids, skip_special_tokens=skip, clean_up=False)
        assert "".join(stream(tokenizer, [], ids, skip)) == expected

    check()


@KINDS
@pytest.mark.parametrize("skip", [True, False])
def test_text_after_a_prompt_continues_it(kind: str, skip: bool) -> None:
    tokenizer = TOKENIZERS[kind]

    @LAW
    @given(any_ids(tokenizer), any_ids(tokenizer))
    def check(prompt: list[int], ids: list[int]) -> None:
        before = tokenizer.decode(prompt, skip_special_tokens=skip, clean_up=False)
        whole = tokenizer.decode(prompt + ids, skip_special_tokens=skip, clean_up=False)
        assert "".join(stream(tokenizer, prompt, ids, skip)) == whole[len(before) :]

    check()


@pytest.mark.parametrize("kind", ["byte_level", "llama2"])
def test_every_character_comes_whole_and_as_soon_as_it_is_there(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]

    @LAW
    @given(st.text(st.characters(exclude_characters="\ufffd", exclude_categories=["Cs"]), max_size=20))
    def check(text: str) -> None:
        ids = tokenizer.encode(text, add_special_tokens=False)
        pieces = stream(tokenizer, [], ids)
        assert "\ufffd" not in "".join(pieces)
        for n in range(1, len(ids) + 1):
            assert "".join(pieces[:n]) == tokenizer.decode(ids[:n]).removesuffix("\ufffd")

    check()


@pytest.mark.parametrize("kind", ["byte_level", "llama2"])
def test_bytes_that_are_not_utf8(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]

    @LAW
    @given(st.binary(max_size=40) | st.lists(st.sampled_from(BYTES), max_size=40).map(bytes))
    def check(data: bytes) -> None:
        ids = byte_ids(tokenizer, data)
        pieces = stream(tokenizer, [], ids)
        assert "".join(pieces) == data.decode("utf-8", "replace").removeprefix(" " if kind == "llama2" else "")
        assert len("".join(pieces[:-1])) >= len("".join(pieces)) - 1  # never more than one character behind

    check()


def byte_ids(tokenizer: Tokenizer, data: bytes) -> list[int]:
    """The ids of single bytes, found by their spelling."""
    vocab = {tokenizer.token(token_id): token_id for token_id in range(tokenizer.vocab_size)}
    if "<0x00>" in vocab:
        return [vocab[f"<0x{byte:02X}>"] for byte in data]
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]  # GPT-2's table of bytes
    others = [byte for byte in range(256) if byte not in printable]
    spelling = {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}
    return [vocab[spelling[byte]] for byte in data]


@KINDS
def test_each_id_costs_a_constant(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the answer and whatever it holds, few ids are decoded for each new one."""
    tokenizer = TOKENIZERS[kind]
    decoded: list[int] = []
    decode, token_bytes = tokenizer.decode, tokenizer.token_bytes

    def counting(ids: list[int], **options: bool) -> str:
        decoded.append(len(ids))
        return decode(ids, **options)

    def counting_bytes(token_id: int) -> bytes | None:
        decoded.append(1)
        return token_bytes(token_id)

    monkeypatch.setattr(tokenizer, "decode", counting)
    monkeypatch.setattr(tokenizer, "token_bytes", counting_bytes)
    bad = byte_ids(tokenizer, b"\xff") if kind in ("byte_level", "llama2") else []
    for token_id in [4, tokenizer.vocab_size - 1, 0, tokenizer.vocab_size + 1, *bad]:
        decoded.clear()
        stream(tokenizer, [5] * 1000, [token_id] * 2000)
        assert len(decoded) < 2 * 2000 + 10
        assert max(decoded) <= 2 * WINDOW + 1


def test_an_answer_keeps_the_space_that_the_start_of_a_text_drops() -> None:
    tokenizer = TOKENIZERS["llama2"]
    ids = tokenizer.encode("hello", add_special_tokens=False)
    assert "".join(stream(tokenizer, [], ids)) == "hello"
    assert "".join(stream(tokenizer, tokenizer.encode("the"), ids)) == " hello"
    assert "".join(stream(tokenizer, [*tokenizer.encode("the"), 1], ids)) == " hello"
    assert "".join(stream(tokenizer, [0], ids)) == "hello"


def test_tokens_without_text_do_not_make_a_new_start() -> None:
    tokenizer = TOKENIZERS["llama2"]
    empty = next(token_id for token_id in range(tokenizer.vocab_size) if tokenizer.token(token_id) == "")
    ids = tokenizer.encode("the", add_special_tokens=False)
    assert "".join(stream(tokenizer, [], [*ids, *[empty] * 20, *ids])) == "the the"
    assert "".join(stream(tokenizer, [*ids, *[empty] * 20], ids)) == " the"


@pytest.mark.parametrize("kind", ["byte_level", "llama2"])
def test_a_prompt_that_ends_inside_a_character(kind: str) -> None:
    """Its U+FFFD was part of the prompt's text; the rest of the character is no text of the answer."""
    tokenizer = TOKENIZERS[kind]
    ids = byte_ids(tokenizer, "a\U0001f49cb".encode())
    for cut in (2, 3, 4):
        assert "".join(stream(tokenizer, ids[:cut], ids[cut:])) == "b"
