# Every target sets up what it needs in $(VENV): a machine with Python 3.11 to 3.13, git and make is enough.
PYTHON ?= python3
VENV ?= .venv
DJANGO ?= Django
EXTRA ?= datastore
GROUP ?= dev
GCLOUDC_VENV ?= .venv-gcloudc
PYTEST_ARGS ?=

BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help demo test test-gcloudc chaos simulate check format bench clean

help:
	@echo "make demo    the main job on the embedded local cloud, with a worker killed in the middle; KEEP=1 leaves it running"
	@echo "make test    all tests"
	@echo "make test-gcloudc    the tests on django-gcloud-connectors, in their own environment"
	@echo "make check   ruff, mypy strict, pyright"
	@echo "make chaos   kill a process at 500 points of a transaction, and the workers of iterations, on each database"
	@echo "make simulate    the rules of iteration in 50,000 worlds; START=70000 tries others"
	@echo "make bench   the benchmarks, as ratios"
	@echo "make format  format the code"

$(READY): pyproject.toml requirements/constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 14) else "safedefer needs Python 3.11, 3.12 or 3.13; name one with make PYTHON=python3.12")'
	@echo "Installing into $(VENV), which takes a minute or two ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements/constraints.txt --editable ".[$(EXTRA)]" "$(DJANGO)" --group $(GROUP)
	@touch $(READY)

demo: $(READY)
	@KEEP=$(KEEP) $(BIN)/python examples/demo.py

test: $(READY)
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

chaos: $(READY)
	@SAFEDEFER_CHAOS_POINTS=500 SAFEDEFER_CHAOS_SEEDS=50 $(BIN)/python -m pytest tests/integration/test_outbox.py tests/integration/test_iteration_crashes.py -k killed

simulate: $(READY)
	@SAFEDEFER_SIMULATIONS=50000 SAFEDEFER_SIMULATION_START=$(or $(START),0) $(BIN)/python -m pytest tests/simulation -k no_world

# django-gcloud-connectors needs Django < 6 and settings that name it: an environment and a project of its own.
test-gcloudc:
	@$(MAKE) --no-print-directory $(GCLOUDC_VENV)/.ready VENV=$(GCLOUDC_VENV) EXTRA=gcloudc GROUP=test DJANGO="Django~=5.2.0"
	@$(GCLOUDC_VENV)/bin/python -m pytest -c tests/gcloudc/pytest.ini tests/gcloudc $(PYTEST_ARGS)

check: $(READY)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	cd examples/shop && $(abspath $(BIN))/python -m mypy .
	$(BIN)/python -m pyright --pythonpath $(BIN)/python

format: $(READY)
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

bench: $(READY)
	@for script in benchmarks/[a-z]*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

clean:
	rm -rf $(VENV) $(GCLOUDC_VENV) .demo build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
