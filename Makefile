PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python

.PHONY: help tables report docs test test-cpus lint install clean

help:
	@echo 'make tables   environment (6 GB), main job on the embedded data (15 to 20 minutes), tables in results/'
	@echo 'make report   one page of everything in results/: results/report.html'
	@echo 'make docs     the pages of docs/ as a site: site/index.html'
	@echo 'make test     environment, style, tests; the quick ones alone: $(RUN) -m pytest -m "not slow"'
	@echo 'make test-cpus   the numeric tests as other CPUs would run them, a few minutes'
	@echo 'make lint     style and types'
	@echo 'make clean    removes the environment and what tools have cached; outputs/ and data/ are yours to delete'

tables: install
	$(RUN) scripts/evaluate.py experiment=sise_table1 limit=44
	$(RUN) scripts/evaluate.py experiment=photos
	$(RUN) scripts/make_tables.py

report: install
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable '.[bench,report]'
	$(RUN) scripts/report.py

docs: install
	$(RUN) -m mkdocs build --strict

lint: install
	$(RUN) -m ruff check .
	$(RUN) -m mypy

test: lint
	$(RUN) -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-cpus: install
	$(RUN) tests/cpus.py

install: $(VENV)/installed

# baselines/ and metrics/ where type checkers and editors look for sise.baselines and sise.metrics; Python needs no links
sise/baselines sise/metrics:
	ln -s ../$(notdir $@) $@

$(VENV)/installed: pyproject.toml constraints.txt | sise/baselines sise/metrics
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is %s; make PYTHON=python3.12 ..." % sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --upgrade pip
	$(VENV)/bin/pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

clean:
	rm -rf $(VENV) build site *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find sise baselines metrics scripts tests hydra_plugins -name __pycache__ -type d -prune -exec rm -rf {} +
