# `make demo` and `make test` are all that a fresh machine with Python 3.11 or newer needs.
SHELL   := /bin/sh
VENV    ?= .venv
BIN     := $(VENV)/bin
STAMP   := $(VENV)/.icportrait-ready
# the first Python that is new enough; name another one with `make setup PYTHON=/path/to/python`
PYTHON  ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.14 python; do \
	"$$p" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo "$$p"; break; }; done)
# nothing is fetched while the project works; what it needs is in the repository
OFFLINE := HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1
ARGS    ?=

.PHONY: help setup demo test lab export check readme clean
.DEFAULT_GOAL := help

help:
	@echo "make demo     train, make portraits and measure them: outputs/demo/report.html (ARGS=--fast for one minute)"
	@echo "make test     make check, then all tests (ARGS=notebooks for one part)"
	@echo "make lab      JupyterLab, opened on the start page"
	@echo "make setup    the virtual environment only (demo, test and lab do this by themselves)"
	@echo "make export   notebooks -> modules and README.md"
	@echo "make check    format, lint, types, and that modules, notebooks and README are in step"

setup: $(STAMP)

$(STAMP): settings.ini setup.py constraints.txt
	@test -n "$(PYTHON)" || { echo "icportrait needs Python 3.11 or newer with venv (on Debian: apt install python3-venv); none was found. Name one with: make setup PYTHON=/path/to/python" >&2; exit 1; }
	@test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt setuptools wheel
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation -e '.[dev]'
	@touch $(STAMP)

demo: setup
	$(OFFLINE) $(BIN)/icportrait demo $(ARGS)

test: setup
	$(BIN)/python tests/run_all.py $(ARGS)

lab: setup
	$(BIN)/jupyter lab --ServerApp.root_dir="$(CURDIR)" --LabApp.default_url=/lab/tree/nbs/index.ipynb $(ARGS)

export: setup
	$(BIN)/ruff check --fix --quiet nbs tests docs
	$(BIN)/ruff format --quiet nbs tests docs
	$(BIN)/nbdev_export
	$(BIN)/nbdev_clean
	$(BIN)/python tests/readme.py

readme: setup
	$(BIN)/python tests/readme.py

check: setup
	$(BIN)/python tests/run_all.py check

clean:
	rm -rf build *.egg-info .pytest_cache
