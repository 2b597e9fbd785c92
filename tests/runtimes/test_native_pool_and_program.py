"""The tape of each family, and how the compiled program executes it: on many threads, or not where it is wrong."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

pytest.importorskip("engine.runtimes.native._native", exc_type=ImportError)

from native_machine import Parameters, pool
from tiny_models import CONFIGS, random_parameters, tiny_config

from engine.models.registry import family
from engine.models.spec import ModelSpec, parameters
from engine.runtimes.native import _native
from engine.runtimes.native.program import Op, Tape, compile_tape
from engine.runtimes.native.weights import load_weights
from engine.runtimes.native.worker import make_program
from engine.runtimes.reference.kv import KVCache
from engine.runtimes.reference.model import Model, Span
from engine.sched.plan import Chunk, Enter
from engine.types import SamplingParams

BLOCK_SIZE = 16
LONG = 1200  # positions: several partitions of attention


def tiny_spec(architecture: str = "LlamaForCausalLM", **overrides: Any) -> ModelSpec:
    config = tiny_config(architecture, **overrides)
    return family(config).spec(config, None)


def long_spec() -> ModelSpec:
    return tiny_spec(max_position_embeddings=LONG, num_hidden_layers=2)


def program(spec: ModelSpec, threads: int, tape: Tape | None = None, **changed: np.ndarray) -> _native.Program:
    """A program with random float32 weights, of which some are changed."""
    weights = load_weights(
        spec,
        compile_tape(spec),
        Parameters(random_parameters(spec) | changed),
        pool(threads),  # type: ignore[arg-type]
    )
    return make_program(
        spec,
        tape or compile_tape(spec),
        weights,
        pool(threads),
        isa="",
        kv_kind="f32",
        num_blocks=2 + 3 * -(-spec.max_context // BLOCK_SIZE),
        block_size=BLOCK_SIZE,
        num_slots=4,
        num_tokens=spec.vocab_size,
    )


def chunk(spec: ModelSpec, slot: int, tokens: Sequence[int], start: int = 0, num_draft: int = 0, **more: Any) -> Chunk:
    """Tokens of the request in `slot`, in blocks of its own."""
    per_slot = -(-spec.max_context // BLOCK_SIZE)
    blocks = tuple(range(1 + (slot - 1) * per_slot, 1 + slot * per_slot))
    return Chunk(slot, slot, start, tuple(tokens), num_draft, blocks, sample=True, **more)


def enter(made: _native.Program, slot: int, tokens: Sequence[int], **params: Any) -> None:
    made.enter(Enter(slot, slot, tuple(tokens), len(tokens), SamplingParams(**params)))


def random_tokens(spec: ModelSpec, count: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, spec.vocab_size, count).tolist()


# ---- The tape --------------------------------------------------------------------------------------------------------


def test_the_tape_of_a_llama_layer() -> None:
    tape = compile_tape(tiny_spec(num_hidden_layers=1))
    assert tape.ops == (
        Op("embed", (0, 0), (1.0,)),
        Op("norm", (0, 0, 1, 0, 32, 0, -1, 0), (1e-6,)),
        Op("linear", (1, 0, 2)),
        Op("qkv", (2, 0, 0, -1, -1, -1, -1, 0), (1e-6, 8**-0.5)),
        Op("attend", (2, 3, 0, 0), (0.0,)),
        Op("gather", (0, 4, 32)),
        Op("gather", (3, 5, 32)),
        Op("linear", (5, 1, 6)),
        Op("add", (4, 6, 32), (1.0,)),
        Op("norm", (4, 0, 7, 0, 32, 1, -1, 0), (1e-6,)),
        Op("linear", (7, 2, 8)),
        Op("activate", (8, 9, 48, 0, 1)),
        Op("linear", (9, 3, 10)),
        Op("add", (4, 10, 32), (1.0,)),
        Op("norm", (4, 0, 7, 0, 32, 2, -1, 0), (1e-6,)),
        Op("linear", (7, 4, 11)),
    )
    assert tape.buffers == (32, 32, 64, 32, 32, 32, 32, 32, 96, 48, 32, 96)
    assert tape.linears == (
        ("layers.0.q", "layers.0.k", "layers.0.v"),
        ("layers.0.o",),
        ("layers.0.gate", "layers.0.up"),
        ("layers.0.down",),
        ("head",),
    )
    assert tape.vectors == ("layers.0.input_norm.weight", "layers.0.pre_mlp_norm.weight", "final_norm.weight")


def layer_ops(tape: Tape) -> list[str]:
    """The names of the ops of the first layer that is not the last."""
    names = [op.name for op in tape.ops]
    attends = [i for i, name in enumerate(names) if name == "attend"]
    return names[attends[0] : attends[1] + 1]


NORMED = ["norm", "linear", "qkv", "attend"]
EXPECTED = {  # from one attention to the next, where that differs from Llama's
    "Gemma2ForCausalLM": [
        *("attend", "linear", "norm", "add", "norm", "linear", "activate", "linear", "norm", "add"),
        *NORMED,
    ],
    "Olmo2ForCausalLM": [
        *("attend", "linear", "norm", "add", "linear", "activate", "linear", "norm", "add"),
        *("linear", "norm", "norm", "qkv", "attend"),
    ],
    "GPTNeoXForCausalLM": ["attend", "linear", "norm", "linear", "activate", "linear", "add", "add", *NORMED],
}
EXPECTED["Gemma3ForCausalLM"] = EXPECTED["Gemma2ForCausalLM"]


@pytest.mark.parametrize("architecture", CONFIGS)
def test_what_a_layer_of_each_family_computes(architecture: str) -> None:
    plain = ["attend", "linear", "add", "norm", "linear", "activate", "linear", "add", *NORMED]
    assert layer_ops(compile_tape(tiny_spec(architecture))) == EXPECTED.get(architecture, plain)


@pytest.mark.parametrize("architecture", CONFIGS)
def test_the_tape_uses_every_parameter_once(architecture: str) -> None:
    spec = tiny_spec(architecture)
    tape = compile_tape(spec)
    names = parameters(spec).keys()
    used = [name for parts in tape.linears for part in parts for name in (f"{part}.weight", f"{part}.bias")]
    used = [name for name in used if name in names] + list(tape.vectors)
    tables = ["positions.weight"] + ([] if spec.tied else ["embed.weight"])
    assert sorted(used) == sorted(names - set(tables))


def ops_named(spec: ModelSpec, name: str) -> list[Op]:
    return [op for op in compile_tape(spec).ops if op.name == name]


def test_windows_ropes_and_caps_go_with_their_layers() -> None:
    gemma2 = tiny_spec("Gemma2ForCausalLM")
    assert [op.operands[3] for op in ops_named(gemma2, "attend")] == [layer.window or 0 for layer in gemma2.layers]
    assert {op.numbers for op in ops_named(gemma2, "attend")} == {(5.0,)}
    assert [op.numbers for op in ops_named(gemma2, "scale_cap")] == [(1.0, 3.0)]
    smollm3 = tiny_spec("SmolLM3ForCausalLM")
    assert [op.operands[2] for op in ops_named(smollm3, "qkv")] == [0, 0, 0, -1]


def test_scales_and_learned_positions() -> None:
    granite = tiny_spec("GraniteForCausalLM")
    assert ops_named(granite, "embed")[0].numbers == (3.0,)
    assert {op.numbers for op in ops_named(granite, "add")} == {(0.5,)}
    assert [op.numbers for op in ops_named(granite, "scale_cap")] == [(0.5, 0.0)]
    gpt2 = tiny_spec("GPT2LMHeadModel")
    assert ops_named(gpt2, "embed")[0].operands[1] == 1
    assert ops_named(gpt2, "activate")[0].operands[2:] == (128, 2, 0)
    assert "layers.0.input_norm.bias" in compile_tape(gpt2).vectors


def test_norms_of_queries_and_keys() -> None:
    qwen3 = tiny_spec("Qwen3ForCausalLM")
    vectors = compile_tape(qwen3).vectors
    operands = ops_named(qwen3, "qkv")[0].operands
    assert [vectors[i] for i in operands[3:5]] == ["layers.0.q_norm.weight", "layers.0.k_norm.weight"]
    q_norm, k_norm = ops_named(tiny_spec("Olmo2ForCausalLM"), "norm")[:2]
    assert (q_norm.operands[1], q_norm.operands[3:5]) == (0, (0, 32))
    assert (k_norm.operands[1], k_norm.operands[3:5]) == (32, (32, 16))


# ---- Execution -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", CONFIGS)
def test_logits_are_those_of_the_reference_with_any_number_of_threads(architecture: str) -> None:
    spec = tiny_spec(architecture)
    requests = [random_tokens(spec, count, seed) for seed, count in enumerate((1, 19, 40), start=1)]
    chunks = [chunk(spec, slot, own, num_draft=len(own) - 1) for slot, own in enumerate(requests, start=1)]
    results = []
    for threads in (1, 2, 3, 4):
        made = program(spec, threads)
        for slot, own in enumerate(requests, start=1):
            enter(made, slot, own)
        together = made.logits(chunks)
        alone = np.concatenate([made.logits([own]) for own in chunks])
        one_by_one = [made.logits([chunk(spec, 2, [token], start=start)]) for start, token in enumerate(requests[1])]
        assert np.array_equal(alone, together)
        assert np.array_equal(np.concatenate(one_by_one), together[1:20])
        results.append(together)
    assert all(np.array_equal(result, results[0]) for result in results)
    model, cache = Model(spec, random_parameters(spec)), KVCache(spec, 32, BLOCK_SIZE)
    spans = [Span(0, own, np.arange(1 + 8 * i, 9 + 8 * i)) for i, own in enumerate(requests)]
    expected = np.stack(list(model.logits(model.forward(spans, cache))))
    np.testing.assert_allclose(results[0], expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("threads", [2, 4])
def test_long_contexts_are_split_without_a_trace(threads: int) -> None:
    """With few requests and many positions, several threads share the work by partitions of the positions."""
    spec = long_spec()
    tokens, short = random_tokens(spec, LONG), random_tokens(spec, 40, seed=1)

    def logits(count: int) -> list[np.ndarray]:
        made = program(spec, count)
        enter(made, 1, tokens)
        enter(made, 2, short)
        made.logits([chunk(spec, 1, tokens[:-4])])
        end = LONG - 4
        rows = [made.logits([chunk(spec, 1, tokens[end : end + 1], start=end)])]
        rows.append(made.logits([chunk(spec, 1, tokens[end + 1 :], start=end + 1, num_draft=2), chunk(spec, 2, short)]))
        return rows

    for alone, split in zip(logits(1), logits(threads), strict=True):
        assert np.array_equal(alone, split)


def test_more_rows_are_scored_than_are_held_at_once() -> None:
    spec = long_spec()
    tokens = random_tokens(spec, 150)
    made = program(spec, 2)
    enter(made, 1, tokens)
    rows = made.logits([chunk(spec, 1, tokens, num_draft=149)])
    again = [made.logits([chunk(spec, 1, tokens[at : at + 1], start=at)]) for at in (0, 63, 64, 128, 149)]
    assert rows.shape == (150, spec.vocab_size)
    assert np.array_equal(rows[[0, 63, 64, 128, 149]], np.concatenate(again))


def test_a_row_that_is_no_number_fails_alone() -> None:
    spec = tiny_spec()
    poison = 7
    embedding = random_parameters(spec)["embed.weight"].copy()
    embedding[poison] = np.nan
    made = program(spec, 2, **{"embed.weight": embedding})
    good, bad = [3, 4, 5], [3, poison, 5]
    for slot, own in ((1, good), (2, bad)):
        enter(made, slot, own)
    ((_, [alone]),) = made.step([chunk(spec, 1, good)])
    (_, [beside]), (_, [failed]) = made.step([chunk(spec, 1, good), chunk(spec, 2, bad)])
    assert beside == alone
    assert alone[3] is None
    assert failed[3] == "NaN"


def test_rows_that_are_scored_and_drawn() -> None:
    spec = tiny_spec()
    made = program(spec, 2)
    prompt = random_tokens(spec, 6)
    enter(made, 1, prompt, top_n_tokens=3, logprobs=True)
    logits = made.logits([chunk(spec, 1, [*prompt, 8, 9], num_draft=2, prompt_logprobs=True)])
    ((scored, drawn),) = made.step([chunk(spec, 1, [*prompt, 8, 9], num_draft=2, prompt_logprobs=True)])
    assert [row[0] for row in scored] == prompt[1:]
    assert [row[0] for row in drawn] == logits[5:].argmax(axis=1).tolist()
    wide = logits.astype(np.float64)
    logprobs = wide - np.log(np.exp(wide).sum(axis=1, keepdims=True))
    assert [row[1] for row in scored] == pytest.approx(logprobs[np.arange(5), prompt[1:]].tolist(), abs=1e-5)
    assert [len(row[2]) for row in scored + drawn] == [3] * 8
    assert made.tokens(1)[:8].tolist() == [*prompt, 8, 9]


def test_a_chunk_may_ask_for_no_row() -> None:
    spec = tiny_spec()
    made = program(spec, 2)
    enter(made, 1, [1, 2, 3])
    silent = Chunk(1, 1, 0, (1, 2), 0, (1,), sample=False)
    assert made.step([silent]) == [([], [])]
    assert made.logits([silent]).shape == (0, spec.vocab_size)
    assert made.step([]) == []


def test_slots_are_left_more_than_once() -> None:
    spec = tiny_spec()
    made = program(spec, 1)
    enter(made, 1, [1, 2])
    view = made.tokens(1)
    made.leave(1)
    made.leave(1)
    with pytest.raises(ValueError, match="the slot is empty"):
        made.step([chunk(spec, 1, [1, 2])])
    enter(made, 1, [5, 6])
    assert view[:2].tolist() == [5, 6]
    with pytest.raises(ValueError, match="slot 9"):
        made.leave(9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": (96,)}, "token 96"),
        ({"tokens": ()}, "no tokens"),
        ({"start": 128}, "past the context"),
        ({"blocks": ()}, "too few blocks"),
        ({"blocks": (1000,)}, "block 1000"),
        ({"num_draft": 1}, "more drafts"),
    ],
)
def test_a_chunk_out_of_range_is_refused(changes: dict[str, Any], message: str) -> None:
    made = program(tiny_spec(), 1)
    enter(made, 1, [1, 2])
    plain = {"start": 0, "tokens": (1,), "num_draft": 0, "blocks": (1,), "sample": True}
    with pytest.raises(ValueError, match=message):
        made.step([Chunk(request_id=1, slot=1, **(plain | changes))])


@pytest.mark.parametrize(
    ("op", "message"),
    [
        (Op("linear", (9, 0, 2)), "nothing has written"),
        (Op("linear", (0, 99, 2)), "no such linear"),
        (Op("norm", (0, 0, 1, 0, 33, 0, -1, 0), (1e-6,)), "does not fit its buffer"),
        (Op("norm", (0, 0, 1, 0, 16, 0, -1, 0), (1e-6,)), "vector of another width"),
        (Op("attend", (0, 3, 0, 0), (0.0,)), "does not follow qkv"),
        (Op("scale_cap", (0, 32), (1.0, 0.0)), "does not follow the linear"),
        (Op("twirl", (0,)), "unknown op 'twirl'"),
    ],
)
def test_a_tape_that_does_not_fit_together_is_refused(op: Op, message: str) -> None:
    spec = tiny_spec()
    tape = compile_tape(spec)
    wrong = Tape(tape.buffers, (tape.ops[0], op, *tape.ops[1:]), tape.linears, tape.vectors)
    with pytest.raises(ValueError, match=message):
        program(spec, 1, wrong)


def test_a_pool_has_threads() -> None:
    assert _native.Pool(3).threads == 3
    with pytest.raises(ValueError, match="Given: 0"):
        _native.Pool(0)


def test_instruction_sets_are_named() -> None:
    names = _native.isas()
    assert names[-1] == "portable"
    assert [_native.Kernels(name).name for name in names] == names
    assert _native.Kernels().name == names[0]
    with pytest.raises(ValueError, match="choose one of"):
        _native.Kernels("sse")
