# The two commands: `make demo` and `make test`. Everything else is `pipeline --help`.

PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13 python3,$(shell command -v $(name))))
VENV   := .venv
BIN    := $(CURDIR)/$(VENV)/bin
STAMP  := $(VENV)/.installed

# DVC starts each stage through a shell that must find `pipeline`: without the environment on PATH, exit 127.
export PATH := $(BIN):$(PATH)

# The packages are compiled when they are first imported, and only those that are; some machines forbid that.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install demo test lint clean

help: ## Show this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

# Made again only when the dependencies change; the package itself is installed in place.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "make: Python 3.11 or newer is needed; name yours: make PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "Setting up $(VENV): PyTorch is large, this takes a few minutes the first time."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --editable '.[dev]'
	@touch $@

install: $(STAMP) ## Create .venv and install everything into it

demo: $(STAMP) ## Run the whole pipeline on real images and show the scores
	@touch $(VENV)/.demo-started
	dvc repro
	@test -n "$$(find models reports cache/index.json -newer $(VENV)/.demo-started -type f)" \
	  || echo "Nothing to do: every image is extracted and every head is trained and scored."
	@pipeline scores

test: $(STAMP) ## Run the tests
	pytest

lint: $(STAMP) ## ruff and mypy, strict
	ruff check .
	ruff format --check .
	mypy

clean: ## Remove what git ignores: the environment, features, models, plots
	git clean -qfdX
