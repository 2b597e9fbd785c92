"""What a run was made of, so that it can be judged and repeated: command, versions, machine, server, load, seeds."""

import hashlib
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from bench.metrics import DEFINITIONS_VERSION

FORMAT = 1  # of the run directory
PACKAGES = ("tgi", "numpy", "msgspec", "httpx", "uvloop", "tokenizers", "rich", "typer")
SECRET_OPTION = re.compile(r"--?[\w-]*(?:key|token|password|secret|header)$|-H$")
SECRET_ASSIGNED = re.compile(r"(--?[\w-]*(?:key|token|password|secret|header)=).+", re.DOTALL)
USER_INFO = re.compile(r"(?<=://)[^/@\s]+@")
HIDDEN = "***"


class Machine(msgspec.Struct, kw_only=True):
    """The machine of the client; None where it does not say."""

    host: str = ""
    system: str = ""
    kernel: str = ""
    python: str = ""
    cpu: str | None = None
    cores: int = 0  # this process may run on
    governor: str | None = None  # of the first core's frequency
    memory_bytes: int | None = None


class Manifest(msgspec.Struct, kw_only=True):
    """`manifest.json`. A run has its own; a series has one that names the folders of its runs."""

    format: int = FORMAT
    kind: str = "run"  # or series: several runs, each in a folder of its own
    members: list[str] = []
    title: str = ""
    created: str = ""  # ISO 8601, with the zone
    argv: list[str] = []  # without secrets
    definitions: int = 0  # version of what the metrics mean; figures of different versions do not compare
    revision: str | None = None  # of our source, "+changes" if there are any
    packages: dict[str, str] = {}
    machine: Machine = msgspec.field(default_factory=Machine)
    server: dict[str, Any] = {}  # url, kind, api, model, info as it answers, command if we started it
    load: dict[str, Any] = {}  # the fields of bench.load.arrivals.Load
    workload: dict[str, Any] = {}
    dataset_sha256: str | None = None
    seeds: dict[str, int] = {}
    slo: str | None = None
    started_ns: int = 0  # CLOCK_MONOTONIC
    window_ns: tuple[int, int] = (0, 0)  # the measured time, start and end


def collect(
    argv: Sequence[str],
    *,
    title: str,
    server: Mapping[str, Any],
    load: Mapping[str, Any],
    workload: Mapping[str, Any],
    window_ns: tuple[int, int],
    started_ns: int = 0,
    seeds: Mapping[str, int] | None = None,
    dataset: Path | None = None,
    slo: str | None = None,
) -> Manifest:
    """Describe this process, its machine and what it was asked to do."""
    return Manifest(
        title=title,
        created=datetime.now().astimezone().isoformat(timespec="seconds"),
        argv=without_secrets(argv),
        definitions=DEFINITIONS_VERSION,
        revision=source_revision(),
        packages=package_versions(),
        machine=this_machine(),
        server=_plain(server),
        load=_plain(load),
        workload=_plain(workload),
        dataset_sha256=file_sha256(dataset) if dataset else None,
        seeds=dict(seeds or {}),
        slo=slo,
        started_ns=started_ns or window_ns[0],
        window_ns=window_ns,
    )


def _plain(fields: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON will have it, so that what is written equals what is read; what JSON cannot say becomes text."""
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(dict(fields), enc_hook=str))
    return plain


def without_secrets(argv: Sequence[str]) -> list[str]:
    """The command line with the values of `--api-key`, `--header` and their like, and passwords in URLs, hidden."""
    shown = []
    hide = False
    for word in argv:
        shown.append(HIDDEN if hide else USER_INFO.sub(HIDDEN + "@", SECRET_ASSIGNED.sub(rf"\1{HIDDEN}", word)))
        hide = not hide and SECRET_OPTION.match(word) is not None
    return shown


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def source_revision() -> str | None:
    """The git commit of the source we run from; None for an installed package."""
    source = Path(__file__).parents[2]
    if not (source / ".git").exists():
        return None
    try:
        commit = _git(source, "rev-parse", "HEAD")
        return commit + "+changes" if _git(source, "status", "--porcelain", "--untracked-files=no") else commit
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)  # noqa: S603 - our own words
    return done.stdout.strip()


def package_versions() -> dict[str, str]:
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def this_machine() -> Machine:
    return Machine(
        host=platform.node(),
        system=platform.platform(),
        kernel=platform.release(),
        python=f"{platform.python_implementation()} {platform.python_version()}",
        cpu=_cpu_name(),
        cores=_cores(),
        governor=_read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        memory_bytes=_memory(),
    )


def _cores() -> int:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_name() -> str | None:
    found = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", _read("/proc/cpuinfo") or "", re.MULTILINE)
    return found[1].strip() if found else platform.processor() or None


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return None
