-- Who rests, by what other nodes say.
--
-- KEYS[1]  the hash of rest.lua
-- ARGV     node
-- returns  names and milliseconds by turns
local time = redis.call('TIME')
local ms = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local all = redis.call('HGETALL', KEYS[1])
local resting = {}
for index = 1, #all, 2 do
  local till, node = string.match(all[index + 1], '^(%d+) (.*)$')
  if not till or tonumber(till) <= ms then
    redis.call('HDEL', KEYS[1], all[index])
  elseif node ~= ARGV[1] then
    resting[#resting + 1] = all[index]
    resting[#resting + 1] = string.format('%.0f', tonumber(till) - ms)
  end
end
return resting
