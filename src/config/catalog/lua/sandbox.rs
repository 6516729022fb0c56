//! Lua without a way out: no files, no programs, no further code, and bounds of time and memory.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use mlua::chunk::ChunkMode;
use mlua::{HookTriggers, Lua, LuaOptions, StdLib, Table, Value, Variadic, VmState};

use crate::config::Fault;
use crate::lint::misspelt;

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
    /// Names that the program has read and that stood for nothing then, with their lines.
    unset: Rc<RefCell<Vec<Unset>>>,
    lines: Rc<RefCell<Vec<String>>>,
}

/// A name that stands for nothing, and the line in which it was read.
type Unset = (String, Option<usize>);

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
            let unset = Rc::<RefCell<Vec<Unset>>>::default();
            watch_globals(&lua, unset.clone())?;
            let is_over = Rc::new(Cell::new(false));
            bound_time(&lua, is_over.clone())?;
            Ok(Self { lua, is_over, unset, lines })
        };
        made().map_err(|error| stopped(&error))
    }

    /// What the program has printed.
    pub(super) fn lines(&self) -> Vec<String> {
        self.lines.take()
    }

    /// Names that the program `text` has read and never set, and that differ little from one that is in it: a slip gives
    /// `nil`, which ends a list. Each with what was probably meant.
    pub(super) fn slips(&self, text: &str) -> Vec<String> {
        let globals = self.lua.globals();
        let is_unset =
            |(name, _): &Unset| globals.raw_get::<Value>(name.as_str()).is_ok_and(|value| value.is_nil());
        let unset: Vec<Unset> = self.unset.take().into_iter().filter(is_unset).collect();
        let is_right = |word: &&str| !unset.iter().any(|(name, _)| name == word);
        let slip = |(name, line): &Unset| {
            let meant = misspelt(name, words(text).filter(is_right))?;
            let line = line.map(|line| format!("line {line}: ")).unwrap_or_default();
            Some(format!("{line}`{name}` stands for nothing; did you mean `{meant}`?"))
        };
        unset.iter().filter_map(slip).collect()
    }

    /// Runs a program, and then `read` on the globals that it leaves. The bounds hold for both.
    pub(super) fn run<T>(&self, text: &str, read: impl FnOnce(&Table) -> T) -> Result<T, Stopped> {
        // Compiled code could do anything: text only.
        let chunk = self
            .lua
            .load(without_first_comment(text))
            .set_name(format!("={CHUNK}"))
            .set_mode(ChunkMode::Text);
        let globals = self.lua.globals();
        let done = chunk.exec().and_then(|()| globals.set_metatable(None)).map(|()| read(&globals));
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

/// The words of a program, without their repetitions beside each other.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_'));
    words.filter(|word| word.starts_with(|letter: char| letter.is_ascii_alphabetic() || letter == '_'))
}

/// Notes which names are read that are not set.
fn watch_globals(lua: &Lua, unset: Rc<RefCell<Vec<Unset>>>) -> mlua::Result<()> {
    let note = lua.create_function(move |lua, (_, name): (Value, Value)| {
        let Value::String(name) = name else { return Ok(Value::Nil) };
        let line = lua.inspect_stack(1, |frame| frame.current_line().unwrap_or_default());
        let (name, line) = (name.to_string_lossy(), line.filter(|line| *line > 0));
        let mut unset = unset.borrow_mut();
        if unset.len() < MOST_LINES
            && name.len() < MOST_OF_A_LINE
            && !unset.iter().any(|(known, _)| *known == name)
        {
            unset.push((name, line));
        }
        Ok(Value::Nil)
    })?;
    let methods = lua.create_table()?;
    methods.set("__index", note)?;
    lua.globals().set_metatable(Some(methods))
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
