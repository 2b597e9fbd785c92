"""`Tokenizer`: equal to transformers' on the same files, typed errors on bad ones."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_tokenizers import BUILDERS, CONFIG, CORPUS, TOKENIZERS, any_ids, byte_level, save, wordpiece
from tokenizers import processors

from engine.errors import InvalidRequest, TemplateError, TokenizerError
from engine.text.tokenizer import Tokenizer

LAW = settings(derandomize=True, deadline=None, database=None, max_examples=200)
KINDS = pytest.mark.parametrize("kind", BUILDERS)
DEFAULT_MODEL = Path(__file__).parents[2] / "engine" / "assets" / "default"
TEXTS = [*CORPUS, "", " ", "\n\n", "  two  spaces ", "<s>hi</s> <|im_end|>x", "\U0001f49c e\u0301 \x00 \ufffd"]


def transformers_tokenizer(directory: Path) -> Any:
    transformers = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained(str(directory))


def special_ids(theirs: Any) -> frozenset[int]:
    """As TGI has it: the named ones, and added tokens that are flagged."""
    flagged = {token_id for token_id, token in theirs.added_tokens_decoder.items() if token.special}
    return frozenset(theirs.all_special_ids) | flagged


@KINDS
def test_equals_transformers(kind: str, tmp_path: Path) -> None:
    save(BUILDERS[kind](), tmp_path, CONFIG | {"tokenizer_class": "PreTrainedTokenizerFast"})
    ours, theirs = Tokenizer.load(tmp_path), transformers_tokenizer(tmp_path)
    assert ours.special_ids == special_ids(theirs)
    assert (ours.bos_token, ours.eos_token) == (theirs.bos_token, theirs.eos_token)
    assert (ours.model_max_length, ours.vocab_size) == (theirs.model_max_length, len(theirs))
    for text in TEXTS:
        for special in (True, False):
            ids = ours.encode(text, add_special_tokens=special)
            assert ids == theirs.encode(text, add_special_tokens=special)
            for skip in (True, False):
                assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip)


def test_a_long_text_leaves_other_threads_their_turn() -> None:
    """The server's event loop is one of them."""
    tokenizer, text = Tokenizer.load(DEFAULT_MODEL), "word " * 200_000
    started, turns = threading.Event(), 0

    def encode() -> list[int]:
        started.set()
        return tokenizer.encode(text)

    with ThreadPoolExecutor(1) as thread:
        encoding = thread.submit(encode)
        started.wait()
        while not encoding.done():
            time.sleep(0)
            turns += 1
    assert len(encoding.result()) >= 200_000
    assert turns > 100


def test_equals_transformers_on_the_default_model() -> None:
    ours, theirs = Tokenizer.load(DEFAULT_MODEL), transformers_tokenizer(DEFAULT_MODEL)
    assert ours.special_ids == special_ids(theirs)
    for text in TEXTS:
        ids = ours.encode(text)
        assert ids == theirs.encode(text)
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
    messages = [{"role": "user", "content": "hello"}]
    expected = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert ours.render_chat(messages) == expected


