// OpenAI's client for Node with a real llama-server behind the gateway: tools, schemas, leaving.

import assert from "node:assert/strict";

import { client, collect, eventually, isQuiet, OpenAI, raised, textOf } from "./common.mjs";

const MESSAGES = [{ role: "user", content: "What is the weather like?" }];
const PARAMETERS = {
  type: "object",
  required: ["city", "days"],
  properties: { city: { type: "string", enum: ["Paris", "Łódź"] }, days: { type: "integer", enum: [1, 2, 3] } },
};
const TOOLS = [{ type: "function", function: { name: "get_weather", parameters: PARAMETERS } }];

const chat = (options) => client().chat.completions.create({ model: "tiny", messages: MESSAGES, ...options });

function isGood(text) {
  const { city, days } = JSON.parse(text);
  return ["Paris", "Łódź"].includes(city) && [1, 2, 3].includes(days);
}

export async function a_tool_is_called_and_its_result_returns() {
  const { message } = (await chat({ tools: TOOLS, tool_choice: "required" })).choices[0];
  const [call] = message.tool_calls;
  assert.ok(call.function.name === "get_weather" && isGood(call.function.arguments));

  const result = { role: "tool", tool_call_id: call.id, content: "sunny" };
  const answer = await chat({ messages: [...MESSAGES, message, result], tools: TOOLS });
  assert.equal(answer.choices[0].finish_reason, "stop");
  assert.ok(answer.choices[0].message.content.trim());
}

export async function a_streamed_tool_call_accumulates() {
  const options = { model: "tiny", messages: MESSAGES, tools: TOOLS, tool_choice: "required" };
  const [choice] = (await client().chat.completions.stream(options).finalChatCompletion()).choices;
  assert.equal(choice.finish_reason, "tool_calls");
  assert.ok(isGood(choice.message.tool_calls[0].function.arguments));
}

export async function a_runner_calls_a_tool_by_itself() {
  const asked = [];
  const tool = (place) => asked.push(place) && "sunny";
  const own = { name: "get_weather", description: "The weather", parameters: PARAMETERS, parse: JSON.parse, function: tool };
  const options = { model: "tiny", messages: MESSAGES, tools: [{ type: "function", function: own }] };
  const answer = await client().chat.completions.runTools(options).finalContent();
  assert.ok(asked.length === 1 && isGood(JSON.stringify(asked[0])));
  assert.ok(answer.trim());
}

export async function an_answer_by_a_schema_is_json() {
  const schema = { type: "object", required: ["colour"], properties: { colour: { enum: ["red", "blue"] } } };
  const format = { type: "json_schema", json_schema: { name: "pick", strict: true, schema } };
  const answer = await client().chat.completions.parse({ model: "tiny", messages: MESSAGES, response_format: format });
  assert.ok(["red", "blue"].includes(JSON.parse(answer.choices[0].message.content).colour));
}

export async function a_streamed_answer_ends_with_its_reason() {
  const chunks = await collect(await chat({ stream: true }));
  assert.ok(textOf(chunks).trim());
  assert.equal(chunks.at(-1).choices[0].finish_reason, "stop");
}

export async function a_prompt_that_is_too_long_is_a_bad_request() {
  for (const stream of [false, true]) {
    const messages = [{ role: "user", content: "x".repeat(100_000) }];
    const error = await raised(OpenAI.BadRequestError, () => chat({ messages, stream }));
    assert.equal(error.code, "context_length_exceeded");
    assert.ok(error.message.includes("32768"), error.message);
  }
}

export async function a_stream_that_is_left_early_ends_at_the_gateway() {
  for await (const _ of await chat({ stream: true, ignore_eos: true })) {
    assert.ok(!(await isQuiet()));
    break;
  }
  await eventually("the stream has ended at the gateway", isQuiet);
}
