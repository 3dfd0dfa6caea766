# Needs Python 3.10 to 3.14 and make; everything else goes into .venv. `make` alone lists the targets.

SHELL := /bin/sh
PYTHON ?= python3
EXTRAS ?= sandbox
PYTEST_ARGS ?=
BENCH_ARGS ?=
# Two processes, each with its own AIRFLOW_HOME, database and sandbox; the tests of a file stay together.
SIDE_BY_SIDE := -n 2 --dist loadfile
RELIABILITY := $(addprefix tests/live/test_,kill_points.py late_workers.py user_actions.py run_budget.py \
  moving_parts.py two_triggerers.py)
# Another version of Airflow changes nothing for these.
WITHOUT_AIRFLOW := $(addprefix --ignore=tests/unit/,client polling test_docs.py test_vocabulary.py)
# What test-oldest and test-next run.
TESTS ?= tests/unit tests/integration/airflow $(WITHOUT_AIRFLOW)
VENV := .venv
WHEEL_VENV := .venv-wheel
BIN := $(VENV)/bin
UV := $(shell uv --version >/dev/null 2>&1 && command -v uv)
CONSTRAINTS := $(wildcard constraints.txt)
INPUTS := pyproject.toml $(CONSTRAINTS)

ifneq ($(UV),)
# Without bytecode each process of Airflow compiles what it imports: five seconds.
INSTALL = VIRTUAL_ENV=$(CURDIR)/$(VENV) $(UV) pip install --quiet --compile-bytecode
else
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check
endif
INSTALL += $(addprefix -c ,$(CONSTRAINTS))

# Airflow keeps its files here, and not in ~/airflow.
export AIRFLOW_HOME := $(CURDIR)/$(VENV)/airflow

.DEFAULT_GOAL := help
.PHONY: constraints-check help demo test test-quick test-live test-oldest test-next test-browser matrix screenshots lint typecheck build wheel-check bench bench-downloads reliability models docs constraints clean
.DELETE_ON_ERROR:

help: ## list these targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1@\2/p' $(MAKEFILE_LIST) | awk -F@ '{printf "%-18s %s\n", $$1, $$2}'

demo: $(VENV)/.demo ## a photograph becomes a video under a real Airflow (LIVE=1: at Magic Hour, after a question)
	@LIVE="$(LIVE)" $(BIN)/python scripts/demo.py

test: test-quick test-live ## every test but those in a browser

test-quick: $(VENV)/.dev ## the tests that need no live Airflow
	$(BIN)/python -m pytest tests/unit tests/integration $(or $(PYTEST_ARGS),$(SIDE_BY_SIDE))

test-live: $(VENV)/.dev ## pipelines, kills and user actions under two live Airflows
	$(BIN)/python -m pytest tests/live $(or $(PYTEST_ARGS),-n 2 --dist loadgroup)

reliability: $(VENV)/.dev ## the same kills and user actions, written into docs/reliability.md
	WRITE_RELIABILITY=1 $(BIN)/python -m pytest $(RELIABILITY)

test-browser: $(VENV)/.dev ## pages and connection form in Debian's chromium (CHROMIUM=...: another one)
	$(BIN)/python -m pytest tests/browser $(PYTEST_ARGS)

screenshots: $(VENV)/.dev ## take the documentation's screenshots with chromium
	$(BIN)/python scripts/screenshots.py

test-oldest: ## the tests of Airflow without a live one, on the oldest supported Airflow
	@$(MAKE) --no-print-directory test-on VENV=.venv-oldest CONSTRAINTS=constraints-airflow-3.0.txt

test-next: ## the same tests on the newest pre-release of the next Airflow (needs Python 3.11 or later)
	@$(MAKE) --no-print-directory test-on VENV=.venv-next CONSTRAINTS=constraints-airflow-3.4.txt

.PHONY: test-on
test-on: $(VENV)/.dev
	$(BIN)/python -m pytest $(TESTS) $(or $(PYTEST_ARGS),$(SIDE_BY_SIDE))

