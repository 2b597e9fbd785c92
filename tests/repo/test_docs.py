"""Every block in the documentation runs, or is held against the program where a test machine cannot run it."""

import contextlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from doc_blocks import PAGES, ROOT, Block, all_blocks, blocks_of, commands
from generated_docs import PART, PARTS, renewed
from live_server import LiveServer

ADDRESS = "http://127.0.0.1:3000"
SERVE = ("tgi serve", "text-generation-launcher")
BLOCKS = all_blocks()
ROUTE = re.compile(re.escape(ADDRESS) + r"(/[\w/]*)?")
PATH = re.compile(r"(?<![\w/.])(?:engine|tgi_cli|bench|tests|docs|configs|recipes)/[\w./-]*[\w/]")
LINK = re.compile(r"\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)")


def chosen(*languages: str, runs: bool = True) -> list[object]:
    wanted = [b for b in BLOCKS if b.language in languages and (b.needs is None) == runs and not b.slow]
    return [pytest.param(block, id=block.name) for block in wanted]


def words(line: str) -> list[str]:
    return shlex.split(line, comments=True)


def environment() -> dict[str, str]:
    """This process's, with the programs of this interpreter's environment first."""
    return os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def run_shell(script: str, folder: Path) -> None:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip()


def test_blocks_of_every_language_are_checked():
    assert {block.language for block in BLOCKS} <= {"sh", "python", "json", "toml", "text"}


@pytest.mark.parametrize("block", chosen("sh"))
def test_shell_block(block: Block, request: pytest.FixtureRequest):
    """Commands run in the repository; one that serves is started, found ready and stopped."""
    script = []
    for line in commands(block.text):
        if line.startswith(SERVE) and "--env" not in line:
            with LiveServer.start(*words(line.removeprefix(next(s for s in SERVE if line.startswith(s))))):
                pass
        else:
            script.append(line)
    if script:
        text = "\n".join(script)
        if ADDRESS in text:
            text = text.replace(ADDRESS, request.getfixturevalue("live_server").url)
        run_shell(text, ROOT)


@pytest.mark.parametrize("block", chosen("python"))
def test_python_block(block: Block, request: pytest.FixtureRequest):
    text = block.text
    if ADDRESS in text:
        text = text.replace(ADDRESS, request.getfixturevalue("live_server").url)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(text, block.name, "exec"), {"__name__": "__main__"})
    assert printed.getvalue().strip()


def test_json_blocks():
    found = [json.loads(block.text) for block in BLOCKS if block.language == "json"]
    assert found


@pytest.mark.parametrize("block", chosen("toml"))
def test_toml_block(block: Block, tmp_path: Path):
    """A settings file is read as `tgi serve --config` reads it."""
    from tgi_cli.settings import read_settings

    (tmp_path / "server.toml").write_text(block.text)
    assert read_settings({"config": str(tmp_path / "server.toml")}, environ={}).made.keys() > tomllib.loads(
        block.text
    ).keys() - {"config"}


def options_of(program: str, command: str, rest: list[str]) -> set[str]:
    import typer

    from bench.commands.app import app as bench
    from tgi_cli.app import app, launch

    if program == "text-generation-launcher":
        found = typer.main.get_command(launch)
    elif command == "bench":  # without a command of its own it is a run
        group = typer.main.get_command(bench)
        found = group.commands[rest[0] if rest and rest[0] in group.commands else "run"]
    else:
        found = typer.main.get_command(app).commands[command]
    return {name for option in found.params for name in (*option.opts, *option.secondary_opts)} | {"--help", "-h"}


@pytest.mark.parametrize("block", chosen("sh") + chosen("sh", runs=False))
def test_flags_exist(block: Block):
    for line in commands(block.text):
        for part in re.split(r"&&|\||;", line):
            if not (found := re.search(r"\b(tgi|text-generation-launcher)( .*)?$", part)) or "http" in found[0][:8]:
                continue
            program, *rest = words(found[0])
            command = rest.pop(0) if program == "tgi" and rest else ""
            flags = {word.partition("=")[0] for word in rest if word.startswith("-") and word != "-"}
            assert flags <= options_of(program, command, rest), f"{block.name}: {part}"


@pytest.mark.parametrize("page", [pytest.param(page, id=page.name) for page in PAGES])
def test_routes_and_files_exist(page: Path):
    from engine.server.app import ENDPOINTS

    text = page.read_text(encoding="utf-8")
    known = {each.path for each in ENDPOINTS}
    assert {path.rstrip("/") or "/" for path in ROUTE.findall(text) if path} <= known
    mentioned = {path for path in PATH.findall(text) if not re.search(r"[A-Z]{2}\.|NAME|build/", path)}
    assert {path for path in mentioned if not (ROOT / path).exists()} == set()


@pytest.mark.parametrize("page", [pytest.param(page, id=page.name) for page in PAGES])
def test_links_lead_somewhere(page: Path):
    for target, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        path = (page.parent / target) if target else page
        assert path.exists(), f"{page.name} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_route_is_documented():
    from engine.server.app import ENDPOINTS

    text = (ROOT / "docs" / "http-api.md").read_text(encoding="utf-8")
    routes = {f"`{each.method} {each.path}`" for each in ENDPOINTS}
    assert {route for route in routes if route not in text} == set()


def test_every_command_is_documented():
    import typer

    from tgi_cli.app import app

    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    commands_shown = [n for n, command in typer.main.get_command(app).commands.items() if not command.hidden]
    assert [name for name in commands_shown if f"## tgi {name}\n" not in text] == []


@pytest.mark.parametrize("page", [pytest.param(page, id=page.name) for page in PAGES])
def test_generated_parts_are_fresh(page: Path):
    text = page.read_text(encoding="utf-8")
    assert renewed(text) == text, "run `just docs`"


def test_every_generated_part_has_its_place():
    found = [part["name"] for page in PAGES for part in PART.finditer(page.read_text(encoding="utf-8"))]
    assert sorted(found) == sorted(PARTS)


def test_a_fence_that_is_not_closed_is_an_error():
    with pytest.raises(ValueError, match="2: a fence is opened"):
        blocks_of("page.md", "text\n```sh\nls\n")


def test_marks_are_read():
    [block] = blocks_of("page.md", "<!-- needs: a GPU -->\n```sh\nnvidia-smi\n```\n")
    assert (block.needs, block.slow, block.text) == ("a GPU", None, "nvidia-smi\n")
