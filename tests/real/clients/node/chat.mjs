// OpenAI's client for Node with the echo model: whatever it can ask for, it understands the answer.

import assert from "node:assert/strict";

import { client, collect, echo, eventually, isQuiet, MESSAGES, slow, TEXT, textOf } from "./common.mjs";

export async function a_chat_is_answered() {
  const answer = await echo(client());
  assert.equal(answer.choices[0].message.content, TEXT);
  assert.equal(answer.choices[0].finish_reason, "stop");
  assert.equal(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens);
  assert.equal(answer.object, "chat.completion");
}

export async function the_base_url_may_have_the_prefix() {
  for (const path of ["/v1", "/v1/", "/api/v1"]) {
    assert.equal((await echo(client(path))).choices[0].message.content, TEXT);
    assert.equal((await client(path).models.retrieve("echo")).id, "echo");
    assert.ok((await client(path).embeddings.create({ model: "echo", input: "x" })).data.length);
  }
}

export async function headers_can_be_read() {
  const call = client().chat.completions.create(
    { model: "echo", messages: MESSAGES },
    { headers: { "x-request-id": "my-own-id" } },
  );
  const { data, response, request_id } = await call.withResponse();
  assert.equal(response.headers.get("x-llm-provider"), "echo");
  assert.equal(request_id, "my-own-id");
  assert.equal(data._request_id, "my-own-id");
}

export async function a_stream_repeats_every_word() {
  const chunks = await collect(await echo(client(), undefined, { stream: true }));
  assert.equal(textOf(chunks), TEXT);
  assert.equal(chunks[0].choices[0].delta.role, "assistant");
  assert.equal(chunks.at(-1).choices[0].finish_reason, "stop");
  assert.ok(chunks.every((chunk) => !chunk.usage && chunk.id === chunks[0].id));
}

export async function a_stream_tells_usage_when_asked() {
  const options = { stream: true, stream_options: { include_usage: true } };
  const chunks = await collect(await echo(client(), undefined, options));
  assert.deepEqual(chunks.at(-1).choices, []);
  assert.equal(chunks.at(-1).usage.completion_tokens, TEXT.split(" ").length);
}

export async function the_stream_helper_puts_an_answer_together() {
  const stream = client().chat.completions.stream({ model: "echo", messages: MESSAGES });
  const deltas = [];
  stream.on("content", (delta) => deltas.push(delta));
  assert.equal(await stream.finalContent(), TEXT);
  assert.equal(deltas.join(""), TEXT);
}

export async function legacy_completions_are_answered() {
  const answer = await client().completions.create({ model: "echo", prompt: TEXT });
  assert.equal(answer.choices[0].text, TEXT);
  const stream = await client().completions.create({ model: "echo", prompt: TEXT, stream: true });
  assert.equal((await collect(stream)).map((chunk) => chunk.choices[0].text).join(""), TEXT);
}

export async function embeddings_come_as_numbers() {
  // Without being told, the client asks for base64 and decodes it.
  const input = ["a b", "c"];
  const decoded = await client().embeddings.create({ model: "echo", input });
  const plain = await client().embeddings.create({ model: "echo", input, encoding_format: "float" });
  assert.equal(decoded.data.length, 2);
  for (const [index, { embedding }] of decoded.data.entries()) {
    const theirs = plain.data[index].embedding;
    assert.ok(embedding.length > 1 && embedding.length === theirs.length);
    assert.ok(theirs.every((number, place) => Math.abs(number - embedding[place]) < 1e-6));
  }
  assert.notDeepEqual(decoded.data[0].embedding, decoded.data[1].embedding);
}

export async function models_are_listed_and_found() {
  const listed = [];
  for await (const model of client().models.list()) listed.push(model.id);
  assert.ok(listed.includes("echo"));
  const model = await client().models.retrieve("echo");
  assert.deepEqual([model.id, model.object, model.owned_by], ["echo", "model", "echo"]);
}

export async function many_at_once_are_answered() {
  const answers = await Promise.all(Array.from({ length: 20 }, () => echo(client())));
  assert.ok(answers.every((answer) => answer.choices[0].message.content === TEXT));
}

export async function a_stream_that_is_left_early_ends_at_the_gateway() {
  for await (const _ of await client().chat.completions.create(slow())) {
    assert.ok(!(await isQuiet()));
    break;
  }
  await eventually("the stream has ended at the gateway", isQuiet);
}

export async function an_aborted_stream_ends_at_the_gateway() {
  const stream = await client().chat.completions.create(slow());
  await stream[Symbol.asyncIterator]().next();
  assert.ok(!(await isQuiet()));
  stream.controller.abort();
  await eventually("the stream has ended at the gateway", isQuiet);
}
