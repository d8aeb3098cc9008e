// What people do with the `@anthropic-ai/sdk` package. Argument: the base URL.
//
// The scripted upstream reads from the model's name what it is to answer.

const Anthropic = require("@anthropic-ai/sdk");
const { report, drained } = require("./report.cjs");

const client = new Anthropic({ baseURL: process.argv[2], apiKey: "sk-of-the-caller", timeout: 30_000 });
const once = client.withOptions({ maxRetries: 0 });
const ask = { max_tokens: 64, messages: [{ role: "user", content: "say three words" }] };

async function message(model, by = once) {
  const answer = await by.messages.create({ model, ...ask });
  return { text: answer.content[0].text, finish: answer.stop_reason, tokens: answer.usage.output_tokens };
}

/** The events as they come. */
function stream(model) {
  return drained(async function* () {
    for await (const event of await client.messages.create({ model, stream: true, ...ask })) {
      if (event.type === "content_block_delta") yield event.delta.text;
      if (event.type === "message_delta") yield `${event.usage.output_tokens} tokens`;
    }
  });
}

/** The helper that puts the message together. */
function helper(model) {
  return drained(async function* () {
    const stream = client.messages.stream({ model, ...ask });
    for await (const event of stream) {
      if (event.type === "content_block_delta") yield event.delta.text;
    }
    yield `${(await stream.finalMessage()).usage.output_tokens} tokens`;
  });
}

async function main() {
  await report("message", () => message("claude-sonnet-4-5"));
  await report("stream", () => stream("claude-sonnet-4-5"));
  await report("helper", () => helper("claude-sonnet-4-5"));
  for (const status of [400, 401, 404, 429, 500, 529]) {
    await report(`status_${status}`, () => message(`status-${status}`));
  }
  await report("waits_as_told", () => message("busy-once", client));
  for (const fault of ["cut", "cut-mid-event", "stall"]) {
    await report(`stream_${fault}`, () => stream(fault));
    await report(`helper_${fault}`, () => helper(fault));
  }
}

main();
