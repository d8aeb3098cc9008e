// What people do with the `openai` package. Arguments: the base URL, and one whose provider is down.
//
// The scripted upstream reads from the model's name what it is to answer.

const OpenAI = require("openai");
const { toFile } = OpenAI;
const { report, drained } = require("./report.cjs");

const [baseURL, baseOfProviderDown] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: "sk-of-the-caller", timeout: 30_000 });
const once = client.withOptions({ maxRetries: 0 });
const messages = [{ role: "user", content: "say three words" }];
const file = Buffer.from(Array.from({ length: 256 * 1200 }, (_, index) => index % 256));

async function chat(client, model) {
  const answer = await client.chat.completions.create({ model, messages });
  const choice = answer.choices[0];
  return { text: choice.message.content, finish: choice.finish_reason, tokens: answer.usage.total_tokens };
}

function chatStream(model) {
  return drained(async function* () {
    const stream = await client.chat.completions.create({
      model,
      messages,
      stream: true,
      stream_options: { include_usage: true },
    });
    for await (const chunk of stream) {
      if (chunk.usage) yield `${chunk.usage.total_tokens} tokens`;
      for (const choice of chunk.choices) yield choice.delta.content;
    }
  });
}

async function responses() {
  const answer = await client.responses.create({ model: "gpt-4o-mini", input: "say three words" });
  return { text: answer.output_text, status: answer.status, tokens: answer.usage.total_tokens };
}

function responsesStream(model) {
  return drained(async function* () {
    const stream = await client.responses.create({ model, input: "say three words", stream: true });
    for await (const event of stream) {
      if (event.type === "response.output_text.delta") yield event.delta;
      if (event.type === "response.completed") yield `${event.response.usage.total_tokens} tokens`;
    }
  });
}

async function embeddings(format) {
  const answer = await client.embeddings.create({
    model: "text-embedding-3-small",
    input: "three words",
    ...format,
  });
  return { vector: Array.from(answer.data[0].embedding), tokens: answer.usage.total_tokens };
}

async function upload() {
  const stored = await client.files.create({ file: await toFile(file, "calls.jsonl"), purpose: "batch" });
  return { id: stored.id, name: stored.filename, bytes: stored.bytes };
}

async function download() {
  const answer = await client.files.content("file-1");
  return { same: Buffer.from(await answer.arrayBuffer()).equals(file) };
}

async function main() {
  await report("chat", () => chat(client, "gpt-4o-mini"));
  await report("chat_stream", () => chatStream("gpt-4o-mini"));
  await report("responses", responses);
  await report("responses_stream", () => responsesStream("gpt-4o-mini"));
  await report("embeddings", embeddings);
  await report("embeddings_as_numbers", () => embeddings({ encoding_format: "float" }));
  await report("upload", upload);
  await report("download", download);
  for (const status of [400, 401, 404, 429, 500]) {
    await report(`status_${status}`, () => chat(once, `status-${status}`));
  }
  await report("waits_as_told", () => chat(client, "busy-once"));
  const down = once.withOptions({ baseURL: baseOfProviderDown });
  await report("provider_down", () => chat(down, "gpt-4o-mini"));
  for (const fault of ["cut", "cut-mid-event", "stall"]) {
    await report(`chat_${fault}`, () => chatStream(fault));
    await report(`responses_${fault}`, () => responsesStream(fault));
  }
}

main();
