"""What is installed: the wheel's content and size, the pins, the licence, and nothing that belongs to one machine."""

import re
import tomllib
import zipfile
from pathlib import Path

import pytest
from built_wheel import build_wheel
from test_file_length import repository_files

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MEGABYTE = 1_000_000
ASSETS = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
MACHINE_PATHS = re.compile(r"(?<![\w.<$}])/(?:home|root|Users|work|workspace|mnt|opt)/\w")
TEXT = {".py", ".md", ".toml", ".txt", ".json", ".jsonl", ".sh", ".cpp", ".h", "", ".yaml", ".yml"}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def requirement_name(requirement: str) -> str:
    return normal(re.split(r"[\[<>=!~; ]", requirement, maxsplit=1)[0])


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as on a machine without a compiler: the compiled module is what the rest of the suite runs on."""
    return build_wheel(tmp_path_factory.mktemp("wheel"), cxx="/bin/false")


def test_the_wheel_holds_what_the_program_needs(wheel: Path):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"engine/assets/{model}/{name}" for model in ("default", "draft") for name in ASSETS} <= names
    assert "engine/assets/README.md" in names
    assert {f"tgi_cli/presets/serve/{preset}.toml" for preset in ("latency", "throughput")} <= names
    modules = {
        path.relative_to(ROOT).as_posix() for p in ("engine", "tgi_cli", "bench") for path in (ROOT / p).rglob("*.py")
    }
    pages = {path.relative_to(ROOT).as_posix() for path in (ROOT / "engine/server/static").rglob("*") if path.is_file()}
    assert modules | pages <= names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_the_wheel_holds_nothing_else(wheel: Path):
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"engine", "tgi_cli", "bench"}


def test_the_wheel_is_small(wheel: Path):
    files = zipfile.ZipFile(wheel).infolist()
    assert sum(file.file_size for file in files if file.filename.startswith("engine/assets/")) <= 40 * MEGABYTE
    assert wheel.stat().st_size <= 40 * MEGABYTE


def test_the_wheel_has_both_programs(wheel: Path):
    archive = zipfile.ZipFile(wheel)
    [entry_points] = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
    text = archive.read(entry_points).decode()
    assert "tgi = tgi_cli.entry:main" in text
    assert "text-generation-launcher = tgi_cli.entry:launcher" in text


def pins() -> dict[str, str]:
    lines = (ROOT / "configs" / "constraints.txt").read_text().splitlines()
    return {normal(name): version for name, version in (line.split("==") for line in lines if line and line[0] != "#")}


def test_every_direct_dependency_is_pinned():
    wanted = {requirement_name(line) for line in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["test"]}
    assert wanted - pins().keys() == set()


def test_the_core_needs_no_torch():
    assert {requirement_name(line) for line in PROJECT["dependencies"]}.isdisjoint({"torch", "transformers", "triton"})


def test_the_licence_is_apache_2():
    text = (ROOT / "LICENSE").read_text()
    assert PROJECT["license"] == "Apache-2.0"
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert "APPENDIX: How to apply the Apache License to your work." in text


def test_no_file_names_a_place_of_one_machine():
    found = []
    for path in repository_files(ROOT):
        if path.suffix in TEXT and path.stat().st_size < MEGABYTE and path.parent.name != "data":
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                if MACHINE_PATHS.search(line):
                    found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}")
    assert found == []
