"""No file over 500 lines: what does not fit is more than one thing."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
LIMIT = 500
SUFFIXES = {".py", ".cpp", ".h", ".sh", ".md", ".toml", ".js", ".css", ".html", ".yaml", ".yml"}
EXEMPT: set[str] = set()  # vendored and generated files, by their path


def repository_files(root: Path) -> list[Path]:
    """What git tracks or would track; everything but hidden folders where there is no git."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        capture_output=True,
        text=True,
    )
    if listed.returncode == 0:
        return [path for name in listed.stdout.split("\0") if name and (path := root / name).is_file()]
    return [p for p in root.rglob("*") if p.is_file() and not any(part.startswith(".") for part in p.parts)]


def too_long(root: Path) -> list[str]:
    found = []
    for path in repository_files(root):
        name = path.relative_to(root).as_posix()
        if path.suffix in SUFFIXES and name not in EXEMPT:
            lines = len(path.read_text(encoding="utf-8").splitlines())
            if lines > LIMIT:
                found.append(f"{name}: {lines} lines")
    return found


def test_no_file_is_too_long():
    assert too_long(ROOT) == []


def test_a_long_file_is_found(tmp_path):
    (tmp_path / "short.py").write_text("x = 1\n" * LIMIT)
    (tmp_path / "long.py").write_text("x = 1\n" * (LIMIT + 1))
    assert too_long(tmp_path) == [f"long.py: {LIMIT + 1} lines"]
