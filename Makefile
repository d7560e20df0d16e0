# `make demo` and `make test` are all that a fresh machine needs; both set up .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Where pip finds torch. Empty: pip's own configuration. Without a GPU set it to PyTorch's CPU index (docs/guides/install.md).
TORCH_INDEX ?=
PIP := $(BIN)/python -m pip --disable-pip-version-check
WORKERS ?= 3
DISTRIBUTIONS := client export server bench

.PHONY: help setup model-repository demo test-unit test test-newest test-long test-compose bench soak models reference docs test-docs check format clean

help:
	@echo "make demo       set up, export, serve, embed the sample photos, show the result"
	@echo "make test-unit  set up, run the tests that need no Triton, no torch and no other process (about a minute)"
	@echo "make test       set up, run the tests (minutes)"
	@echo "make test-newest  the client alone on the newest Python that is here, and on numpy 2"
	@echo "make test-long  the tests that take longer"
	@echo "make test-compose  the compose files against a Docker engine; SHORT=1: the short tests alone"
	@echo "make bench      docs/benchmarks.md: the whole report, with perf_analyzer, transformers and LitServe (20 minutes)"
	@echo "make soak       10 minutes at 32 callers: errors, memory, p99"
	@echo "make models     docs/reference/models.md: exports and serves a small model of every architecture"
	@echo "make reference  the pages in docs/reference that are made from commands and settings"
	@echo "make docs       the documentation site, out/site/index.html (seconds)"
	@echo "make test-docs  the site in a browser: widths, search, accessibility"
	@echo "make check      ruff, mypy, pyright, and whether the distributions can be built and published"
	@echo "make clean      remove .venv, caches and out/"

setup: $(INSTALLED)

REQUIREMENTS := tests/requirements.txt bench/report/requirements.txt

