-- Adds to what was spent of one budget in one period, and tells everybody; says what a node claims of the rest, and
-- lets it claim more.
--
-- KEYS[1]  a hash: `tokens`, `money` what was spent; `c:<node>` what a node may spend beyond what it has told: tokens,
--          money, and until when that is to be believed
-- ARGV     tokens and money that were spent before, as the node knows it; tokens and money that come to that; for how
--          many milliseconds to keep it; the channel; the news in JSON, in which the totals are still missing;
--          node, for how many milliseconds its claim is believed, tokens and money of the claim.
--          If it asks for more: the budget's tokens and money (-1: no limit), what is needed of them, and what all need
--          who wait there
-- returns  tokens and money that were spent, as texts; and if more was asked for and anything is left, tokens and money
--          that the node may claim more: less than what is needed, if only the last request goes beyond the budget
--
-- Within a period nothing is unspent: who knows of more than is written here knows better, as when this server has
-- lost everything, or is asked for the first time and the node has read it in its ledger.
local function text(tokens, money)
  return string.format('%.0f', tokens), string.format('%.17g', money)
end

local node, ttl = ARGV[8], tonumber(ARGV[9])
local time = redis.call('TIME')
local ms = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local before, others = { tokens = 0, money = 0 }, { 0, 0 }
local all = redis.call('HGETALL', KEYS[1])
for index = 1, #all, 2 do
  local field, value = all[index], all[index + 1]
  if string.sub(field, 1, 2) ~= 'c:' then
    before[field] = tonumber(value)
  elseif string.sub(field, 3) ~= node then
    local tokens, money, till = string.match(value, '^(%S+) (%S+) (%S+)$')
    if tonumber(till) <= ms then
      redis.call('HDEL', KEYS[1], field)
    else
      others = { others[1] + tonumber(tokens), others[2] + tonumber(money) }
    end
  end
end

local total = {
  math.max(before.tokens, tonumber(ARGV[1])) + tonumber(ARGV[3]),
  math.max(before.money, tonumber(ARGV[2])) + tonumber(ARGV[4]),
}
local answer = { text(total[1], total[2]) }
if total[1] ~= before.tokens or total[2] ~= before.money then
  redis.call('HSET', KEYS[1], 'tokens', answer[1], 'money', answer[2])
  local news = cjson.decode(ARGV[7])
  news.tokens, news.money = answer[1], answer[2]
  redis.call('PUBLISH', ARGV[6], cjson.encode(news))
end

local claim = { tonumber(ARGV[10]), tonumber(ARGV[11]) }
if ARGV[12] then
  local more, claims, is_left = { 0, 0 }, { claim[1], claim[2] }, true
  for kind = 1, 2 do
    local limit, needed, waiting = tonumber(ARGV[11 + kind]), tonumber(ARGV[13 + kind]), tonumber(ARGV[15 + kind])
    if limit >= 0 then
      local free = limit - total[kind] - others[kind] - claim[kind]
      is_left = is_left and free > 0
      -- A fiftieth more, for requests to come; of a rest that becomes small less, for the others need it, too.
      local spare = math.min(limit / 50, free / 8)
      if kind == 1 then spare = math.floor(spare) end
      more[kind] = math.min(math.max(needed, waiting, spare), free)
      -- What goes beyond is the last request's alone: when that has ended, nobody is to have it in its place.
      claims[kind] = claim[kind] + math.max(more[kind], needed)
    end
  end
  if is_left then
    claim = claims
    answer[3], answer[4] = text(more[1], more[2])
  end
end

local tokens, money = text(claim[1], claim[2])
if claim[1] > 0 or claim[2] > 0 then
  redis.call('HSET', KEYS[1], 'c:' .. node, tokens .. ' ' .. money .. ' ' .. string.format('%.0f', ms + ttl))
else
  redis.call('HDEL', KEYS[1], 'c:' .. node)
end
redis.call('PEXPIRE', KEYS[1], ARGV[5])
return answer
