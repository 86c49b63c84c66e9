#!/usr/bin/env bash
# All that needs a card, in one run of under 6 minutes on a machine that has torch and Triton and no package index: the
# CUDA tests, second moment normalisation beside BatchNorm, and `verify --device cuda` on a ResNet-50 and on a fixed
# network. Results go to the folder named first (default: reports/benchmarks); a part that fails does not stop the rest.
#
#     pip install --target .gpu_packages --only-binary :all: --no-deps pytest iniconfig pluggy packaging pygments click \
#         jinja2 markupsafe jsonschema jsonschema-specifications referencing rpds-py attrs markdown-it-py mdurl onnx \
#         onnx-graphsurgeon protobuf ml-dtypes pyyaml typing-extensions         # before, where there is an index
#     tests/benchmarks/gpu.sh [FOLDER]
#
# Without .gpu_packages only the benchmark runs, which needs nothing but torch, numpy and Triton.
set -uo pipefail
cd "$(dirname "$0")/../.."
out=${1:-reports/benchmarks}
python=${PYTHON:-python3}
export PYTHONPATH="$PWD:$PWD/.gpu_packages${PYTHONPATH:+:$PYTHONPATH}"
mkdir -p "$out"
failed=0

part() { # seconds, name, command
  local seconds=$1 name=$2 begin=$SECONDS
  shift 2
  echo "== $name"
  timeout "$seconds" "$@" || { echo "== $name failed ($?)" >&2; failed=1; }
  echo "== $name: $((SECONDS - begin)) s"
}

nvidia-smi --query-gpu=name,driver_version --format=csv,noheader || true
"$python" -c 'import torch, triton; print("torch", torch.__version__, "triton", triton.__version__)' || exit 2
"$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || { echo "there is no card" >&2; exit 2; }

part 120 "second moment normalisation" "$python" -m tests.benchmarks.smn --device cuda --rounds 20 -o "$out/smn.json"
if "$python" -c 'import click, onnx, pytest, yaml' 2>/dev/null; then
  part 60 "kernels" "$python" -m pytest -q -p no:cacheprovider --device cuda tests/nn/test_on_triton.py
  part 60 "CUDA tests" "$python" -m pytest -q -p no:cacheprovider --device cuda tests/measure/test_cuda.py
  part 60 "verify a ResNet-50" "$python" -m gnelint verify tests/models/resnet.py:resnet50 --input 2,3,224,224 \
    --device cuda --format json -o "$out/gpu_verify.json"
  folder=$(mktemp -d)
  trap 'rm -rf "$folder"' EXIT
  part 30 "a network to fix" "$python" tests/models/plain_onnx.py "$folder/plain50.onnx"
  part 30 "its fix" "$python" -m gnelint fix "$folder/plain50.onnx" -o "$folder/fixed.onnx" --no-verify
  part 60 "verify a fixed network" "$python" -m gnelint verify "$folder/plain50.onnx" "$folder/fixed.onnx" --device cuda
else
  echo "== tests and verify are skipped: the packages above are missing" >&2
  failed=1
fi
exit "$failed"
