# Common tasks; `just` lists them, `just ci` runs what CI runs.

default:
    @just --list

# Format, lints, docs and tests: what every change must pass.
check: fmt lint doc test

fmt:
    cargo fmt --all --check

lint:
    cargo clippy --workspace --all-targets -- -D warnings

doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items

test:
    cargo test --workspace

# Licences, sources and banned crates of the dependency tree. Needs cargo-deny: `cargo install cargo-deny --locked`.
deny:
    cargo deny check bans licenses sources

# The demo: a stand-in Hub, hubgate before it, and what each person sees.
demo:
    cargo run --release --example demo

# hubgate beside nginx, curl and MinIO; see bench/README.md for what it needs.
bench *args:
    bench/run.py {{args}}

# Everything, real clients and real servers too.
ci:
    .ci/run
