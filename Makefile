# `make` lists the targets. Everything is installed into .venv; nothing else on the machine is touched.
.DEFAULT_GOAL := help
SHELL := /bin/bash
VENV := .venv
# What the tests run Pipecat bots with; it cannot be installed beside the rest.
PIPECAT := .venv-pipecat
BIN := $(VENV)/bin
EXTRAS := agents,offline

# Many tests mostly wait, so there are more test processes than cores; each runs whole files. `auto`: see tests/conftest.py.
WORKERS := auto
PYTEST := $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

# The first Python that is new enough, by any of its usual names.
PYTHON := $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo "$$p" && break; done)

.PHONY: help up flower frontend image image-test test chaos fuzz guards check quick lint types format imports bench docs pictures lock outdated clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

NODE_IS_NEW_ENOUGH := node -e 'const [a, b] = process.versions.node.split("."); process.exit(+(a < 20 || (a == 20 && b < 19)))' \
	2>/dev/null && npm --version >/dev/null 2>&1

# A node runs without the page, so it starts even if Node or the network is missing.
up: $(VENV)/.installed ## Start a whole node on this machine: no key, no account, no Docker
	@$(MAKE) --silent frontend || echo "Going on without the page with the Talk button." >&2
	@exec $(BIN)/orchestrator up

frontend: ## Build the page with the Talk button
	@$(NODE_IS_NEW_ENOUGH) || { echo "The page with the Talk button needs Node 20.19 or later, with npm (node is \
	$$(node --version 2>/dev/null || echo missing)). Install it from your package manager or https://nodejs.org, \
	and run: make frontend" >&2; exit 1; }
	@$(MAKE) --silent frontend/dist/index.html

# Node's packages are built for one version of it, so the stamp is in the folder that `npm ci` replaces.
frontend/node_modules/.installed: frontend/package-lock.json
	@echo "Installing the page's pinned packages into frontend/node_modules, once."
	@cd frontend && npm ci --no-audit --no-fund --loglevel=error --prefer-offline --fetch-retries=1 \
		--fetch-timeout=30000 >/dev/null
	@touch $@

frontend/dist/index.html: frontend/node_modules/.installed orchestrator/web/sse.js $(shell find frontend -type f -not -path '*/node_modules/*' \
		-not -path '*/dist/*' -not -name '*.test.ts' 2>/dev/null)
	@cd frontend && npm run --silent build -- --logLevel warn
	@touch $@

flower: $(VENV)/.installed-flower ## Start Celery's own monitor beside the running node, on port 5555 of loopback
	@exec $(BIN)/orchestrator flower

# Docker, or podman, which needs other arguments for the same file without a bridge network.
ENGINE := $(shell docker info >/dev/null 2>&1 && echo docker || echo podman)
BUILD := $(if $(filter podman,$(ENGINE)),--format=docker --isolation=chroot --network=host --layers)

image: ## Build the image with the offline voice, and the smaller one without it
	@command -v $(ENGINE) >/dev/null || { echo "Building the image needs Docker, or podman." >&2; exit 1; }
	@$(ENGINE) build $(BUILD) -f Dockerfile.orchestrator -t voice-agent-orchestrator .
	@$(ENGINE) build $(BUILD) -f Dockerfile.orchestrator --build-arg OFFLINE_VOICE=false -t voice-agent-orchestrator:hosted .
	@for tag in latest hosted; do printf 'voice-agent-orchestrator:%-8s %s\n' $$tag \
		"$$($(ENGINE) image inspect --format '{{.Size}}' voice-agent-orchestrator:$$tag | awk '{printf "%d MB", $$1 / 1000000}')"; done

image-test: $(VENV)/.installed-image ## Build the image, start it and the compose file, call it: as root, with podman
	@$(BIN)/python -m pytest --timeout 900 tests/image

test: $(VENV)/.installed-dev $(PIPECAT)/.installed ## Run the tests, on a real Valkey and a real LiveKit server
	@$(PYTEST)

chaos: $(VENV)/.installed-dev ## Break whole nodes for an hour (nightly), and print the figures; 20,000 schedules in virtual time
	@CHAOS_LONG=1 CHAOS_SECONDS=300 SOAK_SECONDS=600 HYPOTHESIS_PROFILE=nightly $(PYTEST) --timeout 3600 -rP \
		--log-level INFO tests/chaos tests/integration/test_model.py
	@SIMULATION_BATCHES=1000 $(BIN)/python -m pytest --numprocesses 2 --dist load --quiet tests/simulation/test_schedules.py

