"""The C++ of the native runtime under its own tests (tests/native): here, for Arm under an emulator, and instrumented.

Built with CMake alone, without Python. Object files stay in the cache of pytest: only what changed is compiled again.
"""

import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ARM = (
    "-DCMAKE_SYSTEM_NAME=Linux",
    "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
    "-DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++",
    "-DCMAKE_EXE_LINKER_FLAGS=-static",
)
# Of the code for tests: -O1 takes half as long to compile. `test_as_it_is_installed` has -O3.
QUICK = "-DTGI_OPTIMIZE=-O1"
SANITIZERS = {
    "address and undefined": ("address,undefined", "ASAN_OPTIONS", "detect_leaks=1"),
    "thread": ("thread", "TSAN_OPTIONS", "halt_on_error=1"),
}

Build = Callable[..., Path]


def cmake() -> list[str]:
    """CMake of this environment's packages, else that of the machine."""
    if find_spec("cmake") is not None:
        return [sys.executable, "-m", "cmake"]
    return ["cmake"]


def need(*tools: str) -> None:
    for tool in tools:
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool} (Debian: g++ g++-aarch64-linux-gnu qemu-user cmake)")


@pytest.fixture
def build(request: pytest.FixtureRequest, tmp_path: Path) -> Build:
    def run(name: str, *options: str) -> Path:
        if find_spec("cmake") is None:
            need("cmake")
        cache = getattr(request.config, "cache", None)
        folder = cache.mkdir(f"native-{name}") if cache else tmp_path
        configure = [*cmake(), "-S", ROOT, "-B", folder, "-DTGI_MODULE=OFF", "-DTGI_TESTS=ON", *options]
        for command in (configure, [*cmake(), "--build", folder, "--parallel", "2"]):
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            assert done.returncode == 0, done.stdout
            assert "warning:" not in done.stdout, done.stdout
        return folder / "native_tests"

    return run


def proved(*command: str | Path, env: dict[str, str] | None = None) -> set[str]:
    """Run the tests; the instruction sets they were about."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)
    assert done.returncode == 0, done.stdout
    assert re.search(r"^[1-9]\d+ checks, 0 failed$", done.stdout, re.MULTILINE), done.stdout
    return set(re.findall(r"^(\w+) linears:", done.stdout, re.MULTILINE))


def expected_here() -> set[str]:
    if platform.machine() != "x86_64":
        return {"neon", "portable"}
    flags = set(re.findall(r"\w+", Path("/proc/cpuinfo").read_text().partition("flags")[2].partition("\n")[0]))
    needed = {
        "avx2": {"avx2", "fma", "f16c"},
        "avx512": {"avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512dq"},
    }
    needed["avx512vnni"] = needed["avx512"] | {"avx512_vnni"}
    return {"portable"} | {name for name, all_of in needed.items() if all_of <= flags}


def test_here(build: Build) -> None:
    need("g++")
    assert proved(build("here", QUICK)) == expected_here()


def test_on_arm(build: Build) -> None:
    need("aarch64-linux-gnu-g++", "qemu-aarch64")
    program = build("arm", QUICK, *ARM)
    assert proved("qemu-aarch64", "-cpu", "max", program, "1") == {"neon", "portable"}
    listed = subprocess.check_output(["qemu-aarch64", "-cpu", "cortex-a72", program, "0"], text=True)
    assert listed.split() == ["portable"], "a CPU without the dot product"


@pytest.mark.slow
def test_as_it_is_installed(build: Build) -> None:
    need("g++")
    assert proved(build("installed"), "8") == expected_here()


@pytest.mark.slow
@pytest.mark.timeout(1800)  # an instrumented kernel takes minutes to compile where the machine is busy
@pytest.mark.parametrize("name", SANITIZERS)
def test_under_a_sanitizer(build: Build, name: str) -> None:
    need("g++")
    kind, variable, options = SANITIZERS[name]
    program = build(kind.replace(",", "-"), f"-DTGI_SANITIZE={kind}")
    assert proved(program, env={variable: options}) == expected_here()
