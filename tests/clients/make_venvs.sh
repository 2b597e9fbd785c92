#!/usr/bin/env bash
# An environment for each file of requirements/, in the folder that is named; those that are up to date are kept.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=${1:?usage: make_venvs.sh FOLDER}

make_one() {
    local file=$1 venv=$folder/$(basename "$1" .txt)
    if cmp -s "$file" "$venv/requirements.txt"; then
        return
    fi
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install -q --no-deps -r "$file"
    "$venv/bin/pip" check
    cp "$file" "$venv/requirements.txt"
}

jobs=()
for file in "$here"/requirements/*.txt; do
    make_one "$file" &
    jobs+=("$!")
done
for job in "${jobs[@]}"; do
    wait "$job"
done
