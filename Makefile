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
demo: bin/lorica ## generate and run examples/payments and show what is allowed, denied, and why (CHECK=1: exit after the table; TARGET=microvm; NET=direct, which as root routes packets by rules of the kernel while it runs, with CHECK=1 in a network of its own)
	@TARGET="$(TARGET)" NET="$(NET)" scripts/demo $(if $(CHECK),--exit)

.PHONY: test
test: ## everything that this project promises and can show on this machine
	@scripts/test

# What is about machines whatever the target, or shows what the docs show, which is
# sockets, is tried with those alone; and an ordinary user's way to a microVM's is slow.
elsewhere = ^(TestMachines|TestAMachine|TestNoQEMU|TestTheLinesOfTheDocs|TestDoctorFindsNetworks$(if $(TARGET),|TestOrdinaryUser))

.PHONY: end-to-end
end-to-end: ## the end-to-end suite alone (TARGET=microvm; NET=direct)
	@LORICA_TARGET="$(TARGET)" LORICA_NET="$(NET)" CGO_ENABLED=0 $(GO) test -count 1 -timeout 60m $(if $(TARGET)$(NET),-skip '$(elsewhere)') ./test/e2e

.PHONY: weigh
weigh: bin/lorica ## measure the code that each module adds to an image, and hold every manifest to it
	@bin/lorica catalog weigh --check

.PHONY: bench
bench: ## measure every promise of speed side by side, and write docs/performance.md (ROUNDS, SECONDS_EACH)
	@scripts/bench

.PHONY: bench-microvm
bench-microvm: ## measure images in microVMs beside Linux guests, and write docs/performance-microvm.md (ROUNDS, SECONDS_EACH)
	@scripts/bench-microvm

.PHONY: bench-net
bench-net: ## measure images with a network of their own beside those with sockets, and write docs/performance-net.md (ROUNDS, SECONDS_EACH)
	@scripts/bench-net

.PHONY: bench-policy
bench-policy: ## measure how fast policies and packets are judged beside other engines, and write docs/performance-policy.md (ROUNDS, SECONDS_EACH, LORICA_CLASSBENCH=folder of filter sets)
	@scripts/bench-policy

.PHONY: bench-solver
bench-solver: ## measure the solver beside dose-debcheck, aspcud, mccs and gophersat on all of Debian, and write docs/performance-solver.md (ROUNDS, LORICA_PACKAGES=a Packages file instead of fetching bookworm's, LORICA_MIRROR=where it is fetched)
	@scripts/bench-solver

.PHONY: bench-tool
bench-tool: ## measure the commands about policies, and changes of level, and write docs/performance-tool.md (ROUNDS)
	@scripts/bench-tool

.PHONY: peers
peers: ## attack running images with nmap, hping3 and scapy, and write docs/peers.md (SHORT=1: only what tests try each time)
	@scripts/peers

.PHONY: conform
conform: ## hold compiled Cedar to the corpus of cedar-go, to REQUESTS (default 1000000) random requests and to the suites in CEDAR (archives or folders), the firewall to the filter sets in CLASSBENCH
	@$(GO) run ./test/conform -module -random $(or $(REQUESTS),1000000) $(if $(SEED),-seed $(SEED)) $(if $(CEDAR),-cedar $(CEDAR)) $(if $(CLASSBENCH),-classbench $(CLASSBENCH))

.PHONY: conform-cedar
conform-cedar: ## hold compiled Cedar to cedar-go in REQUESTS (default 10000000) random requests (SEED: where they begin)
	@$(GO) run ./test/conform -random $(or $(REQUESTS),10000000) $(if $(SEED),-seed $(SEED))

.PHONY: conform-packets
conform-packets: ## send PACKETS (default 1000000) to a running image of each target, and hold every verdict to the reference
	@LORICA_PACKETS=$(or $(PACKETS),1000000) $(GO) test ./test/conform -count 1 -v -timeout 0 -run '^TestRunningImagesJudgeAsTheReferenceSays$$'

.PHONY: solve-random
solve-random: ## hold the solver to trying every possibility, in INSTANCES (default 1000000) random formulas and repositories
	@LORICA_SOLVE_RANDOM=$(or $(INSTANCES),1000000) $(GO) test ./solver/... -count 1 -v -timeout 0 -run '(EveryAssignment|InstallEqualsTryingEverySet)$$'

.PHONY: prove
prove: bin/lorica ## show of the images of the examples that each of their modules is needed and nothing else is in them (EXAMPLE=payments; TARGET=microvm; NET=direct)
	@for e in $(or $(EXAMPLE),$(notdir $(wildcard examples/*))); do bin/lorica plan -f examples/$$e >/dev/null && bin/lorica plan --prove -f examples/$$e $(if $(TARGET),--target $(TARGET)) $(if $(NET),--net $(NET)) || exit 1; echo; done

.PHONY: soak-microvm
soak-microvm: ## keep an image in a microVM under mixed load for TIME (default 30m)
	@TIME=$(or $(TIME),30m) scripts/bench-microvm soak

.PHONY: redteam
redteam: ## attack images from inside, and print what a compromised application can still do (ARGS='-args -every-table': the tables of x32 and i386 as well)
	@scripts/redteam $(ARGS)

.PHONY: kernels
kernels: ## boot the kernels of other Debian releases under QEMU, run the kill tests in them, and write docs/kernels.md (KERNELS; COUNTED=1: for a busy machine)
	@scripts/kernels

.PHONY: lint
lint: ## gofmt, go vet, staticcheck
	@scripts/lint

.PHONY: fuzz
fuzz: ## every fuzz target in turn (TIME=20s each; TARGET=abi/jwt/FuzzDecode or a part of it; PARALLEL=workers)
	@scripts/fuzz

.PHONY: corpus
corpus: ## choose the seeds of fuzz targets (TARGET) anew, out of what fuzzing has found
	@scripts/corpus

.PHONY: soak
soak: ## change and crash what runs in a random order for TIME (default 10m; SEED repeats one)
	@LORICA_SOAK=$(or $(TIME),10m) $(if $(SEED),LORICA_SEED=$(SEED)) $(GO) test ./test/e2e -count 1 -v -timeout 0 -run '^TestSchedule$$'

.PHONY: clean
clean: ## remove bin/
	@rm -rf bin
