"""Builds the project's wheel, with a compiler or as if there were none."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def build_wheel(folder: Path, cxx: str | None = None) -> Path:
    """The wheel of this checkout, made in `folder` with the tools of this environment; `cxx` is the C++ compiler."""
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    environment = os.environ | ({"CXX": cxx} if cxx else {})
    command += ["-w", str(folder), "-C", f"build-dir={folder}/build", str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    [built] = folder.glob("*.whl")
    return built
