# Yizhi. `make help` lists what there is; each target sets up .venv by itself.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# A venv for each file of peers, of the same name.
PEERS  := build/peers build/peers-5
JOBS   ?= $(shell nproc)
# On a terminal pip shows each package that it fetches; a log needs the steps alone.
PIP_QUIET := $(if $(MAKE_TERMOUT),,--quiet)

# The embedded default: a random checkpoint of bert-base-chinese's shape, made on the spot.
SYNTHETIC  := build/synthetic-bert-base
CHECKPOINT ?= $(SYNTHETIC)
REVISION   ?=
OUT        ?= dist/$(notdir $(patsubst %/,%,$(CHECKPOINT)))
DEVICE     ?= cpu
MATH       ?= strict
# A GPU's machine brings its own builds of the frameworks, which .venv has not: no .venv is made for `gpu`.
GPU        ?= cuda
GPU_OUT    ?= build/gpu
GPU_PYTHON := $(if $(filter file default,$(origin PYTHON)),$(firstword $(wildcard $(BIN)/python) $(PYTHON)),$(PYTHON))

# A file's tests stay in one process, since they share what was exported. A model of 32 is slower on two threads than on
# one, and each process takes up to 3 GB.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help export-all demo test test-quick verify mutations gpu families bench bench-render walkthrough retrieval docs dist lint clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo; echo "  CHECKPOINT=DIR|HUB-ID  what to export (default: $(SYNTHETIC))"
	@echo "  OUT=DIR                the release folder (default: dist/NAME)"

export-all: $(VENV)/installed  ## export all targets, verify each, print a table
	@if [ "$(CHECKPOINT)" = "$(SYNTHETIC)" ]; then $(BIN)/yizhi synthesize --out $(SYNTHETIC) --if-missing; fi
	@$(BIN)/yizhi export $(CHECKPOINT) --out $(OUT) --jobs $(JOBS) $(if $(REVISION),--revision $(REVISION))
	@echo "$(BIN)/yizhi serve $(OUT) answers OpenAI's and other clients: docs/serving.md"

demo: $(VENV)/installed  ## train a small model that knows something, export it, verify it, ask it: a few minutes
	@$(BIN)/python -m yizhi.demo --jobs $(JOBS)

test: lint  ## everything that CI runs
	@$(PYTEST)

test-quick: $(VENV)/installed  ## what most changes break; the rest is marked slow
	@$(PYTEST) -m "not slow"

verify: $(VENV)/installed  ## check a finished release again
	@$(BIN)/yizhi verify $(OUT) --device $(DEVICE) --math $(MATH) --jobs $(JOBS)

mutations: $(VENV)/installed  ## make every known fault on every target: each must be caught
	@$(BIN)/python -m parity_tests.mutation_table

gpu:  ## every target and tier of arithmetic on a GPU, with .venv or, as it is, PYTHON=python3: docs/gpu.md
	@$(GPU_PYTHON) -m benchmarks.gpu $(if $(filter command line,$(origin CHECKPOINT)),--checkpoint $(CHECKPOINT)) \
		--out $(GPU_OUT) --device $(GPU)

families: $(VENV)/installed  ## every family at its published shape, an hour: docs/families.md
	@$(BIN)/python -m benchmarks.families --jobs $(JOBS)

bench: $(VENV)/installed $(PEERS:=/installed)  ## ours and peers side by side: docs/performance.md (QUICK=1: a look)
	@$(BIN)/python -m benchmarks.performance $(if $(QUICK),--quick) $(if $(ONLY),--only $(ONLY))

bench-render: $(VENV)/installed  ## docs/performance.md again, from what was measured
	@$(BIN)/python -m benchmarks.performance --render-only

walkthrough: $(VENV)/installed  ## a Chinese NER model from pretraining to int8, on a small model: docs/ner-walkthrough.md
	@PATH="$(CURDIR)/$(BIN):$$PATH" docs/examples/ner-walkthrough.sh

retrieval: demo  ## an index and a reranked answer, from what `make demo` trained: docs/retrieval.md
	@PATH="$(CURDIR)/$(BIN):$$PATH" docs/examples/retrieval.sh

docs: $(VENV)/installed  ## the documentation as a site, in build/site/html
	$(BIN)/python -m sphinx -W --keep-going -q -b html -d build/site/doctrees docs build/site/html

dist: $(VENV)/installed  ## a wheel and an sdist of this checkout, the same bytes for the same files: dist/
	@deploy/dist.sh $(BIN)/python dist

lint: $(VENV)/installed  ## style and types
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/python -m mypy

clean:  ## remove what was made: releases, the synthetic checkpoint, .venv
	rm -rf dist build $(VENV)

$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Yizhi needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	@echo "Setting up $(VENV), once. Step 1 of 2: an empty environment"
	@$(PYTHON) -m venv $(VENV)
	@echo "Step 2 of 2: pip installs up to $$(grep -c == constraints.txt) packages; a few minutes, most of them downloads"
	@$(BIN)/python -m pip install $(PIP_QUIET) --disable-pip-version-check --use-pep517 --constraint constraints.txt --editable '.[all,dev]'
	@touch $@

# Apart from ours: they hold transformers at versions of theirs, and what they bring must not be what we are measured with.
$(PEERS:=/installed): build/%/installed: benchmarks/%.txt
	@echo "Setting up build/$* (once; a few minutes, 2 to 4 GB)"
	@$(PYTHON) -m venv build/$*
	@build/$*/bin/python -m pip install $(PIP_QUIET) --disable-pip-version-check --use-pep517 --requirement $<
	@# optimum-intel asks for torchvision, for images. PyPI's is built for GPUs: with a CPU build of torch, transformers fails.
	@build/$*/bin/python -m pip uninstall --yes --quiet --quiet --disable-pip-version-check torchvision
	@touch $@
