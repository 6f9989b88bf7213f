# Needs Python 3.11 or newer and make; every target makes its own environment first.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
export MLFLOW_DISABLE_TELEMETRY ?= true
export PIP_DISABLE_PIP_VERSION_CHECK ?= 1

.PHONY: help setup demo test test-all lint fmt bench

help: ## print the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(STAMP) ## make the environment

# The range of torch in pyproject.toml lets pip take a CPU wheel where one is on disk (for example
# by PIP_FIND_LINKS); uv reads another variable for the same thing.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one with make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $@

demo: $(STAMP) ## trace students and forecast series of the embedded samples: two HTML reports
	$(BIN)/kt-forecast demo

test: lint ## lint, types, import directions and the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto

test-all: lint ## as test, with the tests that take minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto -m ''

lint: $(STAMP) ## check style, import directions and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy

fmt: $(STAMP) ## put the style right
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP) ## measure speed and memory against plain loops; takes minutes
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/bench_data.py --rows 20000000
	$(BIN)/python tests/benchmarks/bench_help.py
	$(BIN)/python tests/benchmarks/bench_training.py
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/bench_forecast.py
	$(BIN)/python tests/benchmarks/bench_audit.py
	$(BIN)/python tests/benchmarks/bench_kernels.py --seconds 300
	$(BIN)/python tests/benchmarks/bench_attend.py --seconds 600
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/bench_logging.py
	for study in reuse budget needle latency growth; do $(BIN)/python -m kt_forecast.studies $$study || exit; done
