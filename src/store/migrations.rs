//! How the tables came to be: the files of `resources/migrations`, compiled in, each run once in each database.

use sqlx::SqlSafeStr as _;
use sqlx::migrate::{Migration, MigrationType, Migrator};

/// A file that was released is never changed again: a new one changes what it made.
type Files = &'static [(i64, &'static str, &'static str)];

pub(super) const SQLITE: Files = &[
    (1, "keys and usage", include_str!("../../resources/migrations/sqlite/0001_keys_and_usage.sql")),
    (2, "models", include_str!("../../resources/migrations/sqlite/0002_models.sql")),
    (3, "usage kinds", include_str!("../../resources/migrations/sqlite/0003_usage_kinds.sql")),
    (4, "audit peer", include_str!("../../resources/migrations/sqlite/0004_audit_peer.sql")),
    (5, "usage by outcome", include_str!("../../resources/migrations/sqlite/0005_usage_by_outcome.sql")),
];

pub(super) const POSTGRES: Files = &[
    (1, "keys and usage", include_str!("../../resources/migrations/postgres/0001_keys_and_usage.sql")),
    (2, "models", include_str!("../../resources/migrations/postgres/0002_models.sql")),
    (3, "usage kinds", include_str!("../../resources/migrations/postgres/0003_usage_kinds.sql")),
    (4, "audit peer", include_str!("../../resources/migrations/postgres/0004_audit_peer.sql")),
    (5, "usage by outcome", include_str!("../../resources/migrations/postgres/0005_usage_by_outcome.sql")),
];

pub(super) fn migrator(files: Files) -> Migrator {
    let migration = |(version, description, sql): &(i64, &'static str, &'static str)| {
        Migration::new(*version, (*description).into(), MigrationType::Simple, sql.into_sql_str(), false)
    };
    Migrator::with_migrations(files.iter().map(migration).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn every_file_is_compiled_in() {
        for (folder, files) in [("sqlite", SQLITE), ("postgres", POSTGRES)] {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("resources/migrations").join(folder);
            let names = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name());
            let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
            names.sort();
            let known = files.iter().map(|(version, description, _)| {
                format!("{version:04}_{}.sql", description.replace(' ', "_"))
            });
            assert_eq!(names, known.collect::<Vec<_>>());
        }
    }
}
