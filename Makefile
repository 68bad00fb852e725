# `make quickstart` trains, aligns and reports a small model; `make test` checks everything that is fast.
# The environment in .venv is made on first use and installed again only when the dependencies change.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: quickstart test test-slow lint bench clean

quickstart: $(VENV)/.installed-report
	$(BIN)/bloomery run recipes/quickstart.toml

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -q --durations=10

test-slow: $(VENV)/.installed-test
	$(BIN)/python -m pytest -q --durations=20 -m "slow or not slow"

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .

# make bench CASE=mfu ARGS="--pairs 5 --wait 600"; the peers have an environment of their own, .venv-bench
bench: $(VENV)-bench/.installed
	$(VENV)-bench/bin/python -m benchmarks $(CASE) $(ARGS)

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path "./$(VENV)*/*" -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "error: $(PYTHON) is not Python 3.11 or newer; try make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-report: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable '.[report]'
	touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable '.[test,report]'
	touch $@ $(VENV)/.installed-report

$(VENV)-bench/.installed: pyproject.toml constraints.txt benchmarks/peers.txt | $(BIN)/python
	$(PYTHON) -m venv $(VENV)-bench
	$(VENV)-bench/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
	    --editable . --requirement benchmarks/peers.txt
	touch $@
