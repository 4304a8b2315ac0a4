.DEFAULT_GOAL := help
.PHONY: help setup lock system demo start down drill quiet-hour services status follow up ps logs stop smoke images standins secrets rolling-restart backup restore
.PHONY: test test-slow test-long soak lint docs secret-scan audit clean edge dashboards

PYTHON ?= python3.11
VENV := .venv
UV := $(VENV)/tools/bin/uv
INSTALL = $(UV) pip install --quiet --no-deps --require-hashes --python

# torch on Linux x86-64 is the CPU build, because the public wheel includes CUDA (3 GB). It is installed from a folder
# (PIP_FIND_LINKS, pip's variable), else from an index (TORCH_INDEX), else from uv's index for it. pip accepts any build whose
# hash is in the lock; uv needs the hashes of the exact version with its local part. services/airflow/Dockerfile uses the same order.
PIP_TORCH = $(VENV)/tools/bin/pip --python $(@D)/bin/python install --quiet --no-deps --require-hashes -r requirements/torch.txt
ifneq ($(PIP_FIND_LINKS),)
INSTALL_TORCH = $(PIP_TORCH) --no-index
else ifneq ($(TORCH_INDEX),)
INSTALL_TORCH = $(PIP_TORCH) --index-url $(TORCH_INDEX)
else ifeq ($(shell uname -sm),Linux x86_64)
INSTALL_TORCH = sed 's/^torch==[0-9.]*/&+cpu/' requirements/torch.txt | $(INSTALL) $(@D)/bin/python --torch-backend=cpu -r - || \
  { echo "torch: the CPU build could not be installed. Set PIP_FIND_LINKS=FOLDER or TORCH_INDEX=URL to install it from there." >&2; exit 1; }
else
INSTALL_TORCH = $(PIP_TORCH)
endif

help: ## list the targets
	@grep -hE '^[a-z%-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

setup: $(VENV)/airflow/.ready $(VENV)/ml/.ready $(VENV)/serving/.ready $(VENV)/tools/.audit edge ## install the three environments from their lock files, build the browser scorer

lock: $(UV) ## update the lock files from the .in files
	$(VENV)/tools/bin/python requirements/lock.py

$(UV): requirements/tools.txt
	$(PYTHON) -m venv $(VENV)/tools
	$(VENV)/tools/bin/pip install --quiet --require-hashes --requirement requirements/tools.txt
	@touch $@

$(VENV)/tools/.audit: requirements/audit.txt | $(UV)
	$(INSTALL) $(VENV)/tools/bin/python -r requirements/audit.txt
	@touch $@

$(VENV)/airflow/.ready: requirements/airflow.txt requirements/celery.txt requirements/test.txt plugins/pyproject.toml | $(UV)
	$(UV) venv --quiet --allow-existing --python $(PYTHON) $(@D)
	$(INSTALL) $(@D)/bin/python -r requirements/airflow.txt -r requirements/celery.txt -r requirements/test.txt
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

