# `make demo` and `make test` work on a fresh checkout: they create .venv here and install what they need.
# PYTHON=... names another interpreter; JOBS=... the test processes; FUZZ=... inputs of make fuzz;
# ARGS=... goes to pytest, compare or benchmark.

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install -qq --disable-pip-version-check -c constraints.txt
JOBS ?= 2
FUZZ ?= 2000
export CHROMIUM
ARGS ?=

# What an interpreter must be able to do. Names that exist but fail (pyenv shims), that are too old, or that come
# without ensurepip (Debian without python3-venv) are passed over.
SUITABLE := import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))

# What `make test-versions` runs, each in .venvs/NAME: the core, which needs none of the large libraries.
VERSIONS := lowest gymnasium-1.1 gymnasium-1.2.2 gymnasium-newest python3.12 python3.13
CORE_TESTS := tests/scenarios tests/generator tests/kernel/test_kernel.py tests/simulation tests/rendering tests/envs
EXTRAS := human

# Other people's libraries, each with an environment of its own in .venvs/NAME and claims in integrations/test_NAME.py.
LIBRARIES := rlzoo3 skrl torchrl tianshou agilerl minari mogymnasium rllib

# A .venv whose interpreter is gone (moved folder, upgraded system) is made anew.
ifneq ($(shell $(PY) -c '$(SUITABLE)' >/dev/null 2>&1 && echo yes),yes)
$(VENV)/.python: FORCE
endif

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo demo-live test test-all fuzz test-bounds test-nojit test-video test-browser test-live soak bench bench-peers agents board docs lint clean FORCE
.PHONY: test-integrations test-sb3 test-ray bench-ray bench-rllib bench-fleets $(LIBRARIES:%=test-%) test-versions $(VERSIONS:%=test-version-%)

help:  ## print this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.demo  ## compare CACE with learned agents and deployed rules on several scenarios (no torch needed)
	@echo "==> comparing"
	@$(PY) -m experiments.compare --demo $(ARGS)

demo-live: $(VENV)/.test  ## serve tiny models by a real server under CACE and an agent (Linux on x86-64)
	@$(PY) -m experiments.live demo $(ARGS)

test: $(VENV)/.test  ## run the tests but the slow ones
	@echo "==> testing"
	@$(PY) -m pytest -q -n $(JOBS) --dist loadfile -m "not slow" $(ARGS)

test-all: $(VENV)/.test  ## run every test, then some without compilation, and the kernel's with checked indices
	@echo "==> testing everything"
	@$(PY) -m pytest -q -n $(JOBS) --dist loadfile $(ARGS)
	@$(MAKE) --no-print-directory test-nojit test-bounds

fuzz: $(VENV)/.test  ## give thousands of wrong inputs to every loader and command (FUZZ=2000 for each claim)
	@echo "==> fuzzing"
	@FUZZ_EXAMPLES=$(FUZZ) $(PY) -m pytest -q -n $(JOBS) tests/fuzz $(ARGS)

test-bounds: $(VENV)/.test  ## run the kernel's tests with every index checked
	@echo "==> testing with checked indices"
	@NUMBA_BOUNDSCHECK=1 $(PY) -m pytest -q -n $(JOBS) --dist loadfile tests/kernel -m "not integration" $(ARGS)

test-nojit: $(VENV)/.test  ## run the tests marked nojit as plain Python
	@echo "==> testing without compilation"
	@NUMBA_DISABLE_JIT=1 $(PY) -m pytest -q -m nojit $(ARGS)

test-video: .venvs/video/.ready  ## write videos and pictures in an environment of its own
	@echo "==> testing videos"
	@.venvs/video/bin/python -m pytest -q -rs tests/rendering/test_video.py tests/rendering/test_rendering.py $(ARGS)

test-browser: .venvs/browser/.ready  ## use reports in a real browser (Chromium; CHROMIUM=... names another one)
	@echo "==> testing reports in a browser"
	@.venvs/browser/bin/python -m pytest -q integrations/test_browser.py $(ARGS)

# Commands on Ray. Two nodes of one machine stay on the loopback address by a variable that Ray names after systems where
# that is all there is. Its processes would give way to everything else on the machine.
RAY := RAY_USAGE_STATS_ENABLED=0 RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 RAY_worker_niceness=0

test-ray: .venvs/ray/.ready  ## run commands on a Ray cluster of two nodes, in an environment of its own (five minutes)
	@echo "==> testing commands on Ray"
	@$(RAY) .venvs/ray/bin/python -m pytest -q integrations/test_ray.py $(ARGS)

