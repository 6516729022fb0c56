// OpenAI's client for Node and everything that can go wrong: the right error, and the right number of attempts.
//
// The model `poor` is at a provider whose quota is used up.

import assert from "node:assert/strict";

import { client, collect, echo, eventually, figure, MESSAGES, OpenAI, raised, requestsWith } from "./common.mjs";

const chat = (client, options) => client.chat.completions.create({ model: "echo", messages: MESSAGES, ...options });

export async function an_unknown_model_is_not_found() {
  const error = await raised(OpenAI.NotFoundError, () => chat(client(), { model: "no-such-model" }));
  assert.deepEqual([error.status, error.code, error.param], [404, "model_not_found", "model"]);
  assert.equal(error.type, "not_found_error");
  assert.ok(error.requestID && error.message.includes("no-such-model"));
  assert.equal((await raised(OpenAI.NotFoundError, () => client().models.retrieve("nix"))).code, "model_not_found");
}

export async function an_unknown_path_is_not_found() {
  assert.equal((await raised(OpenAI.NotFoundError, () => chat(client("/v2")))).code, "unknown_path");
}

export async function a_bad_request_names_its_place() {
  const error = await raised(OpenAI.BadRequestError, () => chat(client(), { temperature: 3 }));
  assert.deepEqual([error.code, error.param, error.type], ["invalid_value", "temperature", "invalid_request_error"]);
  const boss = [{ role: "boss", content: "x" }];
  assert.equal((await raised(OpenAI.BadRequestError, () => chat(client(), { messages: boss }))).param, "messages[0].role");
}

export async function a_refusal_of_the_provider_keeps_its_status() {
  const kinds = [
    [404, OpenAI.NotFoundError],
    [409, OpenAI.ConflictError],
    [422, OpenAI.UnprocessableEntityError],
  ];
  for (const [status, kind] of kinds) {
    assert.equal((await raised(kind, () => echo(client(), { status }))).status, status);
  }
}

export async function a_rate_limit_is_a_rate_limit() {
  const error = await raised(OpenAI.RateLimitError, () => echo(client(), { status: 429, retry_after: 7 }));
  assert.deepEqual([error.code, error.type], ["rate_limit_exceeded", "rate_limit_error"]);
  assert.equal(error.headers.get("retry-after"), "7");
}

export async function a_failing_provider_is_a_server_error() {
  const error = await raised(OpenAI.InternalServerError, () => echo(client(), { status: 503 }));
  assert.deepEqual([error.status, error.type], [502, "upstream_error"]);
}

export async function a_rejected_provider_key_is_no_authentication_error() {
  const error = await raised(OpenAI.InternalServerError, () => echo(client(), { status: 401 }));
  assert.deepEqual([error.status, error.code], [502, "upstream_credentials"]);
}

export async function an_error_within_a_stream_is_raised() {
  for (const trouble of [{ error_after: 2 }, { cut_after: 2 }]) {
    const error = await raised(OpenAI.APIError, async () => {
      return await collect(await echo(client(), trouble, { stream: true }));
    });
    assert.equal(error.type, "upstream_error");
  }
}

export async function an_error_before_a_stream_is_a_plain_one() {
  const error = await raised(OpenAI.RateLimitError, () => echo(client(), { status: 429 }, { stream: true }));
  assert.equal(error.code, "rate_limit_exceeded");
}

export async function a_hanging_answer_times_out_and_is_cancelled() {
  await raised(OpenAI.APIConnectionTimeoutError, () => echo(client("/v1", { timeout: 300 }), { hang: true }));
  await eventually("the gateway has noticed", async () => (await figure("llm_proxy_cancelled_total")) === 1);
}

export async function a_rate_limited_request_is_tried_again_after_the_time_told() {
  const started = Date.now();
  const trouble = { status: 429, retry_after: 2 };
  await raised(OpenAI.RateLimitError, () => echo(client("/v1", { maxRetries: 1 }), trouble));
  const took = Date.now() - started;
  // Left alone, the client would have waited for half a second.
  assert.ok(took >= 1990 && took < 8000, `${took} ms`);
  assert.equal(await requestsWith(429), 2);
}

export async function a_failing_provider_is_tried_again() {
  await raised(OpenAI.InternalServerError, () => echo(client("/v1", { maxRetries: 1 }), { status: 500 }));
  assert.equal(await requestsWith(502), 2);
}

export async function a_bad_request_is_not_tried_again() {
  await raised(OpenAI.BadRequestError, () => chat(client("/v1", { maxRetries: 3 }), { temperature: 3 }));
  assert.equal(await requestsWith(400), 1);
}

export async function a_used_up_quota_is_not_tried_again() {
  const error = await raised(OpenAI.RateLimitError, () => chat(client("/v1", { maxRetries: 3 }), { model: "poor" }));
  assert.equal(error.code, "insufficient_quota");
  assert.equal(error.headers.get("x-should-retry"), "false");
  assert.equal(await requestsWith(429), 1);
}
