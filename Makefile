# make PYTHON=python3.12 ...    interpreter of a new .venv
# make unit PYTEST="-n 0 -x"    more arguments for pytest; with --hypothesis-profile=default, new random examples
# make test-neon BUILD=/tmp/oaq another folder for what test-kernels, test-neon and sanitize build
PYTHON ?= python3
PYTEST ?=
PARALLEL := -n auto --maxprocesses 4
BUILD ?= build

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install demo test unit slow test-avx2 faults fuzz test-kernels test-neon sanitize lint tables networks check-tables paper clean

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
INSTALL_INPUTS := pyproject.toml CMakeLists.txt $(wildcard src/oaq_repro/csrc/*)

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' Makefile

install: $(STAMP) ## create .venv when needed and install the package into it, editable

demo: $(STAMP) ## one detection run on embedded data, to a record, tables and figures
	$(BIN)/python -m oaq_repro task=detection

# Threads that wait for each other must not take the cores from the other processes.
unit slow test-avx2: export OMP_WAIT_POLICY ?= PASSIVE

test: lint check-tables unit slow ## everything that must pass before a merge

unit: $(STAMP) ## fast tests
	$(BIN)/python -m pytest --hypothesis-profile=ci -m "not slow" $(PARALLEL) $(PYTEST)

slow: $(STAMP) ## slow tests
	$(BIN)/python -m pytest --hypothesis-profile=ci -m slow $(PARALLEL) $(PYTEST)

test-avx2: $(STAMP) ## all tests with ONNX Runtime and torch restricted to AVX2, as on a CPU without VNNI
	OAQ_TEST_ISA=avx2 $(BIN)/python -m pytest --hypothesis-profile=ci $(PARALLEL) $(PYTEST)

faults: $(STAMP) ## kills, signals, full disks and damaged files, beside `make test`: 15 minutes
	$(BIN)/python -m pytest -o python_files="fault_*.py test_engine_sharing.py" tests/faults tests/integer $(PYTEST)

fuzz: $(STAMP) ## 20,000 random graphs in all modes, thousands of mutated graph and ONNX files: half an hour
	$(BIN)/python -m pytest -o python_files="fuzz_*.py" tests/fuzz $(PYTEST)

test-kernels: ## the C++ kernels, without Python
	$(call build_kernels,kernels)
	$(BUILD)/kernels/test_kernels

test-neon: ## the same, compiled for ARM and run by qemu
	@for tool in aarch64-linux-gnu-g++ qemu-aarch64; do command -v $$tool > /dev/null || { \
	  echo "$$tool not found: apt-get install g++-aarch64-linux-gnu qemu-user" >&2; exit 2; }; done
	$(call build_kernels,neon,--toolchain $(CURDIR)/tests/csrc/aarch64.cmake)
	qemu-aarch64 -L /usr/aarch64-linux-gnu -cpu cortex-a53 $(BUILD)/neon/test_kernels

# The sanitized module lies in a folder of its own, with a copy of the package. -S: else the finder of the editable
# install would come first. The sanitizer's runtime has to be loaded before all else, and libstdc++ for exceptions.
SANITIZE := $(BUILD)/sanitize
SANITIZED_TESTS := $(addprefix tests/integer/,reference/test_emulate.py engine/test_engine.py engine/test_engine_sharing.py engine/test_by_rows.py engine/test_search.py engine/test_packing.py engine/test_requantization.py \
  engine/test_explain.py engine/test_reorder.py onnx/test_importer.py onnx/test_import_operators.py test_main.py)

sanitize: $(STAMP) ## kernels, engine and ONNX import with address and undefined behaviour sanitizers
	$(call build_kernels,sanitize/kernels,-DOAQ_SANITIZE=ON)
	$(SANITIZE)/kernels/test_kernels
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation --upgrade \
	  --target $(SANITIZE)/package --config-settings=build-dir=$(SANITIZE)/module \
	  --config-settings=cmake.define.OAQ_SANITIZE=ON .
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" \
	  ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
	  PYTHONPATH=$(SANITIZE)/package:$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') \
	  $(BIN)/python -S -m pytest --hypothesis-profile=ci $(SANITIZED_TESTS) $(PYTEST)

lint: $(STAMP) ## formatting, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

tables: $(STAMP) ## results/tables, results/figures, DEVIATIONS.md, SURVEY.md, docs/networks.md, from records and configuration
	$(BIN)/python scripts/make_tables.py
	$(BIN)/python scripts/make_deviations.py
	$(BIN)/python scripts/networks.py page

networks: $(STAMP) ## convert, compare and time the networks of docs/networks.md that have no record yet: an hour
	$(BIN)/python scripts/networks.py check
	$(BIN)/python scripts/networks.py time
	$(BIN)/python scripts/networks.py page

check-tables: $(STAMP) ## whether they are what the committed records and the configuration give
	$(BIN)/python scripts/make_tables.py --check
	$(BIN)/python scripts/make_deviations.py --check
	$(BIN)/python scripts/networks.py page --check

paper: $(STAMP) ## what each row of the paper's tables needs and lacks; PAPER="--run --root imagenet=FOLDER" makes it
	$(BIN)/python scripts/reproduce_paper.py $(PAPER)

clean: ## remove builds and caches; .venv and results stay
	rm -rf build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find src tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +

# A build of tests/csrc: folder, more arguments for CMake.
define build_kernels
	cmake -S tests/csrc -B $(BUILD)/$(1) $(2)
	cmake --build $(BUILD)/$(1)
endef

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v < (3, 14) else \
	  "$(PYTHON) is Python %d.%d; 3.11 to 3.13 is needed, for example: make PYTHON=python3.12" % v)'
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

# The stamp is newer than what an installation depends on; Python sources are read where they lie.
$(STAMP): $(INSTALL_INPUTS) | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check --editable ".[train,segmentation,dev]"
	touch $@
