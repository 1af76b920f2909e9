# make help lists what there is. Only python3.11+, make and a package index are needed: .venv is made on first use.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
export UV_PYTHON_DOWNLOADS := never

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow chaos lint format bench gpu scale figures mini-weights starts claims publish report timing lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## .venv with everything pinned and checked by hash

$(READY): requirements/bootstrap.txt requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "python 3.11 or newer is needed, found %d.%d; use make PYTHON=..." % sys.version_info[:2])'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bootstrap.txt
	$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python --require-hashes requirements/bootstrap.txt requirements/dev.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(READY) ## both cameras, without and with prompts: videos, runs, a table, a picture, what they say (SEEDS=2)
	$(BIN)/python scripts/demo.py seeds=$(or $(SEEDS),2) 'launch=$(LAUNCH)' $(SET)

test: $(READY) ## the quick tests
	$(BIN)/python -m pytest -q -n 2 --dist worksteal

test-slow: $(READY) ## the tests that take longer (CI runs them too)
	$(BIN)/python -m pytest -q -m "slow and not gpu" -n 2 --dist worksteal

chaos: $(READY) ## break it on purpose: kills, damaged files, full disks; prints what was tried and survived
	@mkdir -p outputs
	$(BIN)/python -m pytest -q -m "chaos and not gpu" --timeout 1800 --rounds $(or $(ROUNDS),10) --tally outputs/chaos.md

lint: $(READY) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY) ## put the code in its format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY) ## measure layer, step, start and loader beside plain implementations; what Table 1 costs (BENCH='step costs')
	$(BIN)/python -m benchmarks $(BENCH)

gpu: $(READY) ## the first hour on a GPU in 8 minutes: tests, layer, steps, waits, saves, loader, demo (PARTS='tests layer', FRESH=1, TOY=1)
	$(BIN)/python -m benchmarks.gpu $(PARTS) $(if $(FRESH),--fresh) $(if $(TOY),--toy) $(if $(MINUTES),--minutes $(MINUTES))

scale: $(READY) ## what grows with the work: manifests, curves and accuracies of a million (SIZES='--clips 1000000 --rows 1000000')
	$(BIN)/python -m benchmarks.scale $(SIZES)

# where tables, claims, figures and maps of starts are written; docs/results is written by make publish only
OUTPUTS = outputs$(if $(filter mini real extensions,$(PROFILE)),/$(PROFILE))
RESULTS ?= $(OUTPUTS)/results

figures: $(READY) ## the paper's figures, of runs below outputs/ (PROFILE=mini or real, FIGURES='3 17', OUT=FOLDER)
	$(BIN)/python scripts/figure.py $(or $(FIGURES),all) --outputs $(or $(RUNS),$(OUTPUTS)) \
		--out $(or $(OUT),$(RESULTS)/figures)

# PROFILE=mini: in miniature, without data; SEEDS=3; ONLY='timesformer finegym'; DRY=1: what would be run and what it
# takes; LAUNCH=torchrun=4 or 'hydra/launcher=slurm ...'; RESULTS=DIR: where tables go; SET='data.root=DIR': train.py's
TABLES := table1 table2 table3 table4 table5 table6 table7 table8
REPRODUCE = $(BIN)/python scripts/reproduce.py profile=$(or $(PROFILE),paper) seeds=$(or $(SEEDS),1) \
	dry=$(or $(DRY),0) 'results=$(RESULTS)' 'only=$(ONLY)' 'launch=$(LAUNCH)' $(SET)
.PHONY: table paper real extensions $(TABLES)

table: ## make table1 ... table8: a table of the paper, ours beside theirs; PROFILE=mini needs no data, DRY=1 plans
	@echo "which one? make table1 ... make table8, or make paper"; exit 2

$(TABLES): $(READY)
	$(REPRODUCE) table=$(@:table%=%)

real: $(READY) ## prompts on real clips from real weights (docs/results.md): SEEDS=3, ONLY='handwash12 none learned', SEARCH=1, DRY=1
	$(BIN)/python scripts/study.py real seeds=$(or $(SEEDS),1) dry=$(or $(DRY),0) search=$(or $(SEARCH),0) \
		'only=$(ONLY)' 'launch=$(LAUNCH)' $(SET)

extensions: $(READY) ## layers beyond the paper beside the paper's and controls, in miniature (docs/extensions.md): SEEDS=5, ONLY, DRY=1, SEARCH=1
	$(BIN)/python scripts/study.py extensions seeds=$(or $(SEEDS),1) dry=$(or $(DRY),0) search=$(or $(SEARCH),0) \
		'only=$(ONLY)' 'launch=$(LAUNCH)' $(SET)

timing: $(READY) ## time a few steps of the models of TABLE=1, for the estimates of DRY=1; on a quiet machine (PROFILE, ONLY)
	$(REPRODUCE) table=$(or $(TABLE),1) timing=1

paper: $(READY) ## all eight tables, the claims and the report; the same variables
	@failed=; for n in 1 2 3 4 5 6 7 8; do \
		$(REPRODUCE) table=$$n || { code=$$?; [ $$code -ge 128 ] && exit $$code; failed="$$failed $$n"; }; done; \
	[ $(or $(DRY),0) != 0 ] || $(CLAIMS) >/dev/null || failed="$$failed claims"; \
	[ $(or $(DRY),0) != 0 ] || \
		$(BIN)/python scripts/report.py $(OUTPUTS) --tables $(RESULTS) || failed="$$failed report"; \
	[ -z "$$failed" ] || { echo "tables with something missing:$$failed"; exit 1; }

CLAIMS = $(BIN)/python scripts/claims.py --profile $(or $(PROFILE),paper) --seeds $(or $(SEEDS),1) --results $(RESULTS)
claims: $(READY) ## what the tables' runs say of the paper's claims (PROFILE=mini, SEEDS as they were run with)
	$(CLAIMS)

mini-weights: $(READY) ## train the small networks again that weights=motions loads (ONLY='tiny x3d', DRY=1)
	$(BIN)/python scripts/mini_weights.py dry=$(or $(DRY),0) 'only=$(ONLY)' 'launch=$(LAUNCH)' $(SET)

starts: $(READY) ## does the start of slope and shift decide? runs over their plane, in miniature, and their map (SEEDS=2)
	$(BIN)/python scripts/starts.py --seeds $(or $(SEEDS),2)

publish: $(READY) ## take RESULTS over into docs/results; never replaces a number by nothing (PROFILE=mini, ONLY='table1 claims')
	$(BIN)/python scripts/publish.py --profile $(or $(PROFILE),paper) --results $(RESULTS) $(ONLY)

report: $(READY) ## one page about runs that opens from disk: outputs/report.html (RUNS=FOLDERS, OUT=FILE, CLIPS=4)
	$(BIN)/python scripts/report.py $(or $(RUNS),outputs) --out $(or $(OUT),outputs/report.html) --clips $(or $(CLIPS),4)

EXTRAS := --extra train --extra wandb
lock: $(READY) ## resolve pyproject.toml into the hashed requirements files
	cd requirements && for part in "bootstrap.in -o bootstrap.txt" "../pyproject.toml $(EXTRAS) -o base.txt" \
		"../pyproject.toml build.in $(EXTRAS) --extra test --extra lint -c base.txt -o dev.txt"; do \
		../$(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--no-header --no-annotate --quiet --upgrade $$part || exit 1; done

clean: ## remove caches; data, outputs and .venv stay
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis; find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
