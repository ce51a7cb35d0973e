# Set-up, build and test of bitdial in one word each. `make help` lists them.
#
#   PRESET=debug        another preset of CMakePresets.json (default: release)
#   JOBS=4              parallel compilers and tests (default: the number of cores)
#   LIBTORCH=DIR        use this LibTorch (>= 2.7: an unpacked libtorch, or the torch folder of a Python wheel)
#   TORCH_VERSION=X     the PyTorch that .venv gets otherwise (default: 2.13.0)
#   TORCH_INDEX=URL     the pip index to take it from; PIP_INDEX_URL and pip's own settings work too
#   PYTHON=python3.12   the interpreter behind .venv
#   PREFIX=DIR          where `make install` installs (default: /usr/local)
PRESET ?= release
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
PYTHON ?= python3
PREFIX ?= /usr/local
BUILD := build/$(PRESET)
BITDIAL := $(BUILD)/bin/bitdial

export PYTHON TORCH_VERSION TORCH_INDEX LIBTORCH
# Paths within the checkout are the same to ccache in every clone.
export CCACHE_BASEDIR := $(CURDIR)
export CCACHE_ABSSTDERR := 1
CMAKE_ARGS := -DLibTorch_ROOT="$(abspath $(LIBTORCH))" $(CMAKE_FLAGS)

.DEFAULT_GOAL := command
.PHONY: command demo build test check-tree format format-check asan tsan bench install clean help setup configure

command: configure ## build the command
	@cmake --build $(BUILD) --target bitdial_command --parallel $(JOBS)
	@echo "built ./$(BITDIAL)"

demo: command ## train on the built-in data set, adaptive precision beside float32
	@./$(BITDIAL) demo

build: configure ## build everything: libraries, command, tests, examples
	@cmake --build $(BUILD) --parallel $(JOBS)

test: build ## build everything and run all tests
	@ctest --preset $(PRESET) --parallel $(JOBS) $(CTEST_FLAGS)

asan: ## run all tests under the address and undefined-behaviour sanitizers
	@$(MAKE) test PRESET=asan-ubsan

tsan: ## run the tests of loader, checkpoint, bar and policies under the thread sanitizer
	@$(MAKE) test PRESET=tsan

bench: configure ## build and run the micro-benchmarks
	@cmake -S . -B $(BUILD) -DBITDIAL_BENCHMARKS=ON > /dev/null
	@cmake --build $(BUILD) --parallel $(JOBS) --target bitdial_bench_quantize bitdial_bench_kernel
	@./$(BUILD)/bin/bench_quantize

install: build ## install the command, the libraries and their CMake package to PREFIX
	@cmake --install $(BUILD) --prefix $(PREFIX)

format: ## format the sources in place (clang-format)
	@scripts/format.sh

format-check: ## fail if a source is not formatted
	@scripts/format.sh --check

check-tree: ## fail if a file includes a rung above its own
	@$(PYTHON) scripts/check_ladder.py .

setup: ## install missing packages, and PyTorch into .venv when no LIBTORCH is given
	@scripts/setup.sh

configure: setup
	@cmake --preset $(PRESET) $(CMAKE_ARGS) > build/configure-$(PRESET).log 2>&1 \
	  || { cat build/configure-$(PRESET).log >&2; exit 1; }

clean: ## remove all build folders (.venv stays)
	rm -rf build

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
