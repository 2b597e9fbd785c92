"""Tokenizers of the Hugging Face format, through the `tokenizers` package alone.

`tokenizer.json` says how text is split and joined; `tokenizer_config.json` names the special tokens, the
context length and the chat template. Where both say something, the meaning is that of transformers 5: the
post-processor of `tokenizer.json` decides which special tokens are added, and `add_bos_token` and
`add_eos_token` count only for a tokenizer built from `vocab.json` and `merges.txt`.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import msgspec
import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors

from engine.errors import InvalidRequest, TemplateError, TokenizerError
from engine.text.chat import ChatTemplate, read_templates
from engine.text.prompts import read_prompts

CONFIG_LIMIT = 16 << 20  # bytes
TOKENIZER_LIMIT = 128 << 20
NO_LIMIT = 1 << 31  # transformers writes 1e30 for a tokenizer without a length limit

# What transformers' clean-up replaces; it is made for WordPiece and never applied to BPE.
CLEAN_UP = {" .": ".", " ?": "?", " !": "!", " ,": ",", " ' ": "'", " n't": "n't"}
CLEAN_UP |= {" 'm": "'m", " 's": "'s", " 've": "'ve", " 're": "'re"}

TOKEN_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")

GPT2_CLASSES = ("GPT2Tokenizer", "GPT2TokenizerFast")
CONVERT = (
    "Convert it once with transformers: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR) writes tokenizer.json."
)


def _byte_level_alphabet() -> dict[str, int]:
    """GPT-2's characters for bytes: those that can be seen stand for themselves, the others follow from U+0100 on."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


BYTE_OF_CHARACTER = _byte_level_alphabet()


class TokenSpan(msgspec.Struct, frozen=True):
    """A token of an input and the part of it that it covers: `text` is bytes `start` to `stop` of its UTF-8.

    A special token that the tokenizer added has no text and both offsets 0.
    """

    id: int
    text: str
    start: int
    stop: int


