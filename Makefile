# `make demo` runs the main job, `make test` everything CI runs. TORCH_INDEX chooses the build of torch (see README).
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
EXTRAS ?= mcmc,hep,gen,hdf,muon,video,bench,dev
STAMP := $(VENV)/.installed

.PHONY: install prepare demo test test-long docs bench bench-long clean help
help:   ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 12

$(STAMP): settings.ini constraints.txt setup.py pyproject.toml
	$(PYTHON) -m venv $(VENV)
	sh tools/install.sh "$(BIN)/python" "$(TORCH_INDEX)" "$(EXTRAS)"
	touch $@

install: $(STAMP)  ## .venv, and in it the package, held to constraints.txt

demo: $(STAMP)  ## install, then train a jet EBM on the shipped jets and write its report (12 minutes)
	$(BIN)/hepebm run jet-ebm --preset laptop --out runs/demo

prepare: $(STAMP)  ## after editing notebooks: badges, sidebar, README, clean cells, exported modules
	PATH="$(CURDIR)/$(BIN):$$PATH" sh tools/prepare.sh

test: $(STAMP)  ## export in sync, notebooks clean, every notebook's cells, the pytest files
	BIN="$(BIN)" sh tools/test.sh

test-long: $(STAMP)  ## the exhaustive checks too
	BIN="$(BIN)" LONG=1 sh tools/test.sh

docs: $(STAMP)  ## the documentation as an offline site in _site/
	BIN="$(BIN)" sh tools/docs.sh

bench: $(STAMP)  ## short benchmarks, printed as ratios to the reference
	BIN="$(BIN)" sh bench/run.sh

bench-long: $(STAMP)  ## the benchmarks whose figures are committed under bench/results
	BIN="$(BIN)" LONG=1 sh bench/run.sh

clean:  ## remove the environment and what was built
	rm -rf $(VENV) build dist _proc _docs _site _site_src *.egg-info
