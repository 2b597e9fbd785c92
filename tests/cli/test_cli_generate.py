"""`tgi generate` with the built-in model: prompts from everywhere, plain text, JSON and chats."""

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from cli_runner import Run, assert_refused

from engine.hub import builtin_model_path
from engine.text.tokenizer import Tokenizer
from tgi_cli.app import main

PROMPT = "The river is"
SHORT = ("--max-new-tokens", "6")
C_LOCALE = {"LC_ALL": "C"}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load(builtin_model_path())


def test_a_prompt_is_continued_and_only_its_answer_is_printed(tgi: Run) -> None:
    result = tgi("generate", PROMPT, *SHORT)
    assert result.code == 0
    assert result.err == ""
    assert result.out == json.loads(tgi("generate", PROMPT, *SHORT, "--json").out)["generated_text"]


@pytest.mark.parametrize("arguments", [[], ["-"]])
def test_a_piped_prompt_loses_only_its_last_newline(tgi: Run, arguments: list[str]) -> None:
    said = tgi("generate", f"\n{PROMPT} \n", *SHORT).out
    assert tgi("generate", *arguments, *SHORT, stdin=f"\n{PROMPT} \n\n").out == said


def test_standard_input_is_left_alone_where_there_is_a_prompt(tgi: Run) -> None:
    assert tgi("generate", PROMPT, *SHORT, stdin="never").code == 0
    assert sys.stdin.read() == "never"


def test_json_is_tgis_answer_with_details(tgi: Run, tokenizer: Tokenizer) -> None:
    result = tgi("generate", "--json", "--dtype", "float32", "--temperature", "0", *SHORT, PROMPT)
    [line] = result.out.splitlines()
    answer = json.loads(line)
    details = answer.pop("details")
    tokens = details.pop("tokens")
    assert details == {"seed": None, "finish_reason": "length", "generated_tokens": 6, "prefill": []}
    assert [set(token) for token in tokens] == [{"id", "text", "logprob", "special"}] * 6
    assert all(token["logprob"] <= 0 and token["special"] is False for token in tokens)
    assert answer == {"generated_text": "".join(token["text"] for token in tokens)}
    assert answer["generated_text"] == tokenizer.decode([token["id"] for token in tokens])


def test_a_seed_repeats_an_answer_and_is_reported(tgi: Run) -> None:
    def answer(*arguments: str) -> dict[str, dict[str, int]]:
        return json.loads(tgi("generate", "--json", *SHORT, *arguments, PROMPT).out)

    drawn = answer("--temperature", "1.5")
    again = answer("--temperature", "1.5", "--seed", str(drawn["details"]["seed"]))
    assert again == drawn
    assert answer("--temperature", "1.5", "--seed", "1") != answer("--temperature", "1.5", "--seed", "2")


def test_greedy_is_the_default_and_a_filter_means_sampling(tgi: Run) -> None:
    greedy = tgi("generate", PROMPT, *SHORT).out
    assert tgi("generate", PROMPT, *SHORT, "--temperature", "0", "--top-k", "50", "--seed", "3").out == greedy
    assert tgi("generate", PROMPT, *SHORT, "--top-k", "1", "--seed", "3").out == greedy
    assert tgi("generate", PROMPT, *SHORT, "--top-p", "1", "--seed", "3").out != greedy


def test_speculation_changes_nothing(tgi: Run) -> None:
    plain = tgi("generate", PROMPT, "--max-new-tokens", "24").out
    assert tgi("generate", PROMPT, "--max-new-tokens", "24", "--speculate", "3").out == plain


def test_both_names_of_the_limit(tgi: Run) -> None:
    assert tgi("generate", PROMPT, "--max-tokens", "6").out == tgi("generate", PROMPT, *SHORT).out


def test_a_stop_text_ends_a_completion_and_stays_in_it(tgi: Run) -> None:
    whole = tgi("generate", PROMPT, "--max-new-tokens", "24").out
    stop = whole[10:14]
    answer = json.loads(tgi("generate", "--json", PROMPT, "--max-new-tokens", "24", "--stop", "@@", "--stop", stop).out)
    assert answer["generated_text"] == whole[: whole.index(stop) + len(stop)]
    assert answer["details"]["finish_reason"] == "stop_sequence"


def test_a_chat_goes_through_the_template(tgi: Run, tokenizer: Tokenizer) -> None:
    rendered = tokenizer.render_chat([{"role": "user", "content": "Hello"}])
    assert tgi("generate", "--chat", "Hello", *SHORT).out == tgi("generate", rendered, *SHORT).out
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    rendered = tokenizer.render_chat(messages)
    assert tgi("generate", "--system", "Be brief.", "Hello", *SHORT).out == tgi("generate", rendered, *SHORT).out


def test_ignore_eos_goes_on(tgi: Run) -> None:
    arguments = ("--json", "--chat", "What is your name?", "--max-new-tokens", "60")
    ended = json.loads(tgi("generate", *arguments).out)["details"]
    assert ended["finish_reason"] == "eos_token"
    assert ended["tokens"][-1]["special"] is True
    went_on = json.loads(tgi("generate", *arguments, "--ignore-eos").out)["details"]
    assert (went_on["finish_reason"], went_on["generated_tokens"]) == ("length", 60)


