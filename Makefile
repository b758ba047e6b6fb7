# Every daily command. `make help` lists them.
PYTHON ?= python3
VENV ?= .venv
RUNS ?= outputs/demo
# Of reproduce-... and report: smoke (seconds a cell), demo (minutes, 2 cores), reduced (one GPU, an hour), paper (days).
BUDGET ?= demo
# How many seeds; default 3, at smoke 1.
SEEDS ?=
# Further overrides of all runs: ARGS="dataset=celebahq root=<folder> roots.celebahq-wide=<folder>", ARGS=--dry-run
ARGS ?=
BIN := $(VENV)/bin
# One more than cores, since tests also wait for processes that they start.
WORKERS = -n $$($(PYTHON) -c 'import os; print(1 + min(4, os.cpu_count()))') --dist loadfile --no-loadscope-reorder
PACKAGES := $(VENV)/.packages
STAMP := $(VENV)/.installed
# TORCH=cpu leaves out some 5 GB of CUDA libraries, where PyTorch's own index answers; versions stay those of the lock.
TORCH ?=
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
CUDA = ^(torch|torchvision|triton)==|^(nvidia|cuda)-

.DEFAULT_GOAL := help
REPRODUCE := reproduce-all reproduce-figure-1 reproduce-figure-6 \
	$(addprefix reproduce-table-,1 2 3 4 5 6 7 8 9 10 11)
.PHONY: help install packages demo report test test-fast chaos fuzz study-prior bench gpu-check check docs format weights release lock clean $(REPRODUCE)

help: ## list the targets
	@awk -F ':.*## ' '/^(# )?[a-zN-]+:.*## / {sub(/^# /, "", $$1); printf "  make %-19s %s\n", $$1, $$2}' \
		$(MAKEFILE_LIST)

install: $(STAMP) ## make the virtual environment .venv with the pinned packages (TORCH=cpu: without CUDA)

packages: $(PACKAGES) # the packages alone: a layer of the Dockerfile

$(PACKAGES): requirements.lock
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python >= 3.11 is needed: make PYTHON=<interpreter>")'
	$(PYTHON) -m venv $(VENV)
ifeq ($(TORCH),cpu)
	$(BIN)/python -m pip install --quiet --no-deps --index-url $(TORCH_INDEX) $$(grep -oE '^torch(vision)?==[^ ]+' $<)
	awk '/^[^ ]/ {kept = !/$(CUDA)/} kept' $< > $(VENV)/requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r $(VENV)/requirements.txt
else
	$(BIN)/python -m pip install --quiet --require-hashes -r $<
endif
	touch $@

$(STAMP): $(PACKAGES) pyproject.toml
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

demo: $(STAMP) ## train both stages on real photos, score them, draw the pictures (5 minutes on 2 cores)
	$(BIN)/diffi2i train budget=demo method=diffi2i_s1 run_dir=$(RUNS)/stage1
	$(BIN)/diffi2i train budget=demo method=diffi2i_s2 method.init=$(RUNS)/stage1 run_dir=$(RUNS)/stage2
	$(BIN)/diffi2i table $(RUNS)/stage1 $(RUNS)/stage2

# reproduce-table-N: ## Table N of the paper, 1 to 11: run what is missing, draw it (BUDGET=demo SEEDS=3 ARGS=...)
# reproduce-figure-N: ## Figure 1 or 6, likewise
# reproduce-all: ## all tables and figures; what they share is run once
$(REPRODUCE): reproduce-%: $(STAMP)
	$(BIN)/diffi2i table $(subst -,,$*) budget=$(BUDGET) $(SEEDS:%=seeds=%) $(ARGS)

report: $(STAMP) ## all tables and figures made at BUDGET as one HTML page
	$(BIN)/diffi2i report budget=$(BUDGET)

test-fast: $(STAMP) ## run the tests that take no training, while you work
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(WORKERS) -m "not slow"

test: $(STAMP) ## run the whole test suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(WORKERS)

chaos: $(STAMP) ## faults at random places of 200 trainings, and what is left of them (a quarter of an hour)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.chaos $(ARGS)

fuzz: $(STAMP) ## 5,000 generated command lines and 105,000 damaged files (three quarters of an hour)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz $(ARGS)

study-prior: $(STAMP) ## what the prior is worth: docs/prior.md (ARGS="photos=<BSDS500> camvid=... sevenscenes=... jobs=2"; 5 processor hours of training)
	$(BIN)/python experiments/prior.py $(ARGS)
	$(BIN)/python experiments/prior_probes.py $(ARGS)
	$(BIN)/python experiments/prior_report.py

bench: $(STAMP) ## times DiffI2I and DiffIR in turn, restoring and training (a quarter of an hour; DIFFIR=<the authors' code>)
	for task in inpainting sisr deblur; do \
		$(BIN)/python benchmarks/speed.py inference task=$$task size=256 $(ARGS) && \
		$(BIN)/python benchmarks/speed.py training task=$$task size=128 batch=2 $(ARGS) || exit 1; done

gpu-check: $(STAMP) ## all that only a GPU can show, on one card (half an hour)
	$(BIN)/python benchmarks/gpu_check.py $(ARGS)

check: $(STAMP) ## lint, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(STAMP) ## the pages of docs/ as a site, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

format: $(STAMP) ## rewrite the code in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

weights: $(STAMP) ## fetch the pretrained trunks that LPIPS needs
	$(BIN)/python -m diffi2i.weights

release: $(STAMP) ## train the demo's weights of all six tasks and pack them for a release (half an hour)
	$(BIN)/python experiments/release.py

lock: ## pin all packages anew, with hashes (needs uv)
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
		--no-emit-index-url pyproject.toml --group dev --group docs --extra launchers --extra peers --extra export \
		--extra video --extra heic --extra app --constraint constraints.txt -o requirements.lock

clean: ## remove the environment, the caches and the demo's runs
	rm -rf $(VENV) $(RUNS) .pytest_cache .mypy_cache .ruff_cache .hypothesis
