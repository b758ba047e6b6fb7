# Every daily command. `make help` lists them.
PYTHON ?= python3
VENV ?= .venv
RUNS ?= outputs/demo
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test check format weights lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## make the virtual environment .venv with the pinned packages

$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python >= 3.11 is needed: make PYTHON=<interpreter>")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

demo: $(STAMP) ## train both stages on real photos, score them, draw the pictures (5 minutes on 2 cores)
	$(BIN)/diffi2i train scale=demo stage=pretrain run_dir=$(RUNS)/stage1
	$(BIN)/diffi2i train scale=demo stage=joint stage.init=$(RUNS)/stage1 run_dir=$(RUNS)/stage2
	$(BIN)/diffi2i table $(RUNS)/stage1 $(RUNS)/stage2

test: $(STAMP) ## run the whole test suite
	$(BIN)/python -m pytest

check: $(STAMP) ## lint, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP) ## rewrite the code in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

weights: $(STAMP) ## fetch the pretrained trunks that LPIPS needs
	$(BIN)/python -m diffi2i.weights

lock: ## pin all packages anew, with hashes (needs uv)
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
		--no-emit-index-url pyproject.toml --group dev --constraint constraints.txt -o requirements.lock

clean: ## remove the environment, the caches and the demo's runs
	rm -rf $(VENV) $(RUNS) .pytest_cache .mypy_cache .ruff_cache .hypothesis
