"""Writes greedy.json: what llama.cpp's server says to twenty prompts at temperature 0, and how sure it was.

    llama-quantize --allow-requantize SmolLM2-135M-Instruct.Q4_1.gguf f32.gguf F32
    llama-server --model f32.gguf --port 8080 --threads 2 --parallel 1 -ctk f32 -ctv f32 -fa off &
    python3 make_greedy.py http://127.0.0.1:8080 > greedy.json

The weights are those of the 4-bit file, written out as f32, so that llama.cpp computes in f32 too. Made with llama.cpp
b11434 on a CPU with AVX-512. Needs nothing but Python 3; the test beside it reads greedy.json and needs no llama.cpp.
"""

import json
import sys
import urllib.request

QUESTIONS = [
    "What is the capital of France?",
    "Explain in two sentences why the sky is blue.",
    "Write a short poem about the sea.",
    "List three uses of copper.",
    "How do I boil an egg?",
    "Translate 'good morning' into Spanish.",
    "What is 12 times 7?",
    "Give me a recipe for pancakes.",
    "Who wrote Hamlet, and when?",
    "Summarize the water cycle.",
]
TEXTS = [
    "The quick brown fox",
    "Once upon a time, in a village by the river, there lived",
    "def fibonacci(n):\n    ",
    "In 1969, the first humans",
    "The main differences between a virus and a bacterium are",
    "1, 2, 3, 5, 8, 13,",
    "Dear Sir or Madam,\n\nI am writing to",
    "<html>\n<head>\n<title>",
    "Photosynthesis is the process by which",
    "To install the package, first",
]
CHAT = (
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
)
TOKENS = 64
TOP = 5


def post(base, path, body):
    request = urllib.request.Request(base + path, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def main():
    base = sys.argv[1]
    cases = []
    for prompt in [CHAT.format(question) for question in QUESTIONS] + TEXTS:
        ids = post(base, "/tokenize", {"content": prompt, "add_special": False, "parse_special": True})["tokens"]
        answer = post(
            base,
            "/completion",
            {
                "prompt": ids,
                "n_predict": TOKENS,
                "temperature": 0,
                "top_k": 1,
                "n_probs": TOP,
                "cache_prompt": False,
                "ignore_eos": True,
            },
        )
        steps = []
        for step in answer["completion_probabilities"]:
            top = step["top_logprobs"]
            steps.append({"token": step["id"], "top": [[one["id"], round(one["logprob"], 3)] for one in top]})
        cases.append({"prompt": prompt, "ids": ids, "steps": steps})
    json.dump(cases, sys.stdout, separators=(",", ":"), ensure_ascii=False)
    sys.stdout.write("\n")


main()