class Tokenizer:
    """Text to token ids and back, and the chat template that belongs to them. Safe to share between threads.

    `config` is the content of `tokenizer_config.json`. Special tokens are those flagged so in
    `tokenizer.json`, and those that `config` names and the vocabulary holds; one that it does not hold is
    no token, because no model has a row for it. They are found in any text that is encoded, as in TGI.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        config: Mapping[str, Any],
        *,
        templates: Mapping[str, str] | None = None,
        prompts: Mapping[str, str] | None = None,
    ) -> None:
        named = _special_tokens(config)
        self._backend = backend
        self._backend.no_truncation()
        self._backend.no_padding()
        self._add_tokens(config, named.values())
        self.vocab_size: int = 1 + max(backend.get_vocab(with_added_tokens=True).values(), default=-1)
        self.special_ids = frozenset(
            token_id for token_id, token in backend.get_added_tokens_decoder().items() if token.special
        )
        self.bos_token = named.get("bos_token")
        self.eos_token = named.get("eos_token")
        length = config.get("model_max_length")
        self.model_max_length = int(length) if isinstance(length, int | float) and 0 < length < NO_LIMIT else None
        bpe = isinstance(backend.model, models.BPE)
        forced = config.get("clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output", False)
        self._clean_up = bool(config.get("clean_up_tokenization_spaces", False)) and (not bpe or bool(forced))
        self._byte_of = _byte_tokens(backend)
        self.byte_level = isinstance(backend.decoder, decoders.ByteLevel)  # its text is its tokens' bytes, joined
        self._bytes: dict[int, bytes | None] = {}
        self.chat = ChatTemplate(templates, named) if templates else None
        self.prompts = prompts or {}  # what an encoder wants before a text, by name

    @classmethod
    def load(cls, path: Path, tokenizer_config: Path | None = None) -> "Tokenizer":
        """Read the tokenizer in directory `path`; `tokenizer_config` replaces its `tokenizer_config.json`.

        Raises TokenizerError with the name of the file that is missing or corrupt.
        """
        config_file = tokenizer_config or path / "tokenizer_config.json"
        config = _read_json(config_file) if tokenizer_config or config_file.is_file() else {}
        special_map = path / "special_tokens_map.json"
        if "added_tokens_decoder" not in config and special_map.is_file():
            config |= _read_json(special_map)
        if (path / "tokenizer.json").is_file():
            backend = _read_tokenizer(path / "tokenizer.json")
        else:
            backend, config = _build_gpt2(path, config)
        # A template in a file the user chose beats the files of the model.
        own = read_templates(None, config) if tokenizer_config else {}
        return cls(backend, config, templates=own or read_templates(path, config), prompts=read_prompts(path))

    def _add_tokens(self, config: Mapping[str, Any], named: Iterable[str]) -> None:
        try:
            listed = sorted((int(key), value) for key, value in config.get("added_tokens_decoder", {}).items())
            self._backend.add_tokens([_added_token(value) for _, value in listed])
        except (AttributeError, KeyError, TypeError, ValueError):
            raise TokenizerError(
                "tokenizer_config.json: `added_tokens_decoder` must map ids to tokens that have a `content`"
            ) from None
        extra = config.get("extra_special_tokens", config.get("additional_special_tokens"))
        special = [*named, *map(_content, extra if isinstance(extra, list) else ())]
        have = {token.content for token in self._backend.get_added_tokens_decoder().values() if token.special}
        known = [token for token in special if token and self._backend.token_to_id(token) is not None]
        self._backend.add_tokens([AddedToken(token, special=True) for token in known if token not in have])

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids. Raises InvalidRequest where the text cannot be encoded (a lone surrogate is no text)."""
        ids: list[int] = self._encode(text, add_special_tokens).ids
        return ids

    def encode_cut(self, text: str, limit: int, *, keep: Literal["start", "end"] = "start") -> list[int]:
        """As `encode`, but `limit` tokens at most, special ones included: of the start of the text, or of its end.

        Raises InvalidRequest where the limit leaves no room for text.
        """
        room = limit - self._backend.num_special_tokens_to_add(False)
        if room < 1:
            raise InvalidRequest(f"a limit of {limit} tokens leaves no room for text beside the special tokens")
        encoding = self._encode(text, False)
        encoding.truncate(room, direction="right" if keep == "start" else "left")
        ids: list[int] = self._backend.post_process(encoding).ids
        return ids

    def encode_with_offsets(self, text: str, *, add_special_tokens: bool = True) -> list[TokenSpan]:
        """As `encode`, with the bytes of the text that each token covers."""
        encoding = self._encode(text, add_special_tokens)
        at = range(len(text) + 1) if text.isascii() else [0, *accumulate(len(char.encode()) for char in text)]
        return [
            TokenSpan(token_id, text[start:stop], at[start], at[stop])
            for token_id, (start, stop) in zip(encoding.ids, encoding.offsets, strict=True)
        ]

    def _encode(self, text: str, add_special_tokens: bool) -> tokenizers.Encoding:
        try:
            # Unlike `encode`, this lets other threads run: 2 MB of text take a second and more.
            return self._backend.encode_batch([text], add_special_tokens=add_special_tokens)[0]
        except TypeError:
            raise InvalidRequest(
                "tokenizer error: the text holds a lone surrogate, which is not Unicode text"
            ) from None
        except Exception as error:  # the package has no error types of its own
            raise InvalidRequest(f"tokenizer error: {error}") from None

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True, clean_up: bool = True) -> str:
        """Text of any ids; those without a token have none. Bytes that are not UTF-8 become U+FFFD.

        `clean_up=False` leaves out the clean-up of spaces that some tokenizer configurations ask for.
        """
        known = [token_id for token_id in ids if 0 <= token_id < self.vocab_size]
        if self._byte_of:
            text = self._decode_bytes(known, self.special_ids if skip_special_tokens else frozenset())
        else:
            text = self._backend.decode(known, skip_special_tokens=skip_special_tokens)
        if clean_up and self._clean_up:
            for spaced, joined in CLEAN_UP.items():
                text = text.replace(spaced, joined)
        return text

    def _decode_bytes(self, ids: Sequence[int], skip: frozenset[int]) -> str:
        """Decode with byte tokens. The decoder turns a whole run of them into U+FFFD if any part is invalid.

        That would take back characters which were already streamed, so an invalid part is replaced by
        itself, as byte-level tokenizers do. A run of valid bytes reads the same either way.
        """
        tokens: list[str] = []
        run = bytearray()
        for token_id in ids:
            if token_id in skip:
                continue
            byte = self._byte_of.get(token_id)
            if byte is not None:
                run.append(byte)
            elif (token := self._backend.id_to_token(token_id)) is not None:
                tokens += _valid_byte_tokens(run)
                tokens.append(token)
                run.clear()
        text: str = self._backend.decoder.decode(tokens + _valid_byte_tokens(run))
        return text

    def to_json(self) -> str:
        """The content of a `tokenizer.json` that has all tokens, also those that only the configuration named."""
        content: str = self._backend.to_str()
        return content

    def token(self, token_id: int) -> str | None:
        """The token as the vocabulary spells it; None for an id without one."""
        return self._backend.id_to_token(token_id) if 0 <= token_id < self.vocab_size else None

    def token_bytes(self, token_id: int) -> bytes | None:
        """What a token of a byte-level tokenizer stands for; None for an id without a token."""
        if token_id not in self._bytes:
            token = self.token(token_id)
            self._bytes[token_id] = None if token is None else _byte_level_bytes(token)
        return self._bytes[token_id]

    def token_text(self, token_id: int) -> str:
        """The text of one token on its own; a special token shows its literal text."""
        return self.decode([token_id], skip_special_tokens=False, clean_up=False)

    def render_chat(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> str:
        """`self.chat.render(...)`. Raises TemplateError where the model has no template."""
        if self.chat is None:
            raise TemplateError("Template error: template not found")
        return self.chat.render(messages, **options)


def _content(token: object) -> str | None:
    """The text of a special token, which a configuration writes as a string or as a table."""
    if isinstance(token, Mapping):
        token = token.get("content")
    return token if isinstance(token, str) else None


def _added_token(value: Mapping[str, Any]) -> AddedToken:
    return AddedToken(value["content"], **{flag: bool(value[flag]) for flag in TOKEN_FLAGS if flag in value})


def _special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """`bos_token`, `eos_token`, ... and a model's own such names, as chat templates see them."""
    extra = config.get("extra_special_tokens")
    tables = (config, extra if isinstance(extra, Mapping) else {})
    return {
        name: content
        for table in tables
        for name, value in table.items()
        if (name.endswith("_token") or table is not config) and (content := _content(value)) is not None
    }


def _byte_level_bytes(token: str) -> bytes:
    """The bytes that GPT-2's alphabet spells; a token with a character outside it stands for itself."""
    try:
        return bytes(BYTE_OF_CHARACTER[character] for character in token)
    except KeyError:
        return token.encode()


def _byte_tokens(backend: tokenizers.Tokenizer) -> dict[int, int]:
    """Token id -> byte value, where the decoder joins byte tokens such as `<0xE2>`; else nothing."""
    if backend.decoder is None:
        return {}
    spec = json.loads(backend.decoder.__getstate__())
    if not any(step.get("type") == "ByteFallback" for step in spec.get("decoders", [spec])):
        return {}
    ids = {byte: backend.token_to_id(_byte_token(byte)) for byte in range(256)}
    return {token_id: byte for byte, token_id in ids.items() if token_id is not None}


def _byte_token(byte: int) -> str:
    return f"<0x{byte:02X}>"


def _valid_byte_tokens(run: bytearray) -> list[str]:
    """The byte tokens of a run, with one U+FFFD in the place of each invalid part."""
    tokens: list[str] = []
    for char in run.decode("utf-8", "replace"):
        tokens += [char] if char == "\ufffd" else [_byte_token(byte) for byte in char.encode()]
    return tokens


def _read_json(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > CONFIG_LIMIT:
            raise TokenizerError(f"{file} is larger than {CONFIG_LIMIT} bytes; it is not a tokenizer configuration")
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise TokenizerError(f"cannot read {file}: {error.strerror}; download the model again") from None
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"{file} is not valid JSON ({error}); download the model again") from None
    if not isinstance(content, dict):
        raise TokenizerError(f"{file} must hold a JSON object, not {type(content).__name__}; download the model again")
    return content


def _read_tokenizer(file: Path) -> tokenizers.Tokenizer:
    try:
        if file.stat().st_size > TOKENIZER_LIMIT:
            raise TokenizerError(f"{file} is larger than {TOKENIZER_LIMIT} bytes; it is not a tokenizer")
        return tokenizers.Tokenizer.from_file(str(file))
    except TokenizerError:
        raise
    except Exception as error:  # the package has no error types of its own
        raise TokenizerError(f"{file} is corrupt or of an unknown format ({error}); download the model again") from None


def _build_gpt2(path: Path, config: Mapping[str, Any]) -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    """GPT-2's byte-level BPE from its two original files; other families split text in their own ways."""
    vocab, merges = path / "vocab.json", path / "merges.txt"
    if not (vocab.is_file() and merges.is_file()):
        others = sorted(file.name for file in path.glob("*") if file.suffix in (".model", ".tiktoken"))
        if others:
            raise TokenizerError(f"{path} has {', '.join(others)} but no tokenizer.json. {CONVERT}")
        raise TokenizerError(f"{path} has no tokenizer.json; download the model again or add the file")
    kind = config.get("tokenizer_class")
    if kind not in GPT2_CLASSES:
        raise TokenizerError(f"{path} has vocab.json and merges.txt of a {kind} but no tokenizer.json. {CONVERT}")
    defaults = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
    config = defaults | {name: value for name, value in config.items() if value is not None}
    try:
        backend = tokenizers.Tokenizer(models.BPE.from_file(str(vocab), str(merges)))
    except Exception as error:  # the package has no error types of its own
        raise TokenizerError(f"{vocab} or {merges} is corrupt ({error}); download the model again") from None
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=bool(config.get("add_prefix_space", False)))
    backend.decoder = decoders.ByteLevel()
    added = {
        name: (token, backend.token_to_id(token))
        for name in ("bos_token", "eos_token")
        if config.get(f"add_{name}") and (token := _content(config[name])) and backend.token_to_id(token) is not None
    }
    single = [added["bos_token"][0]] if "bos_token" in added else []
    single += ["$A", *([added["eos_token"][0]] if "eos_token" in added else [])]
    backend.post_processor = processors.TemplateProcessing(single=single, special_tokens=list(set(added.values())))
    return backend, config
