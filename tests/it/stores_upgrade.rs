//! A database that an older version of the program has made and filled: nothing is lost when a newer one opens it.

use llm_proxy_api::store::{self, Audit, By, Store, UsageQuery, UsageRow};
use sqlx::migrate::{Migrate, Migration, MigrationType, Migrator};
use sqlx::{Connection, Executor, PgConnection, SqlSafeStr as _, SqliteConnection};
use tempfile::TempDir;

use crate::support::postgres::Postgres;
use crate::support::stores::record;

/// Its tables before lines had kinds.
const SQLITE: [(i64, &str, &str); 2] = [
    (1, "keys and usage", include_str!("../../resources/migrations/sqlite/0001_keys_and_usage.sql")),
    (2, "models", include_str!("../../resources/migrations/sqlite/0002_models.sql")),
];
const POSTGRES: [(i64, &str, &str); 2] = [
    (1, "keys and usage", include_str!("../../resources/migrations/postgres/0001_keys_and_usage.sql")),
    (2, "models", include_str!("../../resources/migrations/postgres/0002_models.sql")),
];

/// Three requests of two kinds, within an hour that is not over, so that questions are answered from the lines themselves.
const FILL: &str = "
    insert into usage_records values
    (3600001, 'one', 1, 'k', 'ann', '/api/chat', 'm', 'p', 'p/m', 'a@en', 10, 1, 0, 0, 'provider', 'completed', '', 5, 9, 1, 7),
    (3600001, 'one', 2, 'k', 'ann', '/api/chat', 'm', 'p', 'p/m', 'a@en', 20, 2, 0, 0, 'provider', 'completed', '', null, 9, 1, null),
    (3600002, 'two', 3, '', '', '/v1/completions', 'n', '', '', '', 40, 4, 1, 1, 'estimated', 'failed', 'timeout', null, 9, 2, null);
    insert into audit (time_ms, actor, action, subject, detail) values (1, 'admin', 'key.create', 'k', '{}');
    insert into usage_by_all values
    (3600000, 'k', 'ann', 'm', 'p', '/api/chat', 2, 30, 3, 0, 0, 7, 1, 0, 0, 0, 0, 18),
    (3600000, '', '', 'n', '', '/v1/completions', 1, 40, 4, 1, 1, 0, 1, 1, 0, 1, 0, 9);
    insert into usage_by_model values
    (3600000, 'm', 'p', 2, 30, 3, 0, 0, 7, 1, 0, 0, 0, 0, 18), (3600000, 'n', '', 1, 40, 4, 1, 1, 0, 1, 1, 0, 1, 0, 9);
    insert into usage_by_key values
    (3600000, 'k', 'ann', 2, 30, 3, 0, 0, 7, 1, 0, 0, 0, 0, 18), (3600000, '', '', 1, 40, 4, 1, 1, 0, 1, 1, 0, 1, 0, 9);
";

const LATE: &str = "
    insert into usage_records values
    (3600001, 'one', 4, 'k', 'ann', '/api/chat', 'm', 'p', 'p/m', 'a@en', 5, 1, 0, 0, 'provider', 'completed', '', 5, 9, 1, 7)
    on conflict do nothing";

async fn fill<C>(url: &str, files: [(i64, &'static str, &'static str); 2])
where
    C: Connection + Migrate,
    for<'c> &'c mut C: Executor<'c>,
{
    let mut connection = C::connect(url).await.unwrap();
    let migrations = files.map(|(version, description, sql)| {
        Migration::new(version, description.into(), MigrationType::Simple, sql.into_sql_str(), false)
    });
    Migrator::with_migrations(migrations.into()).run_direct(None, &mut connection, false).await.unwrap();
    connection.execute(FILL).await.unwrap();
    connection.close().await.unwrap();
    drop(store::open(url).await.unwrap());
    // The program of before still runs, and writes what it has in hand.
    let mut connection = C::connect(url).await.unwrap();
    connection.execute(LATE).await.unwrap();
    connection.close().await.unwrap();
}

async fn usage(store: &dyn Store) -> Vec<UsageRow> {
    let time = UsageQuery { from_ms: 3_600_001, to_ms: 3_700_000, ..UsageQuery::default() };
    store.usage(&UsageQuery { by: vec![By::Key, By::Model, By::Endpoint], ..time }).await.unwrap()
}

async fn holds(url: &str) {
    let store = store::open(url).await.unwrap();
    let rows = usage(&*store).await;
    let [nobodys, anns] = &rows[..] else { panic!("{rows:?}") };
    assert_eq!((anns.key.as_deref(), anns.model.as_deref()), (Some("k"), Some("m")));
    assert_eq!((anns.requests, anns.input_tokens, anns.output_tokens, anns.unpriced), (3, 35, 4, 1));
    assert!((anns.cost - 14e-9).abs() < 1e-15, "{anns:?}");
    assert_eq!((nobodys.estimated, nobodys.failed, nobodys.cached_input_tokens), (1, 1, 1));
    assert_eq!(nobodys.endpoint.as_deref(), Some("/v1/completions"));

    // The sums of whole hours have what the records of then say of prompts and outcomes.
    let hour = UsageQuery { from_ms: 3_600_000, to_ms: 7_200_000, ..UsageQuery::default() };
    let rows = store.usage(&UsageQuery { by: vec![By::Prompt, By::Outcome], ..hour }).await.unwrap();
    let of = |row: &UsageRow| (row.prompt.clone(), row.outcome.clone(), row.requests, row.input_tokens);
    let text = |text: &str| Some(text.to_owned());
    let expected = [(None, text("failed"), 1, 40), (text("a@en"), text("completed"), 2, 30)];
    assert_eq!(rows.iter().map(of).collect::<Vec<_>>(), expected);

    let audits = store.audits(None, 10).await.unwrap();
    let of =
        |audit: &Audit| (audit.entry.actor.clone(), audit.entry.subject.clone(), audit.entry.peer.clone());
    assert_eq!(audits.iter().map(of).collect::<Vec<_>>(), [("admin".to_owned(), "k".to_owned(), None)]);

    // New lines stand beside old ones, and all are forgotten when it is time.
    store.record(&[record("new", 3_600_003)]).await.unwrap();
    assert_eq!(usage(&*store).await.iter().map(|row| row.requests).sum::<u64>(), 5);
    assert_eq!(store.tidy(90_000_000, 0).await.unwrap(), 5);
}

#[tokio::test]
async fn lines_of_older_versions_of_a_file_stay() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("usage.db");
    std::fs::write(&path, "").unwrap();
    let url = format!("sqlite://{}", path.display());
    fill::<SqliteConnection>(&url, SQLITE).await;
    holds(&url).await;
}

#[tokio::test]
async fn lines_of_older_versions_on_a_server_stay() {
    let Some(postgres) = Postgres::start() else { return };
    fill::<PgConnection>(&postgres.url(), POSTGRES).await;
    holds(&postgres.url()).await;
}
