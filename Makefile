# paceline: `make run` answers a prompt, `make serve` serves, `make test` checks everything.
# Needs Python 3.11 or newer with pip and venv; a C++ compiler makes the CPU path fast but is not required.
PYTHON ?= python3
MODEL  ?= smollm2:135m
PROMPT ?= Explain in two sentences what a bicycle is.
# A CPU or CUDA build of your choice: make run TORCH='torch==2.13.0 --index-url ...'
TORCH  ?= torch==2.13.0

VENV := .venv
BIN  := $(VENV)/bin
SRC  := pyproject.toml $(wildcard kernels/native/*.cpp kernels/native/*.h)

# make fuzz FUZZ_RUNS=1000000 FUZZ_TARGETS='http_body wire_frame'
FUZZ_RUNS ?= 80000
FUZZ_TARGETS ?=

.PHONY: help run serve install dev test lint types fetch fuzz bench clean
help: ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 18

run: install ## install, fetch the default model, answer PROMPT, exit
	@$(BIN)/paceline run $(MODEL) "$(PROMPT)"

serve: install ## install, fetch the default model, serve it on 127.0.0.1:8000
	@exec $(BIN)/paceline serve $(MODEL)

install: $(VENV)/.installed ## create .venv and install paceline into it
dev: $(VENV)/.dev ## the same with everything the tests need

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) not found; install Python 3.11 or newer, or pass PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: $(PYTHON) is $$($(PYTHON) -V 2>&1 | head -n 1), paceline needs 3.11 or newer; pass PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "make: $(PYTHON) has no venv or pip; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@mkdir -p $(VENV)/typing && ln -sfn ../.. $(VENV)/typing/paceline

$(VENV)/.installed: $(BIN)/python $(SRC)
	@command -v c++ >/dev/null || command -v g++ >/dev/null || echo "make: no C++ compiler found: paceline will run on plain torch kernels, slower; install g++ and run 'make -B install' for the fast ones" >&2
	@echo "installing paceline into $(VENV) (torch is the big part) ..."
	@$(BIN)/python -m pip install -q --disable-pip-version-check $(TORCH)
	@$(BIN)/python -m pip install -q --disable-pip-version-check -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.installed
	@echo "installing what the tests need ..."
	@$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[dev]'
	@touch $@

fetch: install ## fetch the default model
	@$(BIN)/paceline pull $(MODEL)

lint: dev ## ruff
	@$(BIN)/ruff check .

types: dev ## pyright
	@$(BIN)/pyright

test: dev lint types fetch ## lint, types and all four rings of tests
	@$(BIN)/python -P -m pytest

fuzz: dev ## every fuzz target for long: over a million executions, FUZZ_RUNS of each target
	@PYTHONPATH=tests/support $(BIN)/python -P -m fuzzing.everything --runs $(FUZZ_RUNS) $(FUZZ_TARGETS)

bench: dev ## the scheduler and kernel benchmarks
	@$(BIN)/python -P benchmarks/scheduler.py
	@$(BIN)/python -P benchmarks/ops.py

clean: ## remove what was built; keeps models
	@rm -rf $(VENV) build *.egg-info kernels/native/*.so
