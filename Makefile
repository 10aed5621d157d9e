# `make demo` and `make test` install what they need into .venv first.
.DEFAULT_GOAL := help
PYTHON ?= python3
METHOD ?= icsr
SEEDS ?= 1
BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: help install demo test test-cluster chaos check bench bench-large format clean

help:
	@echo "make demo        train the baseline and ICSR on rendered people and compare them (about 6 minutes)"
	@echo "make demo METHOD=mar   the same of MAR, with a labelled set of other people at other cameras"
	@echo "make demo METHOD=slsr  the same of SLSR: a GAN a cluster, and labels of several kinds for its images"
	@echo "make demo SEEDS=3      with three seeds: mean, deviation, paired differences"
	@echo "make test        run the tests"
	@echo "make test-cluster  run the tests that start a cluster or a server of their own"
	@echo "make chaos       kill a run 20 times, at random places, and compare it with one that was left alone"
	@echo "make check       ruff (format and lint), mypy --strict, import-linter"
	@echo "make bench       time and memory against the best peers, 12,936 rows (about 15 minutes)"
	@echo "make bench-large the same with 32,621 rows, and a million"
	@echo "make format      format the code"
	@echo "make install     install into .venv (the others do it when it is missing)"

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c "import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))" || \
	  { echo "raid needs Python 3.11 to 3.13: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(INSTALLED)
	$(BIN)/raid demo $(METHOD) jobs/$(METHOD)_demo.yaml --seeds $(SEEDS)

# Two processes, a file on one of them; a thread each, or they would take turns on two cores.
test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile

# A process a file, one after the other: no two clusters are alive at once.
test-cluster: $(INSTALLED)
	@set -e; for file in tests/cluster/test_*.py; do echo "$$file"; $(BIN)/pytest --timeout 600 $$file; done

chaos: $(INSTALLED)
	RAID_KILLS=20 $(BIN)/pytest -s --timeout 3600 tests/cluster/test_chaos.py

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(INSTALLED)
	$(BIN)/python tests/benchmarks/run.py

bench-large: $(INSTALLED)
	$(BIN)/python tests/benchmarks/run.py --large

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv runs