# The browser scorer needs Node 20 or later and npm. Without them, or with EDGE=no, everything else works, and its tests and the
# export for browsers are skipped with a message.
NODE_MAJOR := $(shell node --version 2>/dev/null | sed 's/^v//; s/\..*//')
HAS_NODE := $(if $(filter no,$(EDGE)),,$(shell [ "$(or $(NODE_MAJOR),0)" -ge 20 ] && command -v npm >/dev/null && echo yes))
EDGE_SOURCES := $(wildcard edge/*.mjs edge/*.json edge/*.txt edge/src/* edge/page/* edge/test/* edge/tools/*.ts edge/tools/lib/*)

edge: $(if $(HAS_NODE),edge/node_modules/.built) ## build the browser scorer and the what-if page, where Node 20 or later is installed
	@$(if $(HAS_NODE),:,echo "edge: skipped; the browser scorer needs Node 20 or later and npm (Debian: nodejs, npm), found Node: $(or $(NODE_MAJOR),none)")

edge/node_modules/.ready: edge/package-lock.json edge/.npmrc
	cd edge && npm ci --silent || { echo "edge: npm ci failed; EDGE=no sets up everything but the browser scorer" >&2; exit 1; }
	@touch $@

edge/node_modules/.built: edge/node_modules/.ready $(EDGE_SOURCES)
	cd edge && node build.mjs
	@touch $@

system: ## install Java, Prometheus and Alertmanager from system packages if they are missing
	@infra/system-packages.sh java=openjdk-17-jre-headless! prometheus=prometheus amtool=prometheus-alertmanager

EMBEDDED = $(VENV)/ml/bin/python -m fraud.embedded
# Values with arbitrary characters are passed in the environment, so that neither make nor the shell expands them.
WITH_STREAM = $(if $(STREAM),$(if $(filter 0,$(STREAM)),--no-stream,--stream))
export DEMO_SOURCE = $(value SOURCE)
export DEMO_MAPPING = $(value MAPPING)
export BACKUP_TO = $(value TO)
export BACKUP_FROM = $(value FROM)

demo: setup system ## start the embedded stack and run the main job: SOURCE= MAPPING= or DAYS= USERS= SEED=; STREAM=1 DETACH=1
	@$(EMBEDDED) demo $(if $(value SOURCE),--source "$$DEMO_SOURCE") $(if $(value MAPPING),--mapping "$$DEMO_MAPPING") \
	  $(if $(DAYS),--days $(DAYS)) $(if $(USERS),--users $(USERS)) $(if $(SEED),--seed $(SEED)) $(WITH_STREAM) $(if $(DETACH),--detach)

start: setup system ## start the embedded stack: Airflow, MLflow, Valkey, serving, Prometheus, Alertmanager; STREAM=1: Kafka too
	@$(EMBEDDED) up $(WITH_STREAM)

down: ## stop the embedded stack
	@[ ! -x $(VENV)/ml/bin/python ] || $(EMBEDDED) down

drill: ## inject a fault for each alert into the running embedded stack; continues an interrupted drill: ALERT="NAME NAME" FRESH=1
	@$(EMBEDDED) drill $(if $(ALERT),--alert $(ALERT)) $(if $(FRESH),--fresh)

quiet-hour: ## send a day of payments to the running embedded stack; fails if an alert fires: MINUTES=60
	@$(EMBEDDED) quiet-hour $(if $(MINUTES),--minutes $(MINUTES))

services: ## list the services of the embedded stack with their URLs; fails if one is not ready
	@$(EMBEDDED) services

status: ## run fraud status on the embedded stack: what serves, what is wrong, what changed; fails if something is wrong
	@env="$${FRAUD_HOME:-var}/stack.env"; [ -f "$$env" ] || { echo "no embedded stack was started here; run make start" >&2; exit 1; }; \
	  set -a; . "$$(realpath "$$env")"; set +a; $(VENV)/ml/bin/fraud status

follow: ## follow the embedded stack's logs
	@tail -n 5 -F "$${FRAUD_HOME:-var}"/logs/*.log

docs: setup ## write the tables of docs/ that are generated from code
	@$(VENV)/ml/bin/python docs/generate.py

# The preview draws the dashboards with Grafana's own components: infra/grafana/preview. It is not part of setup.
PREVIEW := infra/grafana/preview
$(PREVIEW)/node_modules/.ready: $(PREVIEW)/package-lock.json $(PREVIEW)/.npmrc
	cd $(PREVIEW) && npm ci --silent
	@touch $@

dashboards: $(PREVIEW)/node_modules/.ready ## screenshots of the dashboards: PROMETHEUS=URL or DATA=FOLDER; FROM=now-6h TO=now OUT=build/dashboards
	@cd $(PREVIEW) && npm run --silent lint && npm run --silent build
	@node $(PREVIEW)/build/tools/screenshots.js --out="$(or $(OUT),build/dashboards)" \
	  $(if $(DATA),--data="$(DATA)",--prometheus="$(or $(PROMETHEUS),http://127.0.0.1:9090)") \
	  $(if $(FROM),--from=$(FROM)) $(if $(TO),--to=$(TO)) $(if $(ONLY),--only=$(ONLY))

# The deployed stack, in containers: docs/deployment.md. PROFILE names serving, monitoring, full, streaming, or several;
# WITHOUT names services to leave out.
PROFILE ?= full
COMPOSE = docker compose $(addprefix --profile ,$(PROFILE))
ifneq ($(filter streaming,$(PROFILE)),)
export FRAUD_KAFKA_BROKERS ?= kafka:9092
endif
export GIT_COMMIT := $(shell git describe --always --dirty --abbrev=40 --exclude='*' 2>/dev/null || echo unknown)
export DOCKER_BUILDKIT := 1

secrets: ## generate the secrets that docker-compose.yml requires and .env lacks
	@PYTHONPATH=src python3 -m fraud.secret_file .env docker-compose.yml

build/wheels: # the CPU build of torch, if PIP_FIND_LINKS has it
	@mkdir -p $@ && for wheel in $(wildcard $(PIP_FIND_LINKS)/torch-*cpu*.whl); do ln -f $$wheel $@/ 2>/dev/null || cp $$wheel $@/; done

images: secrets build/wheels ## build the three images
	@$(COMPOSE) build

standins: ## build stand-in base images from Debian packages, without an image registry (root, debootstrap)
	@infra/standins/build.sh

up: secrets ## start the deployed stack: PROFILE="full streaming", or one of serving, monitoring, full, streaming; WITHOUT="grafana"
	@$(COMPOSE) up --detach --wait --wait-timeout 600 $(if $(WITHOUT),$(filter-out $(WITHOUT),$(shell $(COMPOSE) config --services)))

ps: secrets ## list the containers of the deployed stack
	@$(COMPOSE) ps --all

logs: secrets ## follow the deployed stack's logs
	@$(COMPOSE) logs --follow --tail 20

stop: secrets ## stop the deployed stack; its data is kept
	@docker compose --profile full --profile monitoring --profile streaming down

rolling-restart: secrets ## replace the replicas of serving one by one with the current image
	@infra/compose/rolling-restart.sh

backup: secrets ## back up the data stores: TO=FOLDER
	@infra/compose/backup.sh "$$BACKUP_TO"

restore: ## create a new stack from a backup: FROM=FOLDER
	@infra/compose/restore.sh "$$BACKUP_FROM"

smoke: secrets ## run the main job on the running deployed stack
	@set -a; . ./.env; set +a; docker exec -i -e AIRFLOW_ADMIN_PASSWORD -e SERVING_CHECKOUT_KEY -e SMOKE_WORLD \
	  "$$($(COMPOSE) ps --quiet airflow-scheduler)" /opt/fraud/.venv/ml/bin/python - <tests/deploy/smoke.py

test: setup system ## run the unit, integration, DAG and serving tests, each in its environment
	@$(VENV)/ml/bin/python tests/run.py

test-slow: setup system ## run the tests that take minutes
	@$(VENV)/ml/bin/python tests/run.py --slow

test-long: setup system ## run the tests that take many minutes: the retraining loop, several hosts, the soak
	@infra/system-packages.sh haproxy=haproxy keepalived=keepalived redis-server=redis-server
	@$(VENV)/ml/bin/python tests/run.py --long

soak: setup system ## run simulated nights with faults, check invariants after each: NIGHTS=30 SEED=1; continues if interrupted
	@$(VENV)/ml/bin/python -m tests.soak --nights $(or $(NIGHTS),30) $(if $(SEED),--seed $(SEED)) $(if $(FOLDER),--folder "$(FOLDER)")

bench-%: setup ## run one benchmark: features, daily, online_memory, serving, stream, stream_latency, batch, training, drift, edge, lake, table_formats, cluster_features, store_cluster, growth; ARGS= are its arguments
	$(VENV)/ml/bin/python tests/bench/$*.py $(ARGS)

lint: setup secret-scan ## check format, rules, types (Python and TypeScript), shell scripts, lock files and secrets
	$(VENV)/tools/bin/ruff format --check .
	$(VENV)/tools/bin/ruff check .
	$(VENV)/tools/bin/mypy --python-executable $(VENV)/ml/bin/python src
	MYPYPATH=src:services/serving/src $(VENV)/tools/bin/mypy --python-executable $(VENV)/serving/bin/python services/serving/src
	MYPYPATH=plugins $(VENV)/tools/bin/mypy --python-executable $(VENV)/airflow/bin/python plugins dags
	$(if $(HAS_NODE),cd edge && npm run --silent lint)
	$(if $(wildcard $(PREVIEW)/node_modules/.ready),cd $(PREVIEW) && npm run --silent lint)
	@git ls-files -z '*.sh' .ci/run | xargs -0 -r $(VENV)/tools/bin/shellcheck
	@! grep -n '"resolved"' edge/package-lock.json $(PREVIEW)/package-lock.json || { echo "a lock file names a registry; see .npmrc beside it" >&2; exit 1; }
	@! git grep -nIE '^(-i|-f|--(extra-)?index-url|--find-links)\b' -- 'requirements/*' 'services/*/requirements*' || \
	  { echo "a requirements file names an index; configure indexes outside of the repository" >&2; exit 1; }

# Lock files are excluded because they consist of hashes. The tool updates line numbers in the baseline and exits with 3, so it gets a copy.
secret-scan: $(VENV)/tools/.audit ## search tracked files for secrets; .secrets.baseline lists known false findings
	@mkdir -p build && cp .secrets.baseline build/secrets.baseline
	@$(VENV)/tools/bin/detect-secrets-hook --baseline build/secrets.baseline \
	  $$(git ls-files -- . ':!requirements/*.txt' ':!services/*/requirements.txt' ':!edge/package-lock.json' ':!$(PREVIEW)/package-lock.json' ':!infra/grafana/dashboards/*' ':!.secrets.baseline') \
	  || [ $$? -eq 3 ] || { echo "see docs/threat-model.md, \"Secrets in the repository\"" >&2; exit 1; }

audit: $(VENV)/tools/.audit ## list known vulnerabilities of the locked packages, from PyPI's service
	@requirements/audit.sh

clean: down ## stop the stack and remove its data and secrets; the environments are kept
	rm -rf "$${FRAUD_HOME:-var}" build .env .pytest_cache .mypy_cache .ruff_cache .hypothesis
