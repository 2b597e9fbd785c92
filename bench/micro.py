"""The kernels of a runtime, one by one, in the shapes of a model, held against what the machine can do.

Each case says how many operations and bytes it cannot do without; the table shows which share of the machine's limit
that is. A runtime is one entry of `KERNELS`.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from bench.ceilings import COPY_BYTES, Ceilings, Probes, Timing, available_cores, ceilings, measure
from bench.tables import table
from bench.types import UsageError

ROWS = (1, 8, 32, 256)  # of a batch
CONTEXTS = (128, 1024)  # tokens a query looks back on
KINDS = {"f32": 0, "bf16": 0, "int8": 0, "int4": 32}  # weights of the native runtime, with the size of their groups
FLOAT = 4  # bytes
Array = np.ndarray


@dataclass(frozen=True)
class Shapes:
    """The sizes of one layer; the default is that of a 135M llama."""

    hidden: int = 576
    inner: int = 1536
    heads: int = 9
    kv_heads: int = 3
    head_dim: int = 64
    vocab: int = 49152


@dataclass(frozen=True)
class Case:
    """`flops` and `bytes` are the least any implementation does: every weight is read once.

    A `timed` call returns its own seconds.
    """

    kernel: str
    shape: str
    call: Callable[[], object]
    flops: float
    bytes: float
    integer: bool = False  # the operations can be int8 dot products
    timed: bool = False


@dataclass(frozen=True)
class Result:
    kernel: str
    shape: str
    timing: Timing
    flops_per_second: float
    bytes_per_second: float
    of_limit: float  # the machine's least possible time / the time taken


def reference_cases(shapes: Shapes) -> Iterator[Case]:
    """The kernels of the reference runtime."""
    from engine.runtimes.reference.attention import attend
    from engine.runtimes.reference.functions import rms_norm, silu
    from engine.runtimes.reference.linear import linear
    from engine.sample.sampler import Sampler
    from engine.types import SamplingParams

    random = np.random.default_rng(0)

    def array(*shape: int) -> Array:
        return random.standard_normal(shape, dtype=np.float32)

    hidden, inner, dim = shapes.hidden, shapes.inner, shapes.head_dim
    for name, out, width in (("gate", inner, hidden), ("down", hidden, inner), ("head", shapes.vocab, hidden)):
        weight = array(out, width)
        for rows in ROWS if name != "head" else ROWS[:3]:
            x = array(rows, width)
            moved = FLOAT * (out * width + rows * (out + width))
            yield Case(
                f"linear {name}", f"{rows}x{width}x{out}", _bind(linear, x, weight), 2 * rows * out * width, moved
            )
    for rows in ROWS:
        x, weight = array(rows, hidden), array(hidden)
        yield Case("rms norm", f"{rows}x{hidden}", _bind(rms_norm, x, weight, None, 1e-5), 4 * x.size, 2 * x.nbytes)
        wide = array(rows, inner)
        yield Case("silu", f"{rows}x{inner}", _bind(silu, wide), 4 * wide.size, 2 * wide.nbytes)
    for context in CONTEXTS:
        keys, values = array(context, shapes.kv_heads, dim), array(context, shapes.kv_heads, dim)
        for queries in (1, 64):
            x = array(queries, shapes.heads, dim)
            seen = sum(range(context - queries + 1, context + 1))
            moved = keys.nbytes + values.nbytes + 2 * x.nbytes
            shape = f"{queries} of {context}"
            yield Case("attention", shape, _bind(attend, x, keys, values), 4 * shapes.heads * dim * seen, moved)
    logits, tokens = array(shapes.vocab), np.arange(64)
    sampler = Sampler(shapes.vocab)
    for name, params in (
        ("greedy", SamplingParams(seed=1)),
        ("top-p 0.9", SamplingParams(temperature=1.0, top_p=0.9, seed=1)),
        ("top-k 50", SamplingParams(temperature=1.0, top_k=50, seed=1)),
    ):
        call = _bind(sampler.sample, logits, params, tokens, 32)
        yield Case(f"sample {name}", str(shapes.vocab), call, shapes.vocab, logits.nbytes)


def native_probes() -> Probes | None:
    """What the native module measures the machine with; None where it is not built."""
    try:
        from engine.runtimes.native import _native
    except ImportError:
        return None
    return _native


def native_cases(shapes: Shapes, cycled: int = COPY_BYTES) -> Iterator[Case]:
    """The kernels of the native runtime. Linears run through as many bytes of weights as the bandwidth is measured on,
    because a model's next layer is not in the cache either.
    """
    from engine.runtimes.native import _native

    random = np.random.default_rng(0)
    pool, kernels = _native.Pool(available_cores()), _native.Kernels(os.environ.get("TGI_ISA", ""))
    hidden, inner, heads = shapes.hidden, shapes.inner, shapes.heads * shapes.head_dim
    linears = {
        "qkv": (heads + 2 * shapes.kv_heads * shapes.head_dim, hidden),
        "o": (hidden, heads),
        "gate, up": (2 * inner, hidden),
        "down": (hidden, inner),
        "head": (shapes.vocab, hidden),
    }
    for kind, group in KINDS.items():
        for name, (out, width) in linears.items():
            matrix = random.standard_normal((out, width), dtype=np.float32)
            first = _native.pack(pool, kind, [(matrix, "f32")], group=group)
            copies = -(-cycled // first.nbytes)
            packed = [first, *(_native.pack(pool, kind, [(matrix, "f32")], group=group) for _ in range(copies - 1))]
            for rows in ROWS if name != "head" else ROWS[:3]:
                yield Case(
                    f"linear {kind} {name}",
                    f"{rows}x{width}x{out}",
                    _bind(kernels.time_linear, pool, packed, rows, 1),
                    copies * 2.0 * rows * out * width,
                    copies * (first.nbytes + FLOAT * rows * (out + width)),
                    integer=kind in ("int8", "int4"),
                    timed=True,
                )
    for rows in ROWS:
        x, weight = random.standard_normal((rows, hidden), dtype=np.float32), np.ones(hidden, np.float32)
        call = _bind(kernels.norm, "rms", x, weight, None, 1e-5)
        yield Case("rms norm", f"{rows}x{hidden}", call, 4 * x.size, 2 * x.nbytes)
        gate, up = random.standard_normal((2, rows, inner), dtype=np.float32)
        call = _bind(kernels.activate, "silu", gate, up)
        yield Case("silu", f"{rows}x{inner}", call, 5 * gate.size, 3 * gate.nbytes)
    logits = random.standard_normal(shapes.vocab, dtype=np.float32)
    yield Case("argmax", str(shapes.vocab), _bind(kernels.argmax, logits), shapes.vocab, logits.nbytes)


def _bind(function: Callable[..., object], *arguments: object) -> Callable[[], object]:
    return lambda: function(*arguments)


KERNELS: dict[str, Callable[[Shapes], Iterator[Case]]] = {"reference": reference_cases, "native": native_cases}


def run(
    runtime: str = "reference",
    *,
    shapes: Shapes | None = None,
    only: str = "",
    seconds: float = 0.2,
    on_result: Callable[[Result], None] | None = None,
) -> tuple[Ceilings, list[Result]]:
    """Measure the cases whose name holds `only`. Raises UsageError for an unknown runtime, or when no case is left."""
    if runtime not in KERNELS:
        raise UsageError(f"there are no kernels of a runtime {runtime!r}; choose one of: {', '.join(KERNELS)}")
    probes = native_probes()
    if runtime == "native" and probes is None:
        raise UsageError("the native module is not built; install a C++17 compiler, then install tgi again")
    machine = ceilings(seconds, probes=probes)
    results = []
    for case in KERNELS[runtime](shapes or Shapes()):
        if only in case.kernel:
            results.append(_measured(case, machine, seconds))
            if on_result:
                on_result(results[-1])
    if not results:
        raise UsageError(f"no kernel of {runtime} has {only!r} in its name")
    return machine, results


def _measured(case: Case, machine: Ceilings, seconds: float) -> Result:
    timing = measure(case.call, seconds=seconds, timed=case.timed)
    peak = machine.dot_ops if case.integer and machine.dot_ops else machine.flops
    least = max(case.flops / peak, case.bytes / machine.bytes_per_second)
    return Result(
        case.kernel, case.shape, timing, case.flops / timing.median, case.bytes / timing.median, least / timing.median
    )


def as_table(results: list[Result]) -> str:
    rows = [
        (
            result.kernel,
            result.shape,
            result.timing.median * 1e6,
            result.timing.best * 1e6,
            result.flops_per_second / 1e9,
            result.bytes_per_second / 1e9,
            f"{100 * result.of_limit:.0f} %",
        )
        for result in results
    ]
    return table(("kernel", "shape", "us", "best us", "GOP/s", "GB/s", "of limit"), rows, left=2)


def as_json(runtime: str, machine: Ceilings, results: list[Result]) -> dict[str, Any]:
    return {"runtime": runtime, "machine": machine.as_dict(), "results": [asdict(result) for result in results]}
