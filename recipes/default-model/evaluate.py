"""Held-out perplexity, draft acceptance and samples, with the models in float32.

    python evaluate.py --model build/model --draft build/draft --texts build/eval.jsonl
    python evaluate.py --model build/model --transformers      # the same numbers through transformers
    python evaluate.py --model build/model --samples

A text is scored with <|endoftext|> in front, so that each of its tokens is predicted; conversations
are scored as rendered.
"""

import argparse
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from chat_format import END_OF_TEXT, GENERATION_PROMPT, IM_END, Entry, render, text_of
from model import load
from tokenizers import Tokenizer
from torch import Tensor
from train_tokenizer import read

Logits = Callable[[Tensor], Tensor]  # ids [B, T] -> [B, T, V]
CONTEXT = 1024
RAW_PROMPTS = [
    "The Linux kernel is",
    "This package contains",
    "A river is",
    "The function returns",
    "Python is a programming language",
]
QUESTIONS = [
    "Hello",
    "Who are you?",
    "What is a river?",
    "What does the command ls do?",
    "What does the package nginx do?",
]


@dataclass(frozen=True)
class Score:
    """How well texts are predicted: their negative log-likelihood in nats, their tokens and bytes."""

    nll: float = 0.0
    tokens: int = 0
    bytes: int = 0

    def __add__(self, other: "Score") -> "Score":
        return Score(self.nll + other.nll, self.tokens + other.tokens, self.bytes + other.bytes)

    def __str__(self) -> str:
        bits, perplexity = self.nll / math.log(2) / self.bytes, math.exp(self.nll / self.tokens)
        return f"{bits:.4f} bits per byte, perplexity {perplexity:.3f} per token, {self.tokens} tokens"


@dataclass(frozen=True)
class Acceptance:
    """Greedy tokens of the model, how many the draft ranks first, and the verifications they would take."""

    same: int = 0
    tokens: int = 0
    rounds: int = 0

    def __add__(self, other: "Acceptance") -> "Acceptance":
        return Acceptance(self.same + other.same, self.tokens + other.tokens, self.rounds + other.rounds)

    def __str__(self) -> str:
        share = self.same / self.tokens
        return f"{share:.3f} of {self.tokens} greedy tokens, {self.tokens / self.rounds:.2f} tokens a round"


def score(logits: Logits, tokenizer: Tokenizer, entries: list[Entry]) -> Score:
    total = Score()
    for entry in entries:
        text = text_of(entry)
        ids = tokenizer.encode(text).ids
        z = logits(torch.tensor([[END_OF_TEXT, *ids[:-1]]]))[0].double()
        nll = torch.nn.functional.cross_entropy(z, torch.tensor(ids), reduction="sum").item()
        total += Score(nll, len(ids), len(text.encode()))
    return total


def generate(
    logits: Logits,
    prompt: list[int],
    count: int,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
) -> list[int]:
    """Up to `count` new tokens, without an end token; greedy at temperature 0."""
    ids = list(prompt)
    while len(ids) - len(prompt) < count and len(ids) < CONTEXT:
        z = logits(torch.tensor([ids]))[0, -1]
        if temperature:
            token = int(torch.multinomial(torch.softmax(z / temperature, -1), 1, generator=generator).item())
        else:
            token = int(z.argmax().item())
        if token in (END_OF_TEXT, IM_END):
            break
        ids.append(token)
    return ids[len(prompt) :]


def prompt_of(entry: Entry) -> str:
    """The beginning that is given to the model: a question, or a quarter of a text."""
    if "messages" in entry:
        return render(entry["messages"][:-1]) + GENERATION_PROMPT
    words = cast(str, entry["text"]).split(" ")
    return " ".join(words[: max(8, len(words) // 4)])


def acceptance(model: Logits, draft: Logits, prompts: list[list[int]], count: int, ahead: int) -> Acceptance:
    """Draft `ahead` tokens a round for up to `count` greedy tokens of the model after each prompt."""
    total = Acceptance()
    for prompt in prompts:
        new = generate(model, prompt, count)
        if not new:
            continue
        z = draft(torch.tensor([prompt + new]))[0]
        hits = [int(z[len(prompt) + i - 1].argmax().item()) == token for i, token in enumerate(new)]
        total += Acceptance(sum(hits), len(hits), rounds(hits, ahead))
    return total


def rounds(hits: list[bool], ahead: int) -> int:
    """Verifications needed: each takes the drafts up to the first miss, and one token of the model's own."""
    count = position = 0
    while position < len(hits):
        accepted = 0
        while accepted < ahead and position + accepted < len(hits) and hits[position + accepted]:
            accepted += 1
        count, position = count + 1, position + accepted + 1
    return count


def reader(path: Path, through_transformers: bool) -> Logits:
    if not through_transformers:
        return load(path).logits
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    return lambda ids: cast(Tensor, model(ids).logits)


def print_samples(logits: Logits, tokenizer: Tokenizer) -> None:
    questions = [render([{"role": "user", "content": q}]) + GENERATION_PROMPT for q in QUESTIONS]
    for temperature in (0.0, 0.7):
        generator = torch.Generator().manual_seed(1)
        for prompt in RAW_PROMPTS + questions:
            new = generate(logits, tokenizer.encode(prompt).ids, 64, temperature, generator)
            print(f"[T={temperature}] {prompt!r} -> {tokenizer.decode(new)!r}", flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("build/model"))
    parser.add_argument("--draft", type=Path)
    parser.add_argument("--texts", type=Path, default=Path("build/eval.jsonl"))
    parser.add_argument("--limit", type=int, help="only this many texts of each kind")
    parser.add_argument("--transformers", action="store_true")
    parser.add_argument("--samples", action="store_true")
    parser.add_argument("--ahead", type=int, default=4, help="tokens the draft proposes in one round")
    return parser.parse_args()


@torch.inference_mode()
def main() -> None:
    args = arguments()
    tokenizer = Tokenizer.from_file(str(args.model / "tokenizer.json"))
    entries = list(read(args.texts))
    raws = [e for e in entries if "text" in e][: args.limit]
    chats = [e for e in entries if "messages" in e][: args.limit]
    paths = {"model": args.model, **({"draft": args.draft} if args.draft else {})}
    models = {name: reader(path, args.transformers) for name, path in paths.items()}
    for name, logits in models.items():
        raw, chat = score(logits, tokenizer, raws), score(logits, tokenizer, chats)
        for kind, total in (("raw", raw), ("chat", chat), ("all", raw + chat)):
            print(f"{name} {kind}: {total}", flush=True)
    if "draft" in models:
        rng = random.Random(6)
        parts = []
        for some in (rng.sample(raws, min(25, len(raws))), rng.sample(chats, min(25, len(chats)))):
            prompts = [tokenizer.encode(prompt_of(entry)).ids for entry in some]
            parts.append(acceptance(models["model"], models["draft"], prompts, 64, args.ahead))
        for kind, accepted in (("raw", parts[0]), ("chat", parts[1]), ("all", parts[0] + parts[1])):
            print(f"acceptance {kind}: {accepted} with {args.ahead} drafted", flush=True)
    if args.samples:
        print_samples(models["model"], tokenizer)


if __name__ == "__main__":
    main()
