# Two commands matter to a new user: `make demo` and `make test`. Each installs what it needs into .venv first.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
DEMO   := out/demo.mid

export HF_HUB_OFFLINE ?= 1
export GRADIO_ANALYTICS_ENABLED ?= False
export TOKENIZERS_PARALLELISM ?= false

.PHONY: help demo space test test-all browser-test soak bench quality wheel-test clean
.DEFAULT_GOAL := help

help:           ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 14

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "partimento needs Python 3.11 or newer; say which one: make demo PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(BIN)/python pyproject.toml constraints.txt
	@echo "installing partimento into $(VENV) (PyTorch included: a few minutes the first time)"
	$(PIP) -e ".[plot]"
	@touch $@

$(VENV)/.dev: $(BIN)/python pyproject.toml constraints.txt
	@echo "installing partimento and the development tools into $(VENV) (a few minutes the first time)"
	$(PIP) -e ".[dev]"
	@touch $@ $(VENV)/.demo

demo: $(VENV)/.demo  ## install, then write a multi-track MIDI file and its piano roll from the embedded checkpoint
	$(BIN)/partimento generate --genre jazz --instruments piano,bass,drums --bars 16 --seed 2 -o $(DEMO) --piano-roll
	$(BIN)/partimento info $(DEMO)

SPACE ?= composer
space: $(VENV)/.dev  ## start a Space on this machine, offline: make space, or make space SPACE=loops
	$(BIN)/partimento space $(SPACE)

test: $(VENV)/.dev   ## install, then run the test suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --maxschedchunk 2 -m "not browser"

browser-test: $(VENV)/.dev  ## the Spaces in headless Chromium (apt-get install chromium); screenshots in build/screenshots
	$(PIP) -e ".[browser]"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/spaces -m browser -s

soak: $(VENV)/.dev  ## clients that use the Spaces at once: lost jobs and growth of memory (SOAK_OPTIONS="--space loops --minutes 30")
	$(BIN)/python tests/spaces/soak.py $(SOAK_OPTIONS)

bench: $(VENV)/.dev  ## speed and memory, as ratios measured in one run (build/bench/; BENCH_OPTIONS=--quick)
	OMP_NUM_THREADS=1 $(BIN)/python training/benchmark.py --threads 1 --output build/bench $(BENCH_OPTIONS)

quality: $(VENV)/.dev  ## lint, format check, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf .types && $(PIP) --no-deps --target .types . && $(BIN)/pyright

wheel-test: $(VENV)/.dev  ## build the wheel, install it in a fresh environment and run the suite on it outside the checkout
	rm -rf build/wheel build/lib build/bdist* dist && $(BIN)/python -m build --wheel --outdir build/wheel/dist . > build/wheel-build.log 2>&1 || (tail -30 build/wheel-build.log; exit 1)
	$(PYTHON) -m venv build/wheel/venv
	build/wheel/venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt "$$(ls build/wheel/dist/*.whl)[dev]"
	mkdir -p build/wheel/outside && cp -r tests pyproject.toml build/wheel/outside/
	cd build/wheel/outside && OMP_NUM_THREADS=1 PARTIMENTO_EXPECT_WHEEL=1 ../venv/bin/python -m pytest -n auto --maxprocesses 4 --maxschedchunk 2 -m "not slow"

clean:          ## remove what the targets made (data and corpora under build/ stay)
	rm -rf $(VENV) build/wheel build/bench build/lib build/bdist* dist out .types .pytest_cache .ruff_cache *.egg-info
