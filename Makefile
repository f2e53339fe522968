# Two commands set everything up, in either order and as often as you like:
#
#     make digits     train on real handwritten digits and print where the report is
#     make test       run the test suite
#
# Another interpreter:  PYTHON=python3.12 make test
# Further arguments:    make digits ARGS="--help"    make test ARGS="-k dense"
# The long runs too:    make test-all

PYTHON := $(or $(PYTHON),python3)
ARGS ?=

# Everything is installed into the one folder .venv. Two kinds of stamp in it say what is done:
#   .ready-X.Y.Z    Python X.Y.Z made it, and no installation in it was cut short
#   .has-EXTRA      that extra is installed, as pyproject.toml and constraints.txt ask
# After an interruption, or with another PYTHON, no .ready stamp fits and .venv is made afresh.
VENV := .venv
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null)
READY := $(VENV)/.ready-$(VERSION)

.PHONY: help digits test test-all lint clean
.NOTPARALLEL:

help:
	@sed -n 's/^# \{0,1\}//p' Makefile | head -n 8

digits: $(VENV)/.has-experiments
	$(VENV)/bin/python -m experiments digits $(ARGS)

test: $(VENV)/.has-test
	$(VENV)/bin/python -m pytest -n 2 --dist worksteal $(ARGS)

# All of it: the gradient checker on its whole corpus and with itself mutated, every second dtype.
test-all: $(VENV)/.has-test
	$(VENV)/bin/python -m pytest -n 2 --dist worksteal --long all $(ARGS)
	$(VENV)/bin/python -m tests.gradcheck.mutate_gradcheck --jobs 2

lint: $(VENV)/.has-dev
	$(VENV)/bin/python -m ruff check .
	$(VENV)/bin/python -m ruff format --check .
	$(VENV)/bin/python -m pyright

# Results in runs/ are kept.
clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find experiments jaxdl tests -name __pycache__ -prune -exec rm -rf {} +

# READY steps aside while pip works, so that an installation cut short is never trusted; mv keeps
# its date, which says when .venv was made.
$(VENV)/.has-%: $(READY) pyproject.toml constraints.txt
	@mv $(READY) $(VENV)/.busy
	$(VENV)/bin/python -m pip install --disable-pip-version-check \
	    --constraint constraints.txt --editable '.[$*]'
	@mv $(VENV)/.busy $(READY)
	@touch $@

# `venv --clear` rather than rm: PYTHON may be the interpreter of an activated .venv.
$(READY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo 'make: PYTHON must be Python 3.11 or newer, got "$(PYTHON)" ($(or $(VERSION),it does not run));'; \
	    echo 'make: name another one, for example: PYTHON=python3.12 make $(or $(MAKECMDGOALS),test)'; \
	    exit 1; } >&2
	@echo 'making $(VENV) with Python $(VERSION)'
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@
