# `make` alone lists the targets. Everything is installed into .venv, nothing outside this folder is touched.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.recurra-installed
DOCS_STAMP := $(VENV)/.docs-installed
SAMPLE := src/recurra/data/sample/airpassengers.csv
PROBLEMS ?= 1000
FUZZ = mkdir -p build && cmake -S . -DRECURRA_FUZZ=ON

.DEFAULT_GOAL := help
.PHONY: help setup demo test slow lint bench docs wheel sanitize emulate clean FORCE

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

setup: $(STAMP) ## create .venv and install recurra, its engine and the tools of the house into it
	@:

# The constraints are handed over in the environment, because only so do they hold for the build's own needs
# too; newer versions of pip read the second name for those.
$(STAMP): pyproject.toml constraints.txt CMakeLists.txt $(wildcard csrc/*.cpp csrc/*.h csrc/*/*.h)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	{ echo "recurra needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1 || true)." \
	"Name another one with: make PYTHON=/path/to/python3 $(or $(MAKECMDGOALS),setup)" >&2; exit 2; }
	@test -x $(BIN)/python -a -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) || \
	{ rm -rf $(VENV); echo "'$(PYTHON) -m venv' failed; on Debian and Ubuntu install python3-venv first." >&2; exit 2; }
	@echo "Installing recurra and what it needs into $(VENV) (about a minute, and the downloads)"
	@PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1 \
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@$(BIN)/python -c 'from recurra.engine import native; print("Installed.", native.why_not() or "The native engine is built.")'
	@touch $@

demo: setup ## forecast the packaged airline series and write a report
	$(BIN)/recurra forecast $(SAMPLE) --horizon 12 --out demo-forecast --overwrite

lint: setup ## check style, formatting, types and levels
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

test: lint ## all checks and all tests
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -q

slow: setup ## the tests that take minutes: a thousand random problems, tensors beyond 2^31 numbers
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -q -m slow

bench: setup ## measure recurra beside torch.nn, every case (about five minutes)
	$(BIN)/recurra bench --all

docs: setup $(DOCS_STAMP) ## build the documentation as a site into build/docs, the API from the docstrings
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "Open build/docs/index.html"

# What the extra names, and not the extra itself, which would build recurra anew.
$(DOCS_STAMP): $(STAMP)
	@$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"], sep="\n")' > $@.txt
	@PIP_CONSTRAINT=constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install --quiet --requirement $@.txt
	@touch $@

# In a build environment of its own, so that it has the CMake that it needs; the objects stay, to be checked.
wheel: setup ## build a wheel into dist/, install it elsewhere and run it with each ISA
	@rm -rf build/wheel
	@PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1 \
	$(BIN)/python -m pip wheel --quiet --no-deps --config-settings=build-dir=build/wheel --wheel-dir build/wheel/out .
	@mkdir -p dist && cp build/wheel/out/*.whl dist/
	@$(BIN)/python scripts/check_wheel.py build/wheel/out/*.whl build/wheel

sanitize: build/sanitize-address,undefined build/sanitize-thread ## random problems under the sanitizers

# The engine alone, without Python: its interpreter and OpenMP runtime are not built for the sanitizers.
build/sanitize-%: FORCE
	@$(FUZZ) -B $@ -DRECURRA_SANITIZE=$* > $@.log && cmake --build $@ --parallel 2 >> $@.log || { cat $@.log >&2; exit 1; }
	@echo "$*:"; UBSAN_OPTIONS=print_stacktrace=1 $@/fuzz $(PROBLEMS)

# An emulated CPU must choose the kernels that it can run, and give the same bits as this one with them.
emulate: ## random problems on emulated CPUs: without AVX-512, without AVX, and on ARM
	@command -v qemu-x86_64 > /dev/null || { echo "Skipped: this needs qemu-x86_64 (qemu-user)."; exit 0; }; \
	test "$$(uname -m)" = x86_64 || { echo "Skipped: this needs an x86-64 machine."; exit 0; }; \
	{ $(FUZZ) -B build/fuzz -DCMAKE_BUILD_TYPE=Release > build/fuzz.log && \
	cmake --build build/fuzz --parallel 2 >> build/fuzz.log; } || { cat build/fuzz.log >&2; exit 1; }; \
	for pair in Nehalem:generic Haswell:avx2; do \
	emulated="$$(qemu-x86_64 -cpu $${pair%:*} build/fuzz/fuzz 40 best)" && here="$$(build/fuzz/fuzz 40 $${pair#*:})" || exit 1; \
	echo "$${pair%:*}: $$emulated"; \
	test "$$emulated" = "$$here" || { echo "This CPU with RECURRA_ISA=$${pair#*:}: $$here. Expected the same." >&2; exit 1; }; \
	done
	@command -v qemu-aarch64 > /dev/null && command -v aarch64-linux-gnu-g++ > /dev/null || \
	{ echo "ARM skipped: this needs qemu-aarch64 and aarch64-linux-gnu-g++."; exit 0; }; \
	{ $(FUZZ) -B build/fuzz-arm -DCMAKE_BUILD_TYPE=Release -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
	-DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ -DCMAKE_EXE_LINKER_FLAGS=-static > build/fuzz-arm.log && \
	cmake --build build/fuzz-arm --parallel 2 >> build/fuzz-arm.log 2>&1; } || { cat build/fuzz-arm.log >&2; exit 1; }; \
	echo "ARM: $$(qemu-aarch64 build/fuzz-arm/fuzz 40 all)"

FORCE:

clean: ## remove what was built, .venv included
	rm -rf $(VENV) build dist demo-forecast* .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
