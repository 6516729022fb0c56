//! OpenAI's client for Python, and OpenAPI's tools: the claims are the functions in `clients/python`.

use tokio::process::Command;

use crate::harness::{Claim, Need};
use crate::support::script::{Script, Scripts};

static SCRIPTS: Scripts = Scripts {
    name: "python",
    definitions: &["def ", "async def "],
    command: |folder| {
        let mut command = Command::new(Need::Python.path());
        command.arg(folder.join("run.py"));
        command
    },
};

static FILES: [Script; 4] = [
    Script { name: "chat", text: include_str!("clients/python/chat.py"), needs: &[Need::Python] },
    Script { name: "document", text: include_str!("clients/python/document.py"), needs: &[Need::Python] },
    Script { name: "errors", text: include_str!("clients/python/errors.py"), needs: &[Need::Python] },
    Script {
        name: "llama",
        text: include_str!("clients/python/llama.py"),
        needs: &[Need::Python, Need::LlamaServer],
    },
];

pub(crate) fn claims() -> Vec<Claim> {
    SCRIPTS.claims(&FILES)
}
