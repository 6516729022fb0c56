-- How models were switched last. Those that never were are on, and have no line. What there is not of a note is the empty text.
create table models (
    name text not null primary key,
    disabled bigint not null,
    since_ms bigint,
    note text not null
) without rowid;
insert into marks (name, value) values ('models_version', 0);
