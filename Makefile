# Every target that needs Python first makes .venv from requirements.lock, once. `make` alone lists the targets.
# An active conda or virtual environment is used instead, and no .venv made, if it is called glasslib (environment.yml's
# name), if glasslib is installed in it from this folder, or with USE_ACTIVE=1, which installs what it lacks.
SHELL := /bin/bash
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

OTHER := $(filter-out $(CURDIR)/.venv,$(or $(VIRTUAL_ENV),$(CONDA_PREFIX)))
FROM_HERE := import glasslib, pathlib, sys; sys.exit(not pathlib.Path(glasslib.__file__).parents[1].samefile("."))
ACTIVE := $(if $(OTHER),$(if $(USE_ACTIVE)$(filter glasslib,$(notdir $(OTHER))),$(OTHER),$\
  $(shell "$(OTHER)/bin/python" -I -c '$(FROM_HERE)' 2>/dev/null && echo "$(OTHER)")))
$(if $(and $(USE_ACTIVE),$(or $(OTHER),$(wildcard $(VIRTUAL_ENV)))),,$(if $(USE_ACTIVE),$\
  $(error USE_ACTIVE=1 needs an active environment: conda activate NAME, or source PATH/bin/activate, first)))
VENV := $(or $(ACTIVE),.venv)
PY := $(VENV)/bin/python
READY := $(VENV)/.ready$(if $(ACTIVE),-$(firstword $(shell echo "$(CURDIR)" | cksum)))
KERNEL := $(VENV)/share/jupyter/kernels/glasslib/kernel.json
PRESET ?= tiny
ONLY ?=
WORKERS ?= 2
CLUSTER ?=
ARGS ?=

# The caption and the path pass through the environment, unread by make and the shell: quotes, spaces and $ are safe.
DEMO := $(if $(filter undefined,$(origin TARGET)),,--target="$$DEMO_TARGET")
DEMO += $(if $(filter undefined,$(origin IMAGE)),,--image="$$DEMO_IMAGE")
export DEMO_TARGET := $(value TARGET)
export DEMO_IMAGE := $(value IMAGE)
unexport TARGET IMAGE

SUPPORTED := import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))
PYTHONS := $(if $(PYTHON),"$(PYTHON)",python3.11 python3.12 python3.13 python3 python)

.PHONY: help setup demo figures experiments notebooks scoreboard test lint lab bench tinyworld weights lock reset clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: $(READY) $(KERNEL) ## make .venv from requirements.lock (6 GB; once; every other target does it by itself)

demo: $(READY) ## one search on the tiny models: TARGET="a red star on the left" (TARGET=help: the words), or IMAGE=path
	@$(PY) -m glasslib.commands.demo $(DEMO)

figures: $(READY) ## run all notebooks into results/ (PRESET=paper for the real models, ONLY=01 for one)
	@$(PY) -m glasslib.commands.notebooks figures $(ONLY) --preset $(PRESET) --workers $(WORKERS) $(ARGS)
	@$(PY) -m glasslib.commands.scoreboard

experiments: $(READY) ## run the notebooks at full scale: hours, goes on where it was (CLUSTER=local:4, or a scheduler's address)
	@$(PY) -m glasslib.commands.notebooks experiments $(ONLY) --cluster "$(CLUSTER)"
	@$(PY) -m glasslib.commands.scoreboard

notebooks: $(READY) ## run all notebooks and keep the outputs in them, as they are committed (ONLY=...)
	@$(PY) -m glasslib.commands.notebooks refresh $(ONLY) --workers $(WORKERS)
	@$(PY) -m glasslib.commands.scoreboard

scoreboard: $(READY) ## assemble results/scoreboard.json and fill the README's numbers from it
	@$(PY) -m glasslib.commands.scoreboard

test: $(READY) ## run the tests (ARGS="-k genetic" for some)
	@OMP_NUM_THREADS=1 $(PY) -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

lint: $(READY) ## check style and format, notebooks included
	@$(PY) -m ruff check . && $(PY) -m ruff format --check .

