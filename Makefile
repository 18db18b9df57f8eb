PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/pip install --quiet --constraint constraints.txt

.PHONY: simulate test test-all battery browser lint types docs gallery release bench clean

simulate: $(VENV)/.installed
	$(VENV)/bin/distopt simulate ring --agents 16
	@echo 'type ". $(VENV)/bin/activate" to use distopt in this terminal'

test: $(VENV)/.installed-test
	$(VENV)/bin/pytest -n 2 -m "not slow and not battery"

test-all: $(VENV)/.installed-test
	$(VENV)/bin/pytest -n 2 -m "not battery" --durations=25

battery: $(VENV)/.installed-test
	$(VENV)/bin/pytest -n 2 -m battery

browser:  # what the tests of reports drive; on Debian and its kin, as root
	apt-get update && apt-get install --yes --no-install-recommends chromium chromium-driver fonts-dejavu-core

lint: $(VENV)/.installed-test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/codespell

types: $(VENV)/.installed-test
	rm -rf build/types && mkdir -p build/types  # mypy knows no package-dir: lay the package out as it is installed
	cp -r distopt build/types/ && cp -r topologies scenarios build/types/distopt/
	cd build/types && ../../$(VENV)/bin/mypy --config-file ../../pyproject.toml --cache-dir ../../.mypy_cache -p distopt

docs: $(VENV)/.installed-docs
	rm -rf build/site
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict
	$(VENV)/bin/python website/check.py build/site
	@echo 'open build/site/index.html'

release: $(VENV)/bin/python constraints.txt  # builds what is released, installs it elsewhere and uses it; uploads nothing
	$(PIP) build twine
	$(VENV)/bin/python tools/release.py

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo 'installing into $(VENV): some minutes'
	$(PIP) --editable .
	touch $@

$(VENV)/.installed-test: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo 'installing into $(VENV): some minutes'
	$(PIP) --editable '.[test]'
	touch $@ $(VENV)/.installed

$(VENV)/.installed-docs: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo 'installing into $(VENV): some minutes'
	$(PIP) --editable '.[docs]'
	touch $@ $(VENV)/.installed

bench: $(VENV)/.installed-test
	$(VENV)/bin/python benchmarks/speed.py --log
	$(VENV)/bin/python benchmarks/whole.py --log
	OMP_NUM_THREADS=1 $(VENV)/bin/python benchmarks/sums.py --log
	$(VENV)/bin/python benchmarks/scale.py --log
	$(VENV)/bin/python benchmarks/startup.py --log
	$(VENV)/bin/python benchmarks/parts.py --log
	$(VENV)/bin/python benchmarks/peers.py --log
	$(VENV)/bin/python benchmarks/engines.py --log
	$(VENV)/bin/python benchmarks/compression.py --log
	$(VENV)/bin/python benchmarks/training.py --log
	OMP_NUM_THREADS=1 $(VENV)/bin/python benchmarks/regret.py --log
	$(VENV)/bin/python benchmarks/plots.py

gallery: $(VENV)/.installed-test  # the pictures of docs/gallery.md
	OMP_NUM_THREADS=1 $(VENV)/bin/python benchmarks/gallery.py

clean:
	rm -rf $(VENV) build *.egg-info
