-- The tables of the migration for SQLite of the same name. Texts are in the order of their bytes, as there.

-- Numbers that are looked up by name: how often keys have changed, and since when records are kept.
create table marks (
    name text collate "C" not null primary key,
    value bigint not null
);
insert into marks (name, value) values ('keys_version', 0), ('usage_kept_from_ms', 0);

-- `body` is the key as JSON, but for `last_used_ms`, which changes more often than everything else.
create table keys (
    id text collate "C" not null primary key,
    created_ms bigint not null,
    last_used_ms bigint,
    body text collate "C" not null
);

-- One line for each request. What there is not is the empty text. `mark` tells requests apart that began in the same
-- millisecond under the same id; money is in billionths.
create table usage_records (
    time_ms bigint not null,
    id text collate "C" not null,
    mark bigint not null,
    key_id text collate "C" not null,
    owner text collate "C" not null,
    endpoint text collate "C" not null,
    model text collate "C" not null,
    provider text collate "C" not null,
    deployment text collate "C" not null,
    prompt text collate "C" not null,
    input_tokens bigint not null,
    output_tokens bigint not null,
    cached_input_tokens bigint not null,
    reasoning_tokens bigint not null,
    source text collate "C" not null,
    ending text collate "C" not null,
    error text collate "C" not null,
    first_token_ms bigint,
    total_ms bigint not null,
    attempts bigint not null,
    cost_nano bigint,
    primary key (time_ms, id, mark)
);

-- Sums of whole hours. The same ones by more and by fewer names: most questions are answered by a narrow table.
create table usage_by_model (
    hour_ms bigint not null,
    model text collate "C" not null,
    provider text collate "C" not null,
    requests bigint not null,
    input_tokens bigint not null,
    output_tokens bigint not null,
    cached_input_tokens bigint not null,
    reasoning_tokens bigint not null,
    cost_nano bigint not null,
    unpriced bigint not null,
    estimated bigint not null,
    cancelled bigint not null,
    failed bigint not null,
    cut bigint not null,
    total_ms bigint not null,
    primary key (hour_ms, model, provider)
);

create table usage_by_key (
    hour_ms bigint not null,
    key_id text collate "C" not null,
    owner text collate "C" not null,
    requests bigint not null,
    input_tokens bigint not null,
    output_tokens bigint not null,
    cached_input_tokens bigint not null,
    reasoning_tokens bigint not null,
    cost_nano bigint not null,
    unpriced bigint not null,
    estimated bigint not null,
    cancelled bigint not null,
    failed bigint not null,
    cut bigint not null,
    total_ms bigint not null,
    primary key (hour_ms, key_id, owner)
);
create index usage_by_key_of_key on usage_by_key (key_id, hour_ms);
create index usage_by_key_of_owner on usage_by_key (owner, hour_ms);

create table usage_by_all (
    hour_ms bigint not null,
    key_id text collate "C" not null,
    owner text collate "C" not null,
    model text collate "C" not null,
    provider text collate "C" not null,
    endpoint text collate "C" not null,
    requests bigint not null,
    input_tokens bigint not null,
    output_tokens bigint not null,
    cached_input_tokens bigint not null,
    reasoning_tokens bigint not null,
    cost_nano bigint not null,
    unpriced bigint not null,
    estimated bigint not null,
    cancelled bigint not null,
    failed bigint not null,
    cut bigint not null,
    total_ms bigint not null,
    primary key (hour_ms, key_id, owner, model, provider, endpoint)
);

-- Who changed what.
create table audit (
    number bigint generated always as identity primary key,
    time_ms bigint not null,
    actor text collate "C" not null,
    action text collate "C" not null,
    subject text collate "C" not null,
    detail text collate "C" not null
);
