#!/bin/sh
# What `make test` and CI run: export in sync, notebooks clean, notebooks and pytest files pass.
set -eu
BIN=$(cd "${BIN:-.venv/bin}" && pwd)
PATH="$BIN:$PATH"; export PATH
export PLOTLY_RENDERER=plotly_mimetype MPLBACKEND=agg OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
"$BIN/python" tools/in_sync.py
if [ -n "${LONG:-}" ]; then exec "$BIN/python" -m pytest -q -n 2 --dist worksteal --durations=15
else exec "$BIN/python" -m pytest -q -n 2 --dist worksteal --durations=10 -m "not long"
fi
