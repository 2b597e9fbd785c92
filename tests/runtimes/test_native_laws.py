"""The logits of the native runtime under the law of all runtimes (see logit_laws): for each kind of weights and of KV
cache, on each instruction set of this machine, with any number of threads. Here a sample; `slow` has every combination.
"""

import itertools
import random
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("engine.runtimes.native._native", exc_type=ImportError)

from logit_laws import (
    LLAMA,
    POISON,
    SEQUENCES,
    SPECS,
    Piece,
    Walk,
    alone_and_whole,
    check_position_in_the_batch,
    whole,
)
from native_machine import ISAS, KV_KINDS, WEIGHTS, Setting, float_logits, packed
from packed_weights import unpack
from tiny_models import random_parameters

from engine.runtimes.native.program import compile_tape
from engine.runtimes.reference.kv import KVCache
from engine.runtimes.reference.model import Model, Span

SAMPLE = [
    *(Setting(spec=name) for name in SPECS),
    *(Setting(spec=name, weights="int4", kv="int8") for name in SPECS),
    *(Setting(weights=kind, kv="bf16") for kind in WEIGHTS),
    *(Setting(weights=kind, kv="bf16", isa=isa) for isa in ISAS for kind in ("f32", "bf16", "int8", "int4")),
    *(Setting(kv=kv, threads=threads) for kv in KV_KINDS for threads in (1, 3)),
]
ALL = [Setting(spec, weights, kv, isa) for spec, weights, kv, isa in itertools.product(SPECS, WEIGHTS, KV_KINDS, ISAS)]


@cache
def truth(setting: Setting, block_size: int = 16) -> list[list[bytes]]:
    """Attention adds up in the order of the cache's slots, which is another for another size of blocks."""
    return alone_and_whole(setting.machine, block_size)


def walk(setting: Setting, seed: int, block_size: int) -> None:
    Walk(setting.machine, truth(setting, block_size), block_size, random.Random(seed)).run()


@pytest.mark.parametrize("setting", dict.fromkeys(SAMPLE), ids=str)
@settings(max_examples=6)
@given(seed=st.integers(0, 2**32), block_size=st.sampled_from([1, 3, 8, 16, 32]))
def test_logits_are_a_function_of_the_tokens_before_them(setting: Setting, seed: int, block_size: int) -> None:
    walk(setting, seed, block_size)


@pytest.mark.slow
@pytest.mark.parametrize("setting", ALL, ids=str)
@settings(max_examples=10)
@given(seed=st.integers(0, 2**32), block_size=st.sampled_from([1, 3, 8, 16, 32]))
def test_logits_are_a_function_of_the_tokens_before_them_everywhere(
    setting: Setting, seed: int, block_size: int
) -> None:
    walk(setting, seed, block_size)


@pytest.mark.parametrize("setting", dict.fromkeys(SAMPLE), ids=str)
def test_position_in_the_batch(setting: Setting) -> None:
    check_position_in_the_batch(setting.machine, truth(setting))


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("isa", ISAS)
def test_threads_change_nothing(isa: str, weights: str) -> None:
    one, *more = (
        Setting("windows, caps, both norms", weights, "bf16", isa, threads)
        .machine(8, 16)
        .logits([whole(tokens, [2 * i + 1, 2 * i + 2, 7]) for i, tokens in enumerate(SEQUENCES[:3])])
        for threads in (1, 2, 5)
    )
    assert all(rows == one for rows in more)


# Against the reference


def reference(name: str, weights: str = "f32") -> np.ndarray:
    """The reference's logits of one sequence, computed with the very numbers that `weights` were rounded to."""
    spec = SPECS[name]
    model = Model(spec, random_parameters(spec))
    if weights != "f32":
        for parts, linear in zip(compile_tape(spec).linears, packed(name, weights).linears, strict=True):
            ends = np.cumsum([len(model.weights[f"{part}.weight"]) for part in parts])
            for part, rounded in zip(parts, np.split(unpack(linear), ends[:-1]), strict=True):
                target = "tied head" if part == "embed" else f"{part}.weight"
                model.weights[target] = rounded
    tokens = SEQUENCES[2]
    hidden = model.forward([Span(0, tokens, np.arange(1, 5))], KVCache(spec, 5, 16))
    if "tied head" in model.weights:
        model.weights["embed.weight"] = model.weights["tied head"]
    return np.stack(list(model.logits(hidden)))[:, :POISON]


