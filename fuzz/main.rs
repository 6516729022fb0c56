//! Throws bad files at what reads them: model files with their templates, and prompts.
//!
//! `cargo run --example fuzz -- [--seconds N] [--seed N] [TARGET [--only N]]`. Each target runs in processes of its own, which
//! make inputs out of sound ones: an input is a pure function of target, seed and number, so that a failure can be
//! seen again by what is printed. A failure is an input at which the process dies, panics, takes more than two gigabytes or
//! does not end, or a rule that does not hold. The inputs of former failures stand in `corpus`.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    reason = "a tool for those who work on the program"
)]

mod chance;
#[path = "../tests/it/support/gguf.rs"]
mod gguf;
mod model_files;
mod prompts;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use chance::Chance;

/// Tries one input, in a folder for its files.
type Attempt = fn(&mut Chance, &Path);

/// What is fuzzed, by name.
const TARGETS: &[(&str, Attempt)] = &[("model-files", model_files::attempt), ("prompts", prompts::attempt)];

/// Longer than any input may take in a program that is not optimised, on a machine with other work.
const PATIENCE: Duration = Duration::from_secs(60);
const MOST_KIB: u32 = 2 << 20;

struct Wanted {
    seconds: u64,
    seed: u64,
    target: Option<String>,
    only: Option<u64>,
    is_worker: bool,
}

impl Wanted {
    fn read() -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let mut wanted =
            Self { seconds: 60, seed: now.as_secs(), target: None, only: None, is_worker: false };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let mut number = || words.next().and_then(|word| word.parse().ok()).expect("a number follows");
            match word.as_str() {
                "--seconds" => wanted.seconds = number(),
                "--seed" => wanted.seed = number(),
                "--only" => wanted.only = Some(number()),
                "--worker" => wanted.is_worker = true,
                target => wanted.target = Some(target.to_owned()),
            }
        }
        wanted
    }
}

fn main() -> ExitCode {
    let wanted = Wanted::read();
    if let (Some(target), true) = (&wanted.target, wanted.is_worker || wanted.only.is_some()) {
        work(target, &wanted);
        return ExitCode::SUCCESS;
    }
    let chosen = TARGETS
        .iter()
        .map(|(name, _)| *name)
        .filter(|name| wanted.target.as_deref().is_none_or(|target| target == *name));
    let workers: Vec<_> = chosen.map(|name| (name, std::thread::spawn(watcher(name, &wanted)))).collect();
    let mut is_sound = !workers.is_empty();
    for (name, worker) in workers {
        match worker.join().unwrap() {
            Ok(inputs) => println!("{name}: {inputs} inputs, seed {}", wanted.seed),
            Err((last, how)) => {
                is_sound = false;
                let again =
                    format!("cargo run --example fuzz -- {name} --seed {} --only {last}", wanted.seed);
                eprintln!("{name}: {how} at input {last}; see it again by: {again}");
            }
        }
    }
    if is_sound { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Tries one input after the other, saying which.
fn work(target: &str, wanted: &Wanted) {
    let (_, attempt) = TARGETS.iter().find(|(name, _)| *name == target).expect("a target");
    let folder = tempfile::tempdir().unwrap();
    let until = Instant::now() + Duration::from_secs(wanted.seconds);
    let numbers = wanted.only.map_or(0..u64::MAX, |only| only..only + 1);
    for number in numbers {
        if Instant::now() > until {
            break;
        }
        println!("{number}");
        std::io::stdout().flush().unwrap();
        attempt(&mut Chance::of(wanted.seed, number), folder.path());
    }
}

type Outcome = Result<u64, (u64, String)>;

/// Runs a process that works on a target, until it is done or has failed.
fn watcher(target: &'static str, wanted: &Wanted) -> impl FnOnce() -> Outcome + Send + 'static {
    let (seconds, seed) = (wanted.seconds, wanted.seed);
    move || {
        let mut worker = Command::new("/bin/sh")
            .args(["-c", &format!("ulimit -v {MOST_KIB}; ulimit -c 0; exec \"$0\" \"$@\"")])
            .arg(std::env::current_exe().unwrap())
            .args([target, "--worker", "--seed", &seed.to_string(), "--seconds", &seconds.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let outcome = watched(&mut worker);
        let _ = worker.kill();
        let _ = worker.wait();
        outcome
    }
}

fn watched(worker: &mut Child) -> Outcome {
    let (sender, numbers) = channel();
    let lines = BufReader::new(worker.stdout.take().unwrap()).lines();
    std::thread::spawn(move || lines.map_while(Result::ok).all(|line| sender.send(line).is_ok()));
    let mut last = 0;
    loop {
        match numbers.recv_timeout(PATIENCE) {
            Ok(line) => last = line.parse().unwrap_or(last),
            Err(RecvTimeoutError::Timeout) => return Err((last, "it does not end".to_owned())),
            Err(RecvTimeoutError::Disconnected) => {
                let ended = worker.wait().unwrap();
                return if ended.success() {
                    Ok(last + 1)
                } else {
                    Err((last, format!("it ended ({ended})")))
                };
            }
        }
    }
}
