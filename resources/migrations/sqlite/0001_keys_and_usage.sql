-- Numbers that are looked up by name: how often keys have changed, and since when records are kept.
create table marks (
    name text not null primary key,
    value bigint not null
) without rowid;
insert into marks (name, value) values ('keys_version', 0), ('usage_kept_from_ms', 0);

-- `body` is the key as JSON, but for `last_used_ms`, which changes more often than everything else.
create table keys (
    id text not null primary key,
    created_ms bigint not null,
    last_used_ms bigint,
    body text not null
) without rowid;

-- One line for each request. What there is not is the empty text. `mark` tells requests apart that began in the same
-- millisecond under the same id; money is in billionths.
create table usage_records (
    time_ms bigint not null,
    id text not null,
    mark bigint not null,
    key_id text not null,
    owner text not null,
    endpoint text not null,
    model text not null,
    provider text not null,
    deployment text not null,
    prompt text not null,
    input_tokens bigint not null,
    output_tokens bigint not null,
    cached_input_tokens bigint not null,
    reasoning_tokens bigint not null,
    source text not null,
    ending text not null,
    error text not null,
    first_token_ms bigint,
    total_ms bigint not null,
    attempts bigint not null,
    cost_nano bigint,
    primary key (time_ms, id, mark)
) without rowid;

-- Sums of whole hours. The same ones by more and by fewer names: most questions are answered by a narrow table.
create table usage_by_model (
    hour_ms bigint not null,
    model text not null,
    provider text not null,
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
) without rowid;

create table usage_by_key (
    hour_ms bigint not null,
    key_id text not null,
    owner text not null,
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
) without rowid;
create index usage_by_key_of_key on usage_by_key (key_id, hour_ms);
create index usage_by_key_of_owner on usage_by_key (owner, hour_ms);

create table usage_by_all (
    hour_ms bigint not null,
    key_id text not null,
    owner text not null,
    model text not null,
    provider text not null,
    endpoint text not null,
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
) without rowid;

-- Who changed what.
create table audit (
    number integer primary key autoincrement,
    time_ms bigint not null,
    actor text not null,
    action text not null,
    subject text not null,
    detail text not null
);
