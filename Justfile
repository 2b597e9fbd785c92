# Common tasks. `just` lists them; `just setup` comes first.

python := ".venv/bin/python"

_list:
    @just --list --unsorted

# Create .venv with the project (editable) and the test extras
setup:
    python3 -m venv .venv
    .venv/bin/pip install -q -c configs/constraints.txt -e '.[test]'

# Formatting, lint and types
check:
    .venv/bin/ruff format --check .
    .venv/bin/ruff check .
    .venv/bin/mypy

# The test suite without what is marked slow; `just test tests/sched` runs a part
test *arguments:
    {{ python }} -m pytest -n 2 {{ arguments }}

# Environments of clients whose requirements conflict with ours; `TGI_CLIENT_VENVS=.venv-clients just test` uses them
client-venvs folder=".venv-clients":
    tests/clients/make_venvs.sh {{ folder }}

# Every proof, however long it takes
prove *arguments:
    {{ python }} -m pytest -n 2 -m '' {{ arguments }}

# The native runtime's C++ under the sanitizers of addresses, undefined behaviour and threads
native-sanitize *arguments:
    {{ python }} -m pytest -m slow tests/runtimes/test_native_cpp.py -k sanitizer {{ arguments }}

# Serve the built-in model; `just serve MODEL --port 8080`
serve *arguments:
    .venv/bin/tgi serve {{ arguments }}

# How long the commands take to start
bench *arguments:
    {{ python }} -m bench.startup {{ arguments }}

# Renew the parts of docs/ that are made from the program
docs:
    {{ python }} tests/repo/generated_docs.py
