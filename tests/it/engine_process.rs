//! Engine processes: started through the guard, watched, and ended for good.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use llm_proxy_api::engine::{Exit, Launch, Process, RunFolder, StartError};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::engine::{PROGRAM, launcher};
use crate::support::{PATIENCE, eventually};

fn shell(script: &str) -> Launch {
    Launch {
        name: "shell".to_owned(),
        binary: PathBuf::from("sh"),
        args: vec!["-c".to_owned(), script.to_owned()],
        ..Launch::default()
    }
}

async fn start(script: &str) -> Process {
    launcher().start(shell(script)).await.unwrap()
}

/// The first line that says `words` and what follows them.
async fn said(process: &Process, words: &str) -> String {
    let log = process.log();
    let found = || log.lines().iter().find_map(|line| line.strip_prefix(words).map(str::to_owned));
    eventually(words, async || found().is_some()).await;
    found().unwrap()
}

/// State, parent and group of a process.
fn stat(pid: u32) -> Option<(String, u32, u32)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    Some((fields[0].to_owned(), fields[1].parse().ok()?, fields[2].parse().ok()?))
}

/// Whether it runs; one that waits for being reaped does not.
fn is_running(pid: u32) -> bool {
    stat(pid).is_some_and(|(state, ..)| state != "Z")
}

fn started(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    text.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap().parse().unwrap()
}

async fn gone(pid: u32) {
    eventually("gone", async || !is_running(pid)).await;
}

#[tokio::test]
async fn an_end_is_noticed_at_once_with_the_last_lines() {
    let before = Instant::now();
    let process = start("echo to output; echo to error >&2; printf 'no newline'; exit 3").await;
    let exit = process.exited().await;
    assert_eq!((exit, exit.to_string().as_str()), (Exit::Code(3), "exited with code 3"));
    assert_eq!(process.log().lines(), ["to output", "to error", "no newline"]);
    assert_eq!((process.exit(), process.exited().await), (Some(exit), exit));
    assert!(before.elapsed() < Duration::from_secs(2), "{:?}", before.elapsed());
    assert!(stat(process.pid()).is_none(), "it is reaped");
}

#[tokio::test]
async fn an_end_by_a_signal_is_told_by_name() {
    let exit = start("kill -SEGV $$").await.exited().await;
    assert_eq!(exit, Exit::Signal(11));
    assert_eq!(exit.to_string(), "was ended by signal 11 (SIGSEGV, it crashed)");
}

#[tokio::test]
async fn what_cannot_be_executed_is_a_start_error() {
    let folder = TempDir::new().unwrap();
    let text = folder.path().join("text");
    std::fs::write(&text, "no program").unwrap();
    for (binary, words) in
        [(Path::new("/nowhere/llama-server"), "No such file"), (text.as_path(), "Permission denied")]
    {
        let launch = Launch { binary: binary.to_owned(), ..shell("") };
        let error = launcher().start(launch).await.unwrap_err();
        assert!(matches!(error, StartError::Refused { .. }), "{error:?}");
        let error = error.to_string();
        let expected = format!("engine `shell` does not start: {} cannot be executed: ", binary.display());
        assert!(error.starts_with(&expected) && error.contains(words), "{error}");
    }
    let launch = Launch { folder: Some("/nowhere".into()), ..shell("") };
    let error = launcher().start(launch).await.unwrap_err().to_string();
    assert_eq!(error, "engine `shell` does not start: the folder /nowhere is not there");
}

#[tokio::test]
async fn it_gets_arguments_folder_and_variables_as_they_are() {
    let folder = TempDir::new().unwrap();
    let script = "pwd; echo \"$1|$2|$LLAMA_API_KEY|$LLM_PROXY_API_ENGINE_OF\"; cat; env";
    let mut launch = shell(script);
    launch.args.extend(["x", "--gateway", "two words"].map(str::to_owned));
    launch.variables.push(("LLAMA_API_KEY".to_owned(), "key of this engine".to_owned()));
    launch.folder = Some(folder.path().to_owned());
    let process = launcher().start(launch).await.unwrap();
    assert_eq!(process.exited().await, Exit::Code(0), "standard input is at its end");
    let lines = process.log().lines();
    assert_eq!(lines[0], folder.path().canonicalize().unwrap().to_str().unwrap());
    let mark = format!("{}-{}", std::process::id(), started(std::process::id()));
    assert_eq!(lines[1], format!("--gateway|two words|key of this engine|{mark}"));
    assert!(lines.iter().any(|line| line.starts_with("PATH=")), "{lines:?}");
}

