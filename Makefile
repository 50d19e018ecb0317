# On a fresh machine: `make quickstart` runs the main job, `make test` passes the tests. Both make .venv first.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: quickstart test test-slow test-cluster check pages mutants benchmarks-gpu clean

quickstart: .venv/ready
	$(BIN)/kedge quickstart --overwrite

# Two workers of one thread: the models of the tests are tiny.
test: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal

test-slow: .venv/ready
	$(BIN)/pytest -m slow

# Real vLLM servers and Ray, in environments of their own that are made at the first time (vLLM's has 3 GB, in .venv-vllm; KEDGE_VLLM
# names the Python of another one). The quickest first.
test-cluster: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/pytest -m cluster tests/launch tests/cluster

check: .venv/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# docs/settings.md and docs/coming-from.md are made from the code.
pages: .venv/ready
	$(BIN)/python tools/pages.py

# Decoding against its peers and a step of PPO, on the first GPU: make benchmarks-gpu SIZES=0.5B
benchmarks-gpu: .venv/ready
	$(BIN)/python benchmarks/gpu.py $(if $(SIZES),--sizes $(SIZES))

# All of them take half an hour to an hour on two cores: make mutants JOBS=2, or ONLY=gae, ONLY=src/kedge/core/kl.py, SINCE=HEAD~3, JOBS=16
mutants: .venv/ready
	$(BIN)/python tools/mutants.py $(ONLY) $(if $(SINCE),--since $(SINCE)) $(if $(JOBS),--jobs $(JOBS))

clean:
	rm -rf .venv

.venv/ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "kedge needs Python 3.11 or newer; name one with: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable '.[dev]'
	@touch $@
