# make demo and make test are all that a newcomer types; each makes .venv first.

VENV := .venv
BIN := $(VENV)/bin
# A Python 3.11 or newer; where `python3` is older, one that is installed beside it.
ifndef PYTHON
PYTHON := $(shell for p in python3 python3.11 python3.12 python3.13 python3.14; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
PYTHON := $(or $(PYTHON),python3)
endif
# Extra words for pytest: make test ARGS="-k hopper"
ARGS ?=
# Which study: ladder, or adaptation
STUDY ?= ladder

.PHONY: help venv demo test learn study check format build clean

help:
	@echo "make demo     train, export, verify, run, adapt, run again: 6 minutes, ends with a report"
	@echo "make test     the tests, at most 10 minutes on 2 cores"
	@echo "make learn    the tests that train for more than a minute, at most 45 minutes on 2 cores"
	@echo "make study    the ladder of results/, cell by cell; stop it and go on as you like"
	@echo "              STUDY=adaptation: what adaptation wins in ten episodes, cell by cell as well"
	@echo "              STUDY=extrapolation: the same policies on robots beyond their training"
	@echo "make check    ruff and pyright"
	@echo "make format   let ruff write the code"
	@echo "make build    wheel and source distribution, each tried in a clean environment"
	@echo "make venv     only .venv, with everything in it"
	@echo "make clean    remove .venv, dist and caches; runs/ stays"

venv: $(VENV)/.installed
	@:

# The stamp is younger than what it was made from, or the installation is brought up to date. The
# build backends come first and pinned: the editable install then needs nothing but constraints.txt.
# setuptools is for nflows (of sbi), which has no wheel: a venv brings an old one, or none.
$(VENV)/.installed: pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { \
		echo "Python 3.11 or newer is needed: sudo apt-get install python3 python3-venv" >&2; exit 1; }
	@$(PYTHON) tools/check_system.py --python
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt \
		hatchling editables setuptools
	$(BIN)/python -m pip install --quiet --constraint constraints.txt \
		--no-build-isolation --editable '.[dev]'
	@touch $@

# MUJOCO_GL becomes what draws on this machine; without one the demo goes on without pictures.
demo: venv
	@gl=$$($(BIN)/python tools/check_system.py --rendering optional) && \
		MUJOCO_GL=$$gl $(BIN)/sim2real demo

# One thread per worker: small networks on two threads are several times slower than on one.
# A file stays with one worker, so that what a fixture trained is trained once.
test: venv
	@gl=$$($(BIN)/python tools/check_system.py --rendering required) && \
		MUJOCO_GL=$$gl OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

learn: venv
	@gl=$$($(BIN)/python tools/check_system.py --rendering required) && \
		MUJOCO_GL=$$gl OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m learn tests/learning $(ARGS)

study: venv
	OMP_NUM_THREADS=1 $(BIN)/python tools/study_$(STUDY).py $(ARGS)

# pyright says itself when a newer pyright exists, for which it asks the network: not here.
check: venv
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright --pythonpath $(BIN)/python

format: venv
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

build: venv
	tools/build.sh $(BIN)/python

clean:
	rm -rf $(VENV) dist .pytest_cache .ruff_cache
	find sim2real envs policies tests tools -name __pycache__ -prune -exec rm -rf {} +
