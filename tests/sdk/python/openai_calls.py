"""What people do with the `openai` package. Arguments: the base URL, and one whose provider is down.

The scripted upstream reads from the model's name what it is to answer.
"""

import sys

from openai import OpenAI

from report import case, drained

client = OpenAI(base_url=sys.argv[1], api_key="sk-of-the-caller", timeout=30)
once = client.with_options(max_retries=0)
ASK = [{"role": "user", "content": "say three words"}]
FILE = bytes(range(256)) * 1200


def chat(client, model):
    answer = client.chat.completions.create(model=model, messages=ASK)
    choice = answer.choices[0]
    return {
        "text": choice.message.content,
        "finish": choice.finish_reason,
        "tokens": answer.usage.total_tokens,
    }


def chat_stream(model):
    def pieces():
        stream = client.chat.completions.create(
            model=model, messages=ASK, stream=True, stream_options={"include_usage": True}
        )
        for chunk in stream:
            if chunk.usage:
                yield f"{chunk.usage.total_tokens} tokens"
            for choice in chunk.choices:
                yield choice.delta.content

    return drained(pieces)


def responses():
    answer = client.responses.create(model="gpt-4o-mini", input="say three words")
    return {"text": answer.output_text, "status": answer.status, "tokens": answer.usage.total_tokens}


def responses_stream(model):
    def pieces():
        for event in client.responses.create(model=model, input="say three words", stream=True):
            if event.type == "response.output_text.delta":
                yield event.delta
            if event.type == "response.completed":
                yield f"{event.response.usage.total_tokens} tokens"

    return drained(pieces)


def embeddings(**format):
    answer = client.embeddings.create(model="text-embedding-3-small", input="three words", **format)
    return {"vector": answer.data[0].embedding, "tokens": answer.usage.total_tokens}


def upload():
    stored = client.files.create(file=("calls.jsonl", FILE), purpose="batch")
    return {"id": stored.id, "name": stored.filename, "bytes": stored.bytes}


case("chat", lambda: chat(client, "gpt-4o-mini"))
case("chat_stream", lambda: chat_stream("gpt-4o-mini"))
case("responses", responses)
case("responses_stream", lambda: responses_stream("gpt-4o-mini"))
case("embeddings", embeddings)
case("embeddings_as_numbers", lambda: embeddings(encoding_format="float"))
case("upload", upload)
case("download", lambda: {"same": client.files.content("file-1").read() == FILE})
for status in [400, 401, 404, 429, 500]:
    case(f"status_{status}", lambda: chat(once, f"status-{status}"))
case("waits_as_told", lambda: chat(client, "busy-once"))
case("provider_down", lambda: chat(once.with_options(base_url=sys.argv[2]), "gpt-4o-mini"))
for fault in ["cut", "cut-mid-event", "stall"]:
    case(f"chat_{fault}", lambda: chat_stream(fault))
    case(f"responses_{fault}", lambda: responses_stream(fault))
