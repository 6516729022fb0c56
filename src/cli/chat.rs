//! `chat MODEL`: a conversation in the terminal.

use std::io::{IsTerminal, Write, stdin, stdout};
use std::path::PathBuf;

use clap::Args;
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::signal::ctrl_c;
use tokio::sync::mpsc;

use super::CommandError;
use super::output::{Colour, Paint, tell_aside};
use crate::app::Alone;
use crate::config::{Environment, Settings};
use crate::llm::{Frames, is_invisible};

#[derive(Debug, Args)]
pub(super) struct Chat {
    /// The model, by any of its names.
    model: String,
    /// The system prompt.
    #[arg(long)]
    system: Option<String>,
}

const HELP: &str = "/model NAME    goes on with another model; alone, lists the models
/system TEXT   set the system prompt; alone, remove it
/clear         begins anew
/bye           ends (as Ctrl-D does)
Ctrl-C         stops an answer
";

/// What a line asks for.
#[derive(Debug, PartialEq, Eq)]
enum Said<'l> {
    Nothing,
    Model(&'l str),
    System(&'l str),
    Clear,
    Help,
    Bye,
    Unknown(&'l str),
    Words(&'l str),
}

impl<'l> Said<'l> {
    fn of(line: &'l str) -> Self {
        let line = line.trim();
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        match word {
            "" => Self::Nothing,
            "/model" => Self::Model(rest.trim()),
            "/system" => Self::System(rest.trim()),
            "/clear" => Self::Clear,
            "/help" | "/?" => Self::Help,
            "/bye" | "/exit" | "/quit" => Self::Bye,
            other if other.starts_with('/') => Self::Unknown(other),
            _ => Self::Words(line),
        }
    }
}

/// A conversation so far.
struct Talk {
    model: String,
    system: Option<String>,
    said: Vec<Value>,
    paint: Paint,
    is_watched: bool,
}

pub(super) async fn run(
    chat: Chat,
    settings: Settings,
    folder: PathBuf,
    environment: &Environment,
) -> Result<(), CommandError> {
    let alone = Alone::build(settings, folder, environment).await?;
    alone.knows(&chat.model).map_err(|error| CommandError::Refused(error.to_string()))?;
    let mut talk = Talk {
        model: chat.model,
        system: chat.system,
        said: Vec::new(),
        paint: Paint::of(&stdout(), environment),
        is_watched: stdin().is_terminal() && stdout().is_terminal(),
    };
    let done = talk.go_on(&alone).await;
    alone.end().await;
    done
}

/// The lines that are typed. Their thread waits for the keyboard as long as the process lives.
fn lines() -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in stdin().lines() {
            let Ok(line) = line else { break };
            if sender.blocking_send(line).is_err() {
                break;
            }
        }
    });
    lines
}

impl Talk {
    async fn go_on(&mut self, alone: &Alone) -> Result<(), CommandError> {
        let mut lines = lines();
        if self.is_watched {
            tell_aside(&format!("{}: /help tells what there is besides talking\n", self.model));
        }
        loop {
            self.prompt()?;
            let line = tokio::select! {
                line = lines.recv() => line,
                // Nothing is under way that could be stopped: it is the end that is wanted.
                _ = ctrl_c() => None,
            };
            let Some(line) = line else { break };
            match Said::of(&line) {
                Said::Nothing => {}
                Said::Bye => return Ok(()),
                Said::Help => tell_aside(HELP),
                Said::Clear => self.said.clear(),
                Said::Model("") => tell_aside(&format!("{}\n", alone.models().join("\n"))),
                Said::Model(name) => match alone.knows(name) {
                    Ok(()) => name.clone_into(&mut self.model),
                    Err(error) => tell_aside(&format!("{error}\n")),
                },
                Said::System(text) => self.system = Some(text.to_owned()).filter(|text| !text.is_empty()),
                Said::Unknown(word) => tell_aside(&format!("{word} is not known here\n{HELP}")),
                Said::Words(words) => self.ask(alone, words).await?,
            }
        }
        if self.is_watched {
            say("\n")?;
        }
        Ok(())
    }

    fn prompt(&self) -> Result<(), CommandError> {
        if self.is_watched { say(&self.paint.paint(Colour::Bold, ">>> ")) } else { Ok(()) }
    }

