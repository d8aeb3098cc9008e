"""The `openai` package and the local models. Arguments: base URLs that all lead to them."""

import json
import sys

from openai import OpenAI

from report import case, drained

MODEL = "@cf/huggingfacetb/smollm2-135m-instruct"
ENCODER = "@cf/sentence-transformers/all-minilm-l6-v2"
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


PERSON = {
    "type": "object",
    "additionalProperties": False,
    "required": ["name", "age"],
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
    },
}
FORCED = {
    **ASK,
    "max_tokens": 80,
    "tools": [
        {
            "type": "function",
            "function": {"name": "remember", "description": "Remembers a person.", "parameters": PERSON},
        }
    ],
    "tool_choice": {"type": "function", "function": {"name": "remember"}},
}


def tool(client):
    choice = client.chat.completions.create(model=MODEL, **FORCED).choices[0]
    call = choice.message.tool_calls[0]
    return {
        "finish": choice.finish_reason,
        "name": call.function.name,
        "has_id": bool(call.id),
        "arguments": json.loads(call.function.arguments),
    }


def tool_stream(client):
    finish, name, text = None, "", ""
    for chunk in client.chat.completions.create(model=MODEL, stream=True, **FORCED):
        for choice in chunk.choices:
            finish = choice.finish_reason or finish
            for call in choice.delta.tool_calls or []:
                name += call.function.name or ""
                text += call.function.arguments or ""
    return {"finish": finish, "name": name, "arguments": json.loads(text)}


def by_schema(client):
    form = {"type": "json_schema", "json_schema": {"name": "person", "strict": True, "schema": PERSON}}
    ask = {**ASK, "max_tokens": 80, "response_format": form}
    answer = client.chat.completions.create(model=MODEL, **ask)
    return {"value": json.loads(answer.choices[0].message.content)}


def embed(client, **others):
    answer = client.embeddings.create(model=ENCODER, input=["a cat", "a kitten"], **others)
    return {"vectors": [[round(x, 5) for x in item.embedding[:4]] for item in answer.data]}


def respond(client):
    answer = client.responses.create(
        model=MODEL, input="Count to three.", max_output_tokens=12, temperature=0
    )
    return {"text": answer.output_text, "tokens": answer.usage.output_tokens}


def respond_stream(client):
    text, last = "", None
    stream = client.responses.create(
        model=MODEL, input="Count to three.", max_output_tokens=12, temperature=0, stream=True
    )
    for event in stream:
        last = event.type
        if event.type == "response.output_text.delta":
            text += event.delta
    return {"text": text, "last": last}


for number, base_url in enumerate(sys.argv[1:]):
    client = OpenAI(base_url=base_url, api_key="sk-of-the-caller", timeout=60, max_retries=0)
    case(f"chat_{number}", lambda: chat(client))
    case(f"stream_{number}", lambda: chat_stream(client))
    case(f"unknown_{number}", lambda: chat(client, "@cf/nobody/no-such-model"))
    case(f"tool_{number}", lambda: tool(client))
    case(f"tool_stream_{number}", lambda: tool_stream(client))
    case(f"by_schema_{number}", lambda: by_schema(client))
    case(f"embed_{number}", lambda: embed(client))
    case(f"embed_float_{number}", lambda: embed(client, encoding_format="float"))
    case(f"respond_{number}", lambda: respond(client))
    case(f"respond_stream_{number}", lambda: respond_stream(client))
