# From a fresh clone with nothing but Python and pip: `make demo`, `make test`.
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK = 1
# Build environments are pinned as well.
export PIP_CONSTRAINT = constraints.txt

.PHONY: help demo test test-all lint format bench clean
help:
	@echo "make demo      the main job on the bundled sample, the leaderboard printed"
	@echo "make test      lint, types, architecture, and the tests that need nothing special"
	@echo "make test-all  all tests this machine can run, saying which were skipped and why"
	@echo "make bench     the benchmarks: ratios to a peer in the same run"
	@echo "make format    bring the code into shape"

$(VENV)/core: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.exit(None if sys.version_info >= (3, 11) else f"Python 3.11 or newer is needed, this is {v}; name one: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/dev: $(VENV)/core
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

$(VENV)/all: $(VENV)/dev
	$(BIN)/python -m pip install --quiet torch
	$(BIN)/python -m pip install --quiet --editable '.[dev,test-neural,test-langchain]'
	touch $@

demo: $(VENV)/core
	@for retriever in none bm25 oracle; do \
		$(BIN)/python -m qilin_rag run --data sample --retriever $$retriever --llm extractive --runs-dir runs/demo --quiet || exit $$?; \
		echo; \
	done
	@$(BIN)/python -m qilin_rag leaderboard --runs-dir runs/demo

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

test: lint
	$(BIN)/python -m pytest -m "not slow and not gpu and not vllm and not browser"

test-all: $(VENV)/all lint
	$(BIN)/python -m pytest

bench: $(VENV)/dev
	$(BIN)/python benchmarks/rouge.py
	$(BIN)/python benchmarks/startup.py

format: $(VENV)/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis dist build
