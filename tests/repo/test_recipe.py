"""The recipe of the built-in model: its text rules, its loss, every script on a tiny budget, the published figures."""

import json
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from doc_blocks import ROOT, all_blocks, commands

RECIPE = ROOT / "recipes" / "default-model"


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Imports a module of the recipe, whose scripts live beside each other and are no package."""
    monkeypatch.syspath_prepend(str(RECIPE))
    before = set(sys.modules)
    yield import_module
    for name in set(sys.modules) - before:
        if str(RECIPE) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


SENTENCE = "The quick brown fox jumps over the lazy dog and {} runs away from it again. "
PAGE = """
<html><head><title>no</title></head><body><nav><p>A menu of things to read elsewhere in this manual of ours.</p></nav>
<h1>1.2 Rivers</h1><h2>Empty</h2><h2>Streams</h2>
<p>A stream carries fresh water down a hill, and it never carries it back up again.
<p>The next paragraph began without an end tag of the one before, as old pages do it.</p>
<table><tr><td><p>Tables are not prose, however many words somebody writes into a cell.</p></td></tr></table>
<ul><li>An item of a list counts as a paragraph when it is a sentence of some length.</li></ul>
</body></html>
"""


def test_a_page_becomes_paragraphs(recipe):
    blocks = recipe("html_pages").parse_blocks(PAGE)
    assert [kind for kind, _ in blocks] == ["h", "h", "h", "p", "p", "li"]
    page = recipe("html_pages").Page("doc", "doc/page.html", blocks)
    seen = recipe("cleaning").Deduplicator()
    [document] = recipe("documents").html_documents(page, seen)
    assert document.startswith("Streams\n\nA stream carries fresh water")
    assert document.endswith("- An item of a list counts as a paragraph when it is a sentence of some length.")
    assert list(recipe("documents").html_documents(page, seen)) == []


@pytest.mark.parametrize(
    ("text", "prose"),
    [
        (SENTENCE.format("then"), True),
        ("Too short to say.", False),
        ("for (i = 0; i < n; i++) { total += values[i] * weights[i]; } return total;", False),
        ("│ name │ a table drawn with lines is not a sentence, whatever it says in it │", False),
        ("Эта строка написана не латинскими буквами и потому не подходит нам совсем.", False),
    ],
)
def test_prose_is_told_from_the_rest(recipe, text, prose):
    assert recipe("cleaning").is_prose(text) == prose


def test_what_is_held_out_is_never_in_training(recipe, tmp_path):
    prepare, sources = recipe("prepare_corpus"), recipe("sources")
    rng = random.Random(1)
    corpus = prepare.Corpus(rng)
    for i in range(400):
        description = sources.PackageDescription(f"package{i}", f"tool number {i} for rivers", [SENTENCE.format(i) * 3])
        key = f"pkg:{i // 2}"
        corpus.documents.append(prepare.Document(key, "(package descriptions)", description.paragraphs[0]))
        chats = recipe("conversations").package_chats(rng, description)
        corpus.conversations += [prepare.Conversation(key, "package", chat) for chat in chats]
    corpus.add_identity()
    corpus.write(tmp_path)

    def keys(split: str) -> set[str]:
        files = (tmp_path / f"{split}_{kind}.jsonl" for kind in ("raw", "chat"))
        return {json.loads(line)["key"] for file in files for line in file.read_text().splitlines()}

    assert keys("eval")
    assert keys("train").isdisjoint(keys("eval"))
    assert "identity" in keys("train")


def test_the_chat_format_is_the_shipped_template(recipe):
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    chat_format = recipe("chat_format")
    config = json.loads((ROOT / "engine/assets/default/tokenizer_config.json").read_text())
    assert config["chat_template"] == chat_format.CHAT_TEMPLATE
    messages = [{"role": "user", "content": "Hello\n"}, {"role": "assistant", "content": "Hi"}]
    template = ImmutableSandboxedEnvironment().from_string(config["chat_template"])
    assert template.render(messages=messages) == chat_format.render(messages)
    end = template.render(messages=[], add_generation_prompt=True)
    assert end == chat_format.GENERATION_PROMPT


@pytest.mark.parametrize("with_teacher", [False, True])
def test_the_loss_by_pieces_is_the_loss(recipe, with_teacher):
    import torch

    head_loss = recipe("head_loss")
    torch.manual_seed(0)
    hidden = torch.randn(2, 5, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(11, 8, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(11, (2, 5))
    teacher = head_loss.Teacher(torch.randn(10, 4).double(), torch.randn(11, 4).double(), 0.8) if with_teacher else None
    loss = head_loss.HeadLoss.apply(hidden, weight, targets, teacher, 3)
    gradients = torch.autograd.grad(loss, (hidden, weight))

    logits = (hidden @ weight.T).reshape(10, 11)
    plain = torch.nn.functional.cross_entropy(logits, targets.reshape(-1))
    mixed = torch.nn.functional.one_hot(targets.reshape(-1), 11).double()
    if teacher:
        mixed = 0.2 * mixed + 0.8 * torch.softmax(teacher.hidden @ teacher.embedding.T, -1)
    expected = torch.autograd.grad(torch.nn.functional.cross_entropy(logits, mixed), (hidden, weight))
    assert torch.allclose(loss.double(), plain, atol=1e-6)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(gradients, expected, strict=True))


def run(script: str, *arguments: str | Path) -> str:
    command = [sys.executable, str(RECIPE / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def write_corpus(folder: Path) -> None:
    """A made-up corpus of every source that the training shares name."""
    folder.mkdir()
    sources = {"raw": ["wordnet-base", "manpages", "(package descriptions)", "debian-faq"], "chat": ["word", "package"]}
    for split, count in (("train", 60), ("eval", 20)):
        for kind, names in sources.items():
            lines = []
            for i in range(count):
                text = SENTENCE.format(f"number {i * i}") * 4
                content = {"text": text} if kind == "raw" else {"messages": [{"role": "user", "content": text}]}
                lines.append(json.dumps({"key": str(i), "source": names[i % len(names)], **content}))
            (folder / f"{split}_{kind}.jsonl").write_text("\n".join(lines) + "\n")


def test_the_tokenizer_and_the_texts(tmp_path):
    write_corpus(tmp_path / "corpus")
    run("train_tokenizer.py", "--corpus", tmp_path / "corpus", "--out", tmp_path / "tokens", "--vocab", "300")
    assert {"tokenizer.json", "tokenizer_config.json", "train-raw-wordnet-base.bin"} <= {
        path.name for path in (tmp_path / "tokens").iterdir()
    }
    run("pick_texts.py", "--corpus", tmp_path / "corpus", "--out", tmp_path)
    texts = [json.loads(line) for line in (tmp_path / "eval.jsonl").read_text().splitlines()]
    assert len(texts) == 40
    assert all("key" not in text for text in texts)


@pytest.mark.slow
def test_every_step_runs_on_a_tiny_budget(tmp_path):
    write_corpus(tmp_path / "corpus")
    tokens, texts = tmp_path / "tokens", tmp_path / "eval.jsonl"
    run("train_tokenizer.py", "--corpus", tmp_path / "corpus", "--out", tokens, "--vocab", "300", "--context", "512")
    tiny = "--hidden 32 --layers 2 --heads 2 --kv-heads 1 --ffn 48 --context 64 --long 512 --long-part 0.2 --batch 8"
    train = ["--tokens", tokens, *tiny.split(), "--eval-rows", "8", "--threads", "1"]
    run("train.py", *train, "--out", tmp_path / "model", "--steps", "30")
    run("train.py", *train, "--out", tmp_path / "draft", "--steps", "10", "--teacher", tmp_path / "model")
    summary = json.loads((tmp_path / "model.train.json").read_text())
    assert summary["steps"] == 30
    assert summary["best_held_out_loss"] < 5.0  # the logarithm of the vocabulary is 5.7

    run("pick_texts.py", "--corpus", tmp_path / "corpus", "--out", tmp_path)
    both = ["--model", tmp_path / "model", "--draft", tmp_path / "draft", "--texts", texts, "--limit", "4"]
    own, theirs = run("evaluate.py", *both), run("evaluate.py", *both, "--transformers")
    assert "acceptance all" in own
    assert figures(own) == pytest.approx(figures(theirs), abs=2e-3)
    assert "[T=0.7]" in run("evaluate.py", "--model", tmp_path / "model", "--texts", texts, "--limit", "1", "--samples")


def figures(printed: str) -> dict[str, float]:
    """Bits per byte by model and kind of text."""
    return {
        name: float(bits) for name, bits in re.findall(r"^(\w+ \w+): ([\d.]+) bits per byte", printed, re.MULTILINE)
    }


@pytest.mark.slow
def test_the_published_figures_are_those_of_the_shipped_model():
    [block] = [block for block in all_blocks() if block.slow]
    [command] = commands(block.text)
    done = subprocess.run([sys.executable, *command.split()[1:]], cwd=ROOT, capture_output=True, text=True, check=True)
    measured = figures(done.stdout)
    page = (ROOT / "docs" / "default-model.md").read_text()
    for kind, row in (("raw", "raw text"), ("chat", "conversations"), ("all", "all")):
        cells = re.search(rf"^\| {row} \| [\d,]+ \| ([\d.]+) \| [\d.]+ \| ([\d.]+) \|", page, re.MULTILINE)
        assert cells is not None
        assert measured[f"model {kind}"] == pytest.approx(float(cells[1]), abs=2e-4)
        assert measured[f"draft {kind}"] == pytest.approx(float(cells[2]), abs=2e-4)
        accepted = re.search(rf"^acceptance {kind}: ([\d.]+) of (\d+) ", done.stdout, re.MULTILINE)
        assert accepted is not None
        assert f"| {row} | {int(accepted[2]):,} | {float(accepted[1]):.1%} |" in page
    card = (ROOT / "engine" / "assets" / "README.md").read_text()
    assert f"| {measured['model all']:.4f} |" in card
    assert f"| {measured['draft all']:.4f} |" in card
