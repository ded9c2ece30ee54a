# One virtual environment, made once and again whenever what decides it changes.
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
# Where the environment forbids bytecode, each of the hundreds of processes that are started here would compile everything.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: serve test test-kernels test-thorough test-chart test-slow torture history day fuzz attacks check sbom audit client-models format clean

serve: $(VENV)/.installed ## set up, import the demo data, build, and answer on http://127.0.0.1:8000
	$(BIN)/lethe serve --demo

test: $(VENV)/.installed-dev ## set up and run the tests
	$(BIN)/pytest -q -n 2 --dist loadfile --no-loadscope-reorder

# The plainest kernels that each library has round otherwise, as another processor does: no test may depend on which there are.
KERNELS := ATEN_CPU_CAPABILITY=default MKL_CBWR=COMPATIBLE ONEDNN_MAX_CPU_ISA=SSE41 OPENBLAS_CORETYPE=Nehalem OMP_NUM_THREADS=1
test-kernels: $(VENV)/.installed-dev ## those tests again that compare what a model computes
	$(KERNELS) $(BIN)/pytest -q -n 2 --dist loadfile --no-loadscope-reorder tests/llm tests/routing tests/scoring \
		tests/building/test_training.py tests/building/test_validation.py

test-thorough: $(VENV)/.installed-dev ## the promises tried at length: kills, mutants, random stories, load
	$(BIN)/pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m thorough

test-chart: $(VENV)/.installed-dev ## the Helm chart: linted, held against Kubernetes' schemas, each of its commands started
	$(BIN)/pip install --quiet -c constraints.txt -e '.[chart]'
	$(BIN)/pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m "" tests/deploy

test-slow: $(VENV)/.installed-dev ## the tests that take minutes
	$(BIN)/pytest -q -m slow

SEED ?= $(shell date +%Y%m%d)
KILLS ?= 1000
torture: $(VENV)/.installed-dev ## 1,000 kills of real processes; goes on where it stopped (minutes; POSTGRES=1: there, with keys; ENCRYPTED=1)
	$(BIN)/python -m tests.torture.runner --kills $(KILLS) --seed $(SEED) --folder \
		.torture$(if $(POSTGRES),-servers)$(if $(ENCRYPTED),-encrypted) $(if $(POSTGRES),--servers) $(if $(ENCRYPTED),--encrypted)

OPERATIONS ?= 20000
history: $(VENV)/.installed-dev ## 20,000 operations on two replicas, and a search for one answer that should not have been (POSTGRES=1: there)
	$(BIN)/python -m tests.history.load --operations $(OPERATIONS) --clients 8 --seed $(SEED) $(if $(POSTGRES),--servers)

DATA ?= ../shared/data/ml-100k
day: $(VENV)/.installed-dev ## a day of MovieLens-100K (DATA=): 50,000 events, deletions, and the generation of a clean import in the end
	$(BIN)/python -m tests.day.runner $(DATA)

CASES ?= 100000
fuzz: $(VENV)/.installed-dev ## 100,000 hostile requests to a real server with every kind of key (half an hour)
	$(BIN)/python -m tests.fuzz.runner --cases $(CASES) --seed $(SEED)

PORT ?= 8000
attacks: $(VENV)/.installed-dev ## every script of tests/attacks against the server on PORT; it erases people (minutes)
	for attack in two_titles large_request greedy_client large_heads slow_connections erase_everybody; do \
		$(BIN)/python -m tests.attacks.$$attack --port $(PORT) $(if $(PID),--pid $(PID)) $(if $(KEY),--key $(KEY)); done

check: $(VENV)/.installed-dev ## formatting, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# Tools in an environment of their own, so that they do not list themselves.
AUDIT := $(VENV)-audit
sbom: $(VENV)/.installed ## sbom.json: every package that is installed (those of the tests too), with versions and licenses
	test -x $(AUDIT)/bin/cyclonedx-py || { $(PYTHON) -m venv $(AUDIT) && $(AUDIT)/bin/pip install --quiet cyclonedx-bom==7.5.0 pip-audit==2.10.1; }
	$(AUDIT)/bin/cyclonedx-py environment $(VENV) --of JSON -o sbom.json

audit: sbom ## known vulnerabilities of the pinned packages (asks the network)
	$(AUDIT)/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip

client-models: $(VENV)/.installed-dev ## the models of lethe-client anew, from the OpenAPI document
	$(BIN)/python -m tests.client.models_from_contract

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(AUDIT) sbom.json .lethe .torture*

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed research/pyproject.toml client/pyproject.toml
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]' -e ./research -e ./client
	touch $@
