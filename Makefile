# Needs Python 3.10 to 3.14 and make; everything else goes into .venv. `make` alone lists the targets.

SHELL := /bin/sh
PYTHON ?= python3
EXTRAS ?= sandbox
PYTEST_ARGS ?=
BENCH_ARGS ?=
DRIFT_ARGS ?=
# Two processes, each with its own AIRFLOW_HOME, database and sandbox; the tests of a file stay together.
SIDE_BY_SIDE := -n 2 --dist loadfile
RELIABILITY := $(addprefix tests/live/test_,kill_points.py late_workers.py user_actions.py run_budget.py \
  moving_parts.py two_triggerers.py)
CLUSTER := tests/live/test_cluster.py
# Another version of Airflow changes nothing for these.
WITHOUT_AIRFLOW := $(addprefix --ignore=tests/unit/,client polling test_docs.py test_vocabulary.py)
# What a version of Airflow is tested with, and the seconds that each of the two may take.
VERSIONS := 3.0 3.1 3.2 3.3 3.4
TESTS ?= tests/unit tests/integration/airflow $(WITHOUT_AIRFLOW)
LIVE_TESTS ?= tests/live/test_pipelines.py
TEST_SECONDS ?= 3600
MATRIX := $(addprefix test-on-,$(VERSIONS)) test-auth test-mysql test-browser test-stores test-live test-cluster
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
.PHONY: constraints-check test-auth test-mysql help demo demo-cluster test test-quick test-live test-cluster test-oldest test-next test-browser matrix test-stores screenshots lint typecheck build wheel-check bench bench-batch bench-downloads reliability models docs constraints drift clean
.DELETE_ON_ERROR:

help: ## list these targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1@\2/p' $(MAKEFILE_LIST) | awk -F@ '{printf "%-18s %s\n", $$1, $$2}'

demo: $(VENV)/.demo ## a photograph becomes a video under a real Airflow (LIVE=1: at Magic Hour, after a question)
	@LIVE="$(LIVE)" $(BIN)/python scripts/demo.py

demo-cluster: $(VENV)/.dev ## the same with CeleryExecutor: two workers, triggerers, schedulers and API servers
	@LIVE="$(LIVE)" CLUSTER=1 $(BIN)/python scripts/demo.py

test: test-quick test-live ## the tests on this Airflow; make matrix runs all others too

test-quick: $(VENV)/.dev ## the tests that need no live Airflow
	$(BIN)/python -m pytest tests/unit tests/integration $(or $(PYTEST_ARGS),$(SIDE_BY_SIDE))

test-live: $(VENV)/.dev ## pipelines, kills and user actions under two live Airflows
	$(BIN)/python -m pytest tests/live --ignore=$(CLUSTER) $(or $(PYTEST_ARGS),-n 2 --dist loadgroup)

test-cluster: $(VENV)/.dev ## the same with CeleryExecutor: workers are killed, frozen and shut down; 500 videos
	$(BIN)/python -m pytest $(CLUSTER) $(PYTEST_ARGS)

reliability: $(VENV)/.dev ## the same kills and user actions, written into docs/reliability.md
	WRITE_RELIABILITY=1 $(BIN)/python -m pytest $(RELIABILITY)
	WRITE_RELIABILITY=1 $(BIN)/python -m pytest $(CLUSTER)

test-browser: $(VENV)/.dev ## pages and connection form in Debian's chromium (CHROMIUM=...: another one)
	$(BIN)/python -m pytest tests/browser $(PYTEST_ARGS)

test-stores: ## every object store: S3 on moto, Azure on Azurite, Google's on an emulator (needs node and npm)
	@$(MAKE) --no-print-directory VENV=.venv-stores CONSTRAINTS=constraints-stores.txt .venv-stores/.stores
	.venv-stores/bin/python -m pytest tests/integration/stores $(PYTEST_ARGS)

screenshots: $(VENV)/.dev ## take the documentation's screenshots with chromium
	$(BIN)/python scripts/screenshots.py

test-oldest: test-on-3.0 ## the tests of Airflow on its oldest supported version (make test-on-3.2: on that one)

test-next: test-on-3.4 ## the same tests on the newest pre-release of the next Airflow (needs Python 3.11 or later)

.PHONY: test-on test-versions
test-on-%:
	@$(MAKE) --no-print-directory test-on $(if $(wildcard constraints-airflow-$*.txt),VENV=.venv-$* \
	  CONSTRAINTS=constraints-airflow-$*.txt)

