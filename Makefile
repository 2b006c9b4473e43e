# make run: the main job on 5,000 images of MNIST.  make test: the whole suite.  make lint, make docs: style and types,
# the site. All build .venv when it is missing or stale.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
PYTEST_ARGS ?= -n 2 --dist=worksteal

.PHONY: run test lint docs bench-losses bench-selection clean

run: $(VENV)/.train
	$(BIN)/python -m spectral_jax.main $(ARGS)

test: $(VENV)/.test
	$(BIN)/python -m pytest $(PYTEST_ARGS)

# Names, imports, lines and types; changes nothing.
lint: $(VENV)/.test
	$(BIN)/python -m ruff check .
	$(BIN)/python -m pyright --pythonpath $(BIN)/python

# The site, in docs/_build. A warning is an error, and so is a page that would fetch something when it is looked at.
docs: $(VENV)/.docs
	JAX_PLATFORMS=cpu $(BIN)/python -m sphinx -b html -W --keep-going -q docs docs/_build/html
	! grep -rnE '<(script|link|img|iframe|source)[^>]+(src|href)="(https?:)?//' docs/_build --include='*.html'
	@echo docs/_build/html/index.html

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

$(VENV)/.docs: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[train,docs]' --constraint constraints.txt
	@touch $@

$(VENV)/.bench: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[train,dev,bench]' --constraint constraints.txt
	@touch $@

clean:
	rm -rf $(VENV) build docs/_build docs/notebooks docs/_readme.md docs/contributing.md docs/changelog.md *.egg-info
