# `make` alone lists the targets. Needed: GNU make, Python 3.11 or newer, a Python package index.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && exit; done; \
	echo python3)
ASK ?= Summarize anomalies in boost_target map
ONLY ?=
ARGS ?=
# This host's settings. Another file, another role: make up ENV_FILE=brain.env
ENV_FILE := $(or $(VARIET_ENV_FILE),.env)
S ?=
FILE ?=
WAIT ?= 1800
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --require-hashes
COMPILE := $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url \
	--custom-compile-command "make lock" $(if $(UPGRADE),--upgrade)
# What the containers do without: the engine, the test runner, the terminal's looks, and what
# libraries take along for hubs and services that are not used (each imports it only if it is there).
LEFT_OUT := $(addprefix --no-emit-package ,aiohappyeyeballs aiohttp aiosignal docker filelock frozenlist fsspec hf-xet huggingface-hub iniconfig multidict nvidia-ml-py propcache yarl \
	markdown-it-py mdurl pluggy pygments pytest rich shellingham tqdm typer xllamacpp zstandard)
PACKAGES := contracts models tools services orchestrator cli tests
MOUNTED := services/postgres/databases.sql services/clickhouse/logs.xml services/searxng/settings.yml
CATALOGUE := models models/manifest.yaml models/hosts $(wildcard models/hosts/*.yaml)
COMPOSE := docker compose --env-file $(ENV_FILE)
export ASK
export VARIET_ENV_FILE := $(ENV_FILE)

.DEFAULT_GOAL := help
.PHONY: help env dev demo run test test-stack nightly lint types bench docs lock clean \
	host whole init up down restart logs ps smoke doctor models pull update backup restore gateway

help:  ## list the targets
	@awk -F ':.*## ' '/^##@ / {printf "\n%s\n", substr($$0, 5)} \
	  /^[a-z-]+:.*## / {printf "  make %-10s  %s\n", $$1, $$2}' $(MAKEFILE_LIST)

##@ On one machine, without Docker
demo:  ## ask one question with everything on this machine (ASK="..." asks another)
	@start=`date +%s`; $(MAKE) -s --no-print-directory env && \
	  VARIET_INSTALL_SECONDS=$$((`date +%s` - start)) $(BIN)/variet demo -- "$$ASK"

run: env  ## start the whole stack in the foreground; Ctrl-C stops it
	@$(BIN)/variet run

gateway: env  ## start the brain's gateway in the foreground, where engines run without Docker (a Mac)
	@exec $(BIN)/python -P -m services.gateway

##@ On either host of two, by the role in .env (ENV_FILE=... names another file)
init: env  ## give this host its role, and write .env (ARGS="--role hands")
	@$(BIN)/variet init $(ARGS)

up: whole  ## build and start the stack of this host, and wait until it is healthy (S=service)
	@start=`date +%s`; \
	if $(COMPOSE) up --detach --build --wait --wait-timeout $(WAIT) --remove-orphans $(S); then \
	  $(COMPOSE) ps --format 'table {{.Service}}\t{{.Status}}\t{{.Ports}}'; \
	  echo "Healthy after $$((`date +%s` - start)) s. Next: make smoke"; \
	else \
	  $(COMPOSE) ps --all --format 'table {{.Service}}\t{{.Status}}'; \
	  for name in `$(COMPOSE) ps --all --format '{{.Service}} {{.State}}/{{.Health}}' | \
	    sed -n '/^engines /d; / running\/healthy$$/d; s/ .*//p'`; do \
	    echo "-- $$name:" >&2; $(COMPOSE) logs --no-log-prefix --tail 6 "$$name" >&2; done; \
	  echo "The stack is not healthy. See: make logs S=NAME, make doctor," \
	    "docs/operations.md (When it does not start)" >&2; exit 1; \
	fi

down: host  ## stop the stack and remove its containers; its data stays
	@$(COMPOSE) --profile '*' down --remove-orphans

restart: whole  ## make the containers anew, with the settings of now (S=service)
	@$(COMPOSE) up --detach --wait --wait-timeout $(WAIT) --force-recreate $(if $(S),--no-deps) $(S)

logs: host  ## follow the logs (S=service, on the brain also S=engines); Ctrl-C ends that
	@$(COMPOSE) --profile '*' logs --follow --tail 200 $(S)

ps: host  ## list the containers
	@$(COMPOSE) ps --all --format 'table {{.Name}}\t{{.Service}}\t{{.Status}}\t{{.Ports}}'

smoke: env  ## try once what this host promises; a table (ARGS=--json)
	@$(BIN)/variet smoke $(ARGS)

doctor: env  ## look at each part, and say how to mend it (ARGS=--json)
	@$(BIN)/variet doctor $(ARGS)

models: env  ## list the models, and which are here; fetch one: .venv/bin/variet models pull NAME
	@$(BIN)/variet models list $(ARGS)

pull: host  ## fetch the images of others
	@$(COMPOSE) pull --ignore-buildable $(S)

update: whole  ## fetch images, build ours anew from this folder, and start what changed
	@$(COMPOSE) pull --ignore-buildable
	@$(COMPOSE) build `grep -q '^BASE_IMAGE=.' $(ENV_FILE) || echo --pull`
	@$(MAKE) -s --no-print-directory up

backup: env  ## write state, databases, index and settings into one archive (FILE=name.tar)
	@$(BIN)/variet backup $(ARGS) $(FILE)

restore: env  ## put a backup in the place of what is here (FILE=name.tar)
	@test -n "$(FILE)" || { echo "Which one? make restore FILE=variet-backup-DATE.tar" >&2; exit 2; }
	@$(BIN)/variet restore $(FILE)

clean:  ## remove environment, caches and containers; data/state, volumes and .env stay
	@if test -f $(ENV_FILE) && command -v docker >/dev/null && docker info >/dev/null 2>&1; then \
	  $(COMPOSE) --profile '*' down --remove-orphans; \
	  echo "Kept volumes: `docker volume ls -q --filter name=^variet- | paste -sd' ' -`"; fi
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "Kept: data/state, $(ENV_FILE). What make needs it makes again."

host:
	@command -v docker >/dev/null || { echo "There is no docker on this host." \
	  "Install Docker Engine with its Compose plugin: https://docs.docker.com/engine/install/" >&2; exit 1; }
	@test -f $(ENV_FILE) || { echo "$(ENV_FILE) is missing: this host has no role yet." \
	  "Give it one: make init" >&2; exit 1; }
# Users inside containers read these, also from a checkout that is private to its owner.
	@chmod a+rX $(MOUNTED) $(CATALOGUE) 2>/dev/null || :

# `variet restore` leaves that file behind when it is killed, or cannot put back what was there.
whole: host
	@test ! -e $(ENV_FILE).restoring || { cat $(ENV_FILE).restoring >&2; \
	  echo "If it was killed, restore again, from that archive or another one:" \
	       "make restore FILE=variet-backup-DATE.tar" >&2; exit 1; }

##@ To work on Variet
# A copy of the lock inside the environment is the stamp: `variet doctor` compares the two.
env: $(VENV)/requirements.lock  ## make the environment .venv from requirements.lock
dev: $(VENV)/requirements-dev.lock  ## add what test, lint, types and lock need

$(BIN)/variet: Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Variet needs Python 3.11 or newer, and $(PYTHON) is `$(PYTHON) --version 2>&1`." \
	       "Install one, or name it: make env PYTHON=/path/to/python3.12" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "Python could not make $(VENV)." \
	       "On Debian and Ubuntu: apt install python3-venv; then try again." >&2; exit 1; }
	@echo ../../../.. > "`$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'`/variet.pth"
	@printf '%s\n' '#!/bin/sh' \
	  'exec "$$(dirname "$$(readlink -f "$$0")")/python" -P -m cli "$$@"' > $@ && chmod +x $@

$(VENV)/requirements.lock: requirements.lock | $(BIN)/variet
	@echo "Installing the packages of requirements.lock into $(VENV) ..." >&2
	@$(INSTALL) -r requirements.lock || { \
	  echo "The packages could not be installed: pip says why above. If no package index can be" \
	       "reached, connect once, or point pip at a mirror (PIP_INDEX_URL)." >&2; exit 1; }
	@cp requirements.lock $@

$(VENV)/requirements-dev.lock: requirements-dev.lock $(VENV)/requirements.lock
	@echo "Installing the packages of requirements-dev.lock into $(VENV) ..." >&2
	@$(INSTALL) -r requirements-dev.lock
	@cp requirements-dev.lock $@

test-stack: dev  ## run the tests that build images and start both stacks; they need Docker
	@$(BIN)/python -m pytest -vv -rs --durations=12 -m stack $(ARGS)

test: dev  ## run every test that needs no root, Docker or network (ARGS="-k name")
	@$(BIN)/python -m pytest -rs -n auto --dist worksteal $(ARGS)

nightly: dev  ## kill the orchestrator 200 times at every step of a run, and storm it
	@CRASH_ROUNDS=200 STORM_SEEDS=100 SCHEDULER_WALKS=5000 SCHEDULER_EXAMPLES=1000 \
	    $(BIN)/python -m pytest -m nightly

lint: dev  ## check style and formatting
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: dev  ## check types, strictly
	@$(BIN)/mypy --strict $(PACKAGES)

bench: dev  ## measure speed and memory (ONLY=name measures one row)
	@$(BIN)/python -m tests.bench $(ONLY)

docs: env  ## write docs/cli.md, docs/settings.md, docs/hosts.md and .env.example anew from the code
	@$(BIN)/python -m cli.reference > docs/cli.md
	@$(BIN)/python -m contracts.settings_table
	@$(BIN)/python -m models.hosts_page

lock: dev  ## lock the dependencies of pyproject.toml (UPGRADE=1 takes the newest versions)
	@$(COMPILE) pyproject.toml -o requirements.lock
	@$(COMPILE) -c requirements.lock --extra server $(LEFT_OUT) pyproject.toml -o requirements-server.lock
	@$(COMPILE) -c requirements.lock --group tools -o requirements-tools.lock
	@$(COMPILE) -c requirements.lock --group gateway -o requirements-gateway.lock
	@$(COMPILE) -c requirements.lock -c requirements-server.lock --extra dev --extra server pyproject.toml -o requirements-dev.lock
	@$(COMPILE) -c requirements.lock --extra train pyproject.toml -o requirements-train.lock
