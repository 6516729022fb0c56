-- The tables of the migration for SQLite of the same name.

-- What many requests have in common, once for all of them. The number is made of the texts. What there is not is the empty
-- text. No kind is ever changed.
create table usage_kinds (
    number bigint not null primary key,
    key_id text collate "C" not null,
    owner text collate "C" not null,
    endpoint text collate "C" not null,
    model text collate "C" not null,
    provider text collate "C" not null,
    deployment text collate "C" not null,
    prompt text collate "C" not null,
    source text collate "C" not null,
    ending text collate "C" not null,
    error text collate "C" not null
);

-- One line for each request. `mark` tells requests apart that began in the same millisecond under the same id; money is in
-- billionths.
create table usage_lines (
    time_ms bigint not null,
    id text collate "C" not null,
    mark bigint not null,
    kind bigint not null,
    input_tokens bigint not null,
    output_tokens bigint not null,
    cached_input_tokens bigint not null,
    reasoning_tokens bigint not null,
    first_token_ms bigint,
    total_ms bigint not null,
    attempts bigint not null,
    cost_nano bigint,
    primary key (time_ms, id, mark)
);

-- The table of before stays, with what is in it: an older program may be writing to it still. It grows empty by itself, as
-- single records are not kept for ever.
create view usage_requests as
select
    time_ms, id, mark, key_id, owner, endpoint, model, provider, deployment, prompt, input_tokens, output_tokens,
    cached_input_tokens, reasoning_tokens, source, ending, error, first_token_ms, total_ms, attempts, cost_nano
from usage_lines join usage_kinds on usage_kinds.number = usage_lines.kind
union all
select
    time_ms, id, mark, key_id, owner, endpoint, model, provider, deployment, prompt, input_tokens, output_tokens,
    cached_input_tokens, reasoning_tokens, source, ending, error, first_token_ms, total_ms, attempts, cost_nano
from usage_records;
