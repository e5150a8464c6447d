# Everything a newcomer types: `make demo`, `make test`. The environment is made once, in .venv.

PYTHON ?= python3
TORCH  ?= 2.13.0
ARGS   ?=
GATE   := tests/laws tests/closed_form tests/parity tests/refusals tests/surface
SHAPED := worldsheet,worldsheet_lab,benchmarks

BIN   := .venv/bin
STAMP := .venv/.installed
PIP   := -m pip install -qq --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help demo test test-all shapes zoo check lint types imports blocks docs docs-serve notebooks release experiments bench gpu lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(STAMP) ## train a small network without a backward pass, offline
	@$(BIN)/worldsheet train

# Two worker processes of one thread each: torch would start a thread per core in both.
test: $(STAMP) ## run the tests of what is right: laws, closed forms, parity, refusals, surface (ARGS='-k wave')
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(GATE) $(ARGS)

test-all: $(STAMP) ## run the others: commands, runs and pictures, planted defects
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/lab tests/defects $(ARGS)

# Every call of an annotated function is checked, which takes four times as long as the tests themselves.
shapes: $(STAMP) ## run closed forms and parity while jaxtyping and beartype check every annotated shape and type
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/closed_form tests/parity \
	    --jaxtyping-packages=$(SHAPED),beartype.beartype $(ARGS)

zoo: $(STAMP) .venv/.zoo ## run the tests on models that others wrote (installs transformers and others into .venv)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/zoo $(ARGS)

check: lint types imports docs blocks notebooks ## lint, types, import direction, documentation

lint: $(STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(STAMP)
	@$(BIN)/mypy

imports: $(STAMP)
	@$(BIN)/lint-imports

blocks: $(STAMP)
	@$(BIN)/python tools/run_blocks.py README.md docs/*.md

docs: $(STAMP) ## build the documentation, strictly, into build/site
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict

docs-serve: $(STAMP) ## show the documentation while it is written
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs serve

notebooks: $(STAMP) ## run the notebooks at small size (ARGS=--keep: as they stand, and keep what they show)
	@$(BIN)/python tools/run_notebooks.py $(ARGS)

release: $(STAMP) ## build wheel and sdist into dist/ and use them in an empty environment
	@$(BIN)/python tools/smoke_release.py --keep dist

bench: $(STAMP) ## what a gradient costs beside autograd (ARGS='--case lstm-100')
	@$(BIN)/python -m benchmarks gradient $(ARGS)

experiments: $(STAMP) ## run every claim's small size, two at a time, against what it expects
	@$(BIN)/python -m experiments run --size small --jobs 2 --out build/experiments

gpu: $(STAMP) ## parity, time, memory and training on a GPU; on the CPU at toy size where there is none
	@rm -rf build/gpu && $(BIN)/python -m benchmarks.gpu --out build/gpu

# The pins need Python 3.11; on 3.10 the ranges of pyproject.toml are resolved instead.
$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("worldsheet needs Python 3.10 or newer; $(PYTHON) is %d.%d. Name another one: make PYTHON=python3.12" % sys.version_info[:2])'
	@echo "installing worldsheet and the pinned packages into .venv (once)"
	@$(PYTHON) -m venv .venv
	@if $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
	    $(BIN)/python $(PIP) -r requirements.lock && \
	    $(BIN)/python $(PIP) --no-deps --no-build-isolation -e .; \
	else \
	    $(BIN)/python $(PIP) -e '.[full]'; \
	fi
	@touch $@

.venv/.zoo: requirements-zoo.lock
	@echo "installing the models of tests/zoo into .venv (once)"
	@$(BIN)/python $(PIP) --no-deps -r requirements-zoo.lock
	@touch $@

lock: ## rewrite requirements.lock from pyproject.toml (TORCH=2.13.0 names the torch)
	@echo "resolving in build/lock"
	@rm -rf build/lock && $(PYTHON) -m venv build/lock
	@build/lock/bin/python $(PIP) 'torch==$(TORCH)' '.[full]'
	@{ echo '# Pins for Python 3.11 and newer: the library, the demo, the tests and the checks.'; \
	   echo '# Regenerate with `make lock TORCH=$(TORCH)`: it resolves pyproject.toml [full] afresh and freezes what it got.'; \
	   build/lock/bin/python -m pip freeze --all --disable-pip-version-check \
	   | grep -v -E '^(pip|wheel|worldsheet|triton|nvidia-[^=]*|cuda-[^=]*)( @|==)' | sed 's/+[a-z0-9.]*$$//'; } > build/requirements.lock
	@mv build/requirements.lock requirements.lock && rm -rf build/lock

clean: ## remove .venv, caches and build output (runs/ stays)
	@rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	@find src tests tools -name __pycache__ -type d -prune -exec rm -rf {} +
