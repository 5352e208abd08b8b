# These commands do all set-up on a fresh machine with Python 3.11 or later:
#   make demo        install, then baseline against SLA on the embedded data set, offline
#   make test        install, then the whole test suite: minutes on two cores
#   make test-fast   only the tests that neither train nor start a process: under a minute
# VENV=folder puts the environment elsewhere; PYTHON=python3.12 takes another interpreter.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
# Test processes at a time, each of one thread: one more than there are cores, since some tests mostly wait for processes of
# their own; 8 at most. WORKERS=0: none but this.
WORKERS ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)
# By files, so that what a file trains once is not trained by two, and in the order of tests/conftest.py: the longest first.
# Compiled files are kept whatever the environment says: each of these processes, and the twenty that tests start, would
# compile all anew.
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 8 --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-fast test-ray ray lint docs speed leaderboard clean help

demo: $(VENV)/.slabench
	$(BIN)/slabench demo

test: $(VENV)/.test
	$(PYTEST)

test-fast: $(VENV)/.test
	$(PYTEST) -m 'not slow'

# Ray and its tests alone; once it is there, `make test` runs them too.
test-ray: ray
	$(BIN)/python -m pytest tests/test_executor_ray.py

ray: $(VENV)/.ray

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The pages of docs/ and those made from the registries, into build/site. A warning is an error.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

speed: $(VENV)/.test
	$(BIN)/python benchmarks/speed/run_all.py

# What is committed beside the records, made from them.
leaderboard: $(VENV)/.slabench
	$(BIN)/slabench leaderboard --results results --format csv -o results/leaderboard.csv
	$(BIN)/python benchmarks/analysis/paired.py --results results -o results/paired.csv > /dev/null
	$(BIN)/python benchmarks/analysis/curves.py --results results
	$(BIN)/python benchmarks/analysis/tables.py README.md docs/results*.md
	$(BIN)/python benchmarks/analysis/pictures.py --results results

# An environment with pip in it; scripts/make_venv.sh knows what to do on a Debian without ensurepip.
$(VENV)/.made:
	PYTHON=$(PYTHON) sh scripts/make_venv.sh $(VENV)
	@touch $@

# Editable: an edit needs no new installation, only another pyproject.toml does. tests/test_packaging.py tries the wheel.
$(VENV)/.slabench: $(VENV)/.made pyproject.toml
	$(BIN)/python -m pip install --quiet --upgrade-strategy only-if-needed -e .
	@touch $@

$(VENV)/.test: $(VENV)/.made pyproject.toml
	$(BIN)/python -m pip install --quiet --upgrade-strategy only-if-needed -e '.[dev]'
	-sh scripts/install_learn2learn.sh $(BIN)/python
	@touch $(VENV)/.slabench $@

# 240 MB, and not for every Python: no part of the extra `dev`.
$(VENV)/.ray: $(VENV)/.test
	$(BIN)/python -m pip install --quiet -e '.[ray]'
	@touch $@

$(VENV)/.docs: $(VENV)/.slabench
	$(BIN)/python -m pip install --quiet -e '.[docs]'
	@touch $@

clean:
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis

help:
	@sed -n 's/^# *make/make/p;s/^#   make/make/p' Makefile
	@echo "also: test-ray, lint, docs, speed, leaderboard, clean"