def distance(setting: Setting, expected: np.ndarray) -> float:
    """The root of the mean squared difference, in units of the spread of the logits."""
    ours = float_logits(setting, SEQUENCES[2])
    return float(np.sqrt(((ours - expected) ** 2).mean()) / expected.std())


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", SPECS)
def test_float32_logits_are_those_of_the_reference(name: str, isa: str) -> None:
    ours = float_logits(Setting(name, isa=isa), SEQUENCES[2])
    np.testing.assert_allclose(ours, reference(name), rtol=0, atol=5e-5)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("weights", ["nf4", "fp4", "fp8"])
def test_quantized_weights_stand_for_the_numbers_they_hold(weights: str, isa: str) -> None:
    """Activations are not rounded here, so nothing else is."""
    for name in SPECS:
        ours = float_logits(Setting(name, weights, isa=isa), SEQUENCES[2])
        np.testing.assert_allclose(ours, reference(name, weights), rtol=0, atol=1e-4)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("weights", ["int8", "eetq", "int4"])
def test_integer_kernels_round_no_more_than_the_activations(weights: str, isa: str) -> None:
    for name in SPECS:
        assert distance(Setting(name, weights, isa=isa), reference(name, weights)) < 0.05


@pytest.mark.parametrize(("dtype", "close"), [("bf16", 0.03), ("f16", 0.004)])
def test_a_rounded_dtype_gives_nearly_the_logits_of_the_reference(dtype: str, close: float) -> None:
    for name in SPECS:
        assert distance(Setting(name, dtype), reference(name)) < close


@pytest.mark.parametrize(("kv", "close"), [("bf16", 0.02), ("int8", 0.05)])
def test_rounded_keys_and_values_give_nearly_the_logits_of_the_reference(kv: str, close: float) -> None:
    for name in SPECS:
        assert distance(Setting(name, kv=kv), reference(name)) < close


def test_a_row_that_is_no_number_spoils_no_other() -> None:
    """One sequence of the poisonous token in the midst of the others, in every kind of weights."""
    for weights in WEIGHTS:
        setting = Setting(weights=weights, kv="bf16")
        machine = setting.machine(12, 16)
        pieces = [whole(SEQUENCES[1], [1]), whole([POISON] * 20, [2, 3]), whole(SEQUENCES[2], [4, 5, 6])]
        rows = machine.logits(pieces)
        assert rows[:16] == truth(setting)[1]
        assert rows[36:] == truth(setting)[2]
        assert all(np.isnan(np.frombuffer(row, np.float32)).all() for row in rows[16:36])


def test_a_piece_behind_another_of_the_same_prefix() -> None:
    """Two sequences that read the same blocks in one step, in which one of them writes the rest of its own."""
    setting = Setting(kv="bf16")
    machine = setting.machine(12, 8)
    long, short = SEQUENCES[2], SEQUENCES[3]
    machine.logits([Piece(long, 0, 24, [1, 2, 3])])
    rows = machine.logits(
        [Piece(short, 24, len(short), [1, 2, 3, 4, 5]), Piece(long, 24, len(long), [1, 2, 3, 6, 7, 8])]
    )
    assert rows == truth(setting, 8)[3][24:] + truth(setting, 8)[2][24:]


def test_the_specs_are_worth_testing() -> None:
    """Sizes that fill no panel, vector or group, so that padding is in play."""
    assert LLAMA.vocab_size % 32
    assert LLAMA.hidden_size % 32
    assert LLAMA.head_dim % 16