test-on: $(VENV)/.dev
	timeout $(TEST_SECONDS) $(BIN)/python -m pytest $(TESTS) $(or $(PYTEST_ARGS),$(SIDE_BY_SIDE))
	$(if $(LIVE_TESTS),timeout $(TEST_SECONDS) $(BIN)/python -m pytest $(LIVE_TESTS))

test-versions: $(addprefix test-on-,$(VERSIONS)) ## the tests of Airflow on every supported version and the next one

test-auth: ## the rights of FAB's and Keycloak's users on the pages
	@$(MAKE) --no-print-directory VENV=.venv-matrix .venv-matrix/.matrix
	.venv-matrix/bin/python -m pytest tests/integration/airflow/test_ui_auth_managers.py $(PYTEST_ARGS)

test-mysql: ## the pages with MySQL as Airflow's database (on Debian; installs the headers of its client)
	@$(MAKE) --no-print-directory VENV=.venv-matrix .venv-matrix/.mysql
	sh scripts/unpack_mysql.sh .venv-matrix/mysql
	.venv-matrix/bin/python scripts/mysql_server.py .venv-matrix/mysql .venv-matrix/bin/python -m pytest \
	  $(addprefix tests/integration/airflow/,test_ui.py test_ui_tables.py) $(PYTEST_ARGS)

matrix: ## every Airflow, database, auth manager, browser and live test; ends with the failed targets
	@failed=; for target in $(MATRIX); do $(MAKE) $$target || failed="$$failed $$target"; done; \
	  test -z "$$failed" || { echo "Failed:$$failed" >&2; exit 1; }

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

bench-batch: $(VENV)/.dev ## one batch beside mapped tasks in a live Airflow: docs/batch-performance.md
	$(BIN)/python benchmarks/batch.py $(BENCH_ARGS)

bench-downloads: $(VENV)/.dev ## speed of downloads beside aiohttp and boto3: docs/download-performance.md
	$(BIN)/python benchmarks/downloads.py $(BENCH_ARGS)

models: $(VENV)/.dev ## write docs/models.md from client/models.json
	$(BIN)/python scripts/models_table.py

docs: $(VENV)/.docs ## the documentation site, into docs/_build/html
	rm -rf docs/_build
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going docs docs/_build/html
	@echo "docs/_build/html/index.html"

constraints: ## renew the constraints files (needs uv)
	sh scripts/renew_constraints.sh

drift: $(VENV)/.dev ## what Magic Hour's newest SDK and the newest Airflow changed for this package (DRIFT_ARGS=--pre)
	@$(BIN)/python scripts/check_drift.py $(DRIFT_ARGS)

clean: ## remove the environment, the demo's files and everything built
	rm -rf $(VENV) $(addprefix .venv-,$(VERSIONS)) .venv-matrix .venv-bench .venv-stores $(WHEEL_VENV) .demo dist docs/_build .mypy_cache .pytest_cache .ruff_cache
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

$(VENV)/.matrix: $(VENV)/.dev
	@echo "Installing other auth managers into $(VENV) ..."
	@$(INSTALL) -e '.[$(EXTRAS)]' --group dev --group matrix
	@touch $@

# mysqlclient is built when it is installed.
$(VENV)/.mysql: $(VENV)/.matrix
	@pkg-config --exists mysqlclient || apt-get install --yes default-libmysqlclient-dev gcc pkg-config
	@$(INSTALL) -e '.[$(EXTRAS)]' --group dev --group matrix --group mysql
	@touch $@

$(VENV)/.docs: $(VENV)/.dev
	@echo "Installing Sphinx into $(VENV) ..."
	@$(INSTALL) -e '.[$(EXTRAS)]' --group dev --group docs
	@touch $@

$(VENV)/.bench: $(VENV)/.dev
	@echo "Installing the published providers to compare with into $(VENV) ..."
	@$(INSTALL) -e '.[$(EXTRAS)]' --group dev --group bench
	@touch $@

$(VENV)/.stores: $(VENV)/.dev
	@echo "Installing the drivers of Azure and Google, and emulators of both, into $(VENV) ..."
	@$(INSTALL) -e '.[$(EXTRAS)]' --group dev --group stores
	@npm install --prefix $(VENV)/azurite --no-audit --no-fund --loglevel error azurite@3.37.0
	@touch $@
