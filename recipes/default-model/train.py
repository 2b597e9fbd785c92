"""Train a small Llama from scratch and write a Hugging Face checkpoint.

CPU, the shipped model (budget in minutes; the learning rate follows the budget):
    python train.py --tokens build/tokens --out build/model --minutes 41.5 --compile
CPU, the draft model, distilled from the first:
    python train.py --tokens build/tokens --out build/draft --minutes 10 --batch 8 --compile \\
        --hidden 128 --layers 2 --heads 2 --kv-heads 1 --ffn 128 --teacher build/model
One CUDA GPU, larger and longer:
    python train.py --tokens build/tokens --out build/model-gpu --device cuda --bf16 --compile \\
        --hidden 512 --layers 12 --heads 8 --kv-heads 4 --ffn 1536 --batch 128 --context 1024 \\
        --piece 16384 --budget 250e6

Matrices inside the blocks use Muon, embeddings and norms AdamW; the rate warms up and then falls
linearly to zero. The last part of the run (--long-part) uses sequences of --long tokens, so that the
model has seen its whole context length.
"""

import argparse
import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
from head_loss import HeadLoss, Teacher
from model import Llama, llama_config, load, save
from muon import Muon
from packing import Packer
from torch import Tensor


class Objective:
    """The loss of a batch, with the teacher's distribution mixed in while training."""

    def __init__(self, args: argparse.Namespace, model: Llama, teacher: Llama | None) -> None:
        self._args, self._model, self._teacher = args, model, teacher
        self._hidden = self._compiled(model.hidden)
        self._teacher_hidden = self._compiled(teacher.hidden) if teacher else None

    def _compiled(self, function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return torch.compile(function, dynamic=False) if self._args.compile else function

    def __call__(self, x: Tensor, y: Tensor, *, training: bool) -> Tensor:
        device = self._args.device
        x, y = x.to(device), y.to(device)
        with torch.autocast(device, torch.bfloat16, enabled=self._args.bf16):
            target = self._target(x) if training else None
            loss: Tensor = HeadLoss.apply(self._hidden(x), self._model.embed_tokens.weight, y, target, self._args.piece)
            return loss

    @torch.no_grad()
    def _target(self, x: Tensor) -> Teacher | None:
        if self._teacher is None or self._teacher_hidden is None:
            return None
        hidden = self._teacher_hidden(x)
        embedding = self._teacher.embed_tokens.weight.to(hidden.dtype)
        return Teacher(hidden.reshape(-1, hidden.shape[-1]), embedding, self._args.teacher_weight)


class Training:
    """One run: its model, optimizers, data and progress."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        vocab = len(json.loads((args.tokens / "tokenizer.json").read_text())["model"]["vocab"])
        config = llama_config(
            vocab=vocab,
            hidden=args.hidden,
            layers=args.layers,
            heads=args.heads,
            kv_heads=args.kv_heads,
            feed_forward=args.ffn,
            context=args.long,
        )
        self.model = Llama(config).to(args.device)
        self.num_parameters = sum(p.numel() for p in self.model.parameters())
        matrices = [p for n, p in self.model.named_parameters() if p.ndim == 2 and n.startswith("layers")]
        inside = set(map(id, matrices))
        self.others = [p for p in self.model.parameters() if id(p) not in inside]
        adamw = torch.optim.AdamW(self.others, args.lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
        self.optimizers = [Muon(matrices, args.muon_lr), adamw]
        self.base_rates = [args.muon_lr, args.lr]
        self.loss = Objective(args, self.model, load(args.teacher, args.device) if args.teacher else None)
        self.data = Packer(args.tokens, args.seed)
        held_out = Packer(args.tokens, 7, "eval")
        self.checks = [held_out.batch(8, args.context) for _ in range(args.eval_rows // 8)]
        self.best = math.inf
        self.steps = self.tokens = 0
        self.seconds = 0.0  # spent in steps, not in checks

    @property
    def part(self) -> float:
        """How much of the budget is used up, 0 to 1."""
        args = self.args
        return max(
            self.seconds / 60 / args.minutes if args.minutes else 0.0,
            self.tokens / args.budget if args.budget else 0.0,
            self.steps / args.steps if args.steps else 0.0,
        )

    def rate(self, part: float) -> float:
        """The factor of the learning rates: up during the warm-up, then down to almost nothing."""
        warmup: float = self.args.warmup
        return max(min(1.0, part / warmup if warmup else 1.0, (1 - part) / (1 - warmup)), 1e-3)

    def step(self, part: float) -> tuple[float, float]:
        """Train on one batch; returns the loss and the rate."""
        start, args = time.perf_counter(), self.args
        rate = self.rate(part)
        for optimizer, base in zip(self.optimizers, self.base_rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = base * rate
        rows, length = args.batch, args.context
        if part > 1 - args.long_part:
            rows, length = args.batch * args.context // args.long, args.long
        loss = self.loss(*self.data.batch(rows, length), training=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.others, 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.steps, self.tokens = self.steps + 1, self.tokens + rows * length
        self.seconds += time.perf_counter() - start
        return loss.item(), rate

    def check(self) -> None:
        """Measure the held-out loss and keep the model if it is the best so far."""
        with torch.no_grad():
            losses = [self.loss(x, y, training=False).item() for x, y in self.checks]
        loss = sum(losses) / len(losses)
        print(f"held-out: {loss:.4f} at step {self.steps}, {self.tokens:,} tokens, {self.seconds:.0f} s", flush=True)
        if loss < self.best:
            self.best = loss
            save(self.model, self.args.tokens, self.args.out)

    def run(self) -> None:
        last_check, mean = 0.0, None
        while (part := self.part) < 1:
            if self.seconds - last_check > self.args.eval_every:
                self.check()
                last_check = self.seconds
            loss, rate = self.step(part)
            if self.steps % 20 == 0:
                mean = loss if mean is None else 0.7 * mean + 0.3 * loss
            if self.steps % 20 == 0 or self.args.steps:
                speed = self.tokens / self.seconds
                print(
                    f"step {self.steps} loss {loss:.4f} mean {mean or 0:.4f} rate {rate:.3f} "
                    f"{speed:.0f} tok/s {self.seconds:.0f} s",
                    flush=True,
                )
        self.check()

    def summary(self) -> dict[str, object]:
        return {
            "parameters": self.num_parameters,
            "steps": self.steps,
            "tokens": self.tokens,
            "seconds": round(self.seconds),
            "best_held_out_loss": self.best,
            "epochs": {name: round(s.used / s.size, 2) for name, s in self.data.sources.items()},
        }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--tokens", type=Path, default=Path("build/tokens"))
    add("--out", type=Path, default=Path("build/model"))
    add("--hidden", type=int, default=256)
    add("--layers", type=int, default=6)
    add("--heads", type=int, default=4)
    add("--kv-heads", type=int, default=2)
    add("--ffn", type=int, default=768)
    add("--context", type=int, default=512)
    add("--long", type=int, default=1024, help="context of the last part; max_position_embeddings")
    add("--long-part", type=float, default=0.1)
    add("--batch", type=int, default=16, help="sequences of --context tokens in one step")
    add("--lr", type=float, default=4e-3, help="AdamW, embeddings and norms")
    add("--muon-lr", type=float, default=0.02)
    add("--warmup", type=float, default=0.02)
    add("--minutes", type=float, help="stop after this much training time")
    add("--budget", type=float, help="stop after this many tokens")
    add("--steps", type=int, help="stop after this many steps (for timing)")
    add("--teacher", type=Path, help="checkpoint to distil from")
    add("--teacher-weight", type=float, default=0.8)
    add("--device", default="cpu")
    add("--bf16", action="store_true", help="autocast (CUDA)")
    add("--compile", action="store_true")
    add("--threads", type=int, default=os.cpu_count())
    add("--eval-every", type=float, default=300, help="seconds")
    add("--eval-rows", type=int, default=48)
    add("--piece", type=int, default=1024, help="rows of logits made at a time")
    add("--seed", type=int, default=1)
    args = parser.parse_args()
    if not (args.minutes or args.budget or args.steps):
        parser.error("give --minutes, --budget or --steps")
    return args


def main() -> None:
    args = arguments()
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    torch.set_float32_matmul_precision("high")
    training = Training(args)
    print(f"{training.num_parameters:,} parameters", flush=True)
    training.run()
    summary = json.dumps(training.summary(), indent=2)
    print(summary, flush=True)
    args.out.with_name(args.out.name + ".train.json").write_text(summary)


if __name__ == "__main__":
    main()
