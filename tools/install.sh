#!/bin/sh
# install.sh PYTHON TORCH_INDEX EXTRAS: the package with its extras, held to constraints.txt.
# torch comes first: the build that TORCH_INDEX is named for (.../cpu, .../cu130) from pip's own sources if they have it,
# else from TORCH_INDEX, else whatever build pip's own sources have. TORCH_INDEX=none leaves the choice to pip alone.
set -eu
python=$1 index=${2%/} extras=$3
torch=$(grep '^torch==' constraints.txt | head -n 1)
pip() { "$python" -m pip install -q --disable-pip-version-check "$@"; }

echo "installing into $(dirname "$(dirname "$python")"): torch first, then the rest (2 to 5 minutes)"
pip --upgrade "pip>=24"
if [ "$index" = none ]; then pip "$torch"
else
  pip --no-deps "$torch+${index##*/}" 2>/dev/null ||
  pip --no-deps --retries 1 --index-url "$index" "$torch" ||
  { echo "$index does not answer: taking torch from pip's own sources"; pip "$torch"; }
fi
PYTHONWARNINGS=ignore pip -c constraints.txt --only-binary pythia8mc,fastjet,wasserstein,tables -e ".[$extras]"
"$python" -c 'import torch; print("installed: torch", torch.__version__, "cuda" if torch.cuda.is_available() else "cpu")'
