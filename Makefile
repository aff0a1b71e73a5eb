# What a developer and CI do, one word each; `make` alone lists it.
#
# Needs cargo with rustfmt and clippy; `.ci/tools` brings the rest, each when it is first asked for.

.DEFAULT_GOAL := help
.NOTPARALLEL:
SHELL := /bin/sh
export PATH := $(CURDIR)/target/tools/bin:$(PATH)

# All tests. What multiplies them (other clients, other ways to connect) gets a part of its own.
TESTS := test-fast test-slow test-clients
# Everything CI runs, in this order; the tests last, so that their result closes the output.
CHECKS := fmt-check clippy doc bench-check examples no-async deny release session-check fuzz-smoke $(TESTS)

# Worker threads of the proxies in the integration suite: each promise must hold at any number.
THREADS := 1 8
# $(call it,WHICH) runs these tests of it at each number of them.
it = @set -e; for threads in $(THREADS); do \
	echo "tests/it $(1), at $$threads worker threads:"; \
	THREADGATE_TEST_THREADS=$$threads cargo test --locked --test it -- $(1); \
done
# How many fast tests run at a time: most of them wait. Others run as many as there are processors.
AT_ONCE := 8
# Seconds for each fuzz target; five in a check.
FUZZ_SECONDS ?= 10
check: FUZZ_SECONDS = 5
# Round trips of each stress test of `make soak`, and seconds of its mixed traffic.
STRESS := 1000000
SOAK ?= 600
# What must not stand anywhere in the tree that ships.
ASYNC := tokio|async-std|smol|futures|futures-[a-z]+|mio|hyper|h2

## Everyday

help: ## this list
	@echo 'usage: make TARGET'
	@awk -F ':.*## ' '/^## /{ printf "\n%s\n", substr($$0, 4) } \
		/^[a-z-]+:.*## /{ printf "  %-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

test-fast: ## unit and protocol tests, under a minute on two cores; needs nothing but cargo
	cargo test --locked --lib --bins
	$(call it,--skip clients:: --skip slow:: --test-threads=$(AT_ONCE))

test: test-tools $(TESTS) ## all tests; first installs what real clients need, and asks before that

check: $(CHECKS) ## everything CI runs, about a quarter of an hour on two cores

fmt: ## format the sources in place
	cargo fmt
	cargo fmt --manifest-path fuzz/Cargo.toml

doc: ## API documentation, for users and of everything; a warning is an error
	RUSTDOCFLAGS='-D warnings' cargo doc --locked --no-deps --document-private-items --features internals
	RUSTDOCFLAGS='-D warnings' cargo doc --locked --no-deps --lib

bench: ## compare with other proxies, half an hour; ROW=name for one row, QUICK=1 for a smoke test
	.ci/tools packages bench-packages
	python3 benches/bench.py $(ROW:%=--row %) $(if $(QUICK),--quick)

responses: ## write the table of docs/responses.md again: odd messages through curl, Chromium and other proxies
	cargo build --locked
	python3 tests/messages/compare.py --threadgate target/debug/threadgate --write docs/responses.md

docs: ## write again what is made from sources: docs/files.md, lists-adguard.md, threadgate.toml, the man page
	THREADGATE_WRITE_DOCS=1 cargo test --locked --lib reference
	THREADGATE_WRITE_DOCS=1 cargo test --locked --test it -- file_list the_page_has_the_table_of_differences

session: release ## draw docs/session.svg again: the README's picture, from a run of the commands in it
	.ci/session-svg

soak: ## SOAK=600 seconds of good and hostile traffic, and the stress tests in release
	set -e; for threads in $(THREADS); do \
		THREADGATE_STRESS=$(STRESS) THREADGATE_SOAK=$(SOAK) THREADGATE_TEST_THREADS=$$threads \
			cargo test --locked --release --test it soak -- --test-threads=1; \
	done

fuzz-smoke: ## run each fuzz target for FUZZ_SECONDS=10; the corpus stays as it is
	.ci/tools cargo-fuzz
	.ci/fuzz $(FUZZ_SECONDS)

## Parts of test

test-slow: ## documentation tests, and protocol tests that work or wait for long
	cargo test --locked --doc
	$(call it,slow::)

test-clients: test-tools ## tests with programs that somebody has to install: browsers, package managers, servers
	$(call it,clients::)

test-tools:
	.ci/tools packages modules

## Parts of check

fmt-check: ## whether everything is formatted
	cargo fmt --check
	cargo fmt --manifest-path fuzz/Cargo.toml --check

clippy: ## lints, of what ships as well as with the tests; a warning is an error
	cargo clippy --locked --all-targets -- -D warnings
	cargo clippy --locked --lib --bins -- -D warnings

bench-check: ## the benchmarks' own tests; whether docs/performance.md shows its figures
	python3 -B -m unittest discover -q -s benches/tests -t benches
	python3 -B benches/bench.py --check-docs

examples: ## build and run the examples, and test what is exported, as users of the library do
	.ci/as-a-user

no-async: ## that no async runtime is in the tree that ships
	tree=$$(cargo tree --locked --edges normal --target all --all-features --prefix none) && \
		if echo "$$tree" | grep -E '^($(ASYNC)) v'; then exit 1; fi

deny: ## licences, banned crates and sources of all dependencies
	.ci/tools cargo-deny
	cargo deny --locked check bans licenses sources

release: ## the binary as it ships
	cargo build --locked --release

session-check: release ## whether docs/session.svg shows what the commands in it say
	.ci/session-svg --check

## Now and then

install: ## PREFIX=/usr/local DESTDIR=: the binary, man page, completions and unit; builds only what is missing
	.ci/install

uninstall: ## with the same variables: remove those files
	.ci/install --remove

advisories: ## known vulnerabilities; fetches the advisory database from its git host
	.ci/tools cargo-deny
	cargo deny --locked check advisories

tools: ## install what the other targets need
	.ci/tools

clean: ## remove everything built and measured
	cargo clean
	rm -rf fuzz/target fuzz/artifacts fuzz/coverage bench-results

list-checks:
	@echo $(CHECKS)

.PHONY: help test test-fast test-slow test-clients test-tools check fmt doc docs bench responses session soak \
	fuzz-smoke fmt-check clippy bench-check examples no-async deny release session-check install uninstall \
	advisories tools clean list-checks
