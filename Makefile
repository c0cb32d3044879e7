# `make demo` and `make test` set up .venv by themselves. Needs Python 3.11 or newer, g++ and make.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

.DEFAULT_GOAL := help
.PHONY: help setup learn test lint types unit demo docs clean


help:
	@echo "make setup       install into $(VENV), which leaves $(BIN)/sateen"
	@echo "make demo        compile a digits CNN at int8 and e3m2, run it on four engines, write a report"
	@echo "make test        lint, types, all tests"
	@echo "make docs        the documentation as a site, in build/site"
	@echo "make bench-NAME  run benchmarks/NAME.py with ARGS=..., and install what it needs"
	@echo "make clean       remove what demo, tests and tools left behind"

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@[ -n "$(PYTHON)" ] || { echo "Python 3.11 or newer is missing: install it, or name one with make PYTHON=..." >&2; exit 1; }
	@command -v $(or $(CXX),g++) >/dev/null || { echo "g++ is missing: install it (the package is called g++ or gcc-c++)" >&2; exit 1; }
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV) || { echo "$(PYTHON) cannot make a virtual environment: install its venv package (python3-venv)" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]' --constraint constraints.txt
	@touch $@

# torch's tests skip without it; the CPU build where an index offers one.
learn: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[learn,train]' --constraint constraints.txt

lint: setup
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --check --quiet .

types: setup
	cd src && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml --cache-dir $(CURDIR)/.mypy_cache -p sateen

unit: setup
	$(BIN)/pytest -n 2

test: lint types
	$(BIN)/pytest -n 2

demo: setup
	$(BIN)/python benchmarks/demo.py $(ARGS)

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo build/site/index.html

bench-%: setup
	@extras="$$(sed -n 's/^# extras: //p' benchmarks/$*.py)"; [ -z "$$extras" ] || \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[$$extras]" --constraint constraints.txt
	$(BIN)/python benchmarks/$*.py $(ARGS)

clean:
	rm -rf build dist .pytest_cache .hypothesis .ruff_cache .mypy_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
