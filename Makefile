# make mini   the embedded recipe: from nothing to the table of results
# make test   lint, types, shell and tests, with the smoke recipe
# make bench  speed of decoding, ours and ESPnet's: docs/benchmarks.md (28 minutes on 2 idle cores; see BENCH_SHAPES)
# make bench_ctc   the same with CTC beside attention, at OWSM base's shape alone: docs/benchmarks_ctc.md (7 minutes)
# make lint   the static checks alone      make lock   resolve requirements.lock anew
# All of them set up .venv by themselves: Python >= 3.10, gcc, git and make are enough.
# Another interpreter: make PYTHON=python3.12 …

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.PHONY: mini test bench bench_ctc lint lock venv

PYTHON ?= python3
UV_VERSION := 0.13.9
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Tracked shell files, without the links of the recipes to the template's.
SHELL_FILES = $$(git ls-files -s .ci '*.sh' | awk '$$1 != "120000" {print $$4}')

mini: $(STAMP)
	egs2/mini/s2t1/run.sh --scale full

# BENCH_SHAPES=owsm_v3.1_base measures the smallest alone: 2 minutes. The largest takes 18, and 20 GB of memory.
BENCH_SHAPES = owsm_v3.1_base owsm_v3.1_small owsm_v3.1_medium
BENCH_DIR = exp/benchmark
BENCH = $(BIN)/python -m espnet_gated.bin.benchmark --threads 2

bench: $(STAMP)
	for shape in $(BENCH_SHAPES); do \
		$(BENCH) --arch $$shape --dtype float32 int8 bfloat16 --json $(BENCH_DIR)/$$shape.json; done
	$(BENCH) --arch owsm_v3.1_base --seconds 4-10 --batch_size 1 8 --against none --sparsity 0.5 --parts both \
		--json $(BENCH_DIR)/batches.json
	$(BENCH) --from_json $(patsubst %,$(BENCH_DIR)/%.json,$(BENCH_SHAPES) batches) --markdown docs/benchmarks.md

bench_ctc: $(STAMP)
	$(BENCH) --arch owsm_v3.1_base --dtype float32 int8 --parts both --sparsity 0.5 --json $(BENCH_DIR)/no_ctc.json
	$(BENCH) --arch owsm_v3.1_base --dtype float32 int8 --parts both --sparsity 0.5 --ctc_weight 0.3 --json $(BENCH_DIR)/ctc.json
	$(BENCH) --from_json $(BENCH_DIR)/no_ctc.json $(BENCH_DIR)/ctc.json --markdown docs/benchmarks_ctc.md

test: lint
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/shellcheck -x $(SHELL_FILES)

venv: $(STAMP)

# The stamp comes last: an install that was cut short is done again. pip brings only uv (recent
# pips refuse a dependency of espnet), and uv brings the exact versions of the lock. Where PYTHONDONTWRITEBYTECODE is set,
# packages that are not compiled here are compiled anew by every process, which takes half of an import of ESPnet.
$(STAMP): requirements.lock setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { \
		echo "Python >= 3.10 is needed, but '$(PYTHON)' is $$($(PYTHON) --version 2>&1 || true);" \
			"name another one: make PYTHON=python3.11 …" >&2; exit 1; }
	@$(BIN)/uv --version 2>/dev/null | grep -q '^uv $(UV_VERSION)\b' && $(BIN)/python -c '' 2>/dev/null || { \
		echo "Making $(VENV)"; \
		$(PYTHON) -m venv --clear $(VENV); \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION); }
	VIRTUAL_ENV="$(abspath $(VENV))" $(BIN)/uv pip install --compile-bytecode --build-constraints requirements.lock \
		-r requirements.lock
	VIRTUAL_ENV="$(abspath $(VENV))" $(BIN)/uv pip install --no-deps --no-build-isolation -e .
	@touch $@

# Exact versions for every Python and platform in setup.py's ranges. LOCK_ARGS=--upgrade takes the newest.
lock:
	@test -x $(BIN)/uv || { $(PYTHON) -m venv $(VENV); $(BIN)/python -m pip install --quiet uv==$(UV_VERSION); }
	$(BIN)/uv pip compile setup.py --extra dev --universal --python-version 3.10 --no-emit-index-url \
		--no-emit-find-links --quiet $(LOCK_ARGS) --output-file requirements.lock
