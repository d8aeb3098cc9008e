// The `openai` package and the local model. Arguments: base URLs that all lead to it.

const OpenAI = require("openai");
const { report, drained } = require("./report.cjs");

const model = "@cf/huggingfacetb/smollm2-135m-instruct";
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

async function main() {
  for (const [number, baseURL] of process.argv.slice(2).entries()) {
    const client = new OpenAI({ baseURL, apiKey: "sk-of-the-caller", timeout: 60_000, maxRetries: 0 });
    await report(`chat_${number}`, () => chat(client));
    await report(`stream_${number}`, () => chatStream(client));
    await report(`unknown_${number}`, () => chat(client, { model: "@cf/nobody/no-such-model" }));
  }
}

main();
