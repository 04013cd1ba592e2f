# p2ptrain. `make demo` sets up and trains; `make test` sets up and tests. See README.md.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BENCH := .venv-bench
# Tests of real processes wait more than they compute; two at a time keep two cores busy.
WORKERS ?= 2
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: help demo setup setup-dev test check fix sim soak bench bench-engine wheel wheel-demo lock clean

help:
	@echo "make demo   set up, then train digits with four peers on this machine"
	@echo "make test   set up, then pass the tests"
	@echo "make check  ruff, mypy --strict, the tests, 200 simulated swarms"
	@echo "make fix    format, and repair what ruff can repair"
	@echo "make sim    1,000 simulated swarms      make soak   10,000, and real processes under kills"
	@echo "make wheel  a wheel in dist/           make wheel-demo  the demo in an empty environment"
	@echo "make bench  the figures of benchmarks/README.md, measured on this machine"
	@echo "make bench-engine  training steps beside PyTorch and tinygrad (its own environment)"

# --no-deps: the lock file is complete, and one of its pins differs from what libp2p asks for
# (README, "What a plain pip install needs").
$(VENV)/.run: requirements.lock requirements-build.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "p2ptrain needs Python 3.11 or newer; $(PYTHON) is older. Try: make PYTHON=python3.11"; exit 1; }
	@echo "installing p2ptrain and its libraries into $(VENV) (about half a minute)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --no-deps --use-pep517 -r requirements.lock -r requirements-build.lock
	$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.run requirements-dev.lock
	$(PIP) install --no-deps --use-pep517 -r requirements-dev.lock
	@touch $@

setup: $(VENV)/.run
setup-dev: $(VENV)/.dev

demo: setup
	$(BIN)/p2ptrain demo

test: setup-dev
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal -m "not soak"

check: setup-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal -m "not soak"
	$(BIN)/python -m simnet --seeds 200

fix: setup-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

sim: setup-dev
	$(BIN)/python -m simnet --seeds 1000

soak: setup-dev
	$(BIN)/python -m pytest -q -m soak
	$(BIN)/python -m soak pair
	$(BIN)/python -m soak crashes --times 20
	$(BIN)/python -m soak chaos --seconds 600
	for run in 1 2 3 4 5; do $(BIN)/p2ptrain demo --plain || exit 1; done
	$(BIN)/python -m simnet --seeds 10000

bench: setup-dev
	for each in engine transport wire averaging demo; do $(BIN)/python -m benchmarks.$$each || exit 1; done

# PyTorch and tinygrad stay out of .venv: nothing of p2ptrain needs them.
$(BENCH)/.run: requirements-bench.lock requirements.lock requirements-build.lock
	@test -x $(BENCH)/bin/python || $(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/python -m pip --quiet install --no-deps --use-pep517 -r requirements.lock -r requirements-build.lock
	$(BENCH)/bin/python -m pip --quiet install -r requirements-bench.lock
	$(BENCH)/bin/python -m pip --quiet install --no-deps --no-build-isolation -e .
	@touch $@

bench-engine: $(BENCH)/.run
	$(BENCH)/bin/python -m benchmarks.engine
	$(BENCH)/bin/python -m benchmarks.engine --starts --threads 2

# The wheel alone; what it needs comes from requirements.lock (README, "Install it").
wheel: setup
	rm -f dist/p2ptrain-*.whl
	$(PIP) wheel --no-deps --no-build-isolation --wheel-dir dist .

wheel-demo: wheel
	PYTHON="$(PYTHON)" .ci/wheel_demo dist/p2ptrain-*.whl

lock: setup-dev
	$(BIN)/python .ci/make_lock.py

clean:
	rm -rf $(VENV) $(BENCH) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
