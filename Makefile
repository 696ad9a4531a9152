# The front door: `make` prints what there is.
PYTHON ?= python3.11
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# One thread a test process: small tensors on many threads wait more than they work.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow lint types format docs release-check bench clean

help:  ## print this
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) -e .
	touch $@

.venv/developed: .venv/installed
	$(PIP) -e '.[dev]'
	touch $@

demo: .venv/installed  ## install, then a whole robust active-learning run on handwritten digits (3 minutes)
	$(BIN)/robal run

test: .venv/developed lint types chromium  ## lint, types, tests and doctests (minutes); data sets are looked for in ROBAL_DATA
	$(PYTEST) -n 2 -m "not slow"

test-slow: .venv/developed chromium label-studio  ## the long tests too: many kills, real data, whole runs
	$(PYTEST) -n 2

.PHONY: chromium
chromium:  # the labelling page is tested in it
	@command -v chromium chromium-browser google-chrome >/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "installing chromium, which the tests of the labelling page need" && apt-get update -qq && \
	    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null; \
	  else echo "the tests of the labelling page need Chromium: sudo apt-get install chromium"; fi; }

.PHONY: label-studio
label-studio: .label-studio/bin/label-studio  ## Label Studio in a virtual environment of its own, for the slow tests

.label-studio/bin/label-studio:
	$(PYTHON) -m venv .label-studio
	.label-studio/bin/python -m pip install --quiet --disable-pip-version-check label-studio==1.23.0

lint: .venv/developed  ## ruff: style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/developed  ## mypy, strict
	$(BIN)/mypy

format: .venv/developed  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/documented: .venv/installed
	$(PIP) -e '.[docs]'
	touch $@

docs: .venv/documented  ## the site, its examples carried out, into build/docs (minutes the first time)
	OMP_NUM_THREADS=1 $(BIN)/sphinx-build --fail-on-warning --keep-going --quiet -c docs . build/docs
	@echo "open build/docs/index.html"

# Wheel and sdist, each in a virtual environment of its own, from another folder: what a user would get. The wheel is built
# from the sdist; the least versions are tested with it by the tests that need no extra.
RELEASE := build/release
AWAY := cd $(RELEASE) && OMP_NUM_THREADS=1
MINIMAL := acquisition/test_dre.py attacks/test_pgd.py attacks/test_perturb.py cli/test_cli.py cli/test_doctor.py \
  labelling/test_server.py loop/test_running.py networks/test_network_contract.py report/test_report_page.py test_release.py
release-check:  ## build wheel and sdist, install them afresh, with the newest and the least versions, and try them
	rm -rf $(RELEASE)
	for name in tools newest minimal; do $(PYTHON) -m venv $(RELEASE)/$$name || exit; done
	$(RELEASE)/tools/bin/pip install --quiet --disable-pip-version-check build twine 'sp-repo-review[cli]'
	$(RELEASE)/tools/bin/repo-review .
	$(RELEASE)/tools/bin/python -m build --outdir $(RELEASE)/dist .
	$(RELEASE)/tools/bin/twine check --strict $(RELEASE)/dist/*
	$(RELEASE)/newest/bin/pip install --quiet --disable-pip-version-check -c constraints.txt $(RELEASE)/dist/*.tar.gz
	$(AWAY) newest/bin/robal doctor
	$(RELEASE)/minimal/bin/pip install --quiet --disable-pip-version-check -c constraints-minimal.txt $(RELEASE)/dist/*.whl pytest playwright axe-playwright-python
	$(AWAY) minimal/bin/robal doctor
	$(AWAY) minimal/bin/python -m pytest -c ../../pyproject.toml --rootdir ../.. -m "not slow" -W default $(MINIMAL:%=../../tests/%)
	@echo "build/release/dist is ready"

bench: .venv/developed  ## speed of crafting against a plain loop
	$(BIN)/python benchmarks/crafting.py

clean:  ## remove the virtual environment and caches; runs stay
	rm -rf .venv .label-studio build .pytest_cache .mypy_cache .ruff_cache
