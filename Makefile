# make digits   train on handwritten digits, sample, score, measure: minutes, from nothing
# make test     the default test suite
# make lint     ruff and mypy
# make docs     the site, build/site/index.html, strictly; read it without a network
# make wheel    dist/score_sde-*.whl, which installs score_sde and score-sde
#
# Each makes its own environment in .venv first, once. PYTHON=... picks the Python.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
WORKDIR := runs/digits

.PHONY: digits test lint docs wheel

digits: $(VENV)/core.stamp
	@$(VENV)/bin/score-sde train --config=digits --workdir=$(WORKDIR)
	@$(VENV)/bin/score-sde sample --workdir=$(WORKDIR)
	@$(VENV)/bin/score-sde likelihood --workdir=$(WORKDIR)
	@$(VENV)/bin/score-sde evaluate --workdir=$(WORKDIR)

test: $(VENV)/dev.stamp
	$(RUN) -m pytest -n auto

lint: $(VENV)/dev.stamp
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

docs: $(VENV)/docs.stamp
	@mkdir -p build
	@NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict > build/docs.log 2>&1 \
	  || { cat build/docs.log; exit 1; }  # with --quiet no warning would count
	@echo "build/site/index.html"

wheel: $(VENV)/core.stamp
	@rm -rf build
	@$(RUN) -m pip wheel --quiet --disable-pip-version-check --no-deps -w dist .
	@ls dist

$(VENV)/core.stamp: pyproject.toml setup.py | $(VENV)/bin/python
	@echo "installing score_sde into $(VENV) (about a minute) ..."
	@$(RUN) -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/dev.stamp: $(VENV)/core.stamp
	@echo "installing the test tools into $(VENV) ..."
	@$(RUN) -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

$(VENV)/docs.stamp: $(VENV)/core.stamp
	@echo "installing what writes the site into $(VENV) ..."
	@$(RUN) -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	@touch $@

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "score_sde needs Python 3.11 or newer; try: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv $(VENV)
