"""Makes LoRA adapters for the tiny decoders beside this script and what Transformers with PEFT says they answer.

    python make_adapters.py          # rewrites the folder `adapters` beside this script

Run on demand, after make_models.py; the outputs are committed and the Rust tests need none of this. Versions the outputs
were made with: torch 2.15.0, transformers 5.23.0, peft 0.21.2, safetensors 0.8.0.

    <base>_<name>/adapter_config.json, adapter_model.safetensors, expected.json

`expected.json` has a prompt, the greedy answer and whole logits at some positions. Weights are random, and so large that an
adapter changes most choices.
"""

import json
import shutil
from pathlib import Path

import torch
import transformers as tf
from peft import LoraConfig, get_peft_model

from make_models import expectation, write_json

HERE = Path(__file__).parent
BASES = HERE / "decoders"
OUT = HERE / "adapters"
LLAMA = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

# Base, name, and what LoraConfig is told.
ADAPTERS = [
    ("llama32", "attention", {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]}),
    ("llama32", "linear", {"r": 4, "lora_alpha": 4, "target_modules": "all-linear"}),
    ("llama32", "wide", {"r": 16, "lora_alpha": 8, "target_modules": ["o_proj", "down_proj"]}),
    ("llama32", "stabilised", {"r": 9, "lora_alpha": 3, "use_rslora": True, "target_modules": ["k_proj", "up_proj"]}),
    ("llama32", "patterns", {"r": 2, "lora_alpha": 2, "target_modules": LLAMA[:4], "rank_pattern": {"q_proj": 5},
                             "alpha_pattern": {"o_proj": 6}}),
    ("llama32", "layer", {"r": 1, "lora_alpha": 2, "target_modules": LLAMA, "layers_to_transform": [1]}),
    ("llama32", "pattern", {"r": 3, "lora_alpha": 3, "target_modules": r".*layers\.0\..*(gate|up)_proj"}),
    ("llama32", "high", {"r": 40, "lora_alpha": 40, "target_modules": ["q_proj", "k_proj"]}),
    ("llama2", "linear", {"r": 8, "lora_alpha": 8, "target_modules": LLAMA}),
    ("mistral", "linear", {"r": 8, "lora_alpha": 8, "target_modules": LLAMA}),
    ("qwen2", "linear", {"r": 8, "lora_alpha": 8, "target_modules": LLAMA}),
    ("qwen3", "linear", {"r": 8, "lora_alpha": 8, "target_modules": LLAMA}),
    ("gemma", "linear", {"r": 8, "lora_alpha": 8, "target_modules": LLAMA}),
    ("gemma2", "linear", {"r": 8, "lora_alpha": 8, "target_modules": LLAMA}),
    ("phi", "linear", {"r": 8, "lora_alpha": 8, "target_modules": ["q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"]}),
    ("falcon", "linear", {"r": 8, "lora_alpha": 8,
                          "target_modules": ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"]}),
]


def randomise(model, generator):
    """A times B moves a projection about as far as a tenth of its own weights."""
    for name, parameter in model.named_parameters():
        if "lora_A" in name:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator) / parameter.shape[1] ** 0.5
        if "lora_B" in name:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)


def make(base, name, options):
    folder = OUT / f"{base}_{name}"
    for seed in range(100):
        model = tf.AutoModelForCausalLM.from_pretrained(BASES / base, dtype=torch.float32, attn_implementation="eager").eval()
        vocabulary = model.config.get_text_config().vocab_size
        model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", bias="none", **options)).eval()
        generator = torch.Generator().manual_seed(1000 + seed)
        randomise(model, generator)
        expected = expectation(model, vocabulary, generator)
        if expected:
            break
    else:
        raise RuntimeError(f"{folder.name}: no seed gave clear choices")
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    # Where the base lay on the machine that made it is nobody's business.
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = base
    # PEFT keeps a set, whose order differs from run to run.
    if isinstance(config["target_modules"], list):
        config["target_modules"].sort()
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
    write_json(folder / "expected.json", expected)
    with torch.no_grad(), model.disable_adapter():
        plain = model(input_ids=torch.tensor([expected["prompt"]])).logits[0, -1]
    moved = (plain - torch.tensor(expected["logits"][-1])).abs().max()
    print(f"{folder.name}: seed {seed}, logits moved by {moved:.2f}")


if __name__ == "__main__":
    shutil.rmtree(OUT, ignore_errors=True)
    for adapter in ADAPTERS:
        make(*adapter)
