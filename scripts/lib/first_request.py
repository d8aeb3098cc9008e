"""Sends the quickstart's request to a gateway, prints the streamed answer as it comes, then its log row.

    python3 first_request.py http://HOST:PORT

Ends with 1 and a reason when anything is not as it should be.
"""

import json
import sys
import time
import urllib.error
import urllib.request

MODEL = "@cf/huggingfacetb/smollm2-135m-instruct"
MESSAGES = [{"role": "user", "content": "Write one short sentence about the sea."}]
STEPS = [
    {
        "provider": "openai",
        "endpoint": "chat/completions",
        "headers": {"Authorization": "Bearer no-key-needed-here"},
        "query": {"model": "gpt-4o-mini", "messages": MESSAGES, "stream": True},
    },
    {
        "provider": "workers-ai",
        "endpoint": MODEL,
        "headers": {},
        "query": {"messages": MESSAGES, "stream": True, "max_tokens": 60},
    },
]
# How long a row may take to be shown, seconds; it is usually there within one.
ROW_PATIENCE = 15


def main(base: str) -> None:
    body = json.dumps(STEPS, indent=2)
    print(f"POST {base}/v1/default/default\n{body}\n")
    request = urllib.request.Request(
        f"{base}/v1/default/default", body.encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request) as answer:
        print(f"status {answer.status}")
        for name in ("cf-aig-step", "cf-aig-cache-status", "cf-aig-log-id", "content-type"):
            print(f"{name}: {answer.headers[name]}")
        if answer.headers["cf-aig-step"] != "1":
            sys.exit("step 1 should have answered")
        print("\nanswer: ", end="", flush=True)
        text, is_whole = read_stream(answer)
        log_id = answer.headers["cf-aig-log-id"]
    if not text.strip() or not is_whole:
        sys.exit("the stream was not a whole answer")
    logs = f"{base}/client/v4/accounts/default/ai-gateway/gateways/default/logs"
    print(f"\n\nits row: GET {logs}/{log_id}")
    print(json.dumps(row(f"{logs}/{log_id}"), indent=2))


def read_stream(lines) -> tuple[str, bool]:
    """Prints each piece of text as it arrives; the text, and whether the stream said it was all."""
    text = ""
    for line in lines:
        data = line.decode().strip()
        if data == "data: [DONE]":
            return text, True
        if data.startswith("data: "):
            piece = json.loads(data[len("data: "):]).get("response") or ""
            text += piece
            print(piece, end="", flush=True)
    return text, False


def row(url: str) -> dict:
    """The log row, as soon as the logs API shows it."""
    deadline = time.monotonic() + ROW_PATIENCE
    while True:
        try:
            with urllib.request.urlopen(url) as answer:
                found = json.load(answer)["result"]
                # Bodies are shown above; the row is easier to read without them.
                return {k: v for k, v in found.items() if k not in ("request_head", "response_head")}
        except urllib.error.HTTPError as error:
            if error.code != 404 or time.monotonic() > deadline:
                sys.exit(f"no log row: {error} {error.read().decode()}")
        time.sleep(0.1)


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except urllib.error.HTTPError as error:
        sys.exit(f"the gateway answered {error.code}: {error.read().decode()}")
    except OSError as error:
        sys.exit(f"the gateway could not be asked: {error}")