test-live: $(VENV)/.test  ## drive real model servers over tiny models (Linux on x86-64)
	@echo "==> testing with real servers"
	@$(PY) -m pytest -q -rs tests/live tests/calibration $(ARGS)

test-integrations: test-sb3 $(LIBRARIES:%=test-%)  ## run the tests in all other RL libraries

test-sb3: $(VENV)/.test  ## run the tests in Stable-Baselines3, sb3-contrib and CleanRL's style
	@echo "==> testing with Stable-Baselines3"
	@$(PY) -m pytest -q tests/sb3/test_sb3.py tests/project/test_examples.py $(ARGS)

test-rlzoo3: .venvs/rlzoo3/.ready  ## run the tests in RL Zoo, in an environment of its own
test-skrl: .venvs/skrl/.ready  ## run the tests in skrl, in an environment of its own
test-torchrl: .venvs/torchrl/.ready  ## run the tests in TorchRL, in an environment of its own
test-tianshou: .venvs/tianshou/.ready  ## run the tests in Tianshou, in an environment of its own
test-agilerl: .venvs/agilerl/.ready  ## run the tests in AgileRL, in an environment of its own
test-minari: .venvs/minari/.ready  ## run the tests with Minari's own collector, in an environment of its own
test-mogymnasium: .venvs/mogymnasium/.ready  ## run the tests in MO-Gymnasium, in an environment of its own
test-rllib: .venvs/rllib/.ready  ## run the tests in RLlib on a local Ray, in an environment of its own
test-rllib: MORE_CLAIMS := integrations/test_rllib_training.py integrations/test_rllib_tune.py
$(LIBRARIES:%=test-%): test-%:
	@echo "==> testing with $*"
	@$(RAY) .venvs/$*/bin/python -m pytest -q integrations/test_$*.py $(MORE_CLAIMS) $(ARGS)

test-versions: $(VERSIONS:%=test-version-%)  ## run the core's tests with other versions of Gymnasium and Python
	@echo "==> in short:"
	@cat $(VERSIONS:%=.venvs/%/outcome)

$(VERSIONS:%=test-version-%): test-version-%: .venvs/%/.ready
	@if [ ! -e $< ]; then cat $(<D)/outcome; exit 0; fi; \
	versions="$$($(<D)/bin/python --version) $$($(<D)/bin/python -m pip list --format freeze \
	  | grep -E '^(gymnasium|numpy|numba|pydantic|stable_baselines3)==' | tr '\n' ' ')"; \
	echo "==> testing $*: $$versions"; \
	$(<D)/bin/python -m pytest -q -rs -m "not slow" $(CORE_TESTS) $(MORE_TESTS) $(ARGS) && \
	echo "$*: $$versions: passed" > $(<D)/outcome

# Numba's cache belongs to one version of Numba at a time.
test-version-lowest: export CACE_ENV_CACHE_DIR := $(CURDIR)/.venvs/lowest/compiled
test-version-gymnasium-1.1: MORE_TESTS := tests/sb3/test_sb3.py

soak: $(VENV)/.test  ## 200 clients for 13 minutes before the router while everything goes wrong (Linux)
	@$(PY) -m tests.live.soak $(ARGS)

bench: $(VENV)/.test  ## measure speed, latency, growth, compile time and memory (under five minutes on two cores)
	@$(PY) -m experiments.benchmark $(ARGS)

bench-peers: .venvs/peers/.ready  ## the same beside EnvPool, in an environment of its own
	@$(MAKE) --no-print-directory bench

bench-rllib: .venvs/rllib/.ready  ## measure training by RLlib, for docs/scale.md (five minutes)
	@$(RAY) .venvs/rllib/bin/python -m integrations.scale_training

bench-fleets: $(VENV)/.test  ## measure what large fleets cost, for docs/scale.md (three minutes)
	@$(PY) -m experiments.yardsticks.growth.fleets growth
	@$(PY) -m experiments.yardsticks.growth.fleets long --requests 10000000

bench-ray: .venvs/ray/.ready  ## measure what Ray costs, for docs/scale.md (eight minutes)
	@$(RAY) .venvs/ray/bin/python -m integrations.scale

# Labels are of the agents that made them: once new ones are in the package, remove runs/labels-eviction*
# and runs/shipped-* to begin again from those.
agents: $(VENV)/.test  ## train the agents that ship again and put them into the package (about two hours)
	@for name in eviction-1 eviction swap; do \
	  echo "==> training shipped-$$name"; \
	  if grep -q "^labels:" configs/agent/shipped-$$name.yaml; then \
	    $(PY) -m experiments.label configs/agent/shipped-$$name.yaml --threads $(JOBS) || exit 1; \
	  fi; \
	  $(PY) -m experiments.train configs/agent/shipped-$$name.yaml --out runs/shipped-$$name --wandb off --resume $(ARGS) \
	    || exit 1; \
	done
	@$(PY) -m experiments.ship_agent runs/shipped-eviction --name eviction --command "make agents"
	@$(PY) -m experiments.ship_agent runs/shipped-swap --name swap --command "make agents" --urgency-of swap

