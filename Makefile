# The course's commands; `make help` lists them. Everything happens in .venv, which is made on first use.

VENV     := .venv
PYTHON   ?=
PIP_ARGS ?=
JOBS     ?= 2
PY       := $(VENV)/bin/python
READY    := $(VENV)/.ready
DEV      := $(VENV)/.ready-dev
OLDEST   := .venv-oldest
OPENED   := _build/html/index.html
NOTEBOOKS := $(sort $(wildcard chapters/*.ipynb book/*.ipynb))

.DEFAULT_GOAL := help
.PHONY: help book html test test-oldest notebooks lint clean clean-all

help:  ## these lines
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | awk -F'\t' '{ printf "  make %-12s %s\n", $$1, $$2 }'
	@echo "Settings: LDM_PROFILE=smoke|cpu|gpu|reference, LDM_DATA=folder, OMP_NUM_THREADS=n,"
	@echo "          PYTHON=python3.12, PIP_ARGS='--index-url ...', JOBS=n (test processes)"

book: $(READY)  ## the course: compares both spaces here and now, then builds the book with the result
	@$(PY) -m ldm_course.cli compare --data emoji
	@$(PY) -m ldm_course.cli gallery
	@$(MAKE) --no-print-directory html

html: $(READY)  ## the book alone, from what is stored
	@$(VENV)/bin/jupyter-book build . --all -W -n --keep-going --quiet >/dev/null
	@test -s $(OPENED)
	@echo "The book is ready. Open it in a browser:  file://$(CURDIR)/$(OPENED)"

# The tests' own profile is smoke, whatever the environment says; `make test LDM_PROFILE=cpu` overrules it.
test: export LDM_PROFILE = $(if $(filter command line,$(origin LDM_PROFILE)),$(LDM_PROFILE),smoke)
test: export OMP_NUM_THREADS ?= 1
test: $(READY)  ## the package's tests and every notebook, at the smallest sizes
	$(PY) -m pytest tests $(NOTEBOOKS) --nbval-lax --nbval-current-env \
		--nbval-cell-timeout=120 -n $(JOBS) --dist loadscope -p no:cacheprovider

# The wheel is made anew each time, and installed without looking for other packages: `pip check` compares.
test-oldest: export LDM_PROFILE = $(if $(filter command line,$(origin LDM_PROFILE)),$(LDM_PROFILE),smoke)
test-oldest: export OMP_NUM_THREADS ?= 1
test-oldest: $(OLDEST)/lowest.txt  ## each notebook alone, from the wheel, on the lowest versions that are allowed
	@rm -rf $(OLDEST)/wheel
	@$(OLDEST)/bin/python -m pip wheel -q --no-deps --no-build-isolation --wheel-dir $(OLDEST)/wheel .
	@$(OLDEST)/bin/python -m pip install -q --disable-pip-version-check --no-deps --force-reinstall $(OLDEST)/wheel/*.whl
	@$(OLDEST)/bin/python -m pip check
	$(OLDEST)/bin/python tests/notebooks_alone.py $(NOTEBOOKS)

# Chapters are committed with the outputs of the cpu profile, without times and other noise.
notebooks: export LDM_PROFILE ?= cpu
notebooks: $(DEV)  ## runs every notebook again and keeps its output
	@for notebook in $(NOTEBOOKS); do \
		echo "$$notebook ($(LDM_PROFILE))"; \
		$(PY) -m jupyter execute --inplace --kernel_name=python3 --timeout=1800 "$$notebook" || exit 1; \
		$(PY) -m nbstripout --keep-output --keep-count --extra-keys "metadata.language_info cell.metadata.execution" \
			"$$notebook" || exit 1; \
	done

lint: $(DEV)  ## style of code and notebooks
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

clean:  ## removes the built book
	rm -rf _build

clean-all: clean  ## removes the environments and this machine's runs as well
	rm -rf $(VENV) $(OLDEST) runs

# Packages are installed when these files change. The marker .installing outlives an interrupted install:
# what is found then is half an environment, and it is made anew; so is one of a Python that has become too old.
$(READY): pyproject.toml requirements.txt
	@$(call find_python,$(PYTHONS),999,3.11 or newer); \
	if [ -e $(VENV)/.installing ] || ! $(PY) -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
		echo "Making $(VENV) with $$($$python --version)"; \
		rm -rf $(VENV) && mkdir -p $(VENV) && touch $(VENV)/.installing && $$python -m venv $(VENV); \
	fi
	@rm -f $(READY) $(DEV) && touch $(VENV)/.installing
	@echo "Installing the packages (torch is large: 3 to 10 minutes the first time, quiet meanwhile)"
	@$(PY) -m pip install -qq --disable-pip-version-check $(PIP_ARGS) -r requirements.txt
	@$(PY) -c "import torchvision" 2>/dev/null || { echo "error: torch and torchvision in $(VENV) are not" \
		"of one build ($$($(PY) -m pip list 2>/dev/null | awk '/^torch(vision)? / { printf "%s %s, ", $$1, $$2 }'))" \
		"name one source for both: make $(MAKECMDGOALS) PIP_ARGS='--index-url ...'" >&2; exit 1; }
	@rm $(VENV)/.installing && touch $@

$(DEV): $(READY)
	@$(PY) -m pip install -qq --disable-pip-version-check $(PIP_ARGS) -r requirements.txt -e ".[dev]"
	@touch $@

# Made anew when a lowest version changes. Those of torch, numpy and scipy have no wheels for Python 3.13.
$(OLDEST)/lowest.txt: pyproject.toml tests/lowest_versions.py
	@$(call find_python,python3.11 python3.12 python3,312,3.11 or 3.12); \
	lowest=$$($$python tests/lowest_versions.py notebook) || exit 1; \
	if [ "$$lowest" != "$$(cat $@ 2>/dev/null)" ]; then \
		echo "Making $(OLDEST) with $$($$python --version) (torch is large: 3 to 10 minutes, quiet meanwhile)"; \
		rm -rf $(OLDEST) && $$python -m venv $(OLDEST) && \
		$(OLDEST)/bin/python -m pip install -qq --disable-pip-version-check $(PIP_ARGS) $$lowest hatchling || exit 1; \
	fi; \
	echo "$$lowest" > $@

# Leaves the first Python of $(1) that will do in $python, or says in one line what is missing. It will do from 3.11 up
# to $(2), a number such as 312; $(3) says so in words. PYTHON=... overrules $(1).
PYTHONS := python3 python3.14 python3.13 python3.12 python3.11 python
define find_python
python=; found=none; \
for name in $(or $(PYTHON),$(1)); do \
	version=$$($$name --version 2>&1) || continue; \
	found=$$version; \
	if $$name -c 'import sys; sys.exit(not 311 <= sys.version_info[0] * 100 + sys.version_info[1] <= $(2))'; then \
		python=$$name; break; \
	fi; \
done; \
if [ -z "$$python" ]; then \
	echo "error: Python $(3) is missing (found: $$found); install it, or name one:" \
		"make $(MAKECMDGOALS) PYTHON=/path/to/python3" >&2; exit 1; \
fi; \
if ! $$python -c 'import ensurepip, venv' 2>/dev/null; then \
	echo "error: $$python lacks the module venv or ensurepip; on Debian and Ubuntu: apt install python3-venv" >&2; \
	exit 1; \
fi; \
command -v git >/dev/null 2>&1 || \
	echo "note: git is missing; the course runs, but its records cannot name the commit they came from" >&2
endef
