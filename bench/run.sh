#!/bin/sh
# The benchmarks one after the other on one thread, each printing its figures and versions; LONG=1 at the size of those in results/.
set -eu
BIN=$(cd "${BIN:-.venv/bin}" && pwd)
export OMP_NUM_THREADS=1
if [ -n "${LONG:-}" ]; then set -- "efps.py" "ensembles.py" "samplers.py 9" "objectives.py" "generators.py 400" "generate.py" "tokenize.py" "toys_ablation.py" "jet_quality.py --seeds 3" "jet_quality.py --ablate"
else set -- "efps.py --quick" "ensembles.py --quick" "samplers.py 3 speed gradients" "objectives.py --quick" "toys_ablation.py --quick --seeds 1" "generators.py 20" "generate.py --quick" "tokenize.py --quick"; fi
for b; do
  echo "== $b"
  # shellcheck disable=SC2086
  PYTHONPATH=. "$BIN/python" bench/$b
done
