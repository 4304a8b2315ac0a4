.DEFAULT_GOAL := help
.PHONY: help setup lock system demo start down drill status follow up ps logs stop smoke images standins secrets rolling-restart backup restore
.PHONY: test test-slow test-long lint docs secret-scan audit clean

PYTHON ?= python3.11
VENV := .venv
UV := $(VENV)/tools/bin/uv
INSTALL = $(UV) pip install --quiet --no-deps --require-hashes --python

# torch on Linux x86-64 is the CPU build, since the public wheel carries CUDA (3 GB): from a folder (PIP_FIND_LINKS, as pip names
# it), else from an index (TORCH_INDEX), else from the index that uv has for it. pip accepts any build whose hash is in the lock;
# uv takes the hashes of the exact version, local part included. services/airflow/Dockerfile has the same order.
PIP_TORCH = $(VENV)/tools/bin/pip --python $(@D)/bin/python install --quiet --no-deps --require-hashes -r requirements/torch.txt
ifneq ($(PIP_FIND_LINKS),)
INSTALL_TORCH = $(PIP_TORCH) --no-index
else ifneq ($(TORCH_INDEX),)
INSTALL_TORCH = $(PIP_TORCH) --index-url $(TORCH_INDEX)
else ifeq ($(shell uname -sm),Linux x86_64)
INSTALL_TORCH = sed 's/^torch==[0-9.]*/&+cpu/' requirements/torch.txt | $(INSTALL) $(@D)/bin/python --torch-backend=cpu -r - || \
  { echo "torch: the CPU build could not be installed. PIP_FIND_LINKS=FOLDER or TORCH_INDEX=URL names another place for it." >&2; exit 1; }
else
INSTALL_TORCH = $(PIP_TORCH)
endif

help: ## this list
	@grep -hE '^[a-z%-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

setup: $(VENV)/airflow/.ready $(VENV)/ml/.ready $(VENV)/serving/.ready $(VENV)/tools/.audit ## the three environments, from their locks

lock: $(UV) ## write the lock files again from the .in files
	$(VENV)/tools/bin/python requirements/lock.py

$(UV): requirements/tools.txt
	$(PYTHON) -m venv $(VENV)/tools
	$(VENV)/tools/bin/pip install --quiet --require-hashes --requirement requirements/tools.txt
	@touch $@

$(VENV)/tools/.audit: requirements/audit.txt | $(UV)
	$(INSTALL) $(VENV)/tools/bin/python -r requirements/audit.txt
	@touch $@

$(VENV)/airflow/.ready: requirements/airflow.txt requirements/test.txt plugins/pyproject.toml | $(UV)
	$(UV) venv --quiet --allow-existing --python $(PYTHON) $(@D)
	$(INSTALL) $(@D)/bin/python -r requirements/airflow.txt -r requirements/test.txt
	$(UV) pip install --quiet --no-deps --python $(@D)/bin/python --editable plugins
	@touch $@

$(VENV)/serving/.ready: services/serving/requirements.txt requirements/test.txt pyproject.toml | $(UV)
	$(UV) venv --quiet --allow-existing --python $(PYTHON) $(@D)
	$(INSTALL) $(@D)/bin/python -r services/serving/requirements.txt -r requirements/test.txt
	$(UV) pip install --quiet --no-deps --python $(@D)/bin/python --editable . --editable services/serving
	@touch $@

$(VENV)/ml/.ready: requirements/ml.txt requirements/torch.txt requirements/test.txt pyproject.toml | $(UV)
	$(UV) venv --quiet --allow-existing --python $(PYTHON) $(@D)
	$(INSTALL) $(@D)/bin/python -r requirements/ml.txt -r requirements/test.txt
	$(INSTALL_TORCH)
	$(UV) pip install --quiet --no-deps --python $(@D)/bin/python --editable .
	@touch $@

system: ## Java and Prometheus from the system's packages, where they are missing and can be had
	@infra/system-packages.sh java=openjdk-17-jre-headless! prometheus=prometheus amtool=prometheus-alertmanager

EMBEDDED = $(VENV)/ml/bin/python -m fraud.embedded
# Values that may hold any character reach a command through the environment, unread by make and by the shell.
export DEMO_SOURCE = $(value SOURCE)
export DEMO_MAPPING = $(value MAPPING)
export BACKUP_TO = $(value TO)
export BACKUP_FROM = $(value FROM)

demo: setup system ## the main job end to end: SOURCE= MAPPING= or DAYS= USERS= SEED=; DETACH=1 returns
	@$(EMBEDDED) demo $(if $(value SOURCE),--source "$$DEMO_SOURCE") $(if $(value MAPPING),--mapping "$$DEMO_MAPPING") \
	  $(if $(DAYS),--days $(DAYS)) $(if $(USERS),--users $(USERS)) $(if $(SEED),--seed $(SEED)) $(if $(DETACH),--detach)

start: setup system ## the embedded stack alone: Airflow, MLflow, Valkey, serving, Prometheus
	@$(EMBEDDED) up

down: ## stop the embedded stack, all of it
	@[ ! -x $(VENV)/ml/bin/python ] || $(EMBEDDED) down

drill: ## inject a fault for each alert into the running embedded stack: ALERT="NAME NAME", default all
	@$(EMBEDDED) drill $(if $(ALERT),--alert $(ALERT))

