// OpenAI's own Node client: chat, completions, responses, models and errors, as its users write them.
// Prints one line of JSON for each check, like the Python programs beside it.
import assert from "node:assert/strict";
import OpenAI from "openai";
import { VERSION } from "openai/version";

const { JUDGED_URL: url, JUDGED_KEY: apiKey, JUDGED_MODEL: model, JUDGED_FEATURES: features = "" } = process.env;
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey });
const messages = [{ role: "user", content: "Name three colours." }];
const greedy = { model, messages, max_completion_tokens: 24, temperature: 0 };
const checks = [];
const check = (name, run, needs = "") => { if (!needs || features.split(",").includes(needs)) checks.push([name, run]); };

check("models: list, retrieve", async () => {
  const ids = [];
  for await (const one of client.models.list()) ids.push(one.id);
  assert.deepEqual(ids, [model]);
  assert.equal((await client.models.retrieve(model)).id, model);
});

check("chat: whole = streamed, usage", async () => {
  const whole = await client.chat.completions.create(greedy);
  let text = "", used = null;
  for await (const chunk of await client.chat.completions.create({ ...greedy, stream: true, stream_options: { include_usage: true } })) {
    text += chunk.choices[0]?.delta.content ?? "";
    used = chunk.usage ?? used;
  }
  assert.equal(text, whole.choices[0].message.content);
  assert.deepEqual(used, whole.usage);
});

check("chat: stream runner and its events", async () => {
  let heard = "";
  const runner = client.chat.completions.stream(greedy).on("content", (delta) => { heard += delta; });
  assert.equal(await runner.finalContent(), heard);
  assert.ok(heard);
});

check("chat: json_schema", async () => {
  const schema = { type: "object", additionalProperties: false, required: ["colour", "age"],
    properties: { colour: { enum: ["black", "white"] }, age: { type: "integer", minimum: 0, maximum: 30 } } };
  const answer = await client.chat.completions.create({ ...greedy, max_completion_tokens: 200,
    response_format: { type: "json_schema", json_schema: { name: "cat", strict: true, schema } } });
  assert.ok(["black", "white"].includes(JSON.parse(answer.choices[0].message.content).colour));
});

check("completions: prompts, logprobs", async () => {
  const asked = { model, max_tokens: 6, temperature: 0 };
  const answer = await client.completions.create({ ...asked, prompt: ["One, two,", "Red, green,"], logprobs: 2 });
  assert.equal(answer.choices[0].logprobs.tokens.join(""), answer.choices[0].text);
  let text = "";
  for await (const chunk of await client.completions.create({ ...asked, prompt: "One, two,", stream: true })) text += chunk.choices[0].text;
  assert.equal(text, answer.choices[0].text);
});

check("responses: create, stream, follow up", async () => {
  const asked = { model, max_output_tokens: 16, temperature: 0 };
  const first = await client.responses.create({ ...asked, input: "My name is Ada." });
  let text = "";
  for await (const event of await client.responses.create({ ...asked, input: "My name is Ada.", stream: true })) {
    if (event.type === "response.output_text.delta") text += event.delta;
  }
  assert.equal(text, first.output_text);
  const second = await client.responses.create({ ...asked, input: "What is my name?", previous_response_id: first.id });
  assert.ok(second.usage.input_tokens > first.usage.input_tokens);
});

check("stream aborted half way, next call answered", async () => {
  const stream = await client.chat.completions.create({ ...greedy, max_completion_tokens: 400, stream: true });
  let seen = 0;
  for await (const _ of stream) if (++seen === 3) stream.controller.abort();
  assert.ok(seen >= 3);
  assert.ok((await client.chat.completions.create(greedy)).choices[0].message.content);
});

check("errors: their classes, param and code", async () => {
  await assert.rejects(client.chat.completions.create({ ...greedy, temperature: 3 }),
    (error) => error instanceof OpenAI.BadRequestError && error.param === "temperature");
  await assert.rejects(client.chat.completions.create({ ...greedy, model: "none-such" }),
    (error) => error instanceof OpenAI.NotFoundError && error.code === "model_not_found");
  await assert.rejects(new OpenAI({ baseURL: `${url}/v1`, apiKey: "wrong" }).models.list(), OpenAI.AuthenticationError);
});

check("embeddings", async () => {
  const answer = await client.embeddings.create({ model, input: ["a cat", "a dog"] });
  assert.ok(Math.abs(answer.data[0].embedding.reduce((sum, x) => sum + x * x, 0) - 1) < 1e-3);
}, "embeddings");

for (const [name, run] of checks) {
  const begun = performance.now();
  let fault = "";
  try { await run(); } catch (error) { fault = String(error?.stack ?? error).split("\n").slice(0, 12).join("\n"); }
  console.log(JSON.stringify({ version: VERSION, check: name, fault, seconds: (performance.now() - begun) / 1000 }));
}