    /// Asks, and prints the answer as it comes. What is stopped stays in the conversation as far as it came.
    async fn ask(&mut self, alone: &Alone, words: &str) -> Result<(), CommandError> {
        self.said.push(json!({"role": "user", "content": words}));
        let system = self.system.iter().map(|text| json!({"role": "system", "content": text}));
        let messages: Vec<Value> = system.chain(self.said.iter().cloned()).collect();
        let body = json!({"model": self.model, "stream": true, "messages": messages});
        let mut shown = Shown { answer: String::new(), is_thinking: false, paint: self.paint };
        let answering = async {
            let mut stream = alone.chat(body.to_string().into()).await?;
            while let Some(run) = stream.next().await {
                let frames = Frames::of_events(run.map_err(|error| error.to_string())?);
                let mut frames = frames.jsons();
                frames
                    .try_for_each(|frame| shown.show(&Piece::of(frame)))
                    .map_err(|error| error.to_string())?;
            }
            Ok::<(), String>(())
        };
        let ended = tokio::select! {
            ended = answering => ended,
            _ = ctrl_c() => Ok(()),
        };
        say("\n")?;
        let answer = shown.answer;
        if answer.is_empty() {
            // Nothing was said to this.
            self.said.pop();
        } else {
            self.said.push(json!({"role": "assistant", "content": answer}));
        }
        match ended {
            Ok(()) => Ok(()),
            // The user may try again.
            Err(why) if self.is_watched => {
                tell_aside(&format!("{why}\n"));
                Ok(())
            }
            Err(why) => Err(CommandError::Refused(why)),
        }
    }
}

/// An answer as far as it was printed.
struct Shown {
    answer: String,
    is_thinking: bool,
    paint: Paint,
}

impl Shown {
    fn show(&mut self, piece: &Piece) -> Result<(), CommandError> {
        let Piece { text, thought } = piece;
        if !thought.is_empty() {
            self.is_thinking = true;
            say(&self.paint.paint(Colour::Faint, &visible(thought)))?;
        }
        if !text.is_empty() {
            let before = if std::mem::take(&mut self.is_thinking) { "\n\n" } else { "" };
            say(&format!("{before}{}", visible(text)))?;
            self.answer.push_str(text);
        }
        Ok(())
    }
}

/// What a chunk says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Piece {
    text: String,
    thought: String,
}

impl Piece {
    fn of(frame: &[u8]) -> Self {
        let Ok(chunk) = serde_json::from_slice::<Value>(frame) else { return Self::default() };
        let delta = chunk.pointer("/choices/0/delta");
        let of = |name: &str| {
            let text = delta.and_then(|delta| delta.get(name)).and_then(Value::as_str);
            text.unwrap_or_default().to_owned()
        };
        Self { text: of("content"), thought: of("reasoning_content") }
    }
}

/// A text without what would move a terminal's cursor.
fn visible(text: &str) -> String {
    text.chars().filter(|letter| matches!(letter, '\n' | '\t') || !is_invisible(*letter)).collect()
}

fn say(text: &str) -> Result<(), CommandError> {
    let mut out = stdout();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_words_or_commands() {
        for (line, said) in [
            ("", Said::Nothing),
            (" Hello there ", Said::Words("Hello there")),
            ("/model  qwen ", Said::Model("qwen")),
            ("/model", Said::Model("")),
            ("/system Be brief.", Said::System("Be brief.")),
            ("/quit", Said::Bye),
            ("/modle x", Said::Unknown("/modle")),
        ] {
            assert_eq!(Said::of(line), said, "{line}");
        }
    }

    #[test]
    fn pieces_are_text_or_thought() {
        let piece = |json: &str| {
            let Piece { text, thought } = Piece::of(json.as_bytes());
            (text, thought)
        };
        let of = |text: &str, thought: &str| (text.to_owned(), thought.to_owned());
        assert_eq!(piece(r#"{"choices":[{"delta":{"content":"a"}}]}"#), of("a", ""));
        assert_eq!(piece(r#"{"choices":[{"delta":{"reasoning_content":"b","content":null}}]}"#), of("", "b"));
        assert_eq!(piece(r#"{"choices":[]}"#), of("", ""));
        assert_eq!(visible("a\u{1b}[2Jb\nc"), "a[2Jb\nc");
    }
}
