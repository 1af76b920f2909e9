# `make help` lists the targets. Only python3.11+, make and a package index are needed: .venv is made on first use.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
export UV_PYTHON_DOWNLOADS := never

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow chaos lint format bench gpu scale figures mini-weights starts claims publish report timing lock clean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## make .venv with pinned, hash-checked packages (7 GB)

$(READY): requirements/bootstrap.txt requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "python 3.11 or newer is needed, found %d.%d; use make PYTHON=..." % sys.version_info[:2])'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bootstrap.txt
	$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python --require-hashes requirements/bootstrap.txt requirements/dev.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(READY) ## train without and with prompts on generated videos, static and moving camera; print a table, draw curves (SEEDS=2)
	$(BIN)/python scripts/demo.py seeds=$(or $(SEEDS),2) 'launch=$(LAUNCH)' $(SET)

test: $(READY) ## run the quick tests (4 minutes on two cores)
	$(BIN)/python -m pytest -q -n 2 --dist worksteal

test-slow: $(READY) ## run the slower tests; CI runs both
	$(BIN)/python -m pytest -q -m "slow and not gpu" -n 2 --dist worksteal

chaos: $(READY) ## run the fault tests: kill runs, damage files, fill disks; outputs/chaos.md lists what was tried (ROUNDS=10)
	@mkdir -p outputs
	$(BIN)/python -m pytest -q -m "chaos and not gpu" --timeout 1800 --rounds $(or $(ROUNDS),10) --tally outputs/chaos.md

lint: $(READY) ## run ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY) ## format the code with ruff
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY) ## measure layer, step, start-up and loader next to plain implementations, and the cost of Table 1 (BENCH='step costs')
	$(BIN)/python -m benchmarks $(BENCH)

gpu: $(READY) ## on a GPU, in 8 minutes: GPU tests and measurements (PARTS='tests layer', FRESH=1, TOY=1, MINUTES=N)
	$(BIN)/python -m benchmarks.gpu $(PARTS) $(if $(FRESH),--fresh) $(if $(TOY),--toy) $(if $(MINUTES),--minutes $(MINUTES))

scale: $(READY) ## measure time and memory for a million clips and rows (SIZES='--clips 1000000 --rows 1000000')
	$(BIN)/python -m benchmarks.scale $(SIZES)

# where tables, claims, figures and maps of starts are written; docs/results is written by make publish only
OUTPUTS = outputs$(if $(filter mini real extensions variation,$(PROFILE)),/$(PROFILE))
RESULTS ?= $(OUTPUTS)/results

figures: $(READY) ## draw the paper's figures from the runs in outputs/ (PROFILE=mini or real, FIGURES='3 17', OUT=FOLDER)
	$(BIN)/python scripts/figure.py $(or $(FIGURES),all) --outputs $(or $(RUNS),$(OUTPUTS)) \
		--out $(or $(OUT),$(RESULTS)/figures)

# Variables of the tables (docs/reproduce.md): PROFILE=mini, SEEDS=3, ONLY='timesformer finegym', DRY=1, LAUNCH=torchrun=4 or
# 'hydra/launcher=slurm ...', RESULTS=DIR, SET='data.root=DIR' (overrides of train.py)
TABLES := table1 table2 table3 table4 table5 table6 table7 table8
REPRODUCE = $(BIN)/python scripts/reproduce.py profile=$(or $(PROFILE),paper) seeds=$(or $(SEEDS),1) \
	dry=$(or $(DRY),0) 'results=$(RESULTS)' 'only=$(ONLY)' 'launch=$(LAUNCH)' $(SET)
.PHONY: table paper real extensions variation $(TABLES)

table: ## make table1 ... table8: run a table of the paper and write it next to the paper's (PROFILE=mini: no data needed; DRY=1: only plan)
	@echo "which one? make table1 ... make table8, or make paper"; exit 2

$(TABLES): $(READY)
	$(REPRODUCE) table=$(@:table%=%)

