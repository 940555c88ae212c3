# Needs only make and Python 3.10 to 3.12. Variables: PYTHON, VENV, PIP_FLAGS.
SHELL := /bin/bash
VENV ?= .venv
PYTHON ?= $(shell for p in python3.11 python3.12 python3.10 python3 python; do \
	if $$p -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' >/dev/null 2>&1; then \
	echo $$p; break; fi; done)
PIP_FLAGS ?=
BIN := $(VENV)/bin
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install $(PIP_FLAGS)
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help venv install demo test check format wheel clean

help:
	@echo "make demo     install, then a photograph becomes an animated avatar (out/demo)"
	@echo "make test     install, then the test suite"
	@echo "make check    ruff, types, import order"
	@echo "make wheel    build the wheel into dist/"
	@echo "make clean    remove build products and caches (clip sets, avatars and the environment stay)"

$(BIN)/python:
	@if [ -z "$(PYTHON)" ]; then echo "geodiff needs Python 3.10, 3.11 or 3.12, and none was found on the PATH: \
	install one, or name it with make PYTHON=/path/to/python3.11" >&2; exit 2; fi
	$(PYTHON) -m venv $(VENV)

# torch brings its own dependencies, because they differ between its CPU and CUDA builds. Everything else is the lock
# file as it stands: mediapipe's metadata asks for packages that geodiff does not use (see docs/install.md).
$(STAMP): pyproject.toml constraints.txt requirements.lock | $(BIN)/python
	$(PIP) --constraint constraints.txt torch
	$(PIP) --no-deps --requirement requirements.lock
	$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

venv: $(BIN)/python

install: $(STAMP)

demo: install
	$(BIN)/python scripts/demo.py --out out/demo

test: install
	$(BIN)/python -m pytest $(PYTEST_FLAGS)

check: install
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_imports.py

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel: install
	$(BIN)/python -m pip wheel --no-deps --no-build-isolation --wheel-dir dist .

clean:
	rm -rf build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -print0 | xargs -0 rm -rf
