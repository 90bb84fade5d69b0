# Every target makes what it needs by itself: a fresh clone, Python 3.11 or newer and make are enough.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
CRD := crds/ippo.dev_iterativepporuns.yaml
REFERENCE := docs/manifest.md
REASONS := docs/reasons.md
CHART := charts/ippo-operator
BENCH := build/bench
PLAIN := deploy/ippo-operator.yaml
HELM ?= $(shell command -v helm)
RENDER = { cat deploy/namespace.yaml; $(HELM) template ippo-operator $(CHART) --namespace ippo-system; }
# Share by share (tests/kit/shares.py), in the order of the folders: the long ones, tests/integration, come first, so that
# none is left at the end. One process more than the cores that are asked for: many of those tests wait for servers.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder
# In one process: they share a cluster. It pulls its images, or the lab loads what is built here.
E2E := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -ra --durations=10
E2E_IMAGES = $(if $(or $(IPPO_E2E_KUBECONFIG),$(IPPO_E2E_ARCHIVES)),,build/images/.built)
E2E_IMAGES_ALL = $(E2E_IMAGES:.built=.all)
IMAGE_SOURCES = $(shell find operator trainer images -type f -not -path '*/__pycache__/*') pyproject.toml constraints.txt

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all quickstart e2e e2e-all lint format crds manifests docs bench bench-speed constraints images clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(INSTALLED) ## everything into .venv

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed; name it: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	@echo 'Installing into $(VENV); the first time this takes minutes.'
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[operator,trainer,dev]'
	@touch $@

demo: $(INSTALLED) ## a language model learns to sell, into runs/demo; ends with a report
	$(BIN)/ippo run -f examples/sr-funnel.yaml --out runs/demo
	@echo "Open runs/demo/report.html in a browser."

test: $(INSTALLED) ## all tests but the slow ones and those in real pods
	$(PYTEST) -m "not slow and not e2e"

test-all: $(INSTALLED) ## all tests but those in real pods
	$(PYTEST) -m "not e2e"

quickstart: $(INSTALLED) $(E2E_IMAGES) ## docs/tutorials/cluster.md in real pods; the first of the e2e tests
	$(E2E) tests/e2e/test_quickstart.py

e2e: $(INSTALLED) $(E2E_IMAGES) ## the quickstart and what is quick, in real pods: IPPO_E2E_KUBECONFIG's cluster, or a lab
	$(E2E) tests/e2e -m "not slow"

e2e-all: $(INSTALLED) $(E2E_IMAGES_ALL) ## all tests in real pods: hours
	$(E2E) tests/e2e

build/images/.built: $(IMAGE_SOURCES)
	tests/e2e/images.sh
	@touch $@

build/images/.all: $(IMAGE_SOURCES) tests/e2e/previous
	tests/e2e/images.sh all
	@touch $@ build/images/.built

lint: $(INSTALLED) ## style, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@$(BIN)/python -m ippo_operator.api.crd | cmp -s - $(CRD) || { echo "$(CRD) is not what the models say: make crds"; exit 1; }
	@$(BIN)/python -m ippo_operator.api.reference | cmp -s - $(REFERENCE) || { echo "$(REFERENCE) is not what the models say: make docs"; exit 1; }
	@$(BIN)/python -m ippo_operator.api.reasons | cmp -s - $(REASONS) || { echo "$(REASONS) is not what the table says: make docs"; exit 1; }
	@sed -n '/^spec:/,$$p' $(CRD) | cmp -s - $(CHART)/files/crd-spec.yaml || { echo "The chart's CRD is not $(CRD): make crds"; exit 1; }
	@if test -n "$(HELM)"; then $(RENDER) | cmp -s - $(PLAIN) || { echo "$(PLAIN) is not what the chart says: make manifests"; exit 1; }; \
	  else echo "not checked, for want of helm: $(PLAIN)"; fi

format: $(INSTALLED) ## mends style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

crds: $(INSTALLED) ## the CustomResourceDefinition, from the models; the chart's copy of it too
	$(BIN)/python -m ippo_operator.api.crd > $(CRD).new
	@mv $(CRD).new $(CRD)
	@sed -n '/^spec:/,$$p' $(CRD) > $(CHART)/files/crd-spec.yaml
	@$(if $(HELM),$(MAKE) --no-print-directory manifests,echo "$(PLAIN) has to follow: make manifests HELM=/path/to/helm")

manifests: $(INSTALLED) ## the chart's table of values, and deploy/ from the chart; needs helm, or HELM=/path/to/helm
	@test -n "$(HELM)" || { echo "helm is missing; name it: make manifests HELM=/path/to/helm"; exit 1; }
	$(BIN)/python -m tests.integration.chart.table
	$(RENDER) > $(PLAIN).new
	@mv $(PLAIN).new $(PLAIN)

docs: $(INSTALLED) ## the references of the manifest and of the reasons, from the models
	$(BIN)/python -m ippo_operator.api.reference > $(REFERENCE).new
	@mv $(REFERENCE).new $(REFERENCE)
	$(BIN)/python -m ippo_operator.api.reasons > $(REASONS).new
	@mv $(REASONS).new $(REASONS)

bench: $(INSTALLED) ## how well it learns, five seeds, beside its peers: a day on two cores; interrupted, it goes on
	$(BIN)/python tests/benchmarks/learning.py --out $(BENCH)/product --jobs 2
	$(BIN)/python tests/benchmarks/peers.py --out $(BENCH)/peers --product $(BENCH)/product --jobs 2 --tune

bench-speed: $(INSTALLED) ## how fast things are
	@for script in tests/benchmarks/bench_*.py; do echo "$$script"; OMP_NUM_THREADS=1 $(BIN)/python $$script || exit 1; done

constraints: $(INSTALLED) ## pins what is installed
	@{ head -n 1 constraints.txt; $(BIN)/python -m pip freeze --exclude-editable | sed -E 's/\+[A-Za-z0-9.]+$$//'; } > constraints.new
	@mv constraints.new constraints.txt

images: ## the operator's and the trainer's container images, with buildah, podman or docker; settings: images/build.sh
	images/build.sh

clean: ## removes .venv, caches and builds; runs stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
