# One virtual environment, .venv, with everything at the versions and hashes of requirements/; "make" lists what there is.
# ARGS goes to the program: make test ARGS="-k lease", make demo ARGS="--help".

.DEFAULT_GOAL := help
.PHONY: help demo example test explore chaos soak mutants lint format types imports bench audit lock clean

BIN := .venv/bin
UV ?= uv
# Inputs of the pins; --no-config and --no-header keep this machine's settings and paths out of them.
COMPILE := $(UV) --no-config pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
	--no-annotate --no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock' \
	--constraint requirements/constraints.txt

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-9s %s\n", $$1, $$2}' Makefile

demo: .venv/.demo ## Run the whole worker on embedded servers against the simulator
	@$(BIN)/qbo-refresh demo $(ARGS)

example: .venv/.demo ## Run the example host beside the worker: a customer revokes, syncs pause, reconnects (ARGS="--keep")
	@PYTHONPATH=examples $(BIN)/python -m story $(ARGS)

# Compiled once, also where the environment says not to: not again in each of the hundreds of processes that tests start.
test: export PYTHONDONTWRITEBYTECODE =
test: .venv/.dev ## Run all tests, four at a time: many wait for processes
	@$(BIN)/python -m pytest -n 4 --dist worksteal $(ARGS)

explore: .venv/.dev ## Search every order of attempts and faults for a broken promise (six minutes on two cores)
	@$(BIN)/python -m tests.explore $(ARGS)

chaos: .venv/.dev ## Kill, freeze, cut and starve a real fleet: nothing may be lost (ARGS="--minutes 5 --seed 1")
	@$(BIN)/python -m tests.chaos $(ARGS)

soak: .venv/.dev ## Live through 400 days with the clocks moved on (ARGS="--days 400 --connections 300 --seed 1 --minutes 3")
	@$(BIN)/python -m tests.soak $(ARGS)

mutants: .venv/.dev ## Remove each guard of the protocol in turn: a test must fail (ARGS="--only NAME --json")
	@$(BIN)/python -m tests.mutants $(ARGS)

lint: .venv/.dev ## Check style with ruff
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: .venv/.dev ## Let ruff lay out the code
	@$(BIN)/ruff format .

types: .venv/.dev ## Check types with mypy
	@$(BIN)/python -m mypy

imports: .venv/.dev ## Check that imports run one way
	@$(BIN)/lint-imports

bench: .venv/.dev ## Measure beside what one would write instead
	@$(BIN)/python -m benchmarks $(ARGS)

audit: .venv/.audit ## Look the pinned packages up in the lists of known vulnerabilities (where an index answers)
	@.venv/audit/bin/pip-audit --disable-pip --require-hashes --progress-spinner off -r requirements/dev.txt $(ARGS)

lock: ## Renew the pins in requirements/ (needs uv)
	@command -v $(UV) >/dev/null || { echo "make lock needs uv: https://docs.astral.sh/uv" >&2; exit 1; }
	@$(COMPILE) pyproject.toml --all-extras --group test --group lint --group bench --group build -o requirements/dev.txt
	@$(COMPILE) pyproject.toml --extra worker --extra flower --extra embedded --extra simulator --extra run --group build \
		--constraint requirements/dev.txt -o requirements/demo.txt
	@$(COMPILE) --group audit -o requirements/audit.txt

clean: ## Delete .venv and all caches
	@rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.demo: requirements/demo.txt requirements/install pyproject.toml
	@sh requirements/install demo

# Apart from the others, whose versions it must not choose.
.venv/.audit: requirements/audit.txt | .venv/.dev
	@$(BIN)/python -m venv .venv/audit
	@.venv/audit/bin/python -m pip install -qq --disable-pip-version-check --no-input --require-hashes -r requirements/audit.txt
	@touch $@

.venv/.dev: requirements/dev.txt requirements/install pyproject.toml
	@sh requirements/install dev
