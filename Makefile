# Needs Go and make; everything else comes with the module. The race detector needs a C
# compiler, and is left out where there is none.

GO       ?= go
BIN      := bin/roster
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null)
FUZZTIME ?= 10s

CC_FOUND := $(shell command -v $$($(GO) env CC) 2>/dev/null)
RACE     := $(if $(CC_FOUND),-race)
# The binary is static; only the race detector needs cgo.
build: export CGO_ENABLED := 0
test e2e e2e-long: export CGO_ENABLED := $(if $(CC_FOUND),1,0)

.DEFAULT_GOAL := help
.PHONY: help build run test check fmt lint bench bench-peers bench-fleet fuzz e2e e2e-long man deb binaries images up demo down

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## Build bin/roster, one static binary
	$(GO) build -trimpath -ldflags '-s -w -X main.release=$(VERSION)' -o $(BIN) ./cmd/roster

run: build ## Run a node with an etcd of its own and two demo origins, until Ctrl-C
	@demo/run $(BIN)

test: ## Run all tests, with the race detector
	@$(if $(RACE),,echo "no C compiler found: testing without the race detector")
	$(GO) test $(RACE) -pgo=off -timeout 25m ./...

check: lint test ## Everything that must hold before a commit: lint and test

lint: ## Formatting, go vet and staticcheck
	@out=$$(gofmt -l .); if [ -n "$$out" ]; then echo "not formatted (make fmt does it):"; echo "$$out"; exit 1; fi
	$(GO) vet ./...
	$(GO) tool staticcheck ./...

fmt: ## Format all Go files
	gofmt -w .

bench: ## Run all benchmarks
	$(GO) test -run '^$$' -bench . ./...

bench-peers: ## Compare with HAProxy and nginx side by side; PEERS=-help lists its flags
	$(GO) run ./bench/peers $(PEERS)

bench-fleet: ## Measure how changes come to a fleet, and what it costs etcd; FLEET=-help lists its flags
	$(GO) run ./bench/fleet $(FLEET)

fuzz: ## Run every fuzz target for FUZZTIME (10s, or a number of inputs: 5000x)
	@set -e; for pkg in $$(grep -rl --include='*_test.go' '^func Fuzz' . | xargs -n 1 dirname | sort -u); do \
		for target in $$($(GO) test -pgo=off -list '^Fuzz' "$$pkg" | grep '^Fuzz'); do \
			echo "$$pkg $$target"; \
			$(GO) test -pgo=off -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 1x "$$pkg"; \
		done; \
	done

e2e: ## Run the end-to-end tests: the built binary, real etcd, real sockets
	$(GO) test -count=1 $(RACE) -pgo=off -timeout 20m ./e2e/...

# The tests that have a long form.
LONG := TestFaults|TestSoak|TestIdleNodesLeaveEtcdStill|TestEtcdStoppedUnderTraffic|TestOneEndpointOfThreeIsEnough|TestAPutIsServedByEveryNodeThatIsAskedForItsRevision|TestUpgradeLosesNoRequest|TestRestartUnderSocketActivation|TestRollingRestartLosesNoRequest

e2e-long: ## Run the long form of the end-to-end tests that have one, three quarters of an hour
	ROSTER_E2E_LONG=1 $(GO) test -count=1 $(RACE) -timeout 90m -v -run '^($(LONG))$$' ./e2e

man: build ## Write the man pages to bin/man
	@$(BIN) man bin/man

deb: build ## Make a Debian package of bin/roster in bin/; it needs dpkg-deb
	@deploy/debian/build $(BIN) "$(VERSION)" bin

# The cluster of docker-compose.yml. COMPOSE_PROJECT_NAME names another than roster, TLS=1
# turns TLS and etcd's users on; docs/COMPOSE.md has the ports.
export COMPOSE_PROJECT_NAME ?= roster
export TLS

# What the images are made of: programs for Linux, and what else is in them. Servers with
# certificates of public CAs are verified with this machine's list of those, if it has one.
binaries: export CGO_ENABLED := 0
binaries: export GOOS := linux
binaries:
	@rm -rf bin/images && mkdir -p bin/images/roster/etc/ssl/certs bin/images/etcd bin/images/data
	$(GO) build -trimpath -ldflags '-s -w -X main.release=$(VERSION)' -o bin/images/roster/roster ./cmd/roster
	$(GO) build -trimpath -ldflags '-s -w' -o bin/images/etcd/etcd go.etcd.io/etcd/server/v3
	$(GO) build -trimpath -ldflags '-s -w' -o bin/images/etcd/etcdctl go.etcd.io/etcd/etcdctl/v3
	@if [ -r /etc/ssl/certs/ca-certificates.crt ]; then cp /etc/ssl/certs/ca-certificates.crt bin/images/roster/etc/ssl/certs/; fi

images: binaries ## Make the images of roster and etcd from static programs, without a registry
	@set -e; for image in roster etcd; do \
		docker build -q -f deploy/docker/Dockerfile.static --target $$image -t $(COMPOSE_PROJECT_NAME)/$$image \
			--label com.docker.compose.project=$(COMPOSE_PROJECT_NAME) bin/images; \
	done

up: images ## Start a cluster in containers: 3 of etcd, 3 nodes, an entry, 4 backends
	@deploy/docker/cluster up

demo: ## Give the cluster backends, and show what it does
	@deploy/docker/cluster demo

down: ## End the cluster, and remove its containers, volumes and images
	@deploy/docker/cluster down
