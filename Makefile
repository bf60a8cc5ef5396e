# All set-up happens here: Python 3.11 and make are what a machine needs.
PYTHON ?= python3.11
# another version of MindSpore than that of constraints.txt has an environment of its own: make setup MINDSPORE=2.10.0
MINDSPORE ?=
VENV := .venv$(addprefix -,$(MINDSPORE))
BIN := $(VENV)/bin
export PREFECT_SERVER_ANALYTICS_ENABLED := false

.PHONY: setup demo test test-fast test-training test-long lint bench prefect-up prefect-down

setup: $(VENV)/ready

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	sed "s/^mindspore==.*/$(if $(MINDSPORE),mindspore==$(MINDSPORE),&)/" constraints.txt > $(VENV)/constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(VENV)/constraints.txt --editable ".[demo,dev]"
	touch $@

demo: setup  ## the five stages on made images
	$(BIN)/spnas demo

# some at once, each with one thread; the tests of a file share what they have set up
TESTS := OMP_NUM_THREADS=1 $(BIN)/pytest --dist loadfile --no-loadscope-reorder

test: setup  ## all but the long proofs, three at once: a third of their time they wait
	$(TESTS) -n 3 -m "not long"

test-fast: setup  ## no training, no server
	$(TESTS) -n 3 -m "not long and not training"

test-long: setup  ## the long proofs, then what trains with a newer MindSpore
	$(BIN)/pytest -m long
	$(MAKE) test-training MINDSPORE=2.10.0

test-training: setup  ## what trains or starts a server
	$(TESTS) -n 3 -m "training and not long"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

PEER ?=
bench: setup  ## one JSON line per measurement; PEER="COMMAND", see flows/bench.py, adds those of another detector
	$(BIN)/python -m flows.bench --peer "$(PEER)"

export PREFECT_PORT ?= 4200
prefect-up: setup  ## Prefect's server on the loopback, pools, deployments and workers on this machine; DATABASE=URL of PostgreSQL
	$(BIN)/python -m flows.services up

prefect-down:  ## stop them
	$(BIN)/python -m flows.services down
