# Each target sets up what it needs in .venv from a bare Python 3.11 with pip, then does its job.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input -c constraints.txt
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-site lint contract docs serve bench figures mutants clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /	/' | expand -t 12

demo: $(VENV)/.run  ## train on real digits, compare seven samplers, write a report
	$(BIN)/probjax run digits

test: $(VENV)/.test  ## the tests and every documentation snippet
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

test-slow: $(VENV)/.test  ## what takes minutes: killed runs, equal bits, deliberate mistakes, the demo's quality
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "(slow or bits) and not browser"

test-site: $(VENV)/.docs $(VENV)/.test  ## links, anchors, and the pages in a browser
	$(BIN)/python docs/vendor.py --tools
	$(BIN)/python -m pytest -m "slow or not slow" tests/docs

lint: $(VENV)/.test  ## style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

contract: $(VENV)/.test  ## which floor may import which
	$(BIN)/lint-imports

.PHONY: vendor
vendor: $(VENV)/.docs
	$(BIN)/python docs/vendor.py

docs: $(VENV)/.docs vendor  ## build the site into site/, strictly
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

serve: $(VENV)/.docs vendor  ## the site at localhost:8000, rebuilt on change
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

figures: $(VENV)/.run  ## draw the site's figures again
	for script in $$(ls docs/figures/*.py | grep -v /figure.py); do $(BIN)/python $$script || exit 1; done

bench: $(VENV)/.bench  ## the benchmarks beside their peers
	$(BIN)/python -m benchmarks

mutants: $(VENV)/.test  ## small mistakes in the numerical modules, and which of them no test finds
	$(BIN)/python -m mutants --jobs $(WORKERS)
	$(BIN)/python -m mutants --report

clean:  ## remove what can be made again
	rm -rf $(VENV) site build dist .jax_cache .pytest_cache .ruff_cache docs/assets/katex docs/assets/iframe-worker docs/node_modules

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing probjax into $(VENV) (once)"
	$(PIP) -e .
	@touch $@

$(VENV)/.test $(VENV)/.docs $(VENV)/.bench: $(VENV)/.%: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing probjax[$*] into $(VENV) (once)"
	$(PIP) -e ".[$*]"
	@touch $@
