"""Train the byte-level BPE tokenizer and write the packed token files.

    python train_tokenizer.py --corpus build/corpus --out build/tokens

Writes to --out: tokenizer.json, tokenizer_config.json, special_tokens_map.json and, for each source
of each split, NAME.bin (uint16 tokens) and NAME.idx (int64 document ends).
Pre-tokenizer: GPT-2's byte-level pattern, no added prefix space, no automatic first token.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from chat_format import CHAT_TEMPLATE, IM_END, PAD, SPECIAL_TOKENS, Entry, text_of
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers


def read(path: Path) -> Iterator[Entry]:
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def plain_contents(corpus: Path, limit: int) -> Iterator[str]:
    """Text to learn the merges from, about `limit` characters of each kind, without special tokens."""
    for name in ("train_raw", "train_chat"):
        size = 0
        for entry in read(corpus / f"{name}.jsonl"):
            for text in [entry["text"]] if "text" in entry else [m["content"] for m in entry["messages"]]:
                size += len(text)
                yield text
            if size > limit:
                break


def train(texts: Iterator[str], vocab_size: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL_TOKENS,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() != vocab_size:
        raise SystemExit(f"the text gives only {tokenizer.get_vocab_size()} tokens, not {vocab_size}; use a larger one")
    return tokenizer


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2))


def save(tokenizer: Tokenizer, context: int, out: Path) -> None:
    """The three files that transformers reads; `context` becomes `model_max_length`."""
    names = {"bos_token": SPECIAL_TOKENS[0], "eos_token": SPECIAL_TOKENS[IM_END], "pad_token": SPECIAL_TOKENS[PAD]}
    plain_token = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    tokenizer.save(str(out / "tokenizer.json"))
    write_json(out / "special_tokens_map.json", names)
    write_json(
        out / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": context,
            **names,
            "add_bos_token": False,
            "add_eos_token": False,
            "add_prefix_space": False,
            "clean_up_tokenization_spaces": False,
            "chat_template": CHAT_TEMPLATE,
            "added_tokens_decoder": {str(i): {"content": s, **plain_token} for i, s in enumerate(SPECIAL_TOKENS)},
        },
    )


def source_name(entry: Entry) -> str:
    kind = "chat" if "messages" in entry else "raw"
    return f"{kind}-{entry['source'].strip('()').replace(' ', '-')}"


def pack(tokenizer: Tokenizer, corpus: Path, split: str, out: Path) -> None:
    """Encode every document of a split into one pair of files a source."""
    texts: dict[str, list[str]] = defaultdict(list)
    for kind in ("raw", "chat"):
        for entry in read(corpus / f"{split}_{kind}.jsonl"):
            texts[source_name(entry)].append(text_of(entry))
    for name, documents in sorted(texts.items()):
        batches = (documents[i : i + 2000] for i in range(0, len(documents), 2000))
        ids = [encoding.ids for batch in batches for encoding in tokenizer.encode_batch(batch)]
        np.concatenate([np.array(i, np.uint16) for i in ids]).tofile(out / f"{split}-{name}.bin")
        np.cumsum([len(i) for i in ids]).astype(np.int64).tofile(out / f"{split}-{name}.idx")
        tokens, size = sum(map(len, ids)), sum(len(d.encode()) for d in documents)
        print(f"{split}-{name}: {len(ids)} documents, {tokens} tokens, {size / tokens:.2f} bytes/token", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, default=Path("build/corpus"))
    parser.add_argument("--out", type=Path, default=Path("build/tokens"))
    parser.add_argument("--vocab", type=int, default=8192)
    parser.add_argument("--context", type=int, default=1024, help="model_max_length")
    parser.add_argument("--sample-mb", type=int, default=15, help="text used for the merges, of each kind")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    tokenizer = train(plain_contents(args.corpus, args.sample_mb * 10**6), args.vocab)
    save(tokenizer, args.context, args.out)
    for split in ("train", "eval"):
        pack(tokenizer, args.corpus, split, args.out)


if __name__ == "__main__":
    main()
