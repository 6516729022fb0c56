//! Turns claims into tests that `cargo test` and `cargo nextest` list, run and count.
//!
//! A claim says which programs it needs. Where one is missing, the claim counts as ignored, and one line says how to
//! get the program.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::Duration;

use libtest_mimic::{Arguments, Failed, Trial};

/// No claim takes so long unless it hangs.
const LIMIT: Duration = Duration::from_secs(90);

/// What a claim cannot do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Need {
    /// llama.cpp's server.
    LlamaServer,
    /// A Python with the package `openai` and OpenAPI's tools.
    Python,
    /// Node, and a folder with the package `openai`.
    Node,
    /// Chromium or Chrome.
    Chromium,
    /// The client of the command line.
    Curl,
    /// A library that tells a program another time of day.
    Faketime,
    /// The port at which the gateway looks for a server by itself, not taken by another program.
    Port8000,
}

/// What is to be shown.
pub(crate) struct Claim {
    name: String,
    needs: &'static [Need],
    show: Box<dyn FnOnce() -> Result<(), Failed> + Send>,
}

/// Claims of one file that need the same programs, under the names of the functions that show them.
macro_rules! claims {
    ($needs:expr; $($show:ident),+ $(,)?) => {
        vec![$($crate::harness::Claim::new(
            &format!("{}::{}", module_path!(), stringify!($show)), $needs, $show)),+]
    };
}
pub(crate) use claims;

impl Need {
    fn variable(self) -> &'static str {
        match self {
            Self::LlamaServer => "LLAMA_SERVER",
            Self::Python => "OPENAI_PYTHON",
            Self::Node => "OPENAI_NODE",
            Self::Chromium => "CHROMIUM",
            Self::Curl => "CURL",
            Self::Faketime => "FAKETIME_LIBRARY",
            Self::Port8000 => "",
        }
    }

    /// What is missing and how to get it; `None` if it is there.
    fn missing(self) -> Option<String> {
        let how = r#"run eval "$(tests/real/setup.sh)" first"#;
        match self {
            Self::Port8000 => {
                let is_taken = TcpStream::connect(("127.0.0.1", 8000)).is_ok();
                is_taken.then(|| "port 8000 of this machine is taken by another program".to_owned())
            }
            program => program.found().is_none().then(|| format!("{} is not set; {how}", program.variable())),
        }
    }

    fn found(self) -> Option<PathBuf> {
        variable(self.variable()).filter(|value| !value.is_empty()).map(PathBuf::from)
    }

    /// Where the program is.
    pub(crate) fn path(self) -> PathBuf {
        self.found().unwrap_or_else(|| panic!("{self:?} is needed: {}", self.missing().unwrap_or_default()))
    }
}

/// A variable of the environment in which the tests run.
#[expect(clippy::disallowed_methods, reason = "these are no settings of the gateway")]
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

impl Claim {
    /// A claim that an asynchronous function shows.
    pub(crate) fn new<F>(
        name: &str,
        needs: &'static [Need],
        show: impl FnOnce() -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = ()>,
    {
        // The name of the crate says nothing.
        let name = name.split_once("::").map_or(name, |(_, name)| name).to_owned();
        Self { name, needs, show: Box::new(move || shown(show)) }
    }
}

/// Runs a claim by itself, with a limit.
fn shown<F: Future<Output = ()>>(show: impl FnOnce() -> F) -> Result<(), Failed> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime
        .block_on(async { tokio::time::timeout(LIMIT, show()).await })
        .map_err(|_| format!("it takes longer than {} s", LIMIT.as_secs()).into())
}

/// Runs what the command line asks for, and ends the process.
pub(crate) fn run(claims: Vec<Claim>) {
    let arguments = Arguments::from_args();
    // nextest runs a process for each test, which names one and looks for nobody else's programs.
    let is_asked = |claim: &&Claim| !arguments.exact || arguments.filter.as_deref() == Some(&*claim.name);
    let mut missing: BTreeMap<Need, Option<String>> = BTreeMap::new();
    for need in claims.iter().filter(is_asked).flat_map(|claim| claim.needs) {
        missing.entry(*need).or_insert_with(|| need.missing());
    }
    // It also lists twice: it is told once.
    if !arguments.exact && !arguments.ignored {
        missing.values().flatten().for_each(|missing| tell(missing));
    }
    let trials = claims.into_iter().map(|claim| {
        let lacking = claim.needs.iter().any(|need| missing.get(need).is_some_and(Option::is_some));
        Trial::test(claim.name, claim.show).with_ignored_flag(lacking)
    });
    libtest_mimic::run(&arguments, trials.collect()).exit();
}

#[expect(clippy::print_stderr, reason = "for whoever runs the tests")]
fn tell(missing: &str) {
    eprintln!("some tests against real programs are ignored: {missing}");
}
