// The `openai` package and the local models. Arguments: base URLs that all lead to them.

const OpenAI = require("openai");
const { report, drained } = require("./report.cjs");

const model = "@cf/huggingfacetb/smollm2-135m-instruct";
const encoder = "@cf/sentence-transformers/all-minilm-l6-v2";
const ask = {
  model,
  messages: [{ role: "user", content: "Count to three." }],
  max_tokens: 12,
  temperature: 0,
};

async function chat(client, others) {
  const answer = await client.chat.completions.create({ ...ask, ...others });
  const choice = answer.choices[0];
  return { text: choice.message.content, finish: choice.finish_reason, tokens: answer.usage.completion_tokens };
}

function chatStream(client) {
  return drained(async function* () {
    const stream = await client.chat.completions.create({ ...ask, stream: true });
    for await (const chunk of stream) {
      for (const choice of chunk.choices) yield choice.delta.content;
    }
  });
}

const person = {
  type: "object",
  additionalProperties: false,
  required: ["name", "age"],
  properties: {
    name: { type: "string", maxLength: 12 },
    age: { type: "integer", minimum: 0, maximum: 130 },
  },
};
const forced = {
  ...ask,
  max_tokens: 80,
  tools: [
    {
      type: "function",
      function: { name: "remember", description: "Remembers a person.", parameters: person },
    },
  ],
  tool_choice: { type: "function", function: { name: "remember" } },
};

async function tool(client) {
  const choice = (await client.chat.completions.create(forced)).choices[0];
  const call = choice.message.tool_calls[0];
  return {
    finish: choice.finish_reason,
    name: call.function.name,
    has_id: Boolean(call.id),
    arguments: JSON.parse(call.function.arguments),
  };
}

async function toolStream(client) {
  let [finish, name, text] = [null, "", ""];
  for await (const chunk of await client.chat.completions.create({ ...forced, stream: true })) {
    for (const choice of chunk.choices) {
      finish = choice.finish_reason ?? finish;
      for (const call of choice.delta.tool_calls ?? []) {
        name += call.function.name ?? "";
        text += call.function.arguments ?? "";
      }
    }
  }
  return { finish, name, arguments: JSON.parse(text) };
}

async function bySchema(client) {
  const form = { type: "json_schema", json_schema: { name: "person", strict: true, schema: person } };
  const answer = await client.chat.completions.create({ ...ask, max_tokens: 80, response_format: form });
  return { value: JSON.parse(answer.choices[0].message.content) };
}

async function embed(client, others) {
  const answer = await client.embeddings.create({ model: encoder, input: ["a cat", "a kitten"], ...others });
  const short = (vector) => vector.slice(0, 4).map((x) => Math.round(x * 1e5) / 1e5);
  return { vectors: answer.data.map((item) => short(item.embedding)) };
}

const question = { model, input: "Count to three.", max_output_tokens: 12, temperature: 0 };

async function respond(client) {
  const answer = await client.responses.create(question);
  return { text: answer.output_text, tokens: answer.usage.output_tokens };
}

async function respondStream(client) {
  let [text, last] = ["", null];
  for await (const event of await client.responses.create({ ...question, stream: true })) {
    last = event.type;
    if (event.type === "response.output_text.delta") text += event.delta;
  }
  return { text, last };
}

async function main() {
  for (const [number, baseURL] of process.argv.slice(2).entries()) {
    const client = new OpenAI({ baseURL, apiKey: "sk-of-the-caller", timeout: 60_000, maxRetries: 0 });
    await report(`chat_${number}`, () => chat(client));
    await report(`stream_${number}`, () => chatStream(client));
    await report(`unknown_${number}`, () => chat(client, { model: "@cf/nobody/no-such-model" }));
    await report(`tool_${number}`, () => tool(client));
    await report(`tool_stream_${number}`, () => toolStream(client));
    await report(`by_schema_${number}`, () => bySchema(client));
    await report(`embed_${number}`, () => embed(client));
    await report(`embed_float_${number}`, () => embed(client, { encoding_format: "float" }));
    await report(`respond_${number}`, () => respond(client));
    await report(`respond_stream_${number}`, () => respondStream(client));
  }
}

main();
