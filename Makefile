# Targets to install, run, test and build dltrain. `make` without a target prints them.
SHELL := bash
.DEFAULT_GOAL := help

# The first Python that is 3.11 or newer; PYTHON=... on the command line overrides it.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
ARGS ?=
DIR ?= outputs
PORT ?= 6006
# Let Python write bytecode: each process that the tests start then imports dltrain 0.1 s faster.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help run train sweep tensorboard test test-faults test-all test-lowest coverage check lint format type docs bench wheel clean

help: ## print the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "dltrain needs Python 3.11 or newer" >&2; exit 2; }
	$(PYTHON) -m venv .venv

.venv/installed: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) --editable .
	@touch $@

.venv/installed-dev: .venv/installed
	$(PIP) --editable '.[dev]'
	@touch $@

run: .venv/installed ## install if needed, then train the default: model=lstm data=timeseries
	$(BIN)/dltrain $(ARGS)

train: .venv/installed ## train with ARGS: make train ARGS="model=gru data=timeseries"
	$(BIN)/dltrain $(ARGS)

sweep: .venv/installed ## train every combination in ARGS: make sweep ARGS="model=rnn,lstm,gru"
	$(BIN)/dltrain --multirun $(ARGS)

tensorboard: .venv/installed ## start TensorBoard for DIR (outputs) on localhost, PORT (6006)
	$(BIN)/tensorboard --logdir $(DIR) --host localhost --port $(PORT)

test: .venv/installed-dev ## run the default tests, which need only bundled data, in 3 to 5 minutes
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile $(ARGS)

test-faults: .venv/installed-dev ## run all tests of tests/faults, in a few minutes
	$(BIN)/python -m pytest tests/faults -m 'faults or not faults' --numprocesses 2 $(ARGS)

test-all: .venv/installed-dev ## run all tests, including slow tests and, if there is a GPU, GPU tests
	$(BIN)/python -m pytest -m '' $(ARGS)

test-lowest: ## run some tests in .venv-lowest, with the lowest allowed versions of the required dependencies
	$(PYTHON) -m venv .venv-lowest
	grep -oE '^    "[a-z-]+>=[0-9.]+' pyproject.toml | sed 's/ *"//; s/>=/==/' > .venv-lowest/lowest.txt
	.venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check --constraint .venv-lowest/lowest.txt \
		--editable '.[detection,music]' pytest pytest-xdist scikit-learn
	.venv-lowest/bin/python -m pytest --numprocesses 2 tests/config tests/cli/test_main.py tests/runs tests/plots $(ARGS)

coverage: .venv/installed-dev ## run the default tests; coverage.txt lists the files that are not fully covered
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --cov=dltrain --cov-report= $(ARGS)
	$(BIN)/coverage report --skip-covered > coverage.txt && tail -n 1 coverage.txt

check: lint type ## lint, and check formatting and types

lint: .venv/installed-dev ## check the style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: .venv/installed-dev ## apply ruff's lint fixes and format the code
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

type: .venv/installed-dev ## check the types
	$(BIN)/mypy

docs: .venv/installed ## generate docs/configuration.md from conf/ and the code
	$(BIN)/python docs/make_configuration.py

bench: .venv/installed ## compare the training speed of dltrain, a bare PyTorch loop and other installed trainers
	$(BIN)/python benchmarks/bench.py $(ARGS)

wheel: .venv/installed ## build dist/*.whl
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .

clean: ## remove caches and builds, but not .venv or the runs in outputs/
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
