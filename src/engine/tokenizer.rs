//! Counts a prompt by a program beside the engine, such as `llama-tokenize`, while no engine runs.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::time::timeout;

use super::inherited::inherited;
use crate::config::Tokenization;

/// The program loads the vocabulary anew each time, which takes seconds for a large one.
const PATIENCE: Duration = Duration::from_secs(15);
/// What it prints for the longest prompt that anybody sends.
const MOST_BYTES: u64 = 32 * 1024 * 1024;

/// How many tokens a text has, with what the template adds to so many messages; `None` if the program does not say.
pub(super) async fn count(tokenization: &Tokenization, text: &str, messages: u64) -> Option<u64> {
    let binary = tokenization.binary.as_deref()?;
    let counted = timeout(PATIENCE, run(binary, tokenization, text)).await;
    let Ok(Ok(Some(tokens))) = counted else {
        tracing::debug!(program = %binary.display(), "The tokenizer does not count");
        return None;
    };
    Some(tokens + messages * tokenization.extra_tokens_per_message + tokenization.extra_tokens)
}

async fn run(binary: &Path, tokenization: &Tokenization, text: &str) -> std::io::Result<Option<u64>> {
    let Tokenization { args, environment, .. } = tokenization;
    let mut command = Command::new(binary);
    command
        .env_clear()
        .envs(inherited(&environment.withheld))
        .envs(environment.exposed())
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    // By itself it takes `\n` in a text for a line end, which miscounts programs.
    let is_llamas = binary.file_name().is_some_and(|name| name.to_string_lossy().contains("llama-tokenize"));
    if is_llamas && !args.iter().any(|arg| arg.contains("escape")) {
        command.arg("--no-escape");
    }
    let mut process = command.spawn()?;
    let (Some(mut to), Some(from)) = (process.stdin.take(), process.stdout.take()) else { return Ok(None) };
    let writing = async {
        // One that ends early says so by what it prints.
        let _ = to.write_all(text.as_bytes()).await;
        drop(to);
    };
    let mut printed = Vec::new();
    let mut from = from.take(MOST_BYTES);
    let ((), read) = tokio::join!(writing, from.read_to_end(&mut printed));
    read?;
    process.wait().await?;
    Ok(tokens_in(&String::from_utf8_lossy(&printed)))
}

/// The length of the last list in square brackets.
fn tokens_in(printed: &str) -> Option<u64> {
    let end = printed.rfind(']')?;
    let start = printed.get(..end)?.rfind('[')?;
    let list: Vec<i64> = serde_json::from_str(printed.get(start..=end)?).ok()?;
    u64::try_from(list.len()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_list_counts() {
        assert_eq!(tokens_in("log [x]\n[1, 2, 3]\n"), Some(3));
        assert_eq!(tokens_in("[]"), Some(0));
        assert_eq!(tokens_in("no list"), None);
        assert_eq!(tokens_in("[1, x]"), None);
    }

    #[tokio::test]
    async fn a_program_counts_what_it_reads() {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("count");
        std::fs::write(
            &script,
            "#!/bin/sh\nwords=$(wc -w)\nprintf '['; seq -s ', ' 1 $words | tr -d '\\n'; printf ']'\n",
        )
        .unwrap();
        std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let tokenization = Tokenization {
            binary: Some(script),
            args: Vec::new(),
            environment: crate::config::EngineEnvironment::default(),
            extra_tokens_per_message: 8,
            extra_tokens: 5,
        };
        assert_eq!(count(&tokenization, "one two three", 2).await, Some(3 + 16 + 5));
        let nobody = Tokenization { binary: Some("/nowhere/at/all".into()), ..tokenization };
        assert_eq!(count(&nobody, "one", 1).await, None);
    }
}
