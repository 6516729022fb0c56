-- Somebody rests, or is well again, and everybody is told.
--
-- KEYS[1]  a hash: by name, until when it rests, in milliseconds by this server's clock, and which node says so
-- ARGV     name, for how many milliseconds (0: it is well), node, the channel, the news in JSON
local time = redis.call('TIME')
local ms = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local rest = tonumber(ARGV[2])
local known = redis.call('HGET', KEYS[1], ARGV[1])
local till = known and tonumber(string.match(known, '^%d+')) or 0
if rest == 0 then
  if not known then return 0 end
  redis.call('HDEL', KEYS[1], ARGV[1])
else
  -- A shorter rest shortens nothing.
  if till >= ms + rest then return 0 end
  redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f %s', ms + rest, ARGV[3]))
  redis.call('PEXPIRE', KEYS[1], math.max(redis.call('PTTL', KEYS[1]), rest))
end
redis.call('PUBLISH', ARGV[4], ARGV[5])
return 1
