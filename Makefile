.DEFAULT_GOAL := help
.PHONY: help setup lock lint

PYTHON ?= python3.11
VENV := .venv
UV := $(VENV)/tools/bin/uv
INSTALL = $(UV) pip install --quiet --no-deps --require-hashes --python
# Where the CPU build of torch is: a folder (PIP_FIND_LINKS, as pip names it) or an index (TORCH_INDEX).
TORCH_FROM = $(if $(PIP_FIND_LINKS),--no-index,$(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)))

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

setup: $(VENV)/airflow/.ready $(VENV)/ml/.ready $(VENV)/serving/.ready ## the three environments, from their locks

lock: $(UV) ## write the lock files anew from the .in files
	$(VENV)/tools/bin/python requirements/lock.py

$(UV): requirements/tools.txt
	$(PYTHON) -m venv $(VENV)/tools
	$(VENV)/tools/bin/pip install --quiet --require-hashes --requirement requirements/tools.txt
	@touch $@

$(VENV)/airflow/.ready: requirements/airflow.txt requirements/test.txt | $(UV)
	$(UV) venv --quiet --allow-existing --python $(PYTHON) $(@D)
	$(INSTALL) $(@D)/bin/python -r requirements/airflow.txt -r requirements/test.txt
	@touch $@

$(VENV)/serving/.ready: services/serving/requirements.txt requirements/test.txt pyproject.toml | $(UV)
	$(UV) venv --quiet --allow-existing --python $(PYTHON) $(@D)
	$(INSTALL) $(@D)/bin/python -r services/serving/requirements.txt -r requirements/test.txt
	$(UV) pip install --quiet --no-deps --python $(@D)/bin/python --editable . --editable services/serving
	@touch $@

$(VENV)/ml/.ready: requirements/ml.txt requirements/torch.txt requirements/test.txt pyproject.toml | $(UV)
	@if [ -z "$(TORCH_FROM)" ] && [ "$$(uname -sm)" = "Linux x86_64" ]; then \
	  echo "torch: the public Linux wheel carries CUDA (3 GB). Set TORCH_INDEX to the index of CPU wheels, or" >&2; \
	  echo "PIP_FIND_LINKS to a folder that has torch-2.13.0+cpu, and run make setup again." >&2; exit 1; fi
	$(UV) venv --quiet --allow-existing --python $(PYTHON) $(@D)
	$(INSTALL) $(@D)/bin/python -r requirements/ml.txt -r requirements/test.txt
	$(VENV)/tools/bin/pip --python $(@D)/bin/python install --quiet --no-deps --require-hashes $(TORCH_FROM) -r requirements/torch.txt
	$(UV) pip install --quiet --no-deps --python $(@D)/bin/python --editable .
	@touch $@

lint: setup ## format, rules, types, shell
	$(VENV)/tools/bin/ruff format --check .
	$(VENV)/tools/bin/ruff check .
	$(VENV)/tools/bin/mypy --python-executable $(VENV)/ml/bin/python src