board: $(VENV)/.test  ## play everything on the board again and write its page (some ten minutes)
	@$(PY) -m experiments.submission board $(ARGS)

docs: .venvs/docs/.ready  ## build the documentation with its API pages into site/, in an environment of its own
	@echo "==> building site/"
	@NO_MKDOCS_2_WARNING=1 .venvs/docs/bin/mkdocs build --strict
	@if grep -rlE '<(link|script|img|iframe)[^>]*(src|href)="?https?:' site --include='*.html'; then \
	  echo "error: these pages fetch something from elsewhere" >&2; exit 1; fi
	@echo "==> site/index.html is the first page; with its search: $(PY) -m http.server -d site"

lint: $(VENV)/.test  ## check style, format and types
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy

clean:  ## remove .venv and .venvs, caches and build products (runs/ stays)
	@rm -rf $(VENV) .venvs build dist site .pytest_cache .ruff_cache .mypy_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- .venv: each stamp is newer than what it was made from ---------------------------------------------------------

$(VENV)/.python:
	@if $(PY) -c '$(SUITABLE)' >/dev/null 2>&1; then exit 0; fi; \
	for python in $(PYTHON) python3.13 python3.12 python3.11 python3; do \
	  if "$$python" -c '$(SUITABLE)' >/dev/null 2>&1; then \
	    echo "==> creating $(VENV) with $$("$$python" --version)"; exec "$$python" -m venv --clear $(VENV); \
	  fi; \
	done; \
	echo "error: no Python >= 3.11 with the venv module found (tried $(strip $(PYTHON) python3.13 python3.12 python3.11 python3));" >&2; \
	echo "       install one (on Debian and Ubuntu also python3-venv), or name it: make PYTHON=/path/to/python" >&2; \
	exit 1
	@touch $@

$(VENV)/.demo: $(VENV)/.python pyproject.toml constraints.txt
	@echo "==> installing cace-env and what the experiments need"
	@$(PIP) -e '.[experiments]'
	@touch $@

# torch first and by its exact version: whatever asks for just "torch" later finds it there.
$(VENV)/.test: $(VENV)/.demo pyproject.toml constraints.txt
	@echo "==> installing torch (the largest part; later runs skip this)"
	@$(PIP) "$$(grep '^torch==' constraints.txt)"
	@echo "==> installing the test tools, Stable-Baselines3 and what training needs"
	@$(PIP) -e '.[train,dev]'
	@touch $@

# moviepy wants an older Pillow than the rest was tested with.
.venvs/video/.ready: $(VENV)/.python pyproject.toml constraints.txt
	@echo "==> installing moviepy into .venvs/video"
	@$(PY) -m venv --clear .venvs/video
	@grep -v '^pillow==' constraints.txt > .venvs/video/constraints.txt
	@.venvs/video/bin/python -m pip install -qq --disable-pip-version-check -c .venvs/video/constraints.txt \
	  -e '.[video]' pytest hypothesis
	@touch $@

# Playwright drives the system's Chromium: it downloads no browser of its own.
.venvs/browser/.ready: $(VENV)/.python pyproject.toml constraints.txt
	@if ! command -v "$${CHROMIUM:-chromium}" >/dev/null && ! command -v chromium-browser >/dev/null; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "==> installing chromium"; apt-get -qq update && apt-get -qq install -y --no-install-recommends chromium >/dev/null; \
	  else \
	    echo "error: no chromium found; install it (Debian and Ubuntu: apt-get install chromium), or name one:" >&2; \
	    echo "       make test-browser CHROMIUM=/path/to/chromium" >&2; exit 1; \
	  fi; \
	fi
	@echo "==> installing Playwright into .venvs/browser"
	@$(PY) -m venv --clear .venvs/browser
	@.venvs/browser/bin/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[browser]' pytest
	@touch $@

.venvs/ray/.ready: $(VENV)/.python pyproject.toml constraints.txt
	@echo "==> installing Ray into .venvs/ray"
	@$(PY) -m venv --clear .venvs/ray
	@.venvs/ray/bin/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[ray]' optuna psutil pytest tensorboard
	@touch $@

# EnvPool brings half a gigabyte of assets of other environments.
.venvs/peers/.ready: $(VENV)/.python pyproject.toml constraints.txt
	@echo "==> installing EnvPool into .venvs/peers"
	@$(PY) -m venv --clear .venvs/peers
	@.venvs/peers/bin/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[peers]'
	@touch $@

