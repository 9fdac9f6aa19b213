# `make demo` and `make test` do all the set-up they need in .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check

.PHONY: demo test lint docs clean

demo: $(VENV)/.installed
	$(BIN)/python -m jaxad.main --config configs/patchcore_elpv.py --workdir runs/demo

# Where numbers are compared, programs are those that a run has. Elsewhere LLVM leaves its
# expensive passes out: tests mostly compile. `pytest` alone takes them all as they are.
PYTEST := $(BIN)/python -m pytest --numprocesses 2 --dist worksteal
NUMERICS := $(addprefix tests/,augment/test_colour.py augment/test_geometry.py \
	augment/test_poisson.py bank detectors devices/test_rows.py devices/test_sharding.py \
	models test_losses.py test_patches.py test_scores.py)
ISA := $(addprefix tests/,detectors models/test_efficientnet.py models/test_winograd.py)

test: $(VENV)/.installed-test
	JAX_DISABLE_MOST_OPTIMIZATIONS=1 $(PYTEST) $(addprefix --ignore=,$(NUMERICS))
	$(PYTEST) $(NUMERICS)
ifeq ($(shell uname -m),x86_64)  # and as CPUs with fewer instructions have them
	XLA_FLAGS=--xla_cpu_max_isa=AVX2 $(PYTEST) -m isa $(ISA)
	XLA_FLAGS=--xla_cpu_max_isa=SSE4_2 $(PYTEST) -m isa $(ISA)
endif

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
