# The targets need only Python 3.11 or newer, make and git (wheel: also g++ and libjpeg-dev); everything else is
# installed into .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP_FLAGS ?= --disable-pip-version-check --quiet

.PHONY: roadmap test slow lint wheel bounds docs setup clean

# The main job: the paper's roadmap on the embedded data set.
roadmap: setup
	$(BIN)/nextify roadmap $(ARGS)

# Everything that must hold: style, types, tests.
test: setup lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

# What a default run should not wait for, with other people's clients and a browser (Debian's, or Playwright's own).
slow: setup
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --group slow
	command -v chromium || command -v google-chrome || $(BIN)/playwright install --with-deps chromium
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# A wheel with kernels for every processor, into dist/ (WHEEL="--machine aarch64" cross-compiles).
wheel: setup
	$(BIN)/python tools/wheel.py $(WHEEL)

# The tests with the oldest and the newest versions that pyproject.toml allows, each in an environment of its own.
bounds: setup
	$(BIN)/python tools/bounds.py oldest
	$(BIN)/python tools/bounds.py newest

# The documentation site, build/site/index.html, and its checks.
docs: setup
	$(BIN)/python -m pip install $(PIP_FLAGS) --constraint constraints.txt --editable '.[docs]'
	$(BIN)/python tools/check_docs.py
	$(BIN)/zensical build --clean --strict
	$(BIN)/python tools/check_site.py

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "nextify needs Python 3.11 or newer; say which with: make PYTHON=python3.12 …" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (torch is large; a few minutes the first time)"
	$(BIN)/python -m pip install $(PIP_FLAGS) --constraint constraints.txt --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) .cache build dist src/*.egg-info .pytest_cache .ruff_cache .mypy_cache
