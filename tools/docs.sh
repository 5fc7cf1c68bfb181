#!/bin/sh
# The documentation as a site in _site/ that needs neither Quarto nor, once installed, the network.
set -eu
BIN=$(cd "${BIN:-.venv/bin}" && pwd)
PATH="$BIN:$PATH"; export PATH
export PLOTLY_RENDERER=plotly_mimetype MPLBACKEND=agg OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
python -c 'import myst_nb, sphinx_book_theme, sphinx_design, sphinx_copybutton' 2>/dev/null || {
  echo "installing Sphinx and its theme"; PYTHONWARNINGS=ignore python -m pip install -q -c constraints.txt -e ".[docs]"; }
rm -rf _site_src _site && mkdir -p _site_src/_static
python tools/sidebar.py
PYTHONWARNINGS=ignore::UserWarning python -c 'from nbdev.serve import proc_nbs; proc_nbs()'
python tools/to_myst.py _proc _site_src
python - <<'PY'
# what a page would else load from the network: MathJax in one file, plotly.js
import shutil
from importlib.metadata import distribution
from pathlib import Path
here, static = distribution('sphinx-mathjax-offline'), Path('_site_src/_static')
shutil.copy(here.locate_file('sphinx-mathjax-offline/static/mathjax/tex-svg.js'), static)
shutil.copy(distribution('plotly').locate_file('plotly/package_data/plotly.min.js'), static)
shutil.copy('nbs/styles.css', static)
PY
python -m sphinx -q -c tools -b html _site_src _site
rm -rf jupyter_execute
echo "open _site/index.html"