@pytest.mark.parametrize("clean_up", [True, False])
@pytest.mark.parametrize("kind", ["wordpiece", "byte_level"])
def test_clean_up_equals_transformers(kind: str, clean_up: bool, tmp_path: Path) -> None:
    config = CONFIG | {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": clean_up}
    backend = BUILDERS[kind]()
    if kind == "wordpiece":
        backend.decoder.cleanup = False
    save(backend, tmp_path, config)
    ours, theirs = Tokenizer.load(tmp_path), transformers_tokenizer(tmp_path)
    text = "hello world . isn ' t the dog , ! n't 'm"
    ids = ours.encode(text)
    assert ours.decode(ids) == theirs.decode(ids)
    assert (ours.decode(ids) == ours.decode(ids, clean_up=False)) == (kind == "byte_level" or not clean_up)


@pytest.mark.parametrize("flags", [{}, {"add_bos_token": True}, {"add_bos_token": True, "add_eos_token": True}])
def test_bos_and_eos_flags_equal_transformers(flags: dict[str, bool], tmp_path: Path) -> None:
    config = CONFIG | {"tokenizer_class": "GPT2Tokenizer"} | flags
    save(byte_level(), tmp_path, config)
    both = transformers_tokenizer(tmp_path).encode("hello world")
    assert Tokenizer.load(tmp_path).encode("hello world") == both  # the file says how, not the flags

    original = gpt2_files(tmp_path / "original", config)
    ours = Tokenizer.load(original)
    assert ours.encode("hello world") == transformers_tokenizer(original).encode("hello world")
    assert ours.encode("hello world")[:1] == ([0] if flags else both[:1])
    assert ours.decode(ours.encode("hello é")) == "hello é"


def gpt2_files(directory: Path, config: dict[str, Any]) -> Path:
    directory.mkdir()
    model = json.loads(byte_level().to_str())["model"]
    (directory / "vocab.json").write_text(json.dumps(model["vocab"]), encoding="utf-8")
    merges = "\n".join(" ".join(pair) for pair in model["merges"])
    (directory / "merges.txt").write_text("#version: 0.2\n" + merges, encoding="utf-8")
    (directory / "config.json").write_text('{"model_type": "gpt2"}')
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return directory


def test_special_tokens_named_in_a_configuration(tmp_path: Path) -> None:
    config = {
        "bos_token": {"content": "<s>", "__type": "AddedToken"},
        "image_token": "the",
        "extra_special_tokens": ["dog"],
        "pad_token": "[not in the vocabulary]",
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    directory = save(wordpiece(), tmp_path, config)
    tokenizer = Tokenizer.load(directory)
    specials = {tokenizer.token(token_id) for token_id in tokenizer.special_ids}
    assert specials == {"<s>", "</s>", "<unk>", "<|im_end|>", "the", "dog"}
    assert tokenizer.vocab_size == TOKENIZERS["wordpiece"].vocab_size
    (directory / "special_tokens_map.json").write_text('{"eos_token": {"content": "</s>"}}')
    assert Tokenizer.load(directory).eos_token == "</s>"


def test_offsets_count_bytes() -> None:
    tokenizer = TOKENIZERS["llama2"]
    text = "hello \U0001f49c é日 the"
    spans = tokenizer.encode_with_offsets(text)
    assert (spans[0].id, spans[0].text, spans[0].start, spans[0].stop) == (0, "", 0, 0)
    data = text.encode()
    assert all(data[span.start : span.stop].decode() == span.text for span in spans)
    assert [span.id for span in spans] == tokenizer.encode(text)
    hearts = [span for span in spans if span.text == "\U0001f49c"]
    assert [(span.start, span.stop) for span in hearts] == [(6, 10)] * 4


@KINDS
def test_no_text_and_no_ids_raise(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]

    @LAW
    @given(st.text(max_size=20), st.lists(st.integers(-5, 500) | st.integers(), max_size=20) | any_ids(tokenizer))
    def check(text: str, ids: list[int]) -> None:
        spans = tokenizer.encode_with_offsets(text)
        assert [span.id for span in spans] == tokenizer.encode(text)
        assert all(text.encode()[span.start : span.stop].decode() == span.text for span in spans)
        assert tokenizer.decode(ids) == tokenizer.decode([i for i in ids if tokenizer.token(i) is not None])

    check()


def test_ids_without_a_token_decode_to_nothing() -> None:
    tokenizer = TOKENIZERS["byte_level"]
    beyond = tokenizer.vocab_size
    assert tokenizer.token(beyond - 1) is not None
    assert [tokenizer.token(i) for i in (-1, beyond, 2**40)] == [None] * 3
    assert tokenizer.decode([-1, 2**70, *tokenizer.encode("hi"), beyond]) == "hi"


def test_special_tokens_in_a_text_are_special() -> None:
    tokenizer = TOKENIZERS["byte_level"]
    assert set(tokenizer.encode("<|im_end|></s>")) <= tokenizer.special_ids


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb"])
def test_a_lone_surrogate_is_refused(text: str) -> None:
    for encode in (TOKENIZERS["byte_level"].encode, TOKENIZERS["llama2"].encode_with_offsets):
        with pytest.raises(InvalidRequest, match="lone surrogate"):
            encode(text)


def test_a_model_without_a_template() -> None:
    with pytest.raises(TemplateError, match=r"^Template error: template not found$"):
        TOKENIZERS["byte_level"].render_chat([{"role": "user", "content": "hi"}])


def test_a_configuration_the_user_names_comes_first(tmp_path: Path) -> None:
    save(byte_level(), tmp_path, CONFIG | {"chat_template": "config"})
    other = tmp_path / "other.json"
    other.write_text('{"eos_token": "<|im_end|>"}')
    assert Tokenizer.load(tmp_path, other).eos_token == "<|im_end|>"
    assert Tokenizer.load(tmp_path, other).chat is None
    (tmp_path / "chat_template.jinja").write_text("file {{ eos_token }}")
    messages = [{"role": "user", "content": "hi"}]
    assert Tokenizer.load(tmp_path).render_chat(messages) == "file </s>"
    assert Tokenizer.load(tmp_path, other).render_chat(messages) == "file <|im_end|>"
    other.write_text('{"chat_template": "other"}')
    assert Tokenizer.load(tmp_path, other).render_chat(messages) == "other"


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"has no tokenizer\.json; download"):
        Tokenizer.load(tmp_path)
    with pytest.raises(TokenizerError, match=r"cannot read .*other\.json: No such file"):
        Tokenizer.load(DEFAULT_MODEL, tmp_path / "other.json")
    (tmp_path / "tokenizer.model").write_bytes(b"\x0a\x00")
    with pytest.raises(TokenizerError, match=r"has tokenizer\.model but no tokenizer\.json\. Convert"):
        Tokenizer.load(tmp_path)
    directory = gpt2_files(tmp_path / "qwen", {"tokenizer_class": "Qwen2Tokenizer"})
    with pytest.raises(TokenizerError, match=r"of a Qwen2Tokenizer but no tokenizer\.json\. Convert"):
        Tokenizer.load(directory)
    (directory / "merges.txt").write_text("#version: 0.2\nx y z\n")
    (directory / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
    with pytest.raises(TokenizerError, match="is corrupt"):
        Tokenizer.load(directory)


DEEP = "[" * 100_000


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"model": {}}', "\udcff", DEEP, '{"a":' + DEEP])
def test_a_corrupt_tokenizer(text: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(TokenizerError, match=r"tokenizer\.json is corrupt"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "3",
        "\udcff",
        DEEP,
        '{"added_tokens_decoder": {"x": 1}}',
        '{"added_tokens_decoder": []}',
        '{"added_tokens_decoder": {"0": {"bad": 1}}}',
        '{"chat_template": 5}',
        '{"chat_template": [{"name": "a"}]}',
        '{"chat_template": [1]}',
    ],
)
def test_a_corrupt_configuration(text: str, tmp_path: Path) -> None:
    save(byte_level(), tmp_path, {})
    (tmp_path / "tokenizer_config.json").write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(TokenizerError, match=r"tokenizer_config|chat_template"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("keep", ["start", "end"])
@KINDS
def test_a_cut_text_keeps_its_special_tokens(kind: str, keep: Literal["start", "end"]) -> None:
    """As transformers' truncation: the same tokens without the special ones, and these around as many as fit."""
    backend = BUILDERS[kind]()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[(token, backend.token_to_id(token)) for token in ("<s>", "</s>")]
    )
    tokenizer = Tokenizer(backend, CONFIG)
    text = "hello world, the dogs. " * 5
    first, *body, last = tokenizer.encode(text)
    for limit in (3, 4, 10):
        part = body[: limit - 2] if keep == "start" else body[-(limit - 2) :]
        assert tokenizer.encode_cut(text, limit, keep=keep) == [first, *part, last]
    assert tokenizer.encode_cut(text, 1000, keep=keep) == [first, *body, last]
    with pytest.raises(InvalidRequest, match="a limit of 2 tokens leaves no room"):
        tokenizer.encode_cut(text, 2, keep=keep)
