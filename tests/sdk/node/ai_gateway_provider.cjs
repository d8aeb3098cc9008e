// What people do with the `ai` and `ai-gateway-provider` packages: universal requests. Arguments: the
// gateway's origin, which takes the place of the host the package is tied to, and a gateway token.

const { generateText, streamText } = require("ai");
const { createAiGateway } = require("ai-gateway-provider");
const { createOpenAI } = require("ai-gateway-provider/providers/openai");
const { createAnthropic } = require("ai-gateway-provider/providers/anthropic");
const { report, drained } = require("./report.cjs");

const [origin, token] = process.argv.slice(2);
const theirs = globalThis.fetch;
globalThis.fetch = (input, init) =>
  theirs(String(input).replace("https://gateway.ai.cloudflare.com", origin), init);

const openai = createOpenAI({ apiKey: "sk-of-the-caller" });
const anthropic = createAnthropic({ apiKey: "sk-of-the-caller" });
const options = { retries: { maxAttempts: 1 }, metadata: { team: "tests" } };
// Without a token the package sends `Bearer undefined`.
const gateway = (id, apiKey) => createAiGateway({ accountId: "default", gateway: id, apiKey, options });
const models = (first) => [openai.chat(first), anthropic("claude-sonnet-4-5")];
const call = (model) => ({ model, prompt: "say three words", maxRetries: 0 });

async function text(model) {
  const answer = await generateText(call(model));
  return { text: answer.text, finish: answer.finishReason, tokens: answer.usage.outputTokens };
}

function stream(model) {
  return drained(async function* () {
    for await (const part of streamText({ ...call(model), onError() {} }).fullStream) {
      if (part.type === "text-delta") yield part.text;
      if (part.type === "finish") yield `${part.totalUsage.outputTokens} tokens`;
      if (part.type === "error") throw part.error;
    }
  });
}

async function main() {
  const ours = gateway("open");
  await report("first", () => text(ours(models("gpt-4o-mini"))));
  await report("second", () => text(ours(models("status-500"))));
  await report("responses", () => text(ours(openai("gpt-4o-mini"))));
  await report("stream_first", () => stream(ours(models("gpt-4o-mini"))));
  await report("stream_second", () => stream(ours(models("status-500"))));
  await report("stream_cut", () => stream(ours(models("cut"))));
  await report("unknown", () => text(gateway("no-such-gateway", token)(models("gpt-4o-mini"))));
  await report("closed", () => text(gateway("closed")(models("gpt-4o-mini"))));
  await report("closed_with_token", () => text(gateway("closed", token)(models("gpt-4o-mini"))));
}

main();