real: $(READY) ## compare settings on real clips, from pretrained weights (docs/reproduce.md; SEEDS=3, ONLY='handwash12 none learned', SEARCH=1, DRY=1)
	$(BIN)/python scripts/study.py real seeds=$(or $(SEEDS),1) dry=$(or $(DRY),0) search=$(or $(SEARCH),0) \
		'only=$(ONLY)' 'launch=$(LAUNCH)' $(SET)

extensions: $(READY) ## compare layers beyond the paper with the paper's layer, on generated videos or real clips (docs/extensions.md; PROFILE=real, SEEDS=5, ONLY, DRY=1, SEARCH=1)
	$(BIN)/python scripts/study.py $(if $(filter real,$(PROFILE)),real,extensions) seeds=$(or $(SEEDS),1) \
		dry=$(or $(DRY),0) search=$(or $(SEARCH),0) 'launch=$(LAUNCH)' $(SET) \
		'only=$(ONLY)$(if $(filter real,$(PROFILE)), none learned beyond)'

variation: $(READY) ## measure what varies from run to run in miniature: order of the clips, initial weights, initial m and n (SEEDS=10, ONLY, DRY=1)
	$(BIN)/python scripts/study.py variation seeds=$(or $(SEEDS),1) dry=$(or $(DRY),0) 'only=$(ONLY)' 'launch=$(LAUNCH)' $(SET)

timing: $(READY) ## time a few steps of each model of a table, for the estimates of DRY=1; needs a quiet machine (TABLE=1, PROFILE, ONLY)
	$(REPRODUCE) table=$(or $(TABLE),1) timing=1

paper: $(READY) ## make all eight tables, the claims and the report; takes the same variables as the tables
	@failed=; for n in 1 2 3 4 5 6 7 8; do \
		$(REPRODUCE) table=$$n || { code=$$?; [ $$code -ge 128 ] && exit $$code; failed="$$failed $$n"; }; done; \
	[ $(or $(DRY),0) != 0 ] || $(CLAIMS) >/dev/null || failed="$$failed claims"; \
	[ $(or $(DRY),0) != 0 ] || \
		$(BIN)/python scripts/report.py $(OUTPUTS) --tables $(RESULTS) || failed="$$failed report"; \
	[ -z "$$failed" ] || { echo "tables with something missing:$$failed"; exit 1; }

CLAIMS = $(BIN)/python scripts/claims.py --profile $(or $(PROFILE),paper) --seeds $(or $(SEEDS),1) --results $(RESULTS) $(SET)
claims: $(READY) ## compare the tables' runs with the paper's claims (PROFILE=mini, SEEDS and SET as for the tables)
	$(CLAIMS)

mini-weights: $(READY) ## train the small networks of weights=motions again (ONLY='tiny x3d', DRY=1)
	$(BIN)/python scripts/mini_weights.py dry=$(or $(DRY),0) 'only=$(ONLY)' 'launch=$(LAUNCH)' $(SET)

starts: $(READY) ## train from a grid of initial slopes and shifts, on generated videos, and map the accuracy (SEEDS=2)
	$(BIN)/python scripts/starts.py --seeds $(or $(SEEDS),2)

publish: $(READY) ## copy results into docs/results; refuses to replace a number by an empty cell (PROFILE=mini, ONLY='table1 claims')
	$(BIN)/python scripts/publish.py --profile $(or $(PROFILE),paper) --results $(RESULTS) $(ONLY)

report: $(READY) ## write one HTML page about all runs, outputs/report.html (RUNS=FOLDERS, OUT=FILE, CLIPS=4)
	$(BIN)/python scripts/report.py $(or $(RUNS),outputs) --out $(or $(OUT),outputs/report.html) --clips $(or $(CLIPS),4)

EXTRAS := --extra train --extra wandb
lock: $(READY) ## resolve pyproject.toml into the hashed requirements files
	cd requirements && for part in "bootstrap.in -o bootstrap.txt" "../pyproject.toml $(EXTRAS) -o base.txt" \
		"../pyproject.toml build.in $(EXTRAS) --extra test --extra lint -c base.txt -o dev.txt"; do \
		../$(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--no-header --no-annotate --quiet --upgrade $$part || exit 1; done

clean: ## remove caches; keep data, outputs and .venv
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis; find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
