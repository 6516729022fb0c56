-- The table of the migration for SQLite of the same name.

-- How models were switched last. Those that never were are on, and have no line. What there is not of a note is the empty text.
create table models (
    name text collate "C" not null primary key,
    disabled bigint not null,
    since_ms bigint,
    note text collate "C" not null
);
insert into marks (name, value) values ('models_version', 0);
