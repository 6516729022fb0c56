// What the claims share: clients for the gateway, and a look at its figures.

import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { pathToFileURL } from "node:url";

const { GATEWAY, OPENAI_NODE } = process.env;
const found = await import(pathToFileURL(`${OPENAI_NODE}/node_modules/openai/index.mjs`));

export const OpenAI = found.default;
export const TEXT = "Zażółć gęślą jaźń, proszę!";
export const MESSAGES = [
  { role: "system", content: "Be brief." },
  { role: "user", content: TEXT },
];

export function client(path = "/v1", options = {}) {
  return new OpenAI({ baseURL: GATEWAY + path, apiKey: "any", maxRetries: 0, timeout: 20_000, ...options });
}

// A chat with the echo model, which makes the trouble that it is asked for.
export function echo(client, trouble, options = {}) {
  return client.chat.completions.create({ model: "echo", messages: MESSAGES, echo: trouble, ...options });
}

// What it takes to have an answer of many seconds.
export function slow(words = 400) {
  const messages = [{ role: "user", content: "word ".repeat(words) }];
  return { model: "echo", messages, stream: true, echo: { delay_ms: 50 } };
}

// The sum of a figure over all of its labels that are asked for.
export async function figure(name, ...labels) {
  const text = await (await fetch(`${GATEWAY}/metrics`)).text();
  const lines = text.split("\n").filter((line) => line.split(/[{ ]/)[0] === name);
  const wanted = lines.filter((line) => labels.every((label) => line.includes(label)));
  return wanted.reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(" "))), 0);
}

export async function eventually(what, holds, within = 3000) {
  const until = Date.now() + within;
  while (!(await holds())) {
    assert.ok(Date.now() < until, `not within ${within} ms: ${what}`);
    await sleep(10);
  }
}

export async function isQuiet() {
  return (await figure("llm_proxy_streams_open")) === 0;
}

export function requestsWith(status) {
  return figure("llm_proxy_requests_total", 'endpoint="/v1/chat/completions"', `status="${status}"`);
}

// The error that a call must end with.
export async function raised(kind, call) {
  let outcome;
  try {
    outcome = await call();
  } catch (error) {
    assert.equal(error.constructor, kind, `${error.constructor.name} instead of ${kind.name}: ${error}`);
    return error;
  }
  assert.fail(`no ${kind.name}, but ${JSON.stringify(outcome)}`);
}

export async function collect(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}

export function textOf(chunks) {
  return chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join("");
}
