# Needs Python 3.11 or newer and make; everything else comes from the lock file.

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-full check bench results clean clean-data
.SUFFIXES:

PYTHON ?= python3
UV := $(if $(shell command -v uv 2>/dev/null),uv,.uv/bin/uv)
RUN := .venv/bin/python -m
DEMO_ARGS ?=
TEST_ARGS ?=
POSTGRES_15 ?= /usr/lib/postgresql/15/bin
SYNCED := .venv/.synced

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1|\2/p' Makefile | while IFS='|' read -r name text; do \
		printf '%-16s %s\n' "$$name" "$$text"; done

setup: $(SYNCED) ## install everything into .venv

demo: $(SYNCED) ## run the whole product on simulated tickets; DEMO_ARGS=--exit stops at the end
	@.venv/bin/tiebreak demo $(DEMO_ARGS)

test: $(SYNCED) ## run the tests, in some 10 minutes on 2 cores; those of structure and documents are in `make check`
	@$(RUN) pytest -n 2 --dist worksteal -m "not full" --ignore=tests/architecture $(TEST_ARGS)

test-full: $(SYNCED) ## run the tests with the long suites: chaos, real data, PostgreSQL 15
	@$(RUN) pytest -n 2 --dist worksteal $(TEST_ARGS)
	@echo "With the extra mlflow, in an environment of its own"
	@UV_PROJECT_ENVIRONMENT=.venv/mlflow $(UV) sync --frozen --quiet --extra mlflow
	@.venv/mlflow/bin/python -m pytest tests/integration/test_training_mlflow.py
	@if [ -x $(POSTGRES_15)/postgres ]; then \
		echo "The tests of the store again, on the PostgreSQL in $(POSTGRES_15)"; \
		TESTS_POSTGRES=$(POSTGRES_15) $(RUN) pytest -n 2 tests/integration \
			tests/property/test_store_*.py tests/property/test_history_*.py \
			--ignore-glob='*test_embedded_*' $(TEST_ARGS); \
	else \
		echo "NOT TESTED on PostgreSQL 15: there is none in $(POSTGRES_15) (package postgresql-15)"; \
	fi

check: $(SYNCED) ## format, lint, types, import contracts, documents
	@$(RUN) ruff format --check
	@$(RUN) ruff check
	@$(RUN) pyright
	@$(RUN) pyright --project pyright.tests.json bench $$(grep -rl --include='*.py' 'mark\.full' tests)
	@.venv/bin/lint-imports --no-logo
	@$(RUN) pytest -q tests/architecture

bench: $(SYNCED) ## run the benchmarks into bench/results.json
	@UV_PROJECT_ENVIRONMENT=.venv/alternatives $(UV) sync --frozen --quiet --group alternatives
	@$(RUN) bench

results: $(SYNCED) ## make docs/results.md again from real tickets; DATA=folder says where they are
	@test -d "$(DATA)" || { echo "make results DATA=folder: where boston311/ and itsm/ are"; exit 2; }
	@$(RUN) bench.real "$(DATA)"

clean: ## stop what runs here and remove environment and caches; data in .tiebreak stays
	@if [ -x .venv/bin/tiebreak ] && [ -d .tiebreak ]; then .venv/bin/tiebreak down || true; fi
	@rm -rf .venv .uv .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	@find src tests bench -name __pycache__ -type d -prune -exec rm -rf {} +

clean-data: $(SYNCED) ## stop what runs here and remove its database, keys and models for good
	@if [ -d .tiebreak ]; then .venv/bin/tiebreak down --remove-data --yes; fi

$(SYNCED): pyproject.toml uv.lock | $(filter .uv/%,$(UV))
	@echo "Installing into .venv"
	@$(UV) sync --frozen --quiet
	@touch $@

# A virtual environment where Python can make one; Debian's python3 may lack that, but have pip.
.uv/bin/uv:
	@echo "Installing uv into .uv"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Tiebreak needs Python 3.11 or newer; set PYTHON=…"; exit 1; }
	@rm -rf .uv
	@if $(PYTHON) -c 'import venv, ensurepip' 2>/dev/null && $(PYTHON) -m venv .uv; then \
		.uv/bin/python -m pip install --quiet --disable-pip-version-check uv; \
	else \
		rm -rf .uv; \
		$(PYTHON) -m pip install --quiet --disable-pip-version-check --target .uv uv; \
	fi
