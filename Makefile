# Every target is one word and one script in ci/, which also runs by itself, from anywhere.

.PHONY: help build test soak lint fuzz bench

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile

build: ## the binary, ./fanfare
	@ci/build.sh

test: ## everything that must hold: format, vet, all tests with the race detector
	@ci/test.sh

soak: ## half an hour of clients that come, freeze and vanish (SOAK=5m for less), and of readers that are cut (ROUNDS=5)
	@ci/soak.sh

lint: ## a short list of linters, and known vulnerabilities
	@ci/lint.sh

fuzz: ## every fuzz target for FUZZTIME (default 30s each)
	@ci/fuzz.sh

bench: ## the benchmarks, with allocations
	@ci/bench.sh
