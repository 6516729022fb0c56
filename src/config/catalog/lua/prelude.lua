-- What a configuration finds besides the libraries of Lua. Called with the folder of the file and a function for lines of the log.
local folder, log = ...

presets = { engines = { llamacpp = "llama.cpp", llamacpp_secondary = "llama.cpp.secondary" } }

-- A new list: the items of the one, then those of the other.
function concat_arrays(first, second)
  local all = {}
  for _, list in ipairs({ first, second }) do
    for _, item in ipairs(list) do
      all[#all + 1] = item
    end
  end
  return all
end

-- A copy of the one, with the keys of the other over it and the items of the other behind its own.
function merge_tables(first, second)
  local merged = {}
  for key, value in pairs(first) do
    merged[key] = value
  end
  for key, value in pairs(second) do
    if math.type(key) ~= "integer" then
      merged[key] = value
    end
  end
  for _, item in ipairs(second) do
    merged[#merged + 1] = item
  end
  return merged
end

loader = {
  workdir = folder .. "/",
  workdir_raw = folder,
  slash = "/",
  args = {},
  extra = {},
  lua_version = { 5, 4, 0, num = 5004000 },
  log = log,
  path = {
    combine = function(...)
      return (table.concat({ ... }, "/"):gsub("//+", "/"))
    end,
  },
  table = {
    remove_value = function(list, unwanted)
      for index = #list, 1, -1 do
        if list[index] == unwanted then
          table.remove(list, index)
        end
      end
    end,
  },
}

print = log

-- A collector's method would run where no bound of time holds.
do
  local set, get, kind, fail = setmetatable, rawget, type, error
  function setmetatable(value, methods)
    if kind(methods) == "table" and get(methods, "__gc") ~= nil then
      fail("`__gc` cannot be used in a configuration", 2)
    end
    return set(value, methods)
  end
end

for _, name in ipairs({ "load", "loadstring", "loadfile", "dofile", "require", "collectgarbage", "warn" }) do
  _G[name] = nil
end
