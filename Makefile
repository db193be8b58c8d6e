# `make` shows what there is. Each target sets up what it needs first; run again that takes a fraction of a second.
.DEFAULT_GOAL := help
.PHONY: help run setup test lint format lock lock-check bench clean

BIN := .venv/bin
FLAGS := --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header
# All dependencies, and those of the image alone: the same versions, without what only developers need.
LOCK := uv pip compile -q pyproject.toml --extra dev $(FLAGS) -o requirements.lock
RUNTIME := uv pip compile -q pyproject.toml -c requirements.lock $(FLAGS) --no-annotate -o deploy/runtime.lock

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: setup ## Start everything on this machine, in the foreground (AIRLOCK_PORT=8000)
	@exec $(BIN)/airlock run

setup: ## Install what is missing: Debian packages (as root or by sudo), then .venv from requirements.lock
	@deploy/setup.sh

test: ## Run all tests against real servers, which are installed first; a missing one is a failure (ARGS=...)
	@deploy/setup.sh test
	CI=1 $(BIN)/pytest -m "not slow" $(ARGS)

lint: setup ## Style, types and the direction of imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup ## Put the code into its form
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

lock: setup ## Lock dependencies anew after pyproject.toml has changed (UPGRADE=--upgrade for newer versions of all)
	$(BIN)/$(LOCK) $(UPGRADE)
	$(BIN)/$(RUNTIME)

lock-check: setup ## Are the lock files what pyproject.toml asks for?
	@# In a copy, so that the pins of today are kept where they still fit.
	@copy=$$(mktemp -d) && trap 'rm -rf "$$copy"' EXIT && mkdir "$$copy/deploy" && bin=$$(pwd)/$(BIN) \
		&& cp pyproject.toml requirements.lock "$$copy" && cp deploy/runtime.lock "$$copy/deploy" \
		&& (cd "$$copy" && "$$bin"/$(LOCK) && "$$bin"/$(RUNTIME)) \
		&& diff -u requirements.lock "$$copy/requirements.lock" >&2 && diff -u deploy/runtime.lock "$$copy/deploy/runtime.lock" >&2 \
		|| { echo "The lock files are not current: run make lock, and commit them." >&2; exit 1; }

bench: setup ## Measure, side by side with what would be used instead
	$(BIN)/python -m benchmarks

clean: ## Remove .venv and caches; documents and keys in ./var stay
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info build dist
	find . -name __pycache__ -not -path './var/*' -prune -exec rm -rf {} +