#[tokio::test]
async fn one_that_ends_when_asked_is_asked_once() {
    let process = start("trap 'echo asked; exit 0' TERM; echo ready; while :; do sleep 0.01; done").await;
    said(&process, "ready").await;
    assert_eq!(process.stop(PATIENCE).await, Exit::Code(0));
    // The shell says, too, that its own child was ended.
    assert_eq!(process.log().lines().iter().filter(|line| *line == "asked").count(), 1);
    assert_eq!(process.stop(PATIENCE).await, Exit::Code(0), "stopping again changes nothing");
}

#[tokio::test]
async fn one_that_ends_when_asked_twice_is_not_killed() {
    let script = "trap 'n=$((n+1)); [ $n = 2 ] && exit 7' TERM; echo ready; while :; do sleep 0.01; done";
    let process = start(script).await;
    said(&process, "ready").await;
    assert_eq!(process.stop(Duration::from_millis(200)).await, Exit::Code(7));
}

#[tokio::test]
async fn one_that_ignores_being_asked_is_killed() {
    let process = start("trap '' TERM; echo ready; while :; do sleep 0.01; done").await;
    said(&process, "ready").await;
    let before = Instant::now();
    assert_eq!(process.stop(Duration::from_millis(300)).await, Exit::Signal(9));
    assert!(before.elapsed() < Duration::from_millis(2300), "{:?}", before.elapsed());
    assert!(stat(process.pid()).is_none(), "it is reaped");
}

#[tokio::test]
async fn its_children_end_with_it() {
    // When it is stopped, when it is dropped, and when it ends by itself.
    for (way, then) in [("stop", "wait"), ("drop", "wait"), ("end", "sleep 0.5")] {
        let process = start(&format!("sleep 1000 & echo child $!; {then}")).await;
        let child: u32 = said(&process, "child ").await.parse().unwrap();
        assert_eq!(stat(child).map(|(_, _, group)| group), Some(process.pid()), "in its group: {way}");
        match way {
            "stop" => drop(process.stop(PATIENCE).await),
            "drop" => drop(process),
            _ => drop(process.exited().await),
        }
        gone(child).await;
    }
}

#[tokio::test]
async fn whoever_does_not_wait_for_the_start_gets_no_engine() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("pid");
    let launch = shell(&format!("echo $$ >{}; exec sleep 1000", file.display()));
    // Once asked, so that it is on its way.
    let launcher = launcher();
    let mut start = Box::pin(launcher.start(launch));
    assert!(futures_util::poll!(&mut start).is_pending());
    drop(start);
    tokio::time::sleep(Duration::from_millis(500)).await;
    if let Ok(pid) = std::fs::read_to_string(&file) {
        gone(pid.trim().parse().unwrap()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_starts_and_drops_leave_no_zombie() {
    let mut pids = Vec::new();
    for round in 0..50 {
        let process = start(if round % 2 == 0 { "exec sleep 1000" } else { "exit 1" }).await;
        pids.push(process.pid());
    }
    eventually("no child", async || pids.iter().all(|pid| stat(*pid).is_none())).await;
}

#[tokio::test]
async fn an_engine_outlives_the_thread_that_asked_for_it() {
    let process = std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(start("echo ready; exec sleep 1000"))
    });
    let process = process.join().unwrap();
    said(&process, "ready").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(process.exit(), None);
    assert_eq!(process.stop(PATIENCE).await, Exit::Signal(15));
}

#[tokio::test]
async fn ten_megabytes_without_a_newline_neither_block_nor_grow() {
    let process = start("head -c 10000000 /dev/zero | tr '\\0' x; exit 5").await;
    assert_eq!(process.exited().await, Exit::Code(5));
    let lines = process.log().lines();
    assert_eq!((lines.len(), lines[0].len(), process.log().bytes()), (1, 4096, 10_000_000));
}

