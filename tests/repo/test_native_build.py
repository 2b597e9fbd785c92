"""The compiled module: built where it can be, newest where it is, and no reason not to install where it cannot be."""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from built_wheel import ROOT, build_wheel

from engine.runtimes import native

SOURCES = ROOT / "engine" / "runtimes" / "native" / "src"
COMPILERS = ("c++", "g++", "clang++")
ASK = ["generate", "The river is", "--max-new-tokens", "4", "--temperature", "0", "--json"]


def test_the_native_runtime_answers_where_a_compiler_is() -> None:
    if not any(map(shutil.which, COMPILERS)):
        pytest.skip(f"no C++ compiler ({', '.join(COMPILERS)}) on this machine")
    assert native.available() is None, "install again: pip install -e '.[test]'"


def test_the_module_is_newer_than_its_sources() -> None:
    if (reason := native.available()) is not None:
        pytest.skip(reason)
    from engine.runtimes.native import _native

    built = Path(_native.__file__).stat().st_mtime
    sources = [path for path in SOURCES.rglob("*") if path.is_file()] + [ROOT / "CMakeLists.txt"]
    newer = [path.relative_to(ROOT).as_posix() for path in sources if path.stat().st_mtime > built]
    assert newer == [], "install again: pip install -e '.[test]'"


def test_without_a_compiler_it_installs_and_answers_with_a_word_why(tmp_path: Path) -> None:
    wheel = build_wheel(tmp_path, cxx="/bin/false")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    own = Path(
        subprocess.check_output(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
        ).strip()
    )
    shutil.unpack_archive(wheel, own, "zip")
    (own / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(python), "-P", "-m", "tgi_cli", *ASK]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["details"]["generated_tokens"] == 4
    [reason] = [line for line in done.stderr.splitlines() if "native" in line]
    assert "C++17 compiler" in reason
    assert "install" in reason


@pytest.fixture(scope="module")
def kernel_objects() -> list[Path]:
    """The object files of the kernels, as the installation left them."""
    found = [path for path in sorted(ROOT.glob("build/*/**/kernels_*.cpp.o")) if "bindings" not in path.name]
    if not found or shutil.which("nm") is None:
        pytest.skip("needs nm and the object files of an installation from this checkout")
    return found


def test_nothing_compiled_for_one_instruction_set_is_shared(kernel_objects: list[Path]) -> None:
    """A weak symbol (an inline function or template) could be the copy that the linker keeps for every CPU."""
    for path in kernel_objects:
        isa = re.search(r"kernels_(\w+)\.cpp", path.name)
        assert isa is not None
        symbols = subprocess.check_output(["nm", "-C", "--defined-only", path], text=True).splitlines()
        shared = [line.split(maxsplit=2)[1:] for line in symbols if line.split(maxsplit=2)[1] in "TWVuBDGR"]
        assert shared in ([["R", f"tgi::{isa[1]}_kernels"]], [["D", f"tgi::{isa[1]}_kernels"]]), path.name


OLD_CPUS = {
    "Nehalem-v2": "portable",
    "Haswell-noTSX": "avx2",
    "Skylake-Server-noTSX-IBRS": "avx2",
}  # QEMU has no AVX-512


@pytest.mark.parametrize("cpu", OLD_CPUS)
def test_an_older_cpu_runs_what_it_can(cpu: str, tmp_path: Path) -> None:
    """The whole command under an emulated CPU: an instruction that it lacks would end it (SIGILL)."""
    if platform.machine() != "x86_64":
        pytest.skip("the CPUs to emulate are x86-64")
    if shutil.which("qemu-x86_64") is None:
        pytest.skip("needs qemu-x86_64 (Debian: qemu-user)")
    environment = {
        name: value for name, value in os.environ.items() if name != "OPENBLAS_CORETYPE"
    }  # names a newer CPU
    check = "from engine.runtimes.native import _native; print(_native.isas()[0])"
    emulated = ["qemu-x86_64", "-cpu", cpu, sys.executable]
    assert (
        subprocess.check_output([*emulated, "-c", check], text=True, timeout=300, env=environment).strip()
        == OLD_CPUS[cpu]
    )
    here, there = (
        subprocess.run(
            [*program, "-m", "tgi_cli", *ASK], capture_output=True, text=True, timeout=300, check=True, env=environment
        )
        for program in ([sys.executable], emulated)
    )
    assert json.loads(there.stdout)["generated_text"] == json.loads(here.stdout)["generated_text"]
