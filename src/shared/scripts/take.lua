-- Takes requests, tokens and places of one thing: all that is needed or nothing, and more if there is plenty.
--
-- KEYS[1]  a hash: `r:<second>` and `t:<second>` what was taken in that second, `p:<node>` how many requests of a node
--          are under way and until when that is to be believed
-- ARGV     node, the node's places so far, for how many milliseconds they are believed; then of requests, tokens
--          and places: the limit (-1: none), what is needed, what others who wait there need, what would be nice to have
-- returns  1, second, requests, tokens, places, requests left, tokens left
--      or  0, second, what is short for longest (0 requests, 1 tokens, 2 places), seconds until it is worth trying again,
--          how much of it is left
local MINUTE = 60
local node, own, ttl = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local limits, needs, waiting, spare = {}, {}, {}, {}
for kind = 0, 2 do
  local at = 4 + kind * 4
  limits[kind], needs[kind] = tonumber(ARGV[at]), tonumber(ARGV[at + 1])
  waiting[kind], spare[kind] = tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
end

local time = redis.call('TIME')
local second = tonumber(time[1])
local ms = second * 1000 + math.floor(tonumber(time[2]) / 1000)

local used = { [0] = 0, 0, own }
local parts = { [0] = {}, {} }
local kinds = { r = 0, t = 1 }
local over = {}
local all = redis.call('HGETALL', KEYS[1])
for index = 1, #all, 2 do
  local field, value = all[index], all[index + 1]
  local letter, name = string.sub(field, 1, 1), string.sub(field, 3)
  if letter == 'p' then
    local places, till = string.match(value, '^(%d+) (%d+)$')
    if tonumber(till) <= ms then
      over[#over + 1] = field
    elseif name ~= node then
      used[2] = used[2] + tonumber(places)
    end
  else
    local kind, at = kinds[letter], tonumber(name)
    -- The oldest part counts whole until all of it is over.
    if at + MINUTE >= second then
      used[kind] = used[kind] + tonumber(value)
      parts[kind][#parts[kind] + 1] = { at, tonumber(value) }
    else
      over[#over + 1] = field
    end
  end
end
for from = 1, #over, 100 do
  redis.call('HDEL', KEYS[1], unpack(over, from, math.min(from + 99, #over)))
end

-- Of several that are short the one that is so for longest: who waits less meets it then.
local short, longest = nil, 0
for _, kind in ipairs({ 2, 0, 1 }) do
  local most = limits[kind] - needs[kind]
  if limits[kind] >= 0 and needs[kind] > 0 and used[kind] > most then
    local wait = 1
    if kind < 2 then
      table.sort(parts[kind], function(a, b) return a[1] < b[1] end)
      local left = used[kind]
      for _, part in ipairs(parts[kind]) do
        if left <= most then break end
        left, wait = left - part[2], part[1] + MINUTE + 1 - second
      end
    end
    if math.max(wait, 1) > longest then short, longest = kind, math.max(wait, 1) end
  end
end
if short then
  return { 0, second, short, longest, math.max(limits[short] - used[short], 0) }
end

local given, left = {}, {}
for kind = 0, 2 do
  given[kind], left[kind] = 0, -1
  if limits[kind] >= 0 then
    local free = limits[kind] - used[kind] - needs[kind]
    local more = math.max(math.min(waiting[kind], free), math.min(spare[kind], math.floor(free / 8)))
    given[kind] = needs[kind] + math.max(more, 0)
    left[kind] = math.max(limits[kind] - used[kind] - given[kind], 0)
  end
end
if given[0] > 0 then redis.call('HINCRBY', KEYS[1], 'r:' .. second, given[0]) end
if given[1] > 0 then redis.call('HINCRBY', KEYS[1], 't:' .. second, given[1]) end
if own + given[2] > 0 then
  redis.call('HSET', KEYS[1], 'p:' .. node, string.format('%.0f %.0f', own + given[2], ms + ttl))
end
redis.call('EXPIRE', KEYS[1], 130)
return { 1, second, given[0], given[1], given[2], left[0], left[1] }
