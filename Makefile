# Needs Python >= 3.11, git and make; everything else goes into .venv. `make help` lists the targets.
# PYTHON=... chooses the interpreter of .venv, ARGS=... is passed on to pytest.

SHELL := /bin/sh
BIN := .venv/bin
STAMP := .venv/.installed
RECENT := import sys; sys.exit(sys.version_info < (3, 11))

# Threads of parallel processes fight over the cores: one thread each, and as many processes as there are cores.
# worksteal hands out neighbouring tests together, so that module fixtures are built once.
PYTEST := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/pytest -n auto --maxprocesses 4 --dist worksteal

# The pyright package would ask the network for its newest version.
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

.PHONY: help install test test-full lint format docs demo bench constraints clean
.DEFAULT_GOAL := help

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' Makefile | while IFS='|' read -r name text; do \
	  printf '  make %-12s %s\n' "$$name" "$$text"; done

install: $(STAMP) ## environment in .venv, command .venv/bin/fewmask

# Compiled here, since where PYTHONDONTWRITEBYTECODE is set, as in many containers, every process would compile all of torch
# again: 10 s of start instead of 5. Runs again when the project file or the pins change. uv where it is on PATH, else brought by pip into .venv: its one
# resolve takes torch and torchvision together, whatever pip's own configuration says.
$(STAMP): pyproject.toml constraints.txt
	@set -e; py=; \
	for candidate in $(or $(PYTHON),python3.13 python3.12 python3.11 python3 python); do \
	  if $$candidate -c '$(RECENT)' >/dev/null 2>&1; then py=$$candidate; break; fi; \
	done; \
	if [ -z "$$py" ]; then \
	  echo "fewmask needs Python 3.11 or newer: $(or $(PYTHON),python3 on PATH) is older or not there." \
	    "Install it, or name one: make install PYTHON=/path/to/python3.12" >&2; exit 1; \
	fi; \
	echo "Installing fewmask into .venv (minutes the first time: torch is large)"; \
	uv=uv; uv --version >/dev/null 2>&1 || uv=$(BIN)/uv; \
	if ! $(BIN)/python -c '$(RECENT)' >/dev/null 2>&1; then \
	  rm -rf .venv; \
	  if [ $$uv = uv ]; then uv venv --quiet --python "$$py" .venv; else "$$py" -m venv --without-pip .venv; fi; \
	fi; \
	if [ $$uv != uv ] && ! [ -x $$uv ]; then \
	  if $(BIN)/python -m ensurepip >/dev/null 2>&1; then pip="$(BIN)/python -m pip"; \
	  elif "$$py" -m pip --version >/dev/null 2>&1; then pip="$$py -m pip --python $(BIN)/python"; \
	  else \
	    echo "This Python brings neither ensurepip nor pip. Install them (Debian, Ubuntu: the package python3-venv)" \
	      "or put uv on PATH, then run make again." >&2; exit 1; \
	  fi; \
	  $$pip install --quiet --constraint constraints.txt uv; \
	fi; \
	$$uv pip install --python $(BIN)/python --constraint constraints.txt --build-constraint constraints.txt \
	  --compile-bytecode --editable '.[dev]'; \
	touch $@

test: lint ## install, lint, types, import contracts, and every test that is not slow or for a GPU
	@$(PYTEST) -m 'not slow and not gpu' --junitxml build/tests.xml $(ARGS)

test-full: lint ## the same with the slow tests; those for a GPU skip themselves where there is none
	@$(PYTEST) --junitxml build/tests.xml $(ARGS)

lint: $(STAMP) ## ruff, pyright, import contracts
	@$(BIN)/ruff check --quiet --output-format concise
	@$(BIN)/ruff format --check --quiet || { echo "Not formatted: run make format" >&2; exit 1; }
	@$(BIN)/pyright
	@$(BIN)/lint-imports --no-logo

format: $(STAMP) ## format the code and repair what ruff can repair
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

docs: $(STAMP) ## check links, code and command reference of the documentation, and build it into site/
	@$(BIN)/python docs/check_links.py
	@$(BIN)/python docs/make_reference.py --check
	@NO_MKDOCS_2_WARNING=1 DISABLE_MKDOCS_2_WARNING=true $(BIN)/mkdocs build --strict --quiet
	@echo "site/index.html"

demo: $(STAMP) ## a short training on generated images, in demo/
	@$(BIN)/fewmask demo --out demo

bench: $(STAMP) ## speed of a training step beside a plain PyTorch loop (minutes)
	@$(BIN)/python benchmarks/step_overhead.py

constraints: $(STAMP) ## add missing pins to constraints.txt; UPGRADE=--upgrade renews them all
	@set -e; uv=uv; uv --version >/dev/null 2>&1 || uv=$(BIN)/uv; \
	printf 'hatchling\nuv\n' > .venv/tools.in; cp constraints.txt .venv/pins.txt; \
	$$uv pip compile --quiet --universal --fork-strategy fewest --python-version 3.11 --all-extras $(UPGRADE) \
	  --no-annotate --no-header --no-emit-package pip --no-emit-package setuptools \
	  --output-file .venv/pins.txt pyproject.toml .venv/tools.in >/dev/null; \
	{ sed '/^[^#]/d' constraints.txt; sed -e '/^#/d' -e 's/ *;.*//' .venv/pins.txt; } > .venv/constraints.txt; \
	twice=$$(sed 's/==.*//' .venv/constraints.txt | sort | uniq -d); \
	if [ -n "$$twice" ]; then echo "No single version suits every platform: $$twice" >&2; exit 1; fi; \
	mv .venv/constraints.txt constraints.txt

clean: ## remove caches, build outputs, site/ and demo/ (not .venv, not runs/)
	@rm -rf .pytest_cache .ruff_cache .import_linter_cache build dist demo site
	@find . \( -path ./.venv -o -path ./.git -o -path ./runs \) -prune \
	  -o -name __pycache__ -type d -prune -exec rm -rf {} +
