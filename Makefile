# make PYTHON=python3.12 ...    interpreter of a new .venv
# make unit PYTEST="-n 2 -x"    more arguments for pytest
PYTHON ?= python3
PYTEST ?=

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install demo test unit slow lint clean

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
INSTALL_INPUTS := pyproject.toml CMakeLists.txt $(wildcard src/oaq_repro/csrc/*)

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  %-10s %s\n", $$1, $$2}' Makefile

install: $(STAMP) ## create .venv when needed and install the package into it, editable

demo: $(STAMP) ## one detection run on embedded data, to a record, tables and figures
	$(BIN)/python -m oaq_repro task=detection

test: lint unit slow ## everything that must pass before a merge

unit: $(STAMP) ## fast tests
	$(BIN)/python -m pytest -m "not slow" $(PYTEST)

slow: $(STAMP) ## slow tests
	$(BIN)/python -m pytest -m slow $(PYTEST)

lint: $(STAMP) ## formatting, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

clean: ## remove builds and caches; .venv and results stay
	rm -rf build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find src tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v < (3, 14) else \
	  "$(PYTHON) is Python %d.%d; 3.11 to 3.13 is needed, for example: make PYTHON=python3.12" % v)'
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

# The stamp is newer than what an installation depends on; Python sources are read where they lie.
$(STAMP): $(INSTALL_INPUTS) | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check --editable ".[segmentation,dev]"
	touch $@