# MkDocs reads the docstrings without importing the package; ruff sets the signatures.
.venvs/docs/.ready: $(VENV)/.python constraints.txt
	@echo "==> installing MkDocs into .venvs/docs"
	@$(PY) -m venv --clear .venvs/docs
	@.venvs/docs/bin/python -m pip install -qq --disable-pip-version-check -c constraints.txt \
	  mkdocs-material 'mkdocstrings[python]' ruff
	@touch $@

# --- .venvs/NAME: for each library that cannot share .venv, constraints.txt but for the lines it has of its own -----

.venvs/rlzoo3/.ready: LIBRARY := rl_zoo3
.venvs/skrl/.ready: LIBRARY := skrl
.venvs/torchrl/.ready: LIBRARY := torchrl
.venvs/tianshou/.ready: LIBRARY := tianshou
.venvs/agilerl/.ready: LIBRARY := agilerl peft
.venvs/minari/.ready: LIBRARY := minari[create,hdf5] pyarrow
.venvs/mogymnasium/.ready: LIBRARY := mo-gymnasium
.venvs/rllib/.ready: LIBRARY := ray[rllib] psutil
.venvs/rllib/.ready: OURS := .[rllib]

$(LIBRARIES:%=.venvs/%/.ready): .venvs/%/.ready: \
    integrations/constraints-%.txt constraints.txt pyproject.toml $(VENV)/.python
	@echo "==> installing torch and $(LIBRARY) into $(@D)"
	@$(PY) -m venv $(@D)
	@awk -F '==' 'FNR == NR { own[$$1]; print; next } !($$1 in own)' $< constraints.txt > $(@D)/constraints.txt
	@$(@D)/bin/python -m pip install -qq --disable-pip-version-check -c $(@D)/constraints.txt \
	  "$$(grep '^torch==' constraints.txt)"
	@$(@D)/bin/python -m pip install -qq --disable-pip-version-check -c $(@D)/constraints.txt \
	  -e '$(or $(OURS),.)' $(LIBRARY:%='%') pytest
	@touch $@

# --- .venvs/NAME: the core with other versions ---------------------------------------------------------------------

.venvs/gymnasium-1.1/.ready: WANTED := gymnasium==1.1.*
.venvs/gymnasium-1.1/.ready: EXTRAS := human,sb3
.venvs/gymnasium-1.2.2/.ready: WANTED := gymnasium==1.2.2
.venvs/gymnasium-newest/.ready: WANTED := gymnasium

.venvs/gymnasium-1.1/.ready .venvs/gymnasium-1.2.2/.ready .venvs/gymnasium-newest/.ready: \
    $(VENV)/.python pyproject.toml constraints.txt
	@echo "==> installing into $(@D)"
	@$(PY) -m venv --clear $(@D)
	@grep -v '^gymnasium==' constraints.txt > $(@D)/constraints.txt
	@$(@D)/bin/python -m pip install -qq --disable-pip-version-check -c $(@D)/constraints.txt \
	  -e '.[$(EXTRAS)]' pytest hypothesis '$(WANTED)'
	@touch $@

# The lower end of every range that the core asks for, and the newest of everything, which is what a user gets today.
.venvs/lowest/.ready: NAME := python3.11
.venvs/lowest/.ready: WANTED = $$(sed -n '/^dependencies = \[/,/^\]/s/.*"\([a-z]*\)>=\([0-9.]*\).*/\1==\2/p' pyproject.toml)
.venvs/python3.12/.ready: NAME := python3.12
.venvs/python3.13/.ready: NAME := python3.13

# PYTHON3.11=... to PYTHON3.13=... name other interpreters than those on the path.
.venvs/lowest/.ready .venvs/python3.12/.ready .venvs/python3.13/.ready: pyproject.toml
	@mkdir -p $(@D); python="$(or $($(subst python,PYTHON,$(NAME))),$(NAME))"; \
	if ! "$$python" -c '$(SUITABLE)' >/dev/null 2>&1; then \
	  echo "$(@D:.venvs/%=%): skipped: $$python is not here, or does not start, or has no venv;" \
	    "name another one: make test-versions $(subst python,PYTHON,$(NAME))=/path/to/$(NAME)" > $(@D)/outcome; exit 0; \
	fi; \
	echo "==> installing into $(@D)"; \
	"$$python" -m venv --clear $(@D) && \
	$(@D)/bin/python -m pip install -qq --disable-pip-version-check -e '.[$(EXTRAS)]' pytest hypothesis $(WANTED) && \
	touch $@
