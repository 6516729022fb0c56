-- Adds to what was spent of one budget in one period, and tells everybody.
--
-- KEYS[1]  a hash: `tokens`, `money`
-- ARGV     tokens and money that were spent before, as the node knows it; tokens and money that come to that; for how
--          many milliseconds to keep it; the channel; the news in JSON, in which the totals are still missing
-- returns  tokens and money, as texts
--
-- Within a period nothing is unspent: who knows of more than is written here knows better, as when this server has
-- lost everything, or is asked for the first time and the node has read it in its ledger.
local had = redis.call('HMGET', KEYS[1], 'tokens', 'money')
local before = { tonumber(had[1] or '0'), tonumber(had[2] or '0') }
local tokens = math.max(before[1], tonumber(ARGV[1])) + tonumber(ARGV[3])
local money = math.max(before[2], tonumber(ARGV[2])) + tonumber(ARGV[4])
local total = { string.format('%.0f', tokens), string.format('%.17g', money) }
if tokens ~= before[1] or money ~= before[2] then
  redis.call('HSET', KEYS[1], 'tokens', total[1], 'money', total[2])
  redis.call('PEXPIRE', KEYS[1], ARGV[5])
  local news = cjson.decode(ARGV[7])
  news.tokens, news.money = total[1], total[2]
  redis.call('PUBLISH', ARGV[6], cjson.encode(news))
end
return total