matrix: test-oldest test-next test-browser test-live ## every Airflow, browser and live test, in an hour

constraints-check: $(VENV)/.dev ## resolve the package against the constraints of each supported Airflow (needs uv)
	$(BIN)/python scripts/check_constraints.py

lint: $(VENV)/.dev ## ruff (rules and format) and import-linter (which module may import which)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

typecheck: $(VENV)/.dev ## mypy, strict
	$(BIN)/mypy

build: $(VENV)/.dev ## the wheel and the sdist, into dist/
	rm -rf dist
	$(BIN)/python -m build

wheel-check: build ## install the wheel into a clean environment, import it, and ask Airflow for it
	rm -rf $(WHEEL_VENV)
	@$(MAKE) --no-print-directory VENV=$(WHEEL_VENV) $(WHEEL_VENV)/.made
	@$(MAKE) --no-print-directory VENV=$(WHEEL_VENV) install-wheel
	cd $(WHEEL_VENV) && AIRFLOW_HOME=$(CURDIR)/$(WHEEL_VENV)/airflow bin/python $(CURDIR)/scripts/check_wheel.py

.PHONY: install-wheel
install-wheel:
	@$(INSTALL) dist/*.whl

bench: ## cost of waiting beside published triggers, in half an hour: docs/performance.md (BENCH_ARGS=--short: a quarter)
	@$(MAKE) --no-print-directory VENV=.venv-bench .venv-bench/.bench
	env -u PYTHONDONTWRITEBYTECODE .venv-bench/bin/python benchmarks/bench.py $(BENCH_ARGS)

bench-downloads: $(VENV)/.dev ## speed of downloads beside aiohttp and boto3: docs/download-performance.md
	$(BIN)/python benchmarks/downloads.py $(BENCH_ARGS)

models: $(VENV)/.dev ## write docs/models.md from client/models.json
	$(BIN)/python scripts/models_table.py

docs: $(VENV)/.docs ## the documentation site, into docs/_build/html
	rm -rf docs/_build
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going docs docs/_build/html
	@echo "docs/_build/html/index.html"

constraints: ## renew the three constraints files (needs uv)
	sh scripts/renew_constraints.sh

clean: ## remove the environment, the demo's files and everything built
	rm -rf $(VENV) .venv-oldest .venv-next .venv-bench $(WHEEL_VENV) .demo dist docs/_build .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 14))' || { \
	  echo "Python 3.10 to 3.14 is needed, and '$(PYTHON)' is: $$($(PYTHON) --version 2>&1)." >&2; \
	  echo "Name another one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "Making $(VENV) with $$($(PYTHON) --version 2>&1) ..."
	@$(PYTHON) -m venv --clear $(VENV) || { \
	  echo "Could not make a virtual environment; on Debian and Ubuntu it needs the package python3-venv." >&2; \
	  exit 1; }
	@touch $@

$(VENV)/.demo: $(VENV)/.made $(INPUTS)
	@echo "Installing the project and Airflow into $(VENV) (minutes, the first time) ..."
	@$(INSTALL) -e '.[$(EXTRAS)]'
	@touch $@

# `pip install --group` came with pip 25.1.
$(VENV)/.dev: $(VENV)/.demo
	@echo "Installing the development tools into $(VENV) ..."
ifeq ($(UV),)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
endif
	@$(INSTALL) -e '.[$(EXTRAS),fonts]' --group dev
	@touch $@

$(VENV)/.docs: $(VENV)/.dev
	@echo "Installing Sphinx into $(VENV) ..."
	@$(INSTALL) -e '.[$(EXTRAS)]' --group dev --group docs
	@touch $@

$(VENV)/.bench: $(VENV)/.dev
	@echo "Installing the published providers to compare with into $(VENV) ..."
	@$(INSTALL) -e '.[$(EXTRAS)]' --group dev --group bench
	@touch $@
