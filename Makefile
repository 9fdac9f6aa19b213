# `make demo` and `make test` do all the set-up they need in .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check

.PHONY: demo test lint docs clean

demo: $(VENV)/.installed
	$(BIN)/python -m jaxad.main --config configs/patchcore_elpv.py --workdir runs/demo

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest --numprocesses 2

lint: $(VENV)/.installed-test
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

docs: $(VENV)/.installed-docs
	rm -rf docs/api
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs build/docs

clean:
	rm -rf $(VENV) runs build docs/api

$(BIN)/python:
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; \
	sys.exit(None if (3, 11) <= v <= (3, 13) else "jaxad needs Python 3.11 to 3.13; this is %d.%d, name another one with make PYTHON=..." % v)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml setup.py | $(BIN)/python
	$(PIP) --editable .
	touch $@

$(VENV)/.installed-test: pyproject.toml setup.py | $(BIN)/python
	$(PIP) --editable '.[test]'
	touch $@ $(VENV)/.installed

$(VENV)/.installed-docs: pyproject.toml setup.py | $(BIN)/python
	$(PIP) --editable '.[docs]'
	touch $@ $(VENV)/.installed
