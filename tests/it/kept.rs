//! What the service keeps in files: complete where people copy it, where one rule says, and nothing of a start that fails.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use crate::support::{Gateway, Setup, answer, eventually};

const ADMIN: &str = "an-admin-key-of-some-length";

fn keyed() -> Setup {
    Setup::new().env("AUTH", "keys").env("ADMIN_KEY", ADMIN)
}

async fn make(gateway: &Gateway, name: &str) {
    let made = gateway.post("/admin/keys", &json!({"name": name})).header("x-admin-key", ADMIN);
    assert_eq!(answer(made).await.0, 200);
}

/// The names of the keys in a database, as the commands read it.
fn names(file: &Path) -> Vec<String> {
    let url = format!("sqlite://{}", file.display());
    let ended = Setup::new().env("DATABASE_URL", &url).run(&["keys", "list", "--json"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let listed: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    let keys = listed["keys"].as_array().unwrap();
    keys.iter().map(|key| key["name"].as_str().unwrap().to_owned()).collect()
}

/// Every file and folder below a folder.
fn all_in(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        all.extend(all_in(&path));
        all.push(path);
    }
    all.sort();
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_graceful_stop_the_file_alone_has_everything() {
    let mut gateway = keyed().start();
    make(&gateway, "one").await;
    make(&gateway, "two").await;
    gateway.signal("TERM");
    assert!(gateway.ended().await.success());

    let data = gateway.folder.path().join("data");
    assert!(!data.join("llm-proxy-api.db-wal").exists() && !data.join("llm-proxy-api.db-shm").exists());
    let copy = gateway.folder.path().join("copy.db");
    std::fs::copy(data.join("llm-proxy-api.db"), &copy).unwrap();
    assert_eq!(names(&copy), ["one", "two"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_nothing_is_written_the_file_alone_has_everything() {
    let gateway = keyed().start();
    make(&gateway, "one").await;
    let file = gateway.folder.path().join("data/llm-proxy-api.db");
    let journal = gateway.folder.path().join("data/llm-proxy-api.db-wal");
    eventually("the journal is empty", async || {
        std::fs::metadata(&journal).is_ok_and(|journal| journal.len() == 0)
    })
    .await;
    let copy = gateway.folder.path().join("copy.db");
    std::fs::copy(&file, &copy).unwrap();
    assert_eq!(names(&copy), ["one"]);
    make(&gateway, "two").await;
}

#[test]
fn what_commands_have_done_is_in_the_file_alone() {
    let setup = Setup::new();
    assert_eq!(setup.run(&["keys", "create", "--name", "one"]).code, Some(0));
    assert_eq!(setup.run(&["models", "disable", "echo"]).code, Some(0));
    let copy = setup.path("copy.db");
    std::fs::copy(setup.path("data/llm-proxy-api.db"), &copy).unwrap();
    assert!(!setup.path("data/llm-proxy-api.db-wal").exists());
    assert_eq!(names(&copy), ["one"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_is_made_while_the_service_runs() {
    use std::os::unix::fs::PermissionsExt as _;
    let gateway = keyed().start();
    for name in ["one", "two", "three"] {
        make(&gateway, name).await;
    }
    let copy = gateway.folder.path().join("it's a backup.db");
    let ended = gateway.run(&["backup", copy.to_str().unwrap()]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.stdout.contains("has the whole database"), "{}", ended.stdout);
    assert_eq!(std::fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o600);
    make(&gateway, "four").await;
    assert_eq!(names(&copy), ["one", "two", "three"]);

    let again = gateway.run(&["backup", copy.to_str().unwrap()]);
    assert_eq!(again.code, Some(1));
    assert!(again.stderr.contains("is there already"), "{}", again.stderr);
    let nowhere = gateway.run(&["backup", "no/such/folder/x.db"]);
    assert!(nowhere.code == Some(1) && nowhere.stderr.contains("no/such/folder/x.db"), "{}", nowhere.stderr);
    let left = all_in(gateway.folder.path());
    assert!(!left.iter().any(|path| path.display().to_string().contains("unfinished")), "{left:?}");
}

#[test]
fn there_is_no_backup_of_what_is_not_there_or_no_file() {
    let setup = Setup::new();
    let ended = setup.run(&["backup", "copy.db"]);
    assert!(
        ended.code == Some(1) && ended.stderr.contains("there is no database data/llm-proxy-api.db"),
        "{}",
        ended.stderr
    );
    assert!(!setup.path("data").exists() && !setup.path("copy.db").exists());
    let server = setup.env("DATABASE_URL", "postgres://u:planted@127.0.0.1:1/d");
    let ended = server.run(&["backup", "copy.db"]);
    assert!(ended.code == Some(1) && ended.stderr.contains("pg_dump"), "{}", ended.stderr);
    assert!(!ended.stderr.contains("planted"), "{}", ended.stderr);
}

#[tokio::test]
async fn an_older_program_refuses_the_database_of_a_newer_one() {
    use sqlx::{Connection as _, Executor as _, SqliteConnection};
    let setup = Setup::new();
    assert_eq!(setup.run(&["keys", "create", "--name", "one"]).code, Some(0));
    let file = setup.path("data/llm-proxy-api.db");
    let mut database = SqliteConnection::connect(&format!("sqlite://{}", file.display())).await.unwrap();
    database
        .execute("insert into _sqlx_migrations (version, description, success, checksum, execution_time) values (999, 'later', 1, x'00', 1)")
        .await
        .unwrap();
    database.close().await.unwrap();

    let url = format!("sqlite://{}", file.display());
    let keyed = keyed().env("DATABASE_URL", &url);
    for setup in [&setup, &keyed] {
        for command in
            [&[][..], &["keys", "list"], &["keys", "create", "--name", "x"], &["models", "disable", "echo"]]
        {
            let ended = setup.run(command);
            assert_eq!(ended.code, Some(1), "{command:?}: {}", ended.stderr);
            let words = "made by a newer version of this program than this one, which is";
            assert!(ended.stderr.contains(words), "{command:?}: {}", ended.stderr);
        }
        // A copy of it can be made all the same.
        let ended = setup.run(&["backup", "copy.db"]);
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    }
}

#[test]
fn a_key_is_not_made_in_a_folder_that_is_not_the_services() {
    let stray = || Setup::new().without_models();
    let ended = stray().run(&["keys", "create", "--name", "k"]);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""));
    assert!(ended.stderr.contains("there is no database data/llm-proxy-api.db here"), "{}", ended.stderr);
    assert!(ended.stderr.contains("--create-database"), "{}", ended.stderr);
    let setup = stray();
    setup.run(&["keys", "create", "--name", "k"]);
    assert!(!setup.path("data").exists());
    for setup in [
        stray().env("DATA_DIR", "here"),
        stray().env("DATABASE_URL", "sqlite://here.db"),
        stray().variable("STATE_DIRECTORY", "/tmp/never/made").env("DATA_DIR", "here"),
        stray().file("resources/configs/models-config.json", "{}"),
    ] {
        assert_eq!(setup.run(&["keys", "create", "--name", "k"]).code, Some(0));
    }
    assert_eq!(stray().run(&["keys", "create", "--name", "k", "--create-database"]).code, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_folder_has_database_log_and_run_folder() {
    let with_log = |setup: Setup| setup.without("LOG_FILENAME");
    let setup = with_log(Setup::new());
    let state = setup.path("state").display().to_string();
    for (setup, folder) in [
        (with_log(Setup::new()), "data"),
        (with_log(Setup::new()).env("DATA_DIR", "mine").variable("STATE_DIRECTORY", "/not/this"), "mine"),
        (setup.variable("STATE_DIRECTORY", &state), "state"),
    ] {
        let mut gateway = setup.start();
        gateway.logged("Serving");
        let folder = gateway.folder.path().join(folder);
        eventually("all is there", async || {
            let all = all_in(&folder);
            let has = |start: &str| {
                all.iter().any(|path| path.file_name().unwrap().to_str().unwrap().starts_with(start))
            };
            has("llm-proxy-api.db") && has("llm-proxy-rest.log")
        })
        .await;
        gateway.signal("TERM");
        gateway.ended().await;
        let all = all_in(gateway.folder.path());
        let others = all.iter().filter(|path| !path.starts_with(&folder) && !path.ends_with("models.json"));
        assert_eq!(others.count(), 0, "{all:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_where_an_older_version_kept_it_is_found() {
    let setup = Setup::new();
    assert_eq!(setup.run(&["keys", "create", "--name", "old"]).code, Some(0));
    let state = setup.path("state").display().to_string();
    let gateway = setup.variable("STATE_DIRECTORY", &state).start();
    gateway.logged("of an older version is used; stop the service and move it to");
    let ended = gateway.run(&["keys", "list"]);
    assert!(ended.stdout.contains("old"), "{} {}", ended.stdout, ended.stderr);
}

#[test]
fn a_start_that_fails_leaves_nothing_behind() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for (how, setup) in [
        ("a setting", Setup::new().env("TIMEOUT", "soon")),
        ("a port", Setup::new().env("LISTEN", &address)),
        ("a models file", Setup::new().file("models.json", "{")),
        ("a certificate", Setup::new().env("TLS_CERT", "none.pem").env("TLS_KEY", "none.pem")),
    ] {
        let setup = setup.without("LOG_FILENAME").env("DATA_DIR", "new/data");
        let before = all_in(&setup.path(""));
        let ended = setup.run(&[]);
        assert_eq!(ended.code, Some(1), "{how}: {}", ended.stderr);
        std::thread::sleep(Duration::from_millis(20));
        let left: Vec<PathBuf> =
            all_in(&setup.path("")).into_iter().filter(|path| !before.contains(path)).collect();
        assert!(left.is_empty(), "{how}: {left:?}");
    }
}
