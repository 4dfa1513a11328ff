#!/usr/bin/env bash
# Builds the wheel, installs it into a virtual environment of its own, and uses it from an empty directory:
# nothing of the working tree may be needed, or be found by accident.
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD
llama_wheel=$(ls "$(make -s llama-wheel-dir)"/llama_cpp_python-*.whl)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

.venv/bin/python -m pip wheel -qq --disable-pip-version-check --no-deps --no-build-isolation \
    --wheel-dir "$work/dist" .
wheel=$(ls "$work"/dist/edgesteer-*-cp311-abi3-*.whl)
"$root/.venv/bin/python" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -qq --disable-pip-version-check -c "$root/constraints.txt" \
    "$llama_wheel" "$wheel"

mkdir "$work/empty"
cd "$work/empty"
export PATH="$work/venv/bin:$PATH"
python "$root/tests/checks/compiled_tap.py"
python - "$root" <<'PYTHON'
import importlib.util
import sys
import edgesteer, edgesteer.bundle, edgesteer_converters, edgesteer_models

for module in (edgesteer, edgesteer_converters, edgesteer_models):
    assert not module.__file__.startswith(sys.argv[1] + "/"), f"{module.__file__} is the working tree's"
for name in ("models", "converters", "tests"):
    assert importlib.util.find_spec(name) is None, f"the wheel claims the name {name}"
assert importlib.util.find_spec("torch") is None, "the runtime pulls in torch"
PYTHON
edgesteer --help >/dev/null
edgesteer models list --json >/dev/null
for bundle in pirate pirate-constant; do
    edgesteer verify "$bundle"
    edgesteer inspect "$bundle" --json >/dev/null
done
edgesteer models get smollm2-135m-instruct >/dev/null
edgesteer doctor smollm2-135m-instruct pirate -t 1
edgesteer run smollm2-135m-instruct --steer pirate -p "Who are you?" -n 8 -t 1
[ -z "$(ls -A)" ] || { echo "files were written into the working directory: $(ls -A)" >&2; exit 1; }
echo "wheel: $(basename "$wheel") works from an empty directory"