status: ## what of the embedded stack runs, and where; fails when something of it does not
	@$(EMBEDDED) status

follow: ## follow the embedded stack's logs
	@tail -n 5 -F "$${FRAUD_HOME:-var}"/logs/*.log

docs: setup ## write the tables of docs/ that are generated from code
	@$(VENV)/ml/bin/python docs/generate.py

# The deployed stack, in containers: docs/deployment.md. PROFILE is serving, monitoring or full; WITHOUT names services to leave out.
PROFILE ?= full
COMPOSE = docker compose --profile $(PROFILE)
export GIT_COMMIT := $(shell git describe --always --dirty --abbrev=40 --exclude='*' 2>/dev/null || echo unknown)
export DOCKER_BUILDKIT := 1

secrets: ## what docker-compose.yml asks for and .env does not have yet
	@PYTHONPATH=src python3 -m fraud.secret_file .env docker-compose.yml

build/wheels: # the CPU build of torch, where it lies in a folder
	@mkdir -p $@ && for wheel in $(wildcard $(PIP_FIND_LINKS)/torch-*cpu*.whl); do ln -f $$wheel $@/ 2>/dev/null || cp $$wheel $@/; done

images: secrets build/wheels ## build the three images of our own
	@$(COMPOSE) build

standins: ## stand-in base images from Debian packages, where no image registry is reached (root, debootstrap)
	@infra/standins/build.sh

up: secrets ## the deployed stack: PROFILE=serving|monitoring|full, WITHOUT="grafana"
	@$(COMPOSE) up --detach --wait --wait-timeout 600 $(if $(WITHOUT),$(filter-out $(WITHOUT),$(shell $(COMPOSE) config --services)))

ps: secrets ## what of the deployed stack runs
	@$(COMPOSE) ps --all

logs: secrets ## follow the deployed stack's logs
	@$(COMPOSE) logs --follow --tail 20

stop: secrets ## stop the deployed stack; its data stays
	@docker compose --profile full --profile monitoring down

rolling-restart: secrets ## replace the replicas of serving one by one, by the image that is there now
	@infra/compose/rolling-restart.sh

backup: secrets ## copy the stateful stores: TO=FOLDER
	@infra/compose/backup.sh "$$BACKUP_TO"

restore: ## a new stack from a backup: FROM=FOLDER
	@infra/compose/restore.sh "$$BACKUP_FROM"

smoke: secrets ## the main job's path against the running deployed stack
	@set -a; . ./.env; set +a; docker exec -i -e AIRFLOW_ADMIN_PASSWORD -e SERVING_CHECKOUT_KEY -e SMOKE_WORLD \
	  "$$($(COMPOSE) ps --quiet airflow-scheduler)" /opt/fraud/.venv/ml/bin/python - <tests/deploy/smoke.py

test: setup system ## unit, integration, DAG and serving tests, each in its environment
	@$(VENV)/ml/bin/python tests/run.py

test-slow: setup system ## the tests that take minutes
	@$(VENV)/ml/bin/python tests/run.py --slow

test-long: setup system ## the retraining loop end to end, some ten minutes
	@$(VENV)/ml/bin/python tests/run.py --long

bench-%: setup ## one benchmark: features, serving, batch, training, drift; ARGS= goes to it
	$(VENV)/ml/bin/python tests/bench/$*.py $(ARGS)

lint: setup secret-scan ## format, rules, types, shell, lock files, secrets
	$(VENV)/tools/bin/ruff format --check .
	$(VENV)/tools/bin/ruff check .
	$(VENV)/tools/bin/mypy --python-executable $(VENV)/ml/bin/python src
	MYPYPATH=src:services/serving/src $(VENV)/tools/bin/mypy --python-executable $(VENV)/serving/bin/python services/serving/src
	MYPYPATH=plugins $(VENV)/tools/bin/mypy --python-executable $(VENV)/airflow/bin/python plugins dags
	@git ls-files -z '*.sh' .ci/run | xargs -0 -r $(VENV)/tools/bin/shellcheck
	@! git grep -nIE '^(-i|-f|--(extra-)?index-url|--find-links)\b' -- 'requirements/*' 'services/*/requirements*' || \
	  { echo "a requirements file names an index: indexes are the user's to configure" >&2; exit 1; }

# Lock files are hashes by nature. The copy: the tool writes moved line numbers into the baseline, and says so with 3.
secret-scan: $(VENV)/tools/.audit ## look for secrets in what Git tracks; .secrets.baseline holds what is none
	@mkdir -p build && cp .secrets.baseline build/secrets.baseline
	@$(VENV)/tools/bin/detect-secrets-hook --baseline build/secrets.baseline \
	  $$(git ls-files -- . ':!requirements/*.txt' ':!services/*/requirements.txt' ':!infra/grafana/dashboards/*' ':!.secrets.baseline') \
	  || [ $$? -eq 3 ] || { echo "docs/threat-model.md, \"Secrets in the repository\", says what to do" >&2; exit 1; }

audit: $(VENV)/tools/.audit ## known holes in what the locks name, from PyPI's vulnerability service
	@requirements/audit.sh

clean: down ## stop the stack and remove what it wrote, secrets included; environments stay
	rm -rf "$${FRAUD_HOME:-var}" build .env .pytest_cache .mypy_cache .ruff_cache .hypothesis
