"""A checkpoint of Hugging Face as OpenVINO models: `PYTHON -m bench.peers.openvino_files CHECKPOINT OUT`.

Runs where `optimum-intel`, `nncf` and `openvino-tokenizers` are installed; they do the work.
"""

import shutil
import subprocess
import sys
from pathlib import Path

# Embedding and head are int8 in the 4-bit models, as optimum makes them. Groups of 32 are what we compare with;
# groups of 64 read fewer scales.
FORMATS: dict[str, tuple[str, ...]] = {
    "fp16": ("--weight-format", "fp16"),
    "int8": ("--weight-format", "int8"),
    "int4-g32": ("--weight-format", "int4", "--sym", "--group-size", "32", "--ratio", "1.0"),
    "int4-g64": ("--weight-format", "int4", "--sym", "--group-size", "64", "--ratio", "1.0"),
}


def convert(checkpoint: Path, out: Path) -> None:
    """Raises CalledProcessError where an export fails."""
    program = Path(sys.executable).parent / "optimum-cli"
    for name, options in FORMATS.items():
        if (out / name).exists():
            continue
        partial = out / f"{name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        command = [str(program), "export", "openvino", "--model", str(checkpoint)]
        command += ["--task", "text-generation-with-past", *options, str(partial)]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)  # noqa: S603  # the peer's own converter
        partial.rename(out / name)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
