"""Clients whose requirements conflict with ours, each in an environment of its own (`just client-venvs`).

`TGI_CLIENT_VENVS` names the folder of these environments. A script of `scripts/` runs in each and says how every
part of the client went.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
VENVS = "TGI_CLIENT_VENVS"
CLIENTS = {
    "text-generation": "use_text_generation.py",
    "langchain": "use_langchain.py",
    "litellm": "use_litellm.py",
}
SECONDS = 240.0  # a bound for a client that hangs


def python_of(client: str) -> Path:
    folder = os.environ.get(VENVS)
    if not folder:
        pytest.skip(f"{VENVS} names no folder with the environments of `just client-venvs`")
    python = Path(folder).absolute() / client / "bin" / "python"
    if not python.exists():
        pytest.skip(f"{python} does not exist; make it with `just client-venvs`")
    return python


def client_environment() -> dict[str, str]:
    """Nothing that sends a client elsewhere, or keeps it from this machine."""
    unwanted = ("HF_HUB_OFFLINE", "HF_TOKEN", "OPENAI_", "LITELLM_", "LANGCHAIN_", "LANGSMITH_", "PYTHONPATH")
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(unwanted) and not name.lower().endswith("_proxy")
    }
    quiet = {"NO_PROXY": "*", "HF_HUB_DISABLE_TELEMETRY": "1", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    return kept | quiet | {"PYTHONDONTWRITEBYTECODE": "1"}


@pytest.mark.parametrize("client", CLIENTS)
def test_every_part_of_the_client_works(client: str, live_url: str) -> None:
    ran = subprocess.run(
        [python_of(client), HERE / "scripts" / CLIENTS[client], live_url],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env=client_environment(),
        cwd=HERE,
    )
    print(ran.stdout, ran.stderr, file=sys.stderr)
    assert ran.returncode == 0, "\n".join(line for line in ran.stdout.splitlines() if line.startswith("FAILED"))


@pytest.mark.parametrize("client", CLIENTS)
def test_its_requirements_are_pinned(client: str) -> None:
    lines = (HERE / "requirements" / f"{client}.txt").read_text().splitlines()
    assert lines
    assert all(line.count("==") == 1 for line in lines)