$(INSTALLED): constraints.txt $(REQUIREMENTS) $(DISTRIBUTIONS:%=%/pyproject.toml)
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] <= (3, 12) else "this needs Python 3.11 or 3.12, and $(PYTHON) is " + sys.version.split()[0] + "; name another with `make PYTHON=python3.11 ...`")'
	@echo "Setting up $(VENV) (2 to 5 minutes the first time)"
	@$(PYTHON) -m venv $(VENV) || { echo "python -m venv failed; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@$(PIP) install --quiet -c constraints.txt hatchling editables
	@echo "  torch (some 200 MB) ..."
	@$(PIP) install --quiet -c constraints.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	@echo "  Triton, transformers, ONNX Runtime and what the tests need (some 500 MB) ..."
	@$(PIP) install --quiet -c constraints.txt --no-build-isolation $(DISTRIBUTIONS:%=-e ./%) $(REQUIREMENTS:%=-r %)
	@touch $@

# Text files of the default model's export, committed in model_repository/
model-repository: $(INSTALLED)
	$(BIN)/python -m vitriton_export.placeholder model_repository

demo: $(INSTALLED)
	@$(BIN)/python examples/demo.py

# Files of tests run beside one another, one worker more than a small machine has cores, as many tests wait
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --durations 25

test-unit: $(INSTALLED)
	$(PYTEST) --unit -m "not long and not compose"

test: $(INSTALLED)
	$(PYTEST) -m "not long and not compose"

test-long: $(INSTALLED)
	$(PYTEST) -m "long and not compose"

# The client alone, on the newest Python that is here (on PATH, or among pyenv's) and on numpy 2
NEWEST := .venv-newest
NEWEST_PYTHON ?= $(firstword $(foreach minor,14 13 12,$(shell for one in python3.$(minor) \
	"$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/3.$(minor).*/bin/python3.$(minor); do "$$one" -c 'import ensurepip; print("'"$$one"'")' 2>/dev/null && break; done)))

ifeq ($(NEWEST_PYTHON),)
test-newest:
	@echo "There is no Python 3.12 or newer here: the client is not tested on it."
else
test-newest: $(NEWEST)/.installed
	$(NEWEST)/bin/python -m pytest --unit -n 2 --dist loadfile -m "not long" tests/client
endif

$(NEWEST)/.installed: constraints-newest.txt tests/client/requirements.txt client/pyproject.toml
	@$(NEWEST_PYTHON) -m venv --clear $(NEWEST)
	@$(NEWEST)/bin/python -m pip --disable-pip-version-check install --quiet -c constraints-newest.txt hatchling editables
	@$(NEWEST)/bin/python -m pip --disable-pip-version-check install --quiet -c constraints-newest.txt --no-build-isolation \
		-e './client[otel]' -r tests/client/requirements.txt
	@touch $@

# `docker compose up` and what follows, against the Docker engine of this machine (minutes)
test-compose: $(INSTALLED)
	$(BIN)/python -m pytest tests/compose -m "compose$(if $(SHORT), and not long)"

# The report in docs/benchmarks.md, on this machine, in under 25 minutes with the set-up. An interrupted run leaves the page
# as it was, and what it measured in out/.
bench: $(INSTALLED)
	@$(BIN)/python bench/compare.py --json out/bench.json
	@mkdir -p bench/results && cp out/bench.json bench/results/report.json
	@$(BIN)/python bench/compare.py --from bench/results/report.json --markdown docs/benchmarks.md --plots docs/benchmarks > out/bench.txt
	@echo "docs/benchmarks.md is made anew; its tables are in out/bench.txt"

# 10 minutes of 32 callers with real photos, a table by the minute; a small model, so that two cores keep up
soak: $(INSTALLED)
	@rm -rf out/soak
	@PYTHONPATH=tests:examples $(BIN)/python -W ignore -c 'from pathlib import Path; from support import checkpoints; checkpoints.tiny_vit(Path("out/soak/tiny-vit"))'
	@$(BIN)/vitriton export out/soak/tiny-vit --repository out/soak/models --outputs pooled
	@$(BIN)/python bench/soak.py --repository out/soak/models --model tiny-vit --json out/soak/soak.json

# Every architecture of transformers: exported from a small configuration, and served (minutes)
models: $(INSTALLED)
	@PYTHONPATH=tests:examples $(BIN)/python -W ignore -m support.catalog docs/reference/models.md
	@PYTHONPATH=tests:examples $(BIN)/python -W ignore -m support.text_catalog docs/reference/text-models.md

# The pages of the reference that are read off commands and .env.example
reference: $(INSTALLED)
	@$(BIN)/python docs/reference.py

# The documentation site, in an environment of its own. A warning is an error, those about docstrings too; pages out of a
# cache give none
DOCS := .venv-docs

docs: $(DOCS)/.installed
	@$(DOCS)/bin/python docs/pages.py out
	@$(DOCS)/bin/zensical build --strict --clean --config-file out/mkdocs.yml > out/docs.txt 2>&1 || { cat out/docs.txt; exit 1; }
	@if grep griffe: out/docs.txt; then exit 1; fi
	@echo "The site is out/site/index.html"

test-docs: docs
	@$(DOCS)/bin/python -m pytest --confcutdir tests/site tests/site

$(DOCS)/.installed: constraints-docs.txt docs/requirements.txt
	@$(PYTHON) -m venv --clear $(DOCS)
	@$(DOCS)/bin/python -m pip --disable-pip-version-check install --quiet -c constraints-docs.txt -r docs/requirements.txt
	@touch $@

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy tests/typing
	$(BIN)/basedpyright tests/typing
	@rm -rf out/dist && mkdir -p out
	@for one in $(DISTRIBUTIONS); do $(BIN)/python -m build --no-isolation --outdir out/dist $$one >out/build.txt 2>&1 || { cat out/build.txt; exit 1; }; done
	$(BIN)/twine check --strict out/dist/*

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(NEWEST) $(DOCS) .cache .mypy_cache .pytest_cache .ruff_cache out dist
