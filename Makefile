# make tables   environment, main job on the embedded data, tables in results/
# make test     environment, tests
# make test-cpus   the numeric tests as other CPUs would run them, a few minutes
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python

.PHONY: tables test test-cpus install clean

tables: install
	$(RUN) scripts/evaluate.py experiment=sise_table1 limit=44
	$(RUN) scripts/evaluate.py experiment=photos
	$(RUN) scripts/tabulate.py

test: install
	$(RUN) -m ruff check .
	$(RUN) -m pytest

test-cpus: install
	$(RUN) tests/cpus.py

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is %s; make PYTHON=python3.12 ..." % sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --upgrade pip
	$(VENV)/bin/pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

clean:
	rm -rf $(VENV) outputs data
