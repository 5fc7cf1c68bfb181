#!/bin/sh
# install.sh PYTHON TORCH_INDEX EXTRAS: the package with its extras, held to constraints.txt.
# torch comes first, as the CPU build: from pip's own sources when they have it, else from TORCH_INDEX.
# TORCH_INDEX=none leaves the choice of torch to pip alone.
set -eu
python=$1 index=$2 extras=$3
torch=$(grep -E '^torch==' constraints.txt | head -n 1 | cut -d';' -f1 | tr -d ' ')
"$python" -m pip install -q --upgrade "pip>=24" "setuptools>=77"
if [ "$index" = none ]; then "$python" -m pip install -q -c constraints.txt "$torch"
else
  "$python" -m pip install -q -c constraints.txt --no-deps "$torch+cpu" 2>/dev/null ||
  "$python" -m pip install -q -c constraints.txt --index-url "$index" --no-deps "$torch"
fi
"$python" -m pip install -q -c constraints.txt --only-binary pythia8mc -e ".[$extras]"
