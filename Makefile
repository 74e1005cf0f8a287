# Everything from a checkout on Debian or Ubuntu, given Rust. `make help` lists what there is.
#
# The heavy dependencies (RocksDB, LDK) are compiled once: demo, tests and benches use the dev
# profile, one target directory, and one choice of features. Hence `--examples` where only the
# executable is wanted: there are none, but it has cargo unite the features of the dev-dependencies
# with the others', as it does for the tests; without it all of LDK is built a second time.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
.SUFFIXES:
# cargo would look for make's job server, which is not handed on.
unexport MAKEFLAGS MFLAGS

export SLUICE_CACHE ?= $(HOME)/.cache/sluice
export CARGO_TARGET_DIR ?= $(SLUICE_CACHE)/target
export SLUICE_CHROMIUM ?= $(SLUICE_CACHE)/bin/browser
export PATH := $(SLUICE_CACHE)/bin:$(PATH)
export NPM_CONFIG_UPDATE_NOTIFIER := false

SLUICE := $(CARGO_TARGET_DIR)/debug/sluice
WITH_BITCOIND := BITCOIND_EXE="$$(.ci/bitcoind)"; export BITCOIND_EXE;
# Directories are among them, so that a file taken away counts as a change.
WEB_INPUTS := $(shell find web -mindepth 1 \
	\( -name node_modules -o -name dist -o -name out -o -name tests \) -prune -o -print)

FUZZ_TARGETS := credentials ranges ids subtitles
FUZZ_SECONDS ?= 600

# Lints differ from toolchain to toolchain: with the one that this was written with they are errors, with others they are warnings.
LINTED_WITH := 1.95
LINTS := $(shell cargo --version 2>/dev/null | grep -q '^cargo $(LINTED_WITH)\.' && echo '-D warnings')

.PHONY: help setup build-setup demo-setup bench-setup soak-setup web build demo test lint deny test-rust test-web soak fuzz bench install \
	clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile
	@echo 'ARGS="..." is passed on by demo, test-rust, soak and bench: make demo ARGS="--watch"'

setup: ## install what is missing for the demo and the tests (every target does its part of it)
	@echo "== setup"
	@.ci/setup test

build-setup:
	@.ci/setup build

demo-setup:
	@.ci/setup demo

bench-setup:
	@.ci/setup bench

soak-setup:
	@.ci/setup soak

web: build-setup web/dist/index.html ## build the pages into web/dist, if their inputs changed

# npm's own record of what it installed.
web/node_modules/.package-lock.json: web/package-lock.json web/.npmrc | build-setup
	@echo "== web packages"
	cd web && npm ci --ignore-scripts

web/dist/index.html: $(WEB_INPUTS) web/node_modules/.package-lock.json | build-setup
	@echo "== web"
	cd web && npm run build

build: web ## build the executable, with the profile of the tests
	cargo build --locked --bin sluice --examples

demo: demo-setup build ## run `sluice demo`: a whole network on this machine
	@$(WITH_BITCOIND) exec $(SLUICE) demo $(ARGS)

test: setup web lint deny test-rust test-web ## all that CI checks

lint: web ## check format and lints
	@echo "== lint"
	cargo fmt --check
	cargo clippy --locked --all-targets -- $(LINTS)

deny: setup ## check the dependencies' licences, sources and bans
	@echo "== deny"
	cargo deny --locked check --hide-inclusion-graph bans licenses sources

test-rust: demo-setup web ## run the Rust tests
	@echo "== test-rust"
	$(WITH_BITCOIND) cargo test --locked $(ARGS)

test-web: setup build ## check the pages' types, run their unit tests, then a real browser
	@echo "== test-web"
	cd web && npm run check && npm run test:unit
	data=$$(mktemp -d); trap 'rm -rf "$$data"' EXIT; $(WITH_BITCOIND) cd web; \
	SLUICE_EXE=$(SLUICE) SLUICE_DEMO_ARGS="--data-dir $$data" npm run test:browser

soak: soak-setup web ## run the long tests (SLUICE_SOAK=1) and fuzz each parser for ten minutes: not part of `make test`
	$(WITH_BITCOIND) SLUICE_SOAK=1 cargo test --locked --test simulation --test soak $(ARGS) -- --nocapture
	@$(MAKE) --no-print-directory fuzz

# Sanitizers are a matter of nightly compilers, or of stable ones that are told to be.
fuzz: soak-setup ## fuzz each parser for FUZZ_SECONDS (600)
	@echo "== fuzz"
	cd fuzz; for target in $(FUZZ_TARGETS); do \
		mkdir -p "corpus/$$target"; \
		CARGO_TARGET_DIR="$(SLUICE_CACHE)/fuzz-target" RUSTC_BOOTSTRAP=1 \
			cargo fuzz run --fuzz-dir . "$$target" "corpus/$$target" "seeds/$$target" \
			-- -max_total_time=$(FUZZ_SECONDS) -print_final_stats=1; \
	done

# The heavy dependencies are those of the tests; our own crate, where the code of generic ones ends up, is optimised as it is in a release. It is
# built once more for that, and not in the tests, which would be minutes slower to build.
BENCH_PROFILE := --profile dev --config profile.dev.package.sluice.opt-level=2

bench: bench-setup web ## run the benches, with the dependencies of the tests and our own code optimised
	$(WITH_BITCOIND) CARGO_INCREMENTAL=0 cargo bench --locked $(BENCH_PROFILE) $(ARGS)

install: web ## install an optimized `sluice` (the whole tree once more, under release/)
	cargo install --locked --path .

clean: ## remove what was built here; what was set up stays in SLUICE_CACHE
	cargo clean --locked --package sluice
	rm -rf web/dist web/out web/node_modules
