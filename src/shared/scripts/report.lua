-- Puts right what was taken of one thing, and says how many of a node's requests are under way.
--
-- KEYS[1]  the hash of take.lua
-- ARGV     node, its places, for how many milliseconds they are believed; then triples of second, requests, tokens:
--          what is to be added to what was taken in that second, which may be less than nothing
-- returns  second
local MINUTE = 60
local node, places, ttl = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local second = tonumber(time[1])
local ms = second * 1000 + math.floor(tonumber(time[2]) / 1000)

local function correct(field, by)
  if by == 0 then return end
  local taken = tonumber(redis.call('HGET', KEYS[1], field) or '0') + by
  if taken > 0 then
    redis.call('HSET', KEYS[1], field, string.format('%.0f', taken))
  else
    redis.call('HDEL', KEYS[1], field)
  end
end

for index = 4, #ARGV, 3 do
  local at = tonumber(ARGV[index])
  -- What counts no more stays as it is.
  if at + MINUTE >= second and at <= second + 1 then
    correct('r:' .. ARGV[index], tonumber(ARGV[index + 1]))
    correct('t:' .. ARGV[index], tonumber(ARGV[index + 2]))
  end
end
if places > 0 then
  redis.call('HSET', KEYS[1], 'p:' .. node, string.format('%.0f %.0f', places, ms + ttl))
else
  redis.call('HDEL', KEYS[1], 'p:' .. node)
end
redis.call('EXPIRE', KEYS[1], 130)
return second
