# make run: the main job on 5,000 images of MNIST.  make test: the whole suite.  Both build .venv when it is missing or stale.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
PYTEST_ARGS ?= -n 2

.PHONY: run test bench-losses bench-selection clean

run: $(VENV)/.train
	$(BIN)/python -m spectral_jax.main $(ARGS)

test: $(VENV)/.test
	$(BIN)/python -m pytest $(PYTEST_ARGS)

bench-losses: $(VENV)/.bench
	$(BIN)/python benchmarks/losses.py $(ARGS)

bench-selection: $(VENV)/.bench
	$(BIN)/python benchmarks/selection.py $(ARGS)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

# Each mark names a set of extras; it is renewed when the requirements change.
$(VENV)/.train: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[train]' --constraint constraints.txt
	@touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[train,tf,dev]' --constraint constraints.txt
	@touch $@ $(VENV)/.train

$(VENV)/.bench: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[train,dev,bench]' --constraint constraints.txt
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info
