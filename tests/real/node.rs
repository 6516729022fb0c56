//! OpenAI's client for Node: the claims are the functions in `clients/node`.

use tokio::process::Command;

use crate::harness::{Claim, Need};
use crate::support::script::{Script, Scripts};

static SCRIPTS: Scripts = Scripts {
    name: "node",
    definitions: &["export async function "],
    command: |folder| {
        let mut command = Command::new("node");
        command.arg(folder.join("run.mjs"));
        command
    },
};

static FILES: [Script; 3] = [
    Script { name: "chat", text: include_str!("clients/node/chat.mjs"), needs: &[Need::Node] },
    Script { name: "errors", text: include_str!("clients/node/errors.mjs"), needs: &[Need::Node] },
    Script {
        name: "llama",
        text: include_str!("clients/node/llama.mjs"),
        needs: &[Need::Node, Need::LlamaServer],
    },
];

pub(crate) fn claims() -> Vec<Claim> {
    SCRIPTS.claims(&FILES)
}
