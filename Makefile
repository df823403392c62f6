# `make help` lists what one can do here.
SHELL := /bin/bash
GO ?= go
export GOFLAGS := -buildvcs=false

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

.PHONY: build
build: bin/lorica ## build bin/lorica

.PHONY: bin/lorica
bin/lorica:
	@CGO_ENABLED=0 $(GO) build -trimpath -o bin/lorica ./cmd/lorica

.PHONY: demo
demo: bin/lorica ## generate and run examples/payments and show what is allowed, denied, and why (CHECK=1: exit after the table)
	@scripts/demo $(if $(CHECK),--exit)

.PHONY: test
test: ## everything that this project promises and can show on this machine
	@scripts/test

.PHONY: bench
bench: ## measure every promise of speed side by side, and write docs/performance.md (ROUNDS, SECONDS_EACH)
	@scripts/bench

.PHONY: lint
lint: ## gofmt, go vet, staticcheck
	@scripts/lint

.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME each (default 20s)
	@scripts/fuzz

.PHONY: soak
soak: ## change and crash what runs in a random order for TIME (default 10m; SEED repeats one)
	@LORICA_SOAK=$(or $(TIME),10m) $(if $(SEED),LORICA_SEED=$(SEED)) $(GO) test ./test/e2e -count 1 -v -timeout 0 -run '^TestSchedule$$'

.PHONY: clean
clean: ## remove bin/
	@rm -rf bin
