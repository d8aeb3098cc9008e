"""The `openai` package and the local model. Arguments: base URLs that all lead to it."""

import sys

from openai import OpenAI

from report import case, drained

MODEL = "@cf/huggingfacetb/smollm2-135m-instruct"
ASK = {
    "messages": [{"role": "user", "content": "Count to three."}],
    "max_tokens": 12,
    "temperature": 0,
}


def chat(client, model=MODEL):
    answer = client.chat.completions.create(model=model, **ASK)
    choice = answer.choices[0]
    return {
        "text": choice.message.content,
        "finish": choice.finish_reason,
        "tokens": answer.usage.completion_tokens,
    }


def chat_stream(client):
    def pieces():
        for chunk in client.chat.completions.create(model=MODEL, stream=True, **ASK):
            for choice in chunk.choices:
                yield choice.delta.content

    return drained(pieces)


for number, base_url in enumerate(sys.argv[1:]):
    client = OpenAI(base_url=base_url, api_key="sk-of-the-caller", timeout=60, max_retries=0)
    case(f"chat_{number}", lambda: chat(client))
    case(f"stream_{number}", lambda: chat_stream(client))
    case(f"unknown_{number}", lambda: chat(client, "@cf/nobody/no-such-model"))
