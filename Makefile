# Two commands do all set-up on a fresh machine with Python 3.11 or later:
#   make demo    install, then baseline against SLA on the embedded data set, offline
#   make test    install, then the whole test suite
# VENV=folder puts the environment elsewhere; PYTHON=python3.12 takes another interpreter.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
SOURCES := pyproject.toml README.md $(shell find slabench benchmarks episodes results -type f \
	-not -name '*.pyc' -not -path '*/checkpoints/*' 2>/dev/null | sed 's/ /\\ /g')

.PHONY: demo test lint docs speed leaderboard clean help

demo: $(VENV)/.slabench
	$(BIN)/slabench demo

test: $(VENV)/.test
	$(BIN)/python -m pytest

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

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
	$(BIN)/python benchmarks/analysis/tables.py docs/results.md

# An environment with pip in it; scripts/make_venv.sh knows what to do on a Debian without ensurepip.
$(VENV)/.made:
	PYTHON=$(PYTHON) sh scripts/make_venv.sh $(VENV)
	@touch $@

# The package itself, as any user installs it; again whenever one of its files has changed.
$(VENV)/.slabench: $(VENV)/.made $(SOURCES)
	$(BIN)/python -m pip install --quiet --upgrade-strategy only-if-needed .
	@touch $@

$(VENV)/.test: $(VENV)/.slabench
	$(BIN)/python -m pip install --quiet '.[dev]'
	-sh scripts/install_learn2learn.sh $(BIN)/python
	@touch $@

$(VENV)/.docs: $(VENV)/.slabench
	$(BIN)/python -m pip install --quiet '.[docs]'
	@touch $@

clean:
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis

help:
	@sed -n 's/^# *make/make/p;s/^#   make/make/p' Makefile
	@echo "also: lint, docs, speed, leaderboard, clean"
