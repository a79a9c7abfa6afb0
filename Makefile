# `make demo` and `make test` do everything on a machine that has only Python (3.11 or newer) and its venv module.
PYTHON ?= python3
VENV ?= .venv
TORCH ?= $(shell grep '^torch==' constraints.txt)# another build: make install TORCH=torch==2.8.0
DEMO ?= five-modes# the recipe that the demo trains

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet
INSTALLED := $(VENV)/.installed
TESTABLE := $(VENV)/.testable
PYTEST_ARGS ?=
TEST_PROCESSES ?= 2# 0 runs all tests in one, which --pdb wants
DISTRIBUTED := -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help install install-test demo test check lint clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

install: $(INSTALLED) ## make .venv and install the project with the tested versions

install-test: $(TESTABLE) ## the same, with what testing needs

demo: install ## meta-train the five-mode benchmark, evaluate it, print the results
	$(BIN)/mcb train $(DEMO)

# Tests start some hundred processes: they compile the sources once, whatever the environment says.
test: install-test ## run the tests
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest $(DISTRIBUTED) $(PYTEST_ARGS)

check: install-test ## lint, format, types, layers: what CI checks
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

lint: install-test ## mend what ruff can mend
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean: ## remove the environment and the caches (not the runs)
	rm -rf $(VENV) .pytest_cache .ruff_cache .import_linter_cache

# Torch comes first and by its own constraint, so that nothing below it can pull another build of it.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(TORCH)
	grep -v '^torch==' constraints.txt > $(VENV)/constraints.txt
	$(PIP) -c $(VENV)/constraints.txt -e .
	@touch $@

$(TESTABLE): $(INSTALLED)
	$(PIP) -c $(VENV)/constraints.txt -e '.[test]'
	@touch $@