lab: $(READY) $(KERNEL) ## open JupyterLab on this machine only, with a token (ARGS="--no-browser")
	@JUPYTER_PATH="$(abspath $(VENV))/share/jupyter:$$JUPYTER_PATH" $(PY) -m jupyterlab --ip=127.0.0.1 \
	  $(if $(filter 0,$(shell id -u)),--allow-root) \
	  --ServerApp.root_dir="$(CURDIR)" --LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb $(ARGS)

bench: $(READY) ## measure speed and what no notebook measures, and run the long tests of tests/acceptance
	@$(PY) -m pytest -m acceptance tests/acceptance
	@$(PY) -m glasslib.bench
	@$(PY) -m glasslib.commands.scoreboard

tinyworld: $(READY) ## train the tiny models again from scratch (hours; resumes; skips what is there)
	@$(PY) -m glasslib.tinyworld.recipes

weights: $(READY) ## list the real models' files; PRESET=StyleGAN2_ffhq_d fetches those of one preset (paper: all)
	@$(PY) -m glasslib.weights $(if $(filter file,$(origin PRESET)),,$(PRESET))

lock: $(READY) ## pin the newest versions that pyproject.toml allows (ARGS=--upgrade), else only what is missing
	@$(PY) -m uv pip compile pyproject.toml --group dev --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --custom-compile-command "make lock" --quiet $(ARGS) -o requirements.lock

reset: ## put notebooks, results and README back as committed; what you changed is kept as a patch in runs/
	@mkdir -p runs; patch="runs/before-reset-$$(date +%Y%m%d-%H%M%S).patch"; \
	git diff --binary HEAD -- notebooks results README.md > "$$patch" && if [ -s "$$patch" ]; then \
	  git restore --source=HEAD --staged --worktree -- notebooks results README.md \
	  && echo "all as committed; to get your changes back: git apply $$patch"; \
	else rm "$$patch"; echo "nothing was changed"; fi

clean: ## remove caches and executed copies; .venv, results and trained weights stay
	@rm -rf runs/figures demo .pytest_cache .ruff_cache
	@find glasslib tests -name __pycache__ -type d -prune -exec rm -rf {} +

ifdef ACTIVE
$(READY): requirements.lock
	@echo "installing the versions of requirements.lock, and glasslib from here, into $(VENV): what it lacks"
	@$(PY) -m pip install --quiet --require-hashes -r requirements.lock
	@$(PY) -m pip install --quiet --no-deps --no-build-isolation -e .
	@rm -f $(VENV)/.ready-*; touch $@
else
$(READY): requirements.lock
	@$(PY) -c '$(SUPPORTED)' 2>/dev/null && exit; \
	for python in $(PYTHONS); do "$$python" -c '$(SUPPORTED)' 2>/dev/null && found="$$python" && break; done; \
	if [ -z "$$found" ]; then \
	  echo "glasslib needs Python 3.11, 3.12 or 3.13 with its venv module; none of these is one: $(PYTHONS)" >&2; \
	  echo "install one (Debian: apt install python3 python3-venv), or name it: make PYTHON=/path/to/python3 setup" >&2; \
	  exit 1; \
	fi; \
	echo "making $(VENV) with $$found"; "$$found" -m venv --clear $(VENV)
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PY) -m ensurepip
	@echo "installing the versions of requirements.lock into $(VENV): once, about 6 GB, some minutes"
	@sed -n '/^uv==/,/# via/p' requirements.lock > $(VENV)/uv.txt
	@{ $(PY) -m pip install --quiet --require-hashes -r $(VENV)/uv.txt \
	  && UV_HTTP_TIMEOUT=300 $(PY) -m uv pip sync --python $(PY) --require-hashes requirements.lock \
	  && $(PY) -m uv pip install --python $(PY) --no-deps --no-build-isolation -e . ; } \
	|| { echo "uv did not manage; going on with pip, which takes longer" \
	  && $(PY) -m pip install --require-hashes -r requirements.lock \
	  && $(PY) -m pip install --no-deps --no-build-isolation -e . ; }
	@touch $@
endif

# The project's own kernel, and JupyterLab without its news.
$(KERNEL): | $(READY)
	@mkdir -p $(VENV)/etc/jupyter/labconfig
	@printf '{"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": true}}\n' \
	  > $(VENV)/etc/jupyter/labconfig/page_config.json
	@$(PY) -m ipykernel install --sys-prefix --name glasslib --display-name glasslib >/dev/null
