#!/bin/sh
# What is measured and checked where there is an NVIDIA GPU; print the figures into results/ with the card named.
set -eu
BIN=$(cd "${BIN:-.venv/bin}" && pwd)
export OMP_NUM_THREADS=1 PYTHONPATH=.
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
"$BIN/python" bench/samplers.py 9 cuda
"$BIN/python" bench/objectives.py --device cuda
"$BIN/python" bench/jet_ebm.py step --device cuda
"$BIN/python" bench/generate.py --device cuda
"$BIN/python" bench/tokenize.py --device cuda
"$BIN/nbdev-test" --flags gpu --n-workers 0
"$BIN/hepebm" run toys --preset smoke --device cuda --out "${OUT:-runs}/toys-gpu" --no-resume
"$BIN/hepebm" run jet-ebm --preset smoke --device cuda --out "${OUT:-runs}/jets-gpu" --no-resume
