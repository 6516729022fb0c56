//! Lua without a way out: no files, no programs, no further code, and bounds of time and memory.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use mlua::chunk::ChunkMode;
use mlua::{HookTriggers, Lua, LuaOptions, StdLib, Table, Value, Variadic, VmState};

use crate::config::Fault;

/// A configuration needs milliseconds.
const TIME: Duration = Duration::from_secs(2);

/// And kilobytes.
const MEMORY_BYTES: usize = 64 << 20;

/// How many instructions of Lua pass between two looks at the clock.
const INSTRUCTIONS: u32 = 10_000;

/// What is kept of what a program prints, in lines and in bytes of each.
const MOST_LINES: usize = 100;
const MOST_OF_A_LINE: usize = 1000;

/// What is said of a program that does not end.
pub(super) const TOO_LONG: &str = "it runs for too long";

/// What a chunk calls itself in messages, before the line.
const CHUNK: &str = "line";

/// A state of Lua, for one program.
pub(super) struct Sandbox {
    lua: Lua,
    is_over: Rc<Cell<bool>>,
    lines: Rc<RefCell<Vec<String>>>,
}

/// Why a program has not come to its end.
#[derive(Debug)]
pub(super) struct Stopped {
    line: Option<String>,
    problem: String,
    cure: &'static str,
}

impl Sandbox {
    /// A sandbox with the helpers that a configuration in `folder` expects.
    pub(super) fn new(folder: &str) -> Result<Self, Stopped> {
        let made = || {
            let libraries = StdLib::TABLE | StdLib::STRING | StdLib::MATH | StdLib::UTF8;
            let lua = Lua::new_with(libraries, LuaOptions::default())?;
            lua.set_memory_limit(MEMORY_BYTES)?;
            let lines = Rc::<RefCell<Vec<String>>>::default();
            let kept = lines.clone();
            let log = lua.create_function(move |_, words: Variadic<Value>| {
                // Asked first: what a word says may be a function of the program, which prints in turn.
                let words: Vec<String> = words.iter().filter_map(|word| word.to_string().ok()).collect();
                let mut kept = kept.borrow_mut();
                if kept.len() < MOST_LINES {
                    kept.push(words.join(" ").chars().take(MOST_OF_A_LINE).collect());
                }
                Ok(())
            })?;
            let folder = if folder.is_empty() { "." } else { folder };
            lua.load(include_str!("prelude.lua")).set_name("=prelude").call::<()>((folder, log))?;
            let is_over = Rc::new(Cell::new(false));
            bound_time(&lua, is_over.clone())?;
            Ok(Self { lua, is_over, lines })
        };
        made().map_err(|error| stopped(&error))
    }

    /// What the program has printed.
    pub(super) fn lines(&self) -> Vec<String> {
        self.lines.take()
    }

    /// Runs a program, and then `read` on the globals that it leaves. The bounds hold for both.
    pub(super) fn run<T>(&self, text: &str, read: impl FnOnce(&Table) -> T) -> Result<T, Stopped> {
        // Compiled code could do anything: text only.
        let chunk = self
            .lua
            .load(without_first_comment(text))
            .set_name(format!("={CHUNK}"))
            .set_mode(ChunkMode::Text);
        let done = chunk.exec().map(|()| read(&self.lua.globals()));
        if self.is_over.get() {
            let cure = "look for loops without an end in this file";
            return Err(Stopped { line: None, problem: TOO_LONG.to_owned(), cure });
        }
        done.map_err(|error| stopped(&error))
    }
}

/// Lua's own loader passes over a first line `#!`, too. Its line end stays, so that lines keep their numbers.
fn without_first_comment(text: &str) -> &str {
    if !text.starts_with('#') {
        return text;
    }
    text.find('\n').and_then(|end| text.get(end..)).unwrap_or_default()
}

fn bound_time(lua: &Lua, is_over: Rc<Cell<bool>>) -> mlua::Result<()> {
    let end = Instant::now() + TIME;
    lua.set_hook(HookTriggers::new().every_nth_instruction(INSTRUCTIONS), move |lua, _| {
        if Instant::now() < end {
            return Ok(VmState::Continue);
        }
        if !is_over.replace(true) {
            // `pcall` catches the error. From now on every single instruction fails, so that whoever catches it does
            // not get on.
            lua.set_hook(HookTriggers::new().every_nth_instruction(1), |_, _| {
                Err(mlua::Error::runtime(TOO_LONG))
            })?;
        }
        Err(mlua::Error::runtime(TOO_LONG))
    })
}

fn stopped(error: &mlua::Error) -> Stopped {
    let words = error.to_string();
    if words.contains("not enough memory") {
        let problem = format!("it takes more than {} MiB of memory", MEMORY_BYTES >> 20);
        return Stopped { line: None, problem, cure: "look for huge texts and tables in this file" };
    }
    let first = words.lines().next().unwrap_or_default();
    let first = ["runtime error: ", "syntax error: "]
        .iter()
        .find_map(|kind| first.strip_prefix(kind))
        .unwrap_or(first);
    let placed = first.strip_prefix(CHUNK).and_then(|rest| rest.strip_prefix(':'));
    let (line, problem) = match placed.and_then(|rest| rest.split_once(": ")) {
        Some((line, problem)) => (Some(line.to_owned()), problem.to_owned()),
        None => (None, first.to_owned()),
    };
    Stopped { line, problem, cure: "put the program right there" }
}

impl Stopped {
    pub(super) fn in_file(self, file: &str) -> Fault {
        let line = self.line.map(|line| format!(": line {line}")).unwrap_or_default();
        Fault::new(format!("{file}{line}"), self.problem, self.cure)
    }
}
