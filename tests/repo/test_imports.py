"""The import table of docs/architecture.md holds, and the checker that says so catches what breaks it."""

import subprocess
import sys
from pathlib import Path

import pytest
from import_rules import imports, modules, violations

ROOT = Path(__file__).parents[2]


def test_the_repository_keeps_its_import_rules():
    assert violations(ROOT) == []


def test_the_checker_sees_the_whole_repository():
    known = modules(ROOT)
    assert {"engine", "engine.types", "engine.sched.plan", "tgi_cli.app"} <= known.keys()
    assert any(found.module == "engine.client" and found.target == "engine.core" for found in imports(ROOT))


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        for folder in path.relative_to(root).parents[:-1]:
            (root / folder / "__init__.py").touch()
    return root


LAZY_CORE = "class {name}:\n    def start(self):\n        from engine.core import EngineCore\n"
BROKEN = {
    "sched reaches text": {"engine/sched/scheduler.py": "from engine.text import stop\n", "engine/text/stop.py": ""},
    "sched reads the clock": {"engine/sched/scheduler.py": "import time\n"},
    "sched reads metrics": {"engine/sched/policy.py": "import engine.metrics\n", "engine/metrics.py": ""},
    "torch in a pure room": {"engine/text/tokenizer.py": "import torch\n"},
    "torch inside a function": {"engine/runtimes/reference/worker.py": "def f():\n    import torch.nn\n"},
    "numpy outside text.grammar": {"engine/text/stop.py": "import numpy as np\n"},
    "under TYPE_CHECKING": {
        "engine/models/spec.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import numpy\n"
    },
    "relative": {"engine/sample/warp.py": "from ..weights import load\n", "engine/weights/load.py": ""},
    "relative sibling package": {"engine/spec/ngram.py": "from .. import hub\n", "engine/hub.py": ""},
    "by name": {"engine/weights/load.py": "import importlib\nimportlib.import_module('engine.runtimes')\n"},
    "engine reaches the server": {"engine/llm.py": "import engine.server\n", "engine/server/app.py": ""},
    "the server reaches the core": {"engine/server/app.py": "def f():\n    from engine.core import EngineCore\n"},
    "client imports core at the top": {"engine/client.py": "from engine.core import EngineCore\n"},
    "client imports core for types": {
        "engine/client.py": "import typing\nif typing.TYPE_CHECKING:\n    from engine.core import EngineCore\n"
    },
    "core in the wrong class": {"engine/client.py": LAZY_CORE.format(name="ProcessClient")},
    "a command imports the engine at the top": {"tgi_cli/generate.py": "from engine.llm import LLM\n"},
    "rich outside ui": {"tgi_cli/serve.py": "def f():\n    from rich.console import Console\n"},
    "bench imports ours": {"bench/load.py": "def f():\n    import engine.types\n"},
    "a new room without a rule": {"engine/magic.py": ""},
}


@pytest.mark.parametrize("files", BROKEN.values(), ids=BROKEN.keys())
def test_the_checker_catches(files, tmp_path):
    found = violations(tree(tmp_path, files))
    assert len(found) == 1
    assert found[0].startswith(next(iter(files)))


ALLOWED = {
    "core inside InlineClient": {"engine/client.py": LAZY_CORE.format(name="InlineClient")},
    "own room, relative": {"engine/sched/policy.py": "from .plan import Chunk\n", "engine/sched/plan.py": ""},
    "numpy in text.grammar": {"engine/text/grammar.py": "import numpy\nfrom engine.text import stop\n"},
    "a command's own imports": {
        "tgi_cli/generate.py": "def run():\n    from engine.llm import LLM\n    import bench\n"
    },
    "rich in ui": {"tgi_cli/ui.py": "from rich.console import Console\nfrom engine.errors import EngineError\n"},
    "a runtime by name": {"engine/runtimes/__init__.py": "def f():\n    import engine.runtimes.reference.worker\n"},
    "a command's types": {
        "tgi_cli/generate.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from engine.llm import LLM\n"
    },
    "the standard library": {"engine/hub.py": "import os, pathlib\n"},
}


@pytest.mark.parametrize("files", ALLOWED.values(), ids=ALLOWED.keys())
def test_the_checker_lets_pass(files, tmp_path):
    assert violations(tree(tmp_path, files)) == []


def test_help_imports_nothing_heavy():
    heavy = "numpy torch transformers triton tokenizers huggingface_hub rich starlette uvicorn"
    script = f"import sys\nimport tgi_cli.app\nprint(*[n for n in {heavy.split()!r} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.split() == []
