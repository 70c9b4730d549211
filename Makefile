# `make demo` and `make test` each work from a bare machine; nothing finished is repeated.
# The stamps in .venv say what has been installed; `make test PYTHON=python3.12` picks another Python.

PYTHON ?= python3.11 python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --no-compile --constraint constraints.txt
# pip would compile 17,000 files one after another; this takes all processors. Some are no Python, and never imported.
COMPILE := $(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true
EDITABLE := --config-settings editable_mode=compat --editable
# As many processes as processors, one thread each: half the time of one process with all of them. What
# is freed stays with them: fetching it anew from the system takes a tenth of the time.
KEEP := MALLOC_TRIM_THRESHOLD_=2147483647 MALLOC_MMAP_THRESHOLD_=33554432
PYTEST := OMP_NUM_THREADS=1 $(KEEP) $(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder
# The files of the tests that run alone: to collect all files for their sake takes longer than some of them.
ALONE = $(shell grep --recursive --files-with-matches --include='*.py' 'mark[.]alone' tests)
LINT := { $(BIN)/ruff check . & $(BIN)/ruff format --check .; formatted=$$?; wait $$! && test $$formatted = 0; }
# The variable keeps the pinned pyright from asking a registry for a newer one.
TYPES := PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright
TORCH = $(shell grep '^torch==' constraints.txt)

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test lint types format explore docs bench

help: ## say what there is
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.demo ## generate with and without caching on the embedded checkpoint, and plot the two
	$(BIN)/puredit generate --prompt "a red apple on a blue background" --plan fast --compare \
		--plot outputs/demo-plot.png --output-path outputs/
	@echo "The images and the plot are in outputs/:" && ls outputs

# Every stage runs, whatever became of those before it; each failure is named, and fails the whole. Types are
# checked beside the tests. The last line is the summary of the last tests.
test: $(VENV)/.dev ## lint, types, doctests and tests; those that start many processes last
	@failed=""; \
	$(LINT) || failed="$$failed lint"; \
	$(TYPES) > $(VENV)/types.log 2>&1 & types=$$!; \
	$(PYTEST) -m "not alone" || failed="$$failed tests"; \
	wait $$types || failed="$$failed types"; cat $(VENV)/types.log; \
	test -z "$$failed" || echo "make test: failed so far:$$failed"; \
	$(PYTEST) --numprocesses 0 -m alone $(ALONE) || failed="$$failed alone"; \
	test -z "$$failed"

lint: $(VENV)/.dev ## ruff: rules and format
	$(LINT)

types: $(VENV)/.dev ## pyright
	$(TYPES)

format: $(VENV)/.dev ## rewrite the files as ruff wants them
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

explore: $(VENV)/.dev ## try the laws on random examples; `make explore SEED=123` repeats a run
	OMP_NUM_THREADS=1 $(KEEP) $(BIN)/python -m tests.explore $(if $(SEED),--seed $(SEED)) --numprocesses auto tests/laws

docs: $(VENV)/.dev ## build the documentation site in build/site; a broken link fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

bench: $(VENV)/.dev ## measure side by side with the libraries of the field
	$(BIN)/python -m benchmarks

$(VENV)/.created:
	@for python in $(PYTHON); do \
		if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			echo "creating $(VENV) with $$python" && "$$python" -m venv --clear $(VENV) && touch $@; exit; \
		fi; \
	done; \
	echo "error: puredit needs Python 3.11 or newer and found none among: $(PYTHON)." >&2; \
	echo "Install one, or name it: make PYTHON=/path/to/python3" >&2; \
	exit 1

# torch first and by its exact pin: the build that pip is set up for (CPU or GPU) then stays.
$(VENV)/.torch: $(VENV)/.created constraints.txt
	$(PIP) $(TORCH)
	@touch $@

$(VENV)/.demo: $(VENV)/.torch pyproject.toml
	$(PIP) $(EDITABLE) '.[plot]'
	@$(COMPILE)
	@touch $@

$(VENV)/.dev: $(VENV)/.torch pyproject.toml
	$(PIP) $(EDITABLE) '.[dev]'
	@$(COMPILE)
	@touch $(VENV)/.demo $@