/// A gateway that has started an engine through the guard, as far as the guard can tell.
fn stand_in(engine: &str) -> std::process::Child {
    let script = format!("{PROGRAM} engine-guard $$ -- {engine} & echo $!; wait");
    Command::new("sh").args(["-c", &script]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn first_line(child: &mut std::process::Child) -> String {
    use std::io::BufRead;
    let mut line = String::new();
    std::io::BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    line.trim().to_owned()
}

#[tokio::test]
async fn an_engine_ends_with_a_gateway_that_is_killed() {
    let mut gateway = stand_in("sleep 1000");
    let engine: u32 = first_line(&mut gateway).parse().unwrap();
    let name = || std::fs::read_to_string(format!("/proc/{engine}/comm")).unwrap_or_default();
    eventually("the guard is the engine", async || name().trim() == "sleep").await;
    let score = std::fs::read_to_string(format!("/proc/{engine}/oom_score_adj")).unwrap();
    let own = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap();
    assert!(score.trim().parse::<i32>().unwrap() > own.trim().parse().unwrap(), "{score}");

    gateway.kill().unwrap();
    gateway.wait().unwrap();
    let before = Instant::now();
    gone(engine).await;
    assert!(before.elapsed() < Duration::from_secs(2), "{:?}", before.elapsed());
}

#[test]
fn a_guard_refuses_to_serve_anyone_but_its_parent() {
    let output = Command::new(PROGRAM).args(["engine-guard", "1", "--", "true"]).output().unwrap();
    assert_eq!((output.status.code(), output.status.signal()), (Some(125), None));
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(text.trim(), "the gateway that wants this engine (process 1) is not there");
}

#[test]
fn a_guard_that_cannot_execute_exits_with_127() {
    let own = std::process::id().to_string();
    let output = Command::new(PROGRAM).args(["engine-guard", &own, "--", "/nowhere/x"]).output().unwrap();
    assert_eq!(output.status.code(), Some(127));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.starts_with("/nowhere/x cannot be executed: No such file"), "{text}");
}

#[test]
fn guard_and_watch_are_no_commands_for_people() {
    let output = Command::new(PROGRAM).arg("--help").output().unwrap();
    assert!(!String::from_utf8(output.stdout).unwrap().contains("engine-"));
}

fn files(folder: &RunFolder) -> Vec<PathBuf> {
    std::fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().path()).collect()
}

#[tokio::test]
async fn a_running_engine_is_written_down_until_it_is_gone() {
    let base = TempDir::new().unwrap();
    let folder = Arc::new(RunFolder::open(base.path()).unwrap());
    let process = launcher().recording_in(folder.clone()).start(shell("exec sleep 1000")).await.unwrap();
    let files_now = files(&folder);
    let record: Value = serde_json::from_slice(&std::fs::read(&files_now[0]).unwrap()).unwrap();
    let of = |pid: u32| json!({"pid": pid, "started": started(pid)});
    let expected = json!({"name": "shell", "binary": "sh", "gateway": of(std::process::id()), "engine": of(process.pid())});
    assert_eq!((record, files_now.len()), (expected, 1));

    assert_eq!(RunFolder::open(base.path()).unwrap().clean_up().await, 0, "its gateway is there");
    assert!(is_running(process.pid()));
    process.stop(PATIENCE).await;
    assert!(files(&folder).is_empty());
}

/// Writes down an engine, as a gateway would have.
fn write_down(folder: &RunFolder, gateway: (u32, u64), engine: (u32, u64)) -> PathBuf {
    let of = |(pid, started): (u32, u64)| json!({"pid": pid, "started": started});
    let record = json!({"name": "left", "binary": "sh", "gateway": of(gateway), "engine": of(engine)});
    let file = folder.path().join(format!("engine-{}-{}.json", gateway.0, engine.0));
    std::fs::write(&file, record.to_string()).unwrap();
    file
}

#[tokio::test]
async fn engines_of_dead_gateways_are_ended_and_no_others() {
    let base = TempDir::new().unwrap();
    let folder = RunFolder::open(base.path()).unwrap();
    let own = (std::process::id(), started(std::process::id()));
    // The number of this process, as if another one had had it before.
    let dead = (own.0, own.1 - 1);
    let (left, beside, reused) =
        (start("sleep 1000; :").await, start("sleep 1000; :").await, start("sleep 9").await);
    let of = |process: &Process| (process.pid(), started(process.pid()));
    write_down(&folder, dead, of(&left));
    let kept = write_down(&folder, own, of(&beside));
    // The engine is gone, and its number is another's now.
    write_down(&folder, (dead.0, dead.1 - 1), (reused.pid(), started(reused.pid()) - 1));
    std::fs::write(folder.path().join("notes.json"), "not ours").unwrap();

    assert_eq!(folder.clean_up().await, 1);

    assert_eq!(left.exited().await, Exit::Signal(9));
    assert!(is_running(beside.pid()) && is_running(reused.pid()));
    let mut rest = files(&folder);
    rest.sort();
    assert_eq!(rest, [kept, folder.path().join("notes.json")]);
}