fuzz: $(VENV)/.installed-dev ## Send 10,000 generated requests to the api, valid ones and others
	@FUZZ_CASES=10000 $(BIN)/python -m pytest --timeout 3600 tests/integration/test_fuzz.py

guards: $(VENV)/.installed-dev ## Remove each guard in a copy, and check that its test fails: half an hour
	@$(BIN)/python -m tests.guards

check: $(VENV)/.installed-dev ## Lint, type-check, check the import rules, run the quick tests: a minute
	@$(MAKE) --silent --jobs 4 --output-sync=target lint types imports quick

quick: $(VENV)/.installed-dev
	@$(PYTEST) --quiet --numprocesses 4 --dist worksteal -o timeout_func_only=false -m "not thorough" tests/integration tests/unit

lint: $(VENV)/.installed-dev
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	@$(BIN)/mypy

imports: $(VENV)/.installed-dev
	@$(BIN)/lint-imports

format: $(VENV)/.installed-dev ## Format the code
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format .

bench: $(VENV)/.installed-dev ## Measure, each figure beside its reference in the same run
	@$(BIN)/python -m benchmarks

docs: $(VENV)/.installed-dev ## Generate the parts of the documents that repeat the code
	@$(BIN)/python -m tests.reference

pictures: $(VENV)/.installed-dev ## Take the README's pictures, in Chromium on a real node
	@PICTURES=docs/pictures STEP=the_picture $(BIN)/python -m pytest -n0 --quiet tests/e2e/test_frontend.py -k talk

# What is resolved is the same for every system and every Python from 3.11 on. setuptools builds the project itself.
COMPILE = echo setuptools | $(BIN)/uv pip compile --quiet pyproject.toml - --universal --python-version 3.11 --no-header \
	--no-emit-index-url --no-annotate
HASHES = $(COMPILE) --constraints constraints.txt --generate-hashes --no-strip-extras --only-binary :all: \
	--extra providers --extra flower

# `make lock UPGRADE=` keeps the versions that still fit: after a change of pyproject.toml.
UPGRADE := --upgrade

lock: $(VENV)/.installed-image ## Resolve the dependencies again: constraints.txt, the image's with their hashes, Pipecat's
	@$(COMPILE) $(UPGRADE) --extra agents --extra offline --extra providers --extra dev --extra image -o constraints.txt
	@$(HASHES) --upgrade-package setuptools -o requirements/hosted.txt
	@$(HASHES) --upgrade-package setuptools --extra offline -o requirements/offline.txt
	@$(BIN)/uv pip compile --quiet requirements/pipecat.in --universal --python-version 3.11 --no-header \
	  --no-emit-index-url --no-annotate $(UPGRADE) -o requirements/pipecat.txt

outdated: $(VENV)/.installed-image ## List pinned versions that are outdated: Python's, npm's, images, LiveKit server
	@$(BIN)/python -m tests.outdated

clean: ## Remove .venv, .venv-pipecat, .run and caches
	rm -rf $(VENV) $(PIPECAT) .run frontend/node_modules frontend/dist .screenshots .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build *.egg-info

$(VENV)/bin/python:
	@if [ -z "$(PYTHON)" ]; then echo "No Python 3.11 or later found (python3 is $$(python3 --version 2>&1 || echo missing)). \
	Install one, or run: make PYTHON=/path/to/python3.11" >&2; exit 1; fi
	@$(PYTHON) -m venv $(VENV) || { echo "$(PYTHON) cannot make a virtual environment: install its venv module \
	(Debian: apt install python3-venv)." >&2; exit 1; }

# pip byte-compiles what it installs: without that every program would start seconds later.
$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "Installing the pinned dependencies into $(VENV): about a minute, once."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	@$(BIN)/python -m compileall -q orchestrator agent_runtime agents
	@touch $@

$(VENV)/.installed-flower: $(VENV)/.installed
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS),flower]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS),dev]'
	@touch $@

$(VENV)/.installed-image: $(VENV)/.installed-dev
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS),dev,image]'
	@touch $@

$(PIPECAT)/.installed: requirements/pipecat.txt
	@echo "Installing Pipecat, for tests, into $(PIPECAT): about a minute, once."
	@$(PYTHON) -m venv $(PIPECAT)
	@$(PIPECAT)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@
