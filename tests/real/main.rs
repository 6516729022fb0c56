//! The tests against real programs: llama-server with a tiny model behind the gateway, OpenAI's own clients and a
//! browser in front of it.
//!
//! `eval "$(tests/real/setup.sh)"` makes the programs ready. A test whose program is missing counts as ignored.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "tests: what is not as it should be ends the test"
)]

mod harness;
mod support;
mod tiny_gguf;

mod clock;
mod llama_chat;
mod llama_engines;
mod llama_facade;
mod llama_failover;
mod llama_faults;
mod llama_tokens;
mod llama_tools;
mod node;
mod pages;
mod python;
mod refused;
mod swagger;

fn main() {
    let claims = [
        clock::claims(),
        llama_chat::claims(),
        llama_engines::claims(),
        llama_facade::claims(),
        llama_failover::claims(),
        llama_faults::claims(),
        llama_tokens::claims(),
        llama_tools::claims(),
        node::claims(),
        pages::claims(),
        python::claims(),
        refused::claims(),
        swagger::claims(),
    ];
    harness::run(claims.into_iter().flatten().collect());
}
