"""A text's vector depends on the text alone, bit for bit, and is the same on both runtimes but for rounding."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from embed_plans import MODES, embed, make_encoder, worker_options
from safetensors.numpy import load_file, save_file

from engine.runtimes import Worker
from engine.runtimes.reference.worker import ReferenceWorker
from engine.sched.plan import Chunk, Enter, StepPlan
from engine.types import SamplingParams

_RNG = random.Random(5)
TEXTS = [[_RNG.randrange(4, 90) for _ in range(length)] for length in (1, 1, 2, 3, 4, 5, 17, 40, 100)]
POISON = 95
GENERATING = [5, 9, 5, 9, 5]


def native(path: Path, **model: Any) -> Worker:
    pytest.importorskip("engine.runtimes.native._native", exc_type=ImportError)
    from engine.runtimes.native.worker import NativeWorker

    return NativeWorker.load(worker_options(path, **model))


def reference(path: Path, **model: Any) -> Worker:
    return ReferenceWorker.load(worker_options(path, **model))


Load = Callable[..., Worker]
BOTH = pytest.mark.parametrize("load", [reference, native])


def alone(worker: Worker) -> list[bytes]:
    return [embed(worker, [text])[0].embedding for text in TEXTS]


def check_at_random(worker: Worker, expected: list[bytes], seeds: range) -> None:
    """Random subsets in any order, in blocks that hold what others left there."""
    for seed in seeds:
        rng = random.Random(seed)
        chosen = rng.sample(range(len(TEXTS)), rng.randint(1, len(TEXTS)))
        outputs = embed(worker, [TEXTS[index] for index in chosen], rng)
        assert [output.embedding for output in outputs] == [expected[index] for index in chosen]


@BOTH
@pytest.mark.parametrize("pooling", MODES)
@pytest.mark.parametrize("architecture", ["BertModel", "XLMRobertaModel", "LlamaForCausalLM"])
def test_alone_is_as_in_a_batch(load: Load, architecture: str, pooling: str, tmp_path: Path) -> None:
    worker = load(make_encoder(tmp_path, pooling, architecture))
    assert worker.info.pooling == pooling
    expected = alone(worker)
    assert {len(vector) for vector in expected} == {4 * worker.info.embedding_size}
    check_at_random(worker, expected, range(5))


@pytest.mark.parametrize(
    "model",
    [
        {"threads": 1},
        {"threads": 5},
        {"dtype": "bfloat16"},
        {"quantize": "int8"},
        {"quantize": "int4", "threads": 3},
        {"kv_cache_dtype": "int8"},
    ],
    ids=str,
)
def test_alone_is_as_in_a_batch_for_any_weights_and_threads(model: dict[str, Any], tmp_path: Path) -> None:
    path = make_encoder(tmp_path)
    check_at_random(native(path, **model), alone(native(path, **model)), range(5))


def test_threads_change_nothing(tmp_path: Path) -> None:
    path = make_encoder(tmp_path)
    one, *more = (alone(native(path, threads=threads)) for threads in (1, 2, 5))
    assert all(vectors == one for vectors in more)


def test_every_instruction_set_keeps_the_law(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("engine.runtimes.native._native", exc_type=ImportError)
    from native_machine import ISAS

    path = make_encoder(tmp_path)
    expected = np.stack([np.frombuffer(vector, np.float32) for vector in alone(reference(path))])
    for isa in ISAS:
        monkeypatch.setenv("TGI_ISA", isa)
        worker = native(path)
        vectors = alone(worker)
        check_at_random(worker, vectors, range(5))
        ours = np.stack([np.frombuffer(vector, np.float32) for vector in vectors])
        np.testing.assert_allclose(ours, expected, rtol=0, atol=5e-5)


@pytest.mark.parametrize("pooling", MODES)
@pytest.mark.parametrize("architecture", ["BertModel", "Qwen3ForCausalLM", "GPT2LMHeadModel"])
def test_native_vectors_are_those_of_the_reference(architecture: str, pooling: str, tmp_path: Path) -> None:
    path = make_encoder(tmp_path, pooling, architecture)
    theirs = alone(reference(path))
    for vector, expected in zip(alone(native(path, dtype="float32")), theirs, strict=True):
        numbers = np.frombuffer(expected, np.float32)
        assert 0.1 < numbers.std() < 10
        np.testing.assert_allclose(np.frombuffer(vector, np.float32), numbers, rtol=0, atol=1e-4)


@BOTH
def test_an_encoder_looks_both_ways_and_a_decoder_back_only(load: Load, tmp_path: Path) -> None:
    first, other = [5, 6, 7], [5, 6, 8]
    encoder = load(make_encoder(tmp_path / "encoder", "cls"))
    assert embed(encoder, [first])[0] != embed(encoder, [other])[0]
    decoder = load(make_encoder(tmp_path / "decoder", "cls", "LlamaForCausalLM"))
    assert embed(decoder, [first])[0] == embed(decoder, [other])[0]


@BOTH
def test_texts_and_answers_share_a_step(load: Load, tmp_path: Path) -> None:
    """A decoder draws a token and scores a prompt beside texts that it embeds, and neither notices the other."""
    worker = load(make_encoder(tmp_path, "last", "LlamaForCausalLM"))
    params = SamplingParams(logprobs=True, prompt_logprobs=True)
    worker.execute(StepPlan(1, (), (Enter(99, 3, tuple(GENERATING), len(GENERATING), params),)))
    chunk = Chunk(99, 3, 0, tuple(GENERATING), 0, (1, 2), True, prompt_logprobs=True)
    expected = worker.execute(StepPlan(1, (chunk,))).outputs[99]
    assert expected.tokens
    vectors = alone(worker)
    for seed in range(3):
        *texts, answer = embed(worker, TEXTS, random.Random(seed), [chunk])
        assert [output.embedding for output in texts] == vectors
        assert answer == expected


@BOTH
def test_a_vector_that_is_no_numbers_ends_one_request(load: Load, tmp_path: Path) -> None:
    path = make_encoder(tmp_path)
    expected = embed(load(path), [TEXTS[5]])[0]
    tensors = load_file(path / "model.safetensors")
    tensors["bert.embeddings.word_embeddings.weight"][POISON] = np.nan
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    worker = load(path)
    bad, good = embed(worker, [[POISON, 5, 6], TEXTS[5]])
    assert bad.error == "the vector holds NaN or infinity: check the model's weights, or serve it in float32"
    assert good == expected
    embed(worker, [[POISON] * 120] * 6)  # leaves nearly every block full of what is no number
    assert embed(worker, [TEXTS[5]])[0] == expected


@BOTH
def test_what_an_encoder_says_of_itself(load: Load, tmp_path: Path) -> None:
    path = make_encoder(tmp_path, "max")
    (path / "modules.json").write_text('[{"type": "sentence_transformers.models.Normalize", "path": "2_Normalize"}]')
    (path / "sentence_bert_config.json").write_text('{"max_seq_length": 33}')
    info = load(path).info
    assert (info.is_encoder, info.embedding_size, info.max_context, info.embed_truncation) == (True, 32, 128, 33)
    assert (info.pooling, info.normalizes, info.eos_token_ids) == ("max", True, ())


def test_the_layers_of_an_encoder_share_their_pages(tmp_path: Path) -> None:
    many, one = make_encoder(tmp_path / "many"), make_encoder(tmp_path / "one", num_hidden_layers=1)
    for load in (reference, native):
        assert load(many).info.kv_bytes == load(one).info.kv_bytes


def test_native_refuses_plans_that_make_no_sense(tmp_path: Path) -> None:
    worker = native(make_encoder(tmp_path))
    worker.execute(StepPlan(1, (), (Enter(1, 1, (5, 6, 7), 3, SamplingParams(max_new_tokens=0)),)))
    for chunk, why in (
        (Chunk(1, 1, 1, (6, 7), 0, (1,), False, embed=True), "no whole text"),
        (Chunk(1, 1, 0, (5, 6, 7), 0, (1,), True, embed=True), "asks for tokens too"),
        (Chunk(1, 1, 0, (5, 6, 7), 0, (1,), True), "a model that only embeds"),
        (Chunk(1, 1, 0, (5, 6, 7), 0, (), False, embed=True), "too few blocks"),
    ):
        with pytest.raises(ValueError, match=why):
            worker.execute(StepPlan(2, (chunk,)))
    assert embed(worker, [[5, 6, 7]])[0].embedding


@pytest.mark.parametrize("quantize", ["int8", "int4", "eetq", "bitsandbytes-nf4", "fp8"])
def test_a_quantized_encoder_gives_nearly_the_same_vectors(quantize: str, tmp_path: Path) -> None:
    path = make_encoder(tmp_path, hidden_size=64, intermediate_size=128)
    for vector, quantized in zip(alone(native(path)), alone(native(path, quantize=quantize)), strict=True):
        a, b = np.frombuffer(vector, np.float32), np.frombuffer(quantized, np.float32)
        assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) > 0.9
