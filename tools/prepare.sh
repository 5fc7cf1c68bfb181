#!/bin/sh
# What follows from the notebooks: badges, sidebar, README, clean cells, the modules.
set -eu
python tools/colab.py
nbdev-clean
nbdev-export
python tools/readme.py