@pytest.mark.parametrize(
    ("arguments", "words", "code"),
    [
        (["generate", ""], ["prompt is empty"], 1),
        (["generate"], ["prompt is empty"], 1),
        (["generate", "-"], ["prompt is empty"], 1),
        (["generate", "x", "--temperature", "-1"], ["--temperature", "'-1'", "at least 0"], 2),
        (["generate", "x", "--temperature", "warm"], ["--temperature", "'warm'", "a number"], 2),
        (["generate", "x", "--top-p", "1.5"], ["--top-p", "above 0 and at most 1"], 2),
        (["generate", "x", "--top-p", "0"], ["--top-p"], 2),
        (["generate", "x", "--max-new-tokens", "0"], ["--max-new-tokens", "at least 1"], 2),
        (["generate", "x", "--repetition-penalty", "0"], ["--repetition-penalty"], 2),
        (["generate", "x", "--seed", "-1"], ["--seed"], 2),
        (["generate", "x", "--max-new-tokens", "2000"], ["--max-new-tokens 2000", "context of 1024"], 2),
        (["generate", "x", "--threads", "0"], ["--threads", "at least 1"], 2),
        (["generate", "x", "--speculate", "65"], ["--speculate", "at most 64"], 2),
        (["generate", "x", "--stop", ""], ["--stop is empty"], 2),
        (["generate", "x", "--revision", "main"], ["--revision", "the built-in model"], 2),
        (["generate", "x", "-m", ".", "--revision", "main"], ["--revision", "the directory '.'"], 2),
        (["generate", "\udcff"], ["the prompt is not UTF-8 text"], 1),
        (["generate", "word " * 1100], ["1024"], 1),
        (["generate", "x", "--dtype", "int3"], ["int3", "float32"], 2),
        (["generate", "x", "--runtime", "abacus"], ["abacus", "reference"], 2),
        (["generate", "x", "--url", "http://127.0.0.1:9", "--dtype", "float32"], ["--dtype", "--url"], 2),
        (["generate", "x", "--url", "localhost"], ["--url", "localhost", "http://"], 2),
        (["generate", "x", "--url", "http://127.0.0.1:9"], ["no server at http://127.0.0.1:9"], 1),
        (["generate", "x", "--model", "no/such/model"], ["no/such/model"], 1),
    ],
)
def test_bad_input_is_one_clear_line(tgi: Run, arguments: list[str], words: list[str], code: int) -> None:
    assert_refused(tgi(*arguments), *words, code=code)


def test_input_that_is_not_text(tgi: Run) -> None:
    assert_refused(tgi("generate", stdin=b"\xff\xfe"), "standard input is not UTF-8 text")


def test_input_that_is_not_text_where_the_locale_is_c() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tgi_cli", "generate"], input=b"\xff\xfe", capture_output=True, env=os.environ | C_LOCALE
    )
    assert done.returncode == 1
    assert done.stderr == b"error: standard input is not UTF-8 text\n"


def test_a_model_without_a_chat_template_is_not_talked_with(tgi: Run, tmp_path: Path) -> None:
    plain = shutil.copytree(builtin_model_path(), tmp_path / "plain")
    (plain / "chat_template.jinja").unlink(missing_ok=True)
    config = json.loads((plain / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (plain / "tokenizer_config.json").write_text(json.dumps(config))
    for arguments in (["--chat", "Hello"], ["--system", "Be brief.", "Hello"]):
        result = tgi("generate", "-m", str(plain), *arguments)
        assert_refused(result, f"{plain} has no chat template; use tgi generate PROMPT")
    assert tgi("generate", "-m", str(plain), PROMPT, *SHORT).code == 0


def test_a_failure_that_nobody_foresaw_is_one_line_too(tgi: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("engine.llm.LLM.__init__", broken)
    result = tgi("generate", "x")
    assert (result.code, "Traceback" in result.err) == (1, False)
    assert "error: ZeroDivisionError: oops" in result.err
    monkeypatch.setenv("TGI_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        main(["generate", "x"])


def test_ctrl_c_ends_with_130(tgi: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("engine.llm.LLM.__init__", interrupted)
    result = tgi("generate", "x")
    assert (result.code, result.err) == (130, "")


def test_a_reader_that_goes_away_is_no_error(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """`tgi generate ... | head -c 1`"""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as gone:
        done = subprocess.run(
            [sys.executable, "-m", "tgi_cli", "generate", PROMPT, *SHORT],
            stdout=gone,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.stderr == ""
    assert done.returncode == 1


def test_output_that_cannot_show_a_character_gets_a_question_mark(tgi: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", ascii_only)
    monkeypatch.setattr("tgi_cli.local.LocalReply._run", _snowman)
    assert tgi("generate", "x").code == 0
    ascii_only.flush()
    assert ascii_only.buffer.getvalue() == b"?"  # type: ignore[attr-defined]  # a BytesIO


async def _snowman(_: object) -> AsyncGenerator[str, None]:
    yield "\N{SNOWMAN}"


def test_python_m_is_tgi() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tgi_cli", "generate", *SHORT],
        input=PROMPT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout
    assert done.stderr == ""
