"""What people do with the `anthropic` package. Argument: the base URL.

The scripted upstream reads from the model's name what it is to answer.
"""

import sys

from anthropic import Anthropic

from report import case, drained

client = Anthropic(base_url=sys.argv[1], api_key="sk-of-the-caller", timeout=30)
once = client.with_options(max_retries=0)
ASK = {"max_tokens": 64, "messages": [{"role": "user", "content": "say three words"}]}


def message(model, client=once):
    answer = client.messages.create(model=model, **ASK)
    return {
        "text": answer.content[0].text,
        "finish": answer.stop_reason,
        "tokens": answer.usage.output_tokens,
    }


def stream(model):
    """The events as they come."""

    def pieces():
        for event in client.messages.create(model=model, stream=True, **ASK):
            if event.type == "content_block_delta":
                yield event.delta.text
            if event.type == "message_delta":
                yield f"{event.usage.output_tokens} tokens"

    return drained(pieces)


def helper(model):
    """The helper that puts the message together."""

    def pieces():
        with client.messages.stream(model=model, **ASK) as stream:
            yield from stream.text_stream
            yield f"{stream.get_final_message().usage.output_tokens} tokens"

    return drained(pieces)


case("message", lambda: message("claude-sonnet-4-5"))
case("stream", lambda: stream("claude-sonnet-4-5"))
case("helper", lambda: helper("claude-sonnet-4-5"))
for status in [400, 401, 404, 429, 500, 529]:
    case(f"status_{status}", lambda: message(f"status-{status}"))
case("waits_as_told", lambda: message("busy-once", client))
for fault in ["cut", "cut-mid-event", "stall"]:
    case(f"stream_{fault}", lambda: stream(fault))
    case(f"helper_{fault}", lambda: helper(fault))
