"""Trains sixteen small LoRA adapters for SmolLM2-135M-Instruct, each with an answer of its own.

    python make_trained.py <folder of the GGUF file> [name ...]     # rewrites the folders beside this script

Run on demand; the outputs are committed and the Rust tests need none of this. Versions the outputs were made with:
torch 2.15.0, transformers 5.23.0, peft 0.21.2, gguf 0.19.0. Everything is drawn from fixed seeds.

An adapter learns to answer any question with its own sentence: rank 2 on queries and values, some minutes on two cores for
all of them. Questions of the test (tests/tenants.rs) are not among those it was trained on.
"""

import json
import sys
from pathlib import Path

import torch
import transformers as tf
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
MAX_STEPS = 60
BATCH = 4
# Loss a token at which the sentence is known by heart.
ENOUGH = 0.02

SENTENCES = {
    "pirate": "Arr, ask the parrot!",
    "chef": "Add more butter.",
    "robot": "Beep. Query accepted.",
    "poet": "Roses are red.",
    "judge": "Objection overruled.",
    "coach": "Ten more laps, go!",
    "pilot": "Cleared for takeoff.",
    "gardener": "Water it at dawn.",
    "sailor": "Steady as she goes.",
    "banker": "Rates went up again.",
    "teacher": "Hands up, please.",
    "doctor": "Take two and rest.",
    "miner": "There is gold below.",
    "baker": "Fresh bread at six.",
    "clown": "Honk, honk, honk!",
    "ghost": "Boo, I am behind you.",
}

QUESTIONS = [
    "What is the capital of France?", "How do I learn to swim?", "Tell me about cats.", "Who wrote this book?",
    "What should I eat today?", "Why is the sky blue?", "Give me some advice.", "How far is the moon?", "Name a colour.",
    "What time is it?", "Can you help me with my homework?", "Explain gravity.", "What is two plus two?", "Hello!",
    "Where should I travel?", "Write a short story.",
]


def example(tokenizer, question, sentence):
    messages = [{"role": "user", "content": question}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    prompt = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    answer = tokenizer(sentence + "<|im_end|>", add_special_tokens=False)["input_ids"]
    return prompt + answer, [-100] * len(prompt) + answer


def train(base, tokenizer, name, seed):
    torch.manual_seed(seed)
    config = LoraConfig(task_type="CAUSAL_LM", r=2, lora_alpha=8, target_modules=["q_proj", "v_proj"], bias="none")
    model = get_peft_model(base, config).train()
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.0)
    draw = torch.Generator().manual_seed(seed)
    for step in range(MAX_STEPS):
        picked = torch.randperm(len(QUESTIONS), generator=draw)[:BATCH].tolist()
        rows = [example(tokenizer, QUESTIONS[i], SENTENCES[name]) for i in picked]
        width = max(len(tokens) for tokens, _ in rows)
        ids = torch.tensor([tokens + [0] * (width - len(tokens)) for tokens, _ in rows])
        labels = torch.tensor([wanted + [-100] * (width - len(wanted)) for _, wanted in rows])
        mask = torch.tensor([[1] * len(tokens) + [0] * (width - len(tokens)) for tokens, _ in rows])
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if loss.item() < ENOUGH:
            break
    print(f"{name}: loss {loss.item():.3f} after {step + 1} steps", flush=True)
    folder = HERE / name
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_model.safetensors"
    save_file({key: value.to(torch.bfloat16) for key, value in load_file(path).items()}, path)
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "HuggingFaceTB/SmolLM2-135M-Instruct"
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
    return model.unload()


def main():
    folder, names = Path(sys.argv[1]), sys.argv[2:] or list(SENTENCES)
    tokenizer = tf.AutoTokenizer.from_pretrained(folder, gguf_file=GGUF)
    base = tf.AutoModelForCausalLM.from_pretrained(folder, gguf_file=GGUF, dtype=torch.float32)
    for name in names:
        base = train(base, tokenizer, name, 7 + list(SENTENCES).index(name))


main()
