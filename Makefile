# The commands, and the checks of CI. `make demo KEEP=1` leaves the stack running.

RUN := deploy/dev/with-toolchain

# Development commands leave out what only releases and benchmarks need.
DEV := --locked --no-default-features

.PHONY: demo test unit sim e2e mutants faults previous soak bench compared microbench check chart-test dist dist-test images compose-test

demo:
	@deploy/dev/demo $(if $(KEEP),--keep)

test: unit sim e2e

# Everything that needs no servers. All of the workspace is named each time, and targets are chosen from it: what a package alone asks
# of a dependency is less than what all ask together, and would be compiled once more.
UNIT_TESTS := $(notdir $(basename $(wildcard cli/tests/*.rs tests/tidy/tests/*.rs common/tests/*.rs leader-agent/tests/*.rs follower-agent/tests/*.rs)))
unit:
	@$(RUN) cargo test $(DEV) --workspace --lib --bins $(UNIT_TESTS:%=--test %)

# The agents' real code through thousands of schedules, of shards and of the control plane. How one is replayed: docs/reliability.md.
sim:
	@$(RUN) cargo test $(DEV) --workspace --test simulation --test control

# The tests on real servers, one at a time: each fills two cores. `make e2e ONLY=verify` runs one file of tests/tests.
E2E_TESTS := $(or $(ONLY),$(notdir $(basename $(wildcard tests/tests/*.rs))))
e2e:
	@$(RUN) cargo build $(DEV) --workspace --bins
	@$(RUN) cargo test $(DEV) --workspace $(E2E_TESTS:%=--test %) -- --test-threads=1

# `make faults ONLY=SIGKILL` lets some of them happen.
faults: previous
	@$(RUN) cargo build $(DEV) --workspace --bins
	@$(RUN) cargo run --quiet $(DEV) --package shardline-tests --bin faults -- --only '$(ONLY)' \
		--previous target/previous/target/debug --output "$${CARGO_TARGET_DIR:-target}/faults.md"

# The agents of an earlier commit, for `make faults`.
PREVIOUS := 365998a
previous:
	@[ -e target/previous ] || git clone --quiet . target/previous
	@cd target/previous && git fetch --quiet && git checkout --quiet $(PREVIOUS) && CARGO_TARGET_DIR=target \
		../../$(RUN) cargo build --quiet --locked --package leader-agent --package follower-agent

# `make soak MINUTES=600` for a night.
soak:
	@$(RUN) cargo build --locked --release --package leader-agent --package follower-agent
	@$(RUN) cargo run --quiet --locked --release --package shardline-bench -- --soak $(or $(MINUTES),10) \
		--output "$${CARGO_TARGET_DIR:-target}/soak"

# `make bench QUICK=1` is short; `make bench ONLY=speed,lag` runs some phases; `make bench COMPARE=6cdee55 ONLY=…` builds that
# commit and measures its agents in turns with those of the working tree. Only a whole run writes to docs/benchmarks.
BENCH_OUTPUT := $(if $(QUICK)$(ONLY)$(COMPARE),$${CARGO_TARGET_DIR:-target}/bench,docs/benchmarks)

bench: $(if $(COMPARE),compared,microbench)
	@$(RUN) cargo build --locked --release --package leader-agent --package follower-agent
	@$(RUN) cargo run --quiet --locked --release --package shardline-bench -- --output $(BENCH_OUTPUT) \
		$(if $(COMPARE),--compare target/compared/target/release,--criterion "$${CARGO_TARGET_DIR:-target}/criterion") \
		$(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(QUICK),--quick) $(if $(ONLY),--only $(ONLY))

# The release build of another commit, for `make bench COMPARE=…`.
compared:
	@[ -e target/compared ] || git clone --quiet . target/compared
	@cd target/compared && git fetch --quiet && git checkout --quiet $(COMPARE) && CARGO_TARGET_DIR=target \
		../../$(RUN) cargo build --locked --release --package leader-agent --package follower-agent

microbench:
	@$(RUN) cargo bench --quiet --locked --package shardline-bench --bench hot_paths -- $(if $(QUICK),--quick)

# What the tests without servers do not notice: a sample of changes to what differs from BASE (all of the agents without it).
SAMPLE ?= 1/20
mutants:
	@command -v cargo-mutants >/dev/null || $(RUN) cargo install --quiet --locked cargo-mutants
	@git diff $(or $(BASE),$$(git hash-object -t tree /dev/null)) >"$${CARGO_TARGET_DIR:-target}/mutants.diff"
	@$(RUN) cargo mutants --in-diff "$${CARGO_TARGET_DIR:-target}/mutants.diff" --shard $(SAMPLE) --sharding round-robin \
		--output "$${CARGO_TARGET_DIR:-target}" --test-workspace=true \
		--cargo-arg=--locked -- --workspace --exclude shardline-tests

# What a release consists of, in target/dist/out: binaries for every Linux with glibc 2.34, packages, checksums.
dist:
	@$(RUN) deploy/package/dist

# The packages of `make dist` in a Debian of their own, as docs/install.md has it: installed, followed an index with, upgraded from
# those of the commit FROM, purged.
FROM ?= 6cdee55
dist-test:
	@deploy/package/previous $(FROM) "$${CARGO_TARGET_DIR:-target}/dist/previous-packages"
	@deploy/package/test "$${CARGO_TARGET_DIR:-target}/dist/out" "$${CARGO_TARGET_DIR:-target}/dist/previous-packages"

# The container images of what `make dist` made, as an OCI layout in target/dist/images; each is run.
images:
	@deploy/images/build

# deploy/compose: taken by `docker compose config`, and what it says by the agents.
compose-test:
	@$(RUN) cargo build $(DEV) --workspace --bins
	@deploy/compose/test "$${CARGO_TARGET_DIR:-target}/debug"

# The Helm chart: lint, rendering, schemas, alert rules.
chart-test:
	@deploy/helm/test

check:
	@$(RUN) cargo fmt --all --check
	@$(RUN) cargo clippy $(DEV) --workspace --all-targets -- -D warnings

.NOTPARALLEL:
