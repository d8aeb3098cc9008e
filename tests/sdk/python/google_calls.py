"""What people do with the `google-genai` package. Argument: the base URL.

The scripted upstream reads from the model's name what it is to answer.
"""

import sys

from google import genai
from google.genai import types

from report import case, drained

client = genai.Client(
    api_key="key-of-the-caller",
    http_options=types.HttpOptions(base_url=sys.argv[1], timeout=30_000),
)


def generate(model):
    answer = client.models.generate_content(model=model, contents="say three words")
    return {
        "text": answer.text,
        "finish": answer.candidates[0].finish_reason.value,
        "tokens": answer.usage_metadata.total_token_count,
    }


def stream(model):
    def pieces():
        for chunk in client.models.generate_content_stream(model=model, contents="say three words"):
            yield chunk.text
            if chunk.candidates[0].finish_reason:
                yield f"{chunk.usage_metadata.total_token_count} tokens"

    return drained(pieces)


case("generate", lambda: generate("gemini-2.5-flash"))
case("stream", lambda: stream("gemini-2.5-flash"))
for status in [400, 404, 429, 503]:
    case(f"status_{status}", lambda: generate(f"status-{status}"))
for fault in ["cut", "cut-mid-event", "stall"]:
    case(f"stream_{fault}", lambda: stream(fault))
