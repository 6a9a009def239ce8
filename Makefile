# Two commands do all set-up on a machine with Go, git and make: `make demo` and `make test`.

GO      ?= go
BIN     := bin
CARDEA  := $(BIN)/cardea

.PHONY: demo test check mutants crash bench fuzz build setup clean

# The go command knows best what has changed.
build:
	$(GO) build -trimpath -o $(CARDEA) ./cmd/cardea

# The main job, end to end, in a temporary folder.
demo: build
	$(CARDEA) demo

# What tests use beside Go: OpenSSH's client tools and openssl.
setup:
	@./scripts/setup

test: setup
	$(GO) test -race -timeout 15m ./...

# Formatting, vet for both systems, staticcheck, generated code, import rules, documents that are generated.
check:
	@./scripts/check

# One patch per invariant: the test that it names must fail with it.
mutants:
	$(GO) run ./internal/mutants $(ONLY)

# Kills each role at each of its named points, twenty times each.
crash:
	CRASH_ROUNDS=20 $(GO) test -timeout 60m -count=1 -run 'TestCrash' -v ./internal/crash

# The whole tree on a real disk. BENCH_JSON=file writes the figures too.
bench: build
	$(GO) run ./internal/bench -binary $(CARDEA)

# Each fuzz target for FUZZTIME.
FUZZTIME ?= 20s
fuzz:
	@FUZZTIME=$(FUZZTIME) ./scripts/fuzz

clean:
	rm -rf $(BIN)
