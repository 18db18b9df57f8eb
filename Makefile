PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/pip install --quiet --constraint constraints.txt

.PHONY: simulate test lint types clean

simulate: $(VENV)/.installed
	$(VENV)/bin/distopt simulate ring --agents 16

test: $(VENV)/.installed-test
	$(VENV)/bin/pytest -n 2

lint: $(VENV)/.installed-test
	$(VENV)/bin/ruff check .

types: $(VENV)/.installed-test
	$(VENV)/bin/mypy distopt topologies scenarios

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) --editable .
	touch $@

$(VENV)/.installed-test: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) --editable '.[test]'
	touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) build *.egg-info
