# Two commands on a fresh machine:  make quickstart  and  make test.
# Settings:  PYTHON=python3.13   TORCH=torch==2.13.0   TORCH_INDEX=<index with CPU builds of torch>   CUDA=1

VENV        := .venv
BIN         := $(VENV)/bin
TORCH       ?= torch==2.13.0
TORCH_INDEX ?=
CUDA        ?=
SUPPORTED   := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 15))
PYTHON      ?= $(shell for p in python3 python3.11 python3.12 python3.13 python3.14; do \
                 $$p -c '$(SUPPORTED)' 2>/dev/null && echo $$p && break; done)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install quickstart test lint docs clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/dev.stamp  ## .venv with everything pinned, the development tools included

quickstart: $(VENV)/run.stamp  ## install, search the built-in corpus, print the front (4 to 7 minutes on 2 cores)
	$(BIN)/qdlm run spaces/quickstart.yaml

test: $(VENV)/dev.stamp  ## install and run the tests
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/dev.stamp  ## style, types and mistakes that can be seen without running
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(VENV)/run.stamp  ## rewrite the generated pages: docs/cli.md, docs/plugins.md, docs/spaces.md
	$(BIN)/python -m search.cli.docs > docs/cli.md
	$(BIN)/qdlm plugins --format md > docs/plugins.md
	$(BIN)/python -m spaces.reference > docs/spaces.md

clean:  ## remove .venv, caches and build leftovers; runs/ stays
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "qdlm: error: no Python 3.11, 3.12, 3.13 or 3.14 found; give PYTHON=<path>" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

# torch first: whichever build it is, the packages that follow find it installed and leave it alone.
$(VENV)/torch.stamp: cluster/install_torch.py cluster/install_packages.py | $(BIN)/python
	@$(BIN)/python cluster/install_torch.py "$(TORCH)" $(if $(TORCH_INDEX),--index "$(TORCH_INDEX)") $(if $(CUDA),--cuda)
	@touch $@

$(VENV)/run.stamp: pyproject.toml constraints.txt $(VENV)/torch.stamp
	@echo "installing the pinned packages into $(VENV): a minute or two"
	@$(BIN)/python cluster/install_packages.py -c constraints.txt -e ".[search]"
	@touch $@

$(VENV)/dev.stamp: pyproject.toml constraints.txt $(VENV)/torch.stamp
	@echo "installing the pinned packages into $(VENV): a minute or two"
	@$(BIN)/python cluster/install_packages.py -c constraints.txt -e ".[dev]"
	@touch $@ $(VENV)/run.stamp
