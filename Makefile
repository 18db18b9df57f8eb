PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/pip install --quiet --constraint constraints.txt

.PHONY: simulate test lint types bench clean

simulate: $(VENV)/.installed
	$(VENV)/bin/distopt simulate ring --agents 16

test: $(VENV)/.installed-test
	$(VENV)/bin/pytest -n 2

lint: $(VENV)/.installed-test
	$(VENV)/bin/ruff check .

types: $(VENV)/.installed-test
	rm -rf build/types && mkdir -p build/types  # mypy knows no package-dir: lay the package out as it is installed
	cp -r distopt build/types/ && cp -r topologies scenarios build/types/distopt/
	cd build/types && ../../$(VENV)/bin/mypy --config-file ../../pyproject.toml --cache-dir ../../.mypy_cache -p distopt

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) --editable .
	touch $@

$(VENV)/.installed-test: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) --editable '.[test]'
	touch $@ $(VENV)/.installed

bench: $(VENV)/.installed-test
	$(VENV)/bin/python benchmarks/speed.py --log
	$(VENV)/bin/python benchmarks/peers.py
	$(VENV)/bin/python benchmarks/regret.py

clean:
	rm -rf $(VENV) build *.egg-info
