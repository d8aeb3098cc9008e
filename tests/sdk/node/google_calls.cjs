// What people do with the `@google/genai` package. Argument: the base URL.
//
// The scripted upstream reads from the model's name what it is to answer.

const { GoogleGenAI } = require("@google/genai");
const { report, drained } = require("./report.cjs");

const client = new GoogleGenAI({
  apiKey: "key-of-the-caller",
  httpOptions: { baseUrl: process.argv[2], timeout: 30_000 },
});
const contents = "say three words";

async function generate(model) {
  const answer = await client.models.generateContent({ model, contents });
  return {
    text: answer.text,
    finish: answer.candidates[0].finishReason,
    tokens: answer.usageMetadata.totalTokenCount,
  };
}

function stream(model) {
  return drained(async function* () {
    for await (const chunk of await client.models.generateContentStream({ model, contents })) {
      yield chunk.text;
      if (chunk.candidates[0].finishReason) yield `${chunk.usageMetadata.totalTokenCount} tokens`;
    }
  });
}

async function main() {
  await report("generate", () => generate("gemini-2.5-flash"));
  await report("stream", () => stream("gemini-2.5-flash"));
  for (const status of [400, 404, 429, 503]) {
    await report(`status_${status}`, () => generate(`status-${status}`));
  }
  for (const fault of ["cut", "cut-mid-event", "stall"]) {
    await report(`stream_${fault}`, () => stream(fault));
  }
}

main();
