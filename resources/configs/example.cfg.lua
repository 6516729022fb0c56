-- Models that the service runs itself with llama-server, as a program in Lua. Name it in LLM_PROXY_API_MODELS_CONFIG.
-- Here are presets.engines, concat_arrays() and merge_tables(); io, os, require and load are not. The same as a plain
-- file is example-engines.json. Put your own paths in; `llm-proxy-api check` says what is missing.

server = {
  listen_v4 = "127.0.0.1:7777", -- or a list; "none" for no address. LLM_PROXY_API_LISTEN goes before it
  listen_v6 = "none", -- "[::1]:7777"
  health_check_timeout = 5.0, -- seconds; a model or a variant may have its own
  engine_startup_timeout = 60.0,
  engine_idle_timeout = 120.0,
}

local llama_server = "/opt/llama/llama-server"
local chat_model = "/models/qwen3-30b-instruct.gguf"

-- The smallest variant that a request fits in is started.
local function variant(context, more)
  local args = { "--host", "127.0.0.1", "--port", "8081", "-m", chat_model, "-ngl", "999", "-c", tostring(context) }
  return { binary = llama_server, args = concat_arrays(args, more), context = context }
end

qwen3_30b = {
  engine = presets.engines.llamacpp,
  name = "qwen3-30b-instruct",
  connect = "http://127.0.0.1:8081",
  -- How prompts are counted while no engine runs. May be left out.
  tokenization = {
    binary = "/opt/llama/llama-tokenize",
    extra_args = { "-m", chat_model },
    extra_tokens_per_message = 8, -- what the model's template adds to each message,
    extra_tokens = 0, -- and what it adds once
  },
  variants = {
    variant(40960, {}),
    merge_tables(variant(131072, { "-ctk", "q8_0", "-ctv", "q8_0" }), { engine_startup_timeout = 120.0 }),
  },
}

-- A helper that runs beside the others and stops none of them.
embeddings = {
  engine = presets.engines.llamacpp_secondary,
  name = "nomic-embed-text",
  connect = "http://127.0.0.1:8082",
  variants = {
    {
      binary = llama_server,
      args = { "--host", "127.0.0.1", "--port", "8082", "-m", "/models/nomic-embed-text.gguf", "-c", "2048", "--embeddings" },
      context = 2048,
    },
  },
}

models = { qwen3_30b, embeddings }
