#!/bin/sh
# What is measured and checked where there is an NVIDIA GPU (ten minutes); print the figures into results/gpu.md with the card named.
set -eu
BIN=$(cd "${BIN:-.venv/bin}" && pwd)
export OMP_NUM_THREADS=1 PYTHONPATH=.
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
"$BIN/python" -m pytest -q tests/test_gpu.py tests/test_tokenizer.py tests/test_quantizers.py tests/test_gpt.py
"$BIN/nbdev-test" --flags gpu --n-workers 0
"$BIN/python" bench/generate.py --rounds 5 --device cuda
"$BIN/python" bench/tokenize.py --rounds 5 --jets 2048 --device cuda
"$BIN/python" bench/jet_ebm.py step --device cuda
"$BIN/python" bench/ensembles.py --members 100 --rounds 1 --device cuda
"$BIN/python" bench/efps.py --rounds 3 --device cuda
"$BIN/python" bench/objectives.py --rounds 3 --device cuda
"$BIN/python" bench/samplers.py 3 cuda
for s in toys jet-ebm joint vae tokens transfer muons; do "$BIN/hepebm" run $s --preset smoke --device cuda --out "${OUT:-runs}/$s-gpu" --no-resume; done