/// An engine that is a script and does not become the server that it starts: both their numbers.
fn script_of(folder: &RunFolder, gateway: (u32, u64)) -> (std::process::Child, u32) {
    use std::os::unix::process::CommandExt;
    let mark = format!("{}-{}", gateway.0, gateway.1);
    let mut command = Command::new("sh");
    command.args(["-c", "sleep 1000 & echo $!; wait"]).stdout(Stdio::piped()).process_group(0);
    let mut script = command.env("LLM_PROXY_API_ENGINE_OF", mark).spawn().unwrap();
    let server = first_line(&mut script).parse().unwrap();
    write_down(folder, gateway, (script.id(), started(script.id())));
    (script, server)
}

#[tokio::test]
async fn children_of_a_dead_engine_are_ended_too() {
    let base = TempDir::new().unwrap();
    let folder = RunFolder::open(base.path()).unwrap();
    let (mut script, server) = script_of(&folder, (999_999_999, 1));
    script.kill().unwrap();
    script.wait().unwrap();

    assert_eq!(folder.clean_up().await, 1);
    assert!(!is_running(server) && files(&folder).is_empty());
}

#[tokio::test]
async fn what_a_script_has_started_ends_with_a_gateway_that_is_killed() {
    let base = TempDir::new().unwrap();
    let folder = RunFolder::open(base.path()).unwrap();
    let mut gateway = Command::new("sleep").arg("1000").spawn().unwrap();
    let (mut script, server) = script_of(&folder, (gateway.id(), started(gateway.id())));
    let mut watch = Command::new(PROGRAM);
    watch.arg("engine-watch").arg(gateway.id().to_string()).arg(folder.path()).stdin(Stdio::piped());
    let mut watch = watch.spawn().unwrap();

    // The end of its files comes before its own, and the guard's bond ends the script.
    drop(watch.stdin.take());
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(is_running(server), "its gateway is there");
    script.kill().unwrap();
    gateway.kill().unwrap();
    gateway.wait().unwrap();
    let before = Instant::now();
    gone(server).await;
    assert!(before.elapsed() < Duration::from_secs(2), "{:?}", before.elapsed());
    assert!(watch.wait().unwrap().success() && files(&folder).is_empty());
    script.wait().unwrap();
}

#[tokio::test]
async fn one_watch_is_there_as_long_as_the_run_folder_is_open() {
    let base = TempDir::new().unwrap();
    let folder = Arc::new(RunFolder::open(base.path()).unwrap());
    let watched = folder.path().to_str().unwrap().to_owned();
    let count = || {
        let processes = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
        let commands =
            processes.filter_map(|process| std::fs::read_to_string(process.path().join("cmdline")).ok());
        commands.filter(|command| command.contains("engine-watch") && command.contains(&watched)).count()
    };
    let launcher = launcher().recording_in(folder.clone());
    let first = launcher.start(shell("exec sleep 1000")).await.unwrap();
    let second = launcher.start(shell("exec sleep 1000")).await.unwrap();
    assert_eq!(count(), 1);
    drop((launcher, folder, first));
    eventually("no watch", async || count() == 0).await;
    assert!(is_running(second.pid()), "its gateway is there");
}

#[test]
fn the_run_folder_is_for_this_user_only() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    let base = TempDir::new().unwrap();
    let folder = RunFolder::open(base.path()).unwrap();
    let mode = || std::fs::metadata(folder.path()).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(), 0o700);
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    RunFolder::open(base.path()).unwrap();
    assert_eq!(mode(), 0o700, "a folder that is too open is closed");

    let user = std::fs::metadata(folder.path()).unwrap().uid();
    let other = TempDir::new().unwrap();
    symlink("/tmp", other.path().join(format!("llm-proxy-api-{user}"))).unwrap();
    let error = RunFolder::open(other.path()).unwrap_err().to_string();
    assert!(error.contains("is not a folder of this user"), "{error}");
}
