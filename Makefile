# make lab    set up, then JupyterLab on the quickstart; V=1 shows the output of pip
# make demo   the same job in the terminal
# make test   set up, then every check and every test
# make check  every check without the tests: ruff, mypy, import layers, docstrings, documentation
# make dev    set up for changes: the checks and most tests, without Go, PostgreSQL and Chromium
# make t M=language/shape  the tests of one package
# make docs   the documentation in docs/_build/html; a warning is an error
# make slow   the properties with many more examples than `make test` takes, `make fuzz`, 10,000 random attacks, 10,000 runs that leave nothing behind, and 20,000 simulated scenarios
# make fuzz   50,000 requests to the server, good and bad; FUZZ=5000 for fewer
# make forms    the credential forms of all apps of a components checkout, compared with what they read; CHECKOUT=FOLDER
# make actions  every action of 26 npm apps described and entered, in about three minutes; APPS="slack notion" for some
# make conformance  ten releases of the official SDKs, driven against `pdkernel serve`; SDKS="2.3.0 3.1.6" for some, "pipedream==2.2.0 @pipedream/sdk@3.0.2" for others
# make contract  precision and recall of the caller's contract on the labelled set, by language
# make crash  servers killed at every commit, and MINUTES=30 (default 2) of faults under load, which SEED=7 chooses: accepted, finished and lost events are printed
# make first-run  seconds from the answer of `pdkernel lab` to the first green run, at a person's pace; needs Chromium
# make pictures  the pictures of the documentation, taken in a real JupyterLab; needs Chromium
# make sim     servers that die, freeze and lose writes, in virtual time; SEEDS="200 0 2" for 200 seeds from 0 in two processes, SEEDS="200 0 2 3" on three hosts over one database
# make bench  the figures of tests/benchmarks, printed as ratios; BASE=COMMIT for a server of this checkout against one of a commit
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -I tests/install_progress.py $(if $(V),-v)
PROPERTIES := tests/common/test_redaction.py tests/language/shape tests/language/directive tests/language/expression \
  tests/files/definition tests/runtimes tests/workers/test_run_workers_values.py tests/egress/test_recording.py tests/storage/test_data_stores.py \
  tests/storage/test_vault.py tests/kit/widgets tests/operations/readiness/test_matrix.py tests/egress/test_http1.py \
  tests/server/fuzz/test_link.py tests/server/endpoint/test_responses.py tests/durability/test_random_blocks.py

FUZZ ?= 50000
MINUTES ?= 2

# not written in the recipe of `test`, which `make -n` would then run
CHECK := $(MAKE) --no-print-directory check
SPHINX := $(BIN)/sphinx-build -q -W --keep-going docs docs/_build/html

# what make actions installs: about 290 MB, under the packages' own licences
SWEEP ?= .venv/actions

RERUNS := --reruns 2 --reruns-delay 2 --rerun-show-tracebacks -r fER

.PHONY: lab demo test check dev t docs slow fuzz actions conformance contract crash sim bench forms first-run pictures chromium clean

lab: .venv/.lab
	$(BIN)/pdkernel lab notebooks/01_quickstart.ipynb

demo: .venv/.lab
	$(BIN)/pdkernel demo

# four processes, since tests wait for programs that they start; the checks run beside the tests, and their result follows;
# a failed test runs a second time, and the end of the output names it and shows its first failure
test: .venv/.test chromium
	@$(CHECK) > .venv/check.log 2>&1 & \
	$(BIN)/pytest -n 4 --dist loadfile --durations=20 $(RERUNS); tests=$$?; \
	wait $$!; check=$$?; \
	cat .venv/check.log; \
	[ $$check = 0 ] || echo "FAILED: make check, see the last command above"; \
	[ $$tests = 0 ] || echo "FAILED: tests, see the summary of pytest above"; \
	[ $$check = 0 ] && [ $$tests = 0 ]

check: .venv/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/interrogate -q tests
	$(SPHINX)

dev: .venv/.dev

t: .venv/.dev
	$(BIN)/pytest --tb=short tests/$(M)

docs: .venv/.test
	$(SPHINX)
	@echo "docs/_build/html/index.html"

slow: .venv/.test fuzz
	$(BIN)/pytest --hypothesis-profile=sweep --timeout=900 $(PROPERTIES)
	$(BIN)/pytest -s -m slow tests/isolation
	PDKERNEL_FORBID_BLOCKING=1 PYTHONHASHSEED=0 $(BIN)/python -m tests.simulation 20000 0 2

fuzz: .venv/.test
	PDKERNEL_FUZZ=$(FUZZ) $(BIN)/pytest tests/server/fuzz

actions: .venv/.test
	$(BIN)/python -m tests.sweep.sweep $(SWEEP) $(APPS)

forms: .venv/.test
	$(BIN)/python -m tests.sweep.forms $(CHECKOUT)/components

conformance: .venv/.test
	$(BIN)/python -m tests.conformance $(SDKS)

sim: .venv/.test
	PDKERNEL_FORBID_BLOCKING=1 PYTHONHASHSEED=0 $(BIN)/python -m tests.simulation $(SEEDS)

contract: .venv/.test
	$(BIN)/python -m tests.language.analysis.labelled

crash: .venv/.test
	PDKERNEL_CRASH_MINUTES=$(MINUTES) PDKERNEL_CRASH_SEED=$(SEED) $(BIN)/pytest -s -m 'slow or not slow' tests/durability

bench: .venv/.test
ifdef BASE
	$(BIN)/python tests/benchmarks/against.py $(BASE)
else
	for script in tests/benchmarks/bench_*.py; do $(BIN)/python $$script || exit 1; done
endif

first-run: .venv/.test
	$(BIN)/python -m tests.browser.film time

pictures: .venv/.test
	$(BIN)/python -m tests.browser.film pictures docs/pictures

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("pdkernel needs Python 3.11 or newer; set PYTHON=/path/to/python3.11" if sys.version_info < (3, 11) else 0)'
	@echo 'Creating .venv'
	@$(PYTHON) -m venv .venv

# the kernel and the Lab extension are copied on install: their files are part of the stamp
.venv/.lab: pyproject.toml $(shell find pdkernel/kernel -type f -not -name '*.pyc') | .venv/bin/python
	@echo 'Installing pdkernel and JupyterLab into .venv; make V=1 shows the output of pip'
	@$(INSTALL) -e '.[node]'
	@touch $@

.venv/.dev: .venv/bin/python pyproject.toml
	@echo 'Installing what most tests need into .venv'
	@$(INSTALL) -e '.[dev]'
	@touch $@

.venv/.test: .venv/.lab
	@echo 'Installing what all tests need into .venv'
	@$(INSTALL) -e '.[node,test]'
	@touch $@

# browser tests need Chromium: from PATH, else from Debian's packages as root, else they are listed as NOT RUN
chromium:
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  for try in 1 2 3; do \
	    apt-get update -q >/dev/null && DEBIAN_FRONTEND=noninteractive apt-get install -y -q chromium fonts-dejavu-core >/dev/null && break; \
	    sleep 5; \
	  done; \
	else echo "No Chromium: the browser tests will be listed as NOT RUN. Get it with: sudo apt-get install chromium"; fi

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache
