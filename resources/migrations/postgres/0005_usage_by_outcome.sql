-- Sums of whole hours by all that is known of requests, prompts and outcomes included. The tables of before stay: narrow ones
-- answer most questions, and an older program may be writing to them still (what it writes from now on is not in this table).
create table usage_by_outcome (
    hour_ms bigint not null,
    key_id text not null collate "C",
    owner text not null collate "C",
    model text not null collate "C",
    provider text not null collate "C",
    endpoint text not null collate "C",
    prompt text not null collate "C",
    ending text not null collate "C",
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
    primary key (hour_ms, key_id, owner, model, provider, endpoint, prompt, ending)
);

-- Where the records of an hour are there, they say all of it.
insert into usage_by_outcome (
    hour_ms, key_id, owner, model, provider, endpoint, prompt, ending,
    requests, input_tokens, output_tokens, cached_input_tokens, reasoning_tokens, cost_nano, unpriced, estimated, cancelled, failed, cut, total_ms
)
select
    time_ms - time_ms % 3600000, key_id, owner, model, provider, endpoint, prompt, ending,
    cast(sum(1) as bigint),
    cast(sum(input_tokens) as bigint),
    cast(sum(output_tokens) as bigint),
    cast(sum(cached_input_tokens) as bigint),
    cast(sum(reasoning_tokens) as bigint),
    cast(sum(coalesce(cost_nano, 0)) as bigint),
    cast(sum(case when cost_nano is null and input_tokens + output_tokens > 0 then 1 else 0 end) as bigint),
    cast(sum(case when source = 'estimated' then 1 else 0 end) as bigint),
    cast(sum(case when ending = 'cancelled' then 1 else 0 end) as bigint),
    cast(sum(case when ending = 'failed' then 1 else 0 end) as bigint),
    cast(sum(case when ending = 'cut' then 1 else 0 end) as bigint),
    cast(sum(total_ms) as bigint)
from usage_requests
where time_ms >= (select value from marks where name = 'usage_kept_from_ms')
group by 1, 2, 3, 4, 5, 6, 7, 8;

-- Of older hours there are the sums alone, without prompts and outcomes.
insert into usage_by_outcome (
    hour_ms, key_id, owner, model, provider, endpoint, prompt, ending,
    requests, input_tokens, output_tokens, cached_input_tokens, reasoning_tokens, cost_nano, unpriced, estimated, cancelled, failed, cut, total_ms
)
select
    hour_ms, key_id, owner, model, provider, endpoint, '', '',
    requests, input_tokens, output_tokens, cached_input_tokens, reasoning_tokens, cost_nano, unpriced, estimated, cancelled, failed, cut, total_ms
from usage_by_all
where hour_ms < (select value from marks where name = 'usage_kept_from_ms');
