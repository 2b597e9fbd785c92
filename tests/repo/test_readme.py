"""The README opens with two commands that each work alone in a fresh clone; CI runs the second to the letter."""

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

from doc_blocks import ROOT, blocks_of

README = (ROOT / "README.md").read_text(encoding="utf-8")
FIRST, SECOND, *_ = [block.text.strip() for block in blocks_of("README.md", README)]
SETUP = ["python3", "-m", "venv", ".venv"]


def steps(command: str) -> list[list[str]]:
    return [shlex.split(step) for step in command.split(" && ")]


def test_the_first_command_installs_and_answers():
    create, install, run = steps(FIRST)
    assert create == SETUP
    assert install == [".venv/bin/pip", "install", "-q", "-c", "configs/constraints.txt", "."]
    assert run[:2] == [".venv/bin/tgi", "generate"]
    assert "--model" not in run


def test_the_second_command_installs_and_tests():
    create, install, run = steps(SECOND)
    assert create == SETUP
    assert install == [".venv/bin/pip", "install", "-q", "-c", "configs/constraints.txt", "-e", ".[test]"]
    assert run[:3] == [".venv/bin/python", "-m", "pytest"]
    assert not any("tests/" in word or word in ("-k", "-m") for word in run[3:])


def test_ci_runs_the_second_command_to_the_letter():
    script = (ROOT / ".ci" / "run").read_text()
    assert script.splitlines().count(SECOND) == 1
    assert script.index("export TGI_TEST_REQUIRE=all") < script.index(f"\n{SECOND}\n")
    assert all(f".venv/bin/{check}" in script for check in ("ruff format --check", "ruff check", "mypy"))
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def test_the_map_names_every_folder():
    section = README.partition("## Map of the repository")[2]
    mapped = set(re.findall(r"^\| `([\w/.]+)/` \|", section, re.MULTILINE))
    tops = {"tgi_cli", "engine", "bench", "configs", "docs", "recipes", "tests"}
    inside = {path.relative_to(ROOT).as_posix() for path in (ROOT / "engine").iterdir() if path.is_dir()}
    assert mapped == tops | {name for name in inside if "__pycache__" not in name}
    assert all((ROOT / folder).is_dir() for folder in mapped)


def test_the_families_named_are_those_there_are():
    from engine.models.registry import FAMILIES

    line = re.search(r"Model families: ([^;]+);", README)
    assert line is not None
    named = set(re.findall(r"[a-z][a-z0-9_]+", line[1].replace("(text)", "")))
    assert named == set(FAMILIES.values())


def test_the_version_has_an_entry_in_the_changelog():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    changelog = Path(ROOT / "CHANGELOG.md").read_text()
    assert "## [Unreleased]" in changelog or f"## [{project['version']}]" in changelog


def test_the_justfile_has_every_recipe():
    just = Path(sys.executable).with_name("just")
    listed = subprocess.run([just, "--summary"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {"setup", "check", "test", "prove", "serve", "bench", "docs"} <= set(listed.stdout.split())
    named = set(re.findall(r"\bjust ([a-z-]+)", README + (ROOT / "CONTRIBUTING.md").read_text()))
    assert named <= set(listed.stdout.split())
