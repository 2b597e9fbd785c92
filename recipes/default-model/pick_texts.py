"""Pick the texts that go with the model: 200 held-out ones to measure with, 256 of training to calibrate with.

    python pick_texts.py --corpus build/corpus --out build

Writes eval.jsonl and calibration.jsonl, each line with its source. Texts with an e-mail address are left out.
"""

import argparse
import json
import random
import re
from pathlib import Path

from chat_format import Entry, text_of
from train_tokenizer import read

SHORTEST, LONGEST = 200, 1500  # characters


def pick(corpus: Path, split: str, raws: int, chats: int, rng: random.Random) -> list[Entry]:
    """A sample of `raws` documents and `chats` conversations, without their keys."""
    picked: list[Entry] = []
    for kind, count in (("raw", raws), ("chat", chats)):
        entries = [e for e in read(corpus / f"{split}_{kind}.jsonl") if is_suitable(e)]
        rng.shuffle(entries)
        picked += entries[:count]
    return [{k: v for k, v in entry.items() if k != "key"} for entry in picked]


def is_suitable(entry: Entry) -> bool:
    text = text_of(entry)
    return SHORTEST <= len(text) <= LONGEST and entry["source"] != "identity" and not re.search(r"\w@\w+\.\w", text)


def write(path: Path, entries: list[Entry], limit: int) -> None:
    text = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)
    if len(text.encode()) > limit:
        raise SystemExit(f"{path.name} would be {len(text.encode())} bytes, more than {limit}")
    path.write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, default=Path("build/corpus"))
    parser.add_argument("--out", type=Path, default=Path("build"))
    args = parser.parse_args()
    rng = random.Random(5)
    write(args.out / "eval.jsonl", pick(args.corpus, "eval", 120, 80, rng), 300_000)
    write(args.out / "calibration.jsonl", pick(args.corpus, "train", 156, 100, rng), 400_000)


if __name__ == "__main__":
    main()
