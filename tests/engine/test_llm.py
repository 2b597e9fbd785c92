"""The offline face: batches, streams, stop strings, and the public names of the package."""

import subprocess
import sys
from collections.abc import Iterator

import pytest

import engine
from engine import LLM, FinishReason, InvalidRequest, ModelNotFound, SamplingParams


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM(dtype="float32") as llm:
        yield llm


def test_prompts_are_answered_in_their_order(llm: LLM) -> None:
    prompts = ["This package contains", "A river is", llm.tokenizer.encode("The Linux kernel is")]
    params = SamplingParams(max_new_tokens=8)
    together = llm.generate(prompts, params)
    assert [answer.text for answer in together] == [llm.generate([prompt], params)[0].text for prompt in prompts]
    assert together[0].text.startswith(" the header files")
    assert all(answer.prompt_tokens and len(answer.token_ids) <= 8 for answer in together)


def test_one_text_is_one_prompt(llm: LLM) -> None:
    params = SamplingParams(max_new_tokens=4)
    [whole] = llm.generate("A river is", params)
    assert whole.text == llm.generate(["A river is"], params)[0].text


def test_each_prompt_may_have_its_own_parameters(llm: LLM) -> None:
    short, long = llm.generate(["A river is"] * 2, [SamplingParams(max_new_tokens=3), SamplingParams(max_new_tokens=6)])
    assert long.token_ids[:3] == short.token_ids
    assert (len(short.token_ids), len(long.token_ids)) == (3, 6)
    assert short.finish_reason is FinishReason.LENGTH


def test_a_drawn_seed_repeats_the_answer(llm: LLM) -> None:
    [drawn] = llm.generate(["A river is"], SamplingParams(max_new_tokens=12, temperature=1.0))
    [again] = llm.generate(["A river is"], SamplingParams(max_new_tokens=12, temperature=1.0, seed=drawn.seed))
    assert again.token_ids == drawn.token_ids


@pytest.mark.parametrize("keep_stop", [True, False])
def test_a_stop_string_ends_the_answer(llm: LLM, keep_stop: bool) -> None:
    [whole] = llm.generate(["This package contains"], SamplingParams(max_new_tokens=12))
    stop = "der fi"
    [cut] = llm.generate(["This package contains"], SamplingParams(max_new_tokens=12), stop=[stop], keep_stop=keep_stop)
    end = whole.text.index(stop) + (len(stop) if keep_stop else 0)
    assert cut.text == whole.text[:end]
    assert cut.finish_reason is FinishReason.STOP


def test_prompt_scores_come_with_the_answer(llm: LLM) -> None:
    [answer] = llm.generate(["A river is wide"], SamplingParams(max_new_tokens=1, prompt_logprobs=True, logprobs=True))
    assert len(answer.prompt_logprobs) == answer.prompt_tokens - 1
    assert answer.pieces[0].logprob is not None


def test_a_prompt_that_cannot_run_is_refused_and_the_next_one_served(llm: LLM) -> None:
    with pytest.raises(InvalidRequest, match="max_new_tokens"):
        llm.generate(["A river"], SamplingParams(max_new_tokens=10**6))
    assert llm.generate(["A river"], SamplingParams(max_new_tokens=1))[0].token_ids


async def test_a_stream_gives_the_same_text_piece_by_piece() -> None:
    async with LLM(dtype="float32", num_draft=3) as llm:
        answer = llm.stream("This package contains", SamplingParams(max_new_tokens=8))
        pieces = [piece async for piece in answer]
        assert "".join(piece.text for piece in pieces if not piece.special) == answer.text
        assert answer.pieces == pieces
        assert answer.finish_reason is not None
        left = llm.stream("A river is", SamplingParams(max_new_tokens=500, ignore_eos=True))
        async for _ in left:
            break
        await left.aclose()
        assert left.finish_reason is None
    assert answer.text.startswith(" the header files")


def test_a_model_that_is_not_there() -> None:
    with pytest.raises(ModelNotFound):
        LLM("./no/such/model")


def test_the_public_names_exist_and_cost_nothing_to_import() -> None:
    assert all(getattr(engine, name) for name in engine.__all__)
    assert len(engine.__all__) <= 25
    with pytest.raises(AttributeError, match="NoSuchName"):
        engine.NoSuchName  # noqa: B018 - the attribute access is the test
    code = "import sys, engine; print([m for m in ('numpy', 'torch', 'tokenizers') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
