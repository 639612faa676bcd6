# The two commands, and the checks of CI. `make demo KEEP=1` leaves the stack running.

RUN := deploy/dev/with-toolchain

.PHONY: demo test check

demo:
	@$(RUN) cargo build --quiet --locked --workspace --bins
	@$(RUN) cargo run --quiet --locked --package shardline-tests --bin demo -- $(if $(KEEP),--keep)

test:
	@$(RUN) cargo build --quiet --locked --workspace --bins
	@$(RUN) cargo test --locked --workspace

check:
	@$(RUN) cargo fmt --all --check
	@$(RUN) cargo clippy --locked --workspace --all-targets -- -D warnings
