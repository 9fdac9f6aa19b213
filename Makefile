# `make demo` and `make test` do all the set-up they need in .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Modules are compiled when they are imported: most of what is installed never is.
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --no-compile

.PHONY: demo test lint docs clean

demo: $(VENV)/.installed
	$(BIN)/python -m jaxad.main --config configs/patchcore_elpv.py --workdir runs/demo

# Tests whose numbers a compiler may change have the programs that runs have (`native`), and
# where the CPU has AVX-512 also those of CPUs without it (`isa`). In all others LLVM leaves
# its expensive passes out: tests mostly compile. `pytest` alone takes all programs as they
# are.
PYTEST := $(BIN)/python -m pytest --numprocesses 2 --dist worksteal
MARKED := $(shell grep --recursive --files-with-matches --include='*.py' 'mark\.isa' tests)
HAS512 := $(shell grep -qs avx512f /proc/cpuinfo && echo yes)

test: $(VENV)/.installed-test
	JAX_DISABLE_MOST_OPTIMIZATIONS=1 $(PYTEST) -m "not isa and not native"
	$(PYTEST) -m "isa or native" $(MARKED)
	$(if $(HAS512),XLA_FLAGS=--xla_cpu_max_isa=AVX2 $(PYTEST) -m isa $(MARKED))

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
