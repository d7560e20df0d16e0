#!/usr/bin/env bash
# Prepares a GPU machine without a network for `bench/gpu_session.py`, from wheels that are carried there.
#
#   bench/gpu_machine.sh pack WHEELS [PYTHON]      here: downloads all wheels into the folder WHEELS
#   bench/gpu_machine.sh install WHEELS [PYTHON]   there: makes .venv from them; nothing is downloaded
#
# Both run in a checkout, with the same version of Python (3.11 or 3.12) on Linux x86_64. `pack` takes torch as the package
# index has it, which for Linux is the build with CUDA; TORCH=torch==2.13.0+cpu (with PIP_EXTRA_INDEX_URL) takes another.
set -euo pipefail
cd "$(dirname "$0")/.."

[[ $# -ge 2 && ( $1 == pack || $1 == install ) ]] || { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }
action=$1 python=${3:-python3}
mkdir -p "$2"
wheels=$(cd "$2" && pwd)
constraints=$(mktemp)
trap 'rm -f "$constraints"' EXIT

# Its version for the GPU is a package of another name, and writes into the same folder; so both are left out here.
sed -E '/^(torch|onnxruntime)==/d' constraints.txt > "$constraints"
torch=${TORCH:-$(sed -nE 's/^(torch==[^;]*).*/\1/p' constraints.txt)}
onnxruntime=${ONNXRUNTIME:-onnxruntime-gpu[cuda,cudnn]}
tools=(pip hatchling editables)

if [[ $action == pack ]]; then
    pip() { "$python" -m pip --disable-pip-version-check "$@"; }
    # one resolution for all, so that there is one version of everything
    pip wheel --quiet --wheel-dir "$wheels" -c "$constraints" --only-binary=:all: "${tools[@]}" "$torch" "$onnxruntime" \
        tritonclient[grpc] ./client ./export ./server ./bench -r bench/report/requirements.txt
    # what carries perf_analyzer, for a glibc from 2.38 on and for an older one; it is unpacked, not installed
    pip download --quiet --no-deps --only-binary=:all: --dest "$wheels/perf_analyzer" tritonclient==2.51.0
    pip download --quiet --no-deps --only-binary=:all: --dest "$wheels/perf_analyzer" \
        --platform manylinux_2_38_x86_64 perf-analyzer==2.60.0
    rm -f "$wheels"/vitriton*.whl # they are installed from the checkout
    du -sh "$wheels" | cut -f1 | sed 's/$/ in '"${2//\//\\/}"'; carry it and the checkout over, then run: bench\/gpu_machine.sh install/'
    exit
fi

"$python" -m venv .venv
pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }
export PIP_NO_INDEX=1 PIP_FIND_LINKS=$wheels
pip install --quiet "${tools[@]}"
pip install --quiet -c "$constraints" "$torch" -e ./client -e ./export -e ./server -e ./bench \
    -r bench/report/requirements.txt --no-build-isolation
# whichever of the two is installed last has the folder
pip uninstall --quiet --yes onnxruntime
pip install --quiet --force-reinstall --no-deps "${onnxruntime%%[*}"
pip install --quiet -c "$constraints" "$onnxruntime"
PIP_FIND_LINKS=$wheels/perf_analyzer .venv/bin/python - <<'PYTHON'
import onnxruntime
import torch
from vitriton_bench._perf_analyzer.program import cache_folder, from_wheel

print("perf_analyzer", from_wheel(cache_folder(), print).version)
print("torch", torch.__version__, torch.cuda.get_device_name(0) if torch.cuda.is_available() else "sees no GPU")
print("onnxruntime", onnxruntime.__version__, *onnxruntime.get_available_providers())
PYTHON
