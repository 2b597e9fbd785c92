"""Tokenizers of the kinds that models use, small enough to build in a test."""

import json
from pathlib import Path
from typing import Any

import tokenizers
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers

from engine.text.tokenizer import Tokenizer

CORPUS = [
    "the quick brown fox jumps over the lazy dog, and the dog isn't amused.",
    "Les élèves français mangent du pâté à Noël; 日本語のテキスト, 中文文本 and Ελληνικά.",
    "def main(): return {'a': 1}  # hello world hello world",
]
SPECIAL = ["<s>", "</s>", "<unk>", "<|im_end|>"]
CONFIG = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "model_max_length": 64}


def byte_level() -> tokenizers.Tokenizer:
    """GPT-2's kind: the tokens are runs of bytes."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    return backend


def llama2() -> tokenizers.Tokenizer:
    """Sentencepiece BPE as Llama 2 has it: a space before the text, byte tokens for what the vocabulary lacks."""
    pieces = ["▁", "▁the", "▁hello", "hello", "▁wor", "ld", "é", "日", "▁▁", ".", ",", "he", "llo", ""]
    letters = list("abcdefghijklmnopqrstuvwxyz")
    tokens = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces, *letters]
    vocab = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    backend = tokenizers.Tokenizer(
        models.BPE(vocab, [("h", "e")], unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL])
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return backend


def unigram() -> tokenizers.Tokenizer:
    """Sentencepiece unigram with a metaspace decoder, as in T5."""
    backend = tokenizers.Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=150, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False)
    backend.train_from_iterator(CORPUS, trainer)
    return backend


def wordpiece() -> tokenizers.Tokenizer:
    """BERT's kind: `##` continues a word, words are joined by spaces."""
    words = ["hello", "world", "the", "dog", "##s", "##ing", "isn", "'", "t", "n", "m", ".", ",", "!", "##é", "日"]
    vocab = {token: i for i, token in enumerate([*SPECIAL, *words])}
    backend = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    backend.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    return backend


BUILDERS = {"byte_level": byte_level, "llama2": llama2, "unigram": unigram, "wordpiece": wordpiece}
TOKENIZERS = {name: Tokenizer(build(), CONFIG) for name, build in BUILDERS.items()}


def any_ids(tokenizer: Tokenizer, max_size: int = 24) -> st.SearchStrategy[list[int]]:
    """Ids of a padded vocabulary (some have no token), with more bytes and special tokens than chance gives."""
    inside = st.integers(0, tokenizer.vocab_size + 4)
    text = st.text(max_size=4).map(lambda text: tokenizer.encode(text, add_special_tokens=False))
    parts = st.one_of(
        inside.map(lambda i: [i]), st.sampled_from(sorted(tokenizer.special_ids)).map(lambda i: [i]), text
    )
    return st.lists(parts, max_size=max_size).map(lambda parts: [i for part in parts for i in part][:max_size])


def save(backend: tokenizers.Tokenizer, directory: Path, config: dict[str, Any]) -> Path:
    """A model directory that has a tokenizer only."""
    backend.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return directory
