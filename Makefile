# gptmill: `make demo` runs the main job on the embedded corpus, `make test` passes the tests.
# Python 3.11 to 3.13 (PYTHON=python3.12 picks one), Java 17 or newer, make; nothing else.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
AIRFLOW ?= .venv-airflow
AIRFLOW_VERSION ?= 3.3.2
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# uv and mlflow from the environment itself, whatever the caller's PATH holds.
export PATH := $(abspath $(BIN)):$(PATH)
PYTEST := $(BIN)/python -m pytest -q -n 2 --dist loadgroup

.PHONY: help install install-dev demo check test test-airflow bench lock docs clean

help:
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else f"error: {sys.executable} is Python {v[0]}.{v[1]}; gptmill needs 3.11 to 3.13: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(BIN)/python pyproject.toml requirements.lock
	$(PIP) install --quiet --constraint requirements.lock --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) install --quiet --constraint requirements.lock --editable '.[dev]'
	@touch $@

install: $(VENV)/.installed ## install gptmill into .venv, pinned by requirements.lock

install-dev: $(VENV)/.installed-dev ## and what the tests need

demo: ## install, then run recipes/demo.yaml: raw text to a registered classifier
	@$(PYTHON) pipelines/java.py
	@$(MAKE) --no-print-directory install
	@$(BIN)/gptmill run recipes/demo.yaml

check: install-dev ## lint, types, import contracts, and the tests without engines
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(PYTEST) -m 'not (spark or ray or train or mlflow or pipeline or airflow)'

test: check ## check, then the tests with the real engines
	$(PYTEST) -m 'spark or ray or train or mlflow or pipeline'

$(AIRFLOW)/bin/airflow: $(VENV)/.installed-dev
	$(BIN)/uv venv --quiet --clear $(AIRFLOW)
	$(BIN)/uv pip install --quiet --python $(AIRFLOW)/bin/python apache-airflow==$(AIRFLOW_VERSION)

test-airflow: $(AIRFLOW)/bin/airflow ## a recipe under a real Airflow, in an environment of its own: .venv-airflow
	AIRFLOW_COMMAND=$(abspath $<) $(BIN)/python -m pytest -q -m airflow tests/pipelines/test_airflow.py

bench: install-dev ## make bench NAME=...: one script of benchmarks/
	@test -f 'benchmarks/$(NAME).py' || { echo "error: NAME=$(NAME) is no benchmark; there are: $$(cd benchmarks && ls *.py 2>/dev/null | sed 's/\.py$$//' | xargs)"; exit 2; }
	$(BIN)/python benchmarks/$(NAME).py

lock: install-dev ## pin what pyproject.toml names and requirements.lock does not yet; UPGRADE=1 pins all anew
	cp $(if $(UPGRADE),/dev/null,requirements.lock) requirements.lock.new
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --quiet --no-annotate --no-header \
	  --output-file requirements.lock.new
	grep -vE '^(nvidia-|cuda-|triton==)' requirements.lock.new > requirements.lock # torch itself brings the CUDA packages
	rm requirements.lock.new

docs: install ## write the generated docs
	$(BIN)/gptmill schema --markdown > docs/recipe.md

clean: ## remove .venv and caches; workspace/ is yours
	rm -rf $(VENV) $(AIRFLOW) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
