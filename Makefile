# Two commands: `make demo` and `make test`. Both set up what they need and re-use what stands.
# Needed beforehand: make and Python >= 3.11 (another one: make demo PYTHON=/path/to/python3.12).
PYTHON ?= python3
VENV := .venv
LAB := .venv-lab
BIN := $(VENV)/bin
OUT ?= runs/demo
FAULTS ?= 500
SEED ?= 0
MINUTES ?= 60

.PHONY: help demo test lint types contracts fast lab-only test-slow faults chaos clean

help:
	@echo 'make demo       set up, then train on digits and run the lab; writes $(OUT)/report.html'
	@echo 'make test       set up, then lint, types, contracts and tests (under 10 minutes)'
	@echo 'make test-slow  the statistical and long tests'
	@echo 'make faults     every fault of docs/faults.md, five times, with real signals (3 minutes)'
	@echo 'make chaos      500 random faults over four methods, with a report (make chaos FAULTS=50 SEED=1)'
	@echo 'make clean      remove what the set-up made (environments and caches, never runs/)'

demo: $(VENV)/installed
	$(BIN)/subnetwork demo --out $(OUT)

test: lint types contracts fast lab-only

lint: $(VENV)/installed
	@echo '== lint'
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/installed
	@echo '== types'
	$(BIN)/mypy

contracts: $(VENV)/installed
	@echo '== contracts between the layers'
	$(BIN)/lint-imports

fast: $(VENV)/installed
	@echo '== tests'
	@find src -name '*.nb[ic]' -delete  # compiled kernels of an older tree would be believed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

lab-only: $(LAB)/installed
	@echo '== the lab in an environment without torch'
	$(LAB)/bin/python -m pytest tests/lab_only

test-slow: $(VENV)/installed
	$(BIN)/python -m pytest -m slow

faults: $(VENV)/installed
	@# three at a time: most of the time they wait; more of each fault is in `make test-slow`
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'not slow' -n 3 --dist worksteal tests/faults

chaos: $(VENV)/installed
	$(BIN)/python benchmarks/chaos.py --faults $(FAULTS) --seed $(SEED) --minutes $(MINUTES)

$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo 'make: $(PYTHON) is older than Python 3.11. Name another one: make PYTHON=python3.12'; exit 2; }
	@echo '== setting up $(VENV) with $(PYTHON) (minutes on a new machine, once)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[train,dev]'
	@touch $@

$(LAB)/installed: pyproject.toml constraints.txt $(VENV)/installed
	@echo '== setting up $(LAB), an environment without torch'
	$(PYTHON) -m venv $(LAB)
	$(LAB)/bin/python -m pip install --disable-pip-version-check -c constraints.txt -e . pytest
	@touch $@

clean:
	rm -rf $(VENV) $(LAB) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
