"""Makes the tiny decoders beside this script and what Transformers says they answer.

    python make_models.py            # rewrites the folder `decoders` beside this script

Run on demand; the outputs are committed and the Rust tests need none of this. Versions the outputs were made with:
torch 2.15.0, transformers 5.23.0, gguf 0.19.0, safetensors 0.8.0, numpy 2.

Every architecture gets a model of two or three layers with random weights, large enough that each term shows in the
logits (norm weights and biases included) and small enough to commit. Hidden sizes are no multiples of 256, prompts reach
past a window of 8 and past two blocks of 16 positions. Weights are rounded to values that f32, f16 and bf16 all hold, so
that one expectation serves a model in each of these types.

    <name>/config.json, model.safetensors, expected.json
    <name>.gguf                      the same model under GGUF's names; expected is <name>'s
    quant_<type>.gguf                a Llama in one quantised type, with quant_<type>.json for its dequantised weights
    awq/                             a Llama packed by AWQ's gemm layout
"""

import json
import math
import shutil
from pathlib import Path

import gguf
import numpy as np
import torch
import transformers as tf
from safetensors.torch import save_file

HERE = Path(__file__).parent / "decoders"
PROMPT_TOKENS = 37
GREEDY_TOKENS = 16
# Places whose whole logits are kept: the first, one past a window of 8, two in later blocks.
POSITIONS = [0, 9, 20, PROMPT_TOKENS - 1]
# A greedy choice this close could fall either way by rounding alone; another seed is taken then.
MIN_GAP = 2e-3


def rounded(tensor):
    """To the nearest value all of f32, f16 and bf16 hold."""
    tensor = tensor.to(torch.bfloat16).float()
    return torch.where(tensor.abs() < 2.0**-14, torch.zeros_like(tensor), tensor)


def randomise(model, generator, centre):
    """`centre` is what norm weights scatter around: 1, or 0 where the model adds 1 itself."""
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if "norm" in name or "ln_f" in name:
            value = (0.0 if name.endswith("bias") else centre) + 0.3 * noise
        elif name.endswith("bias"):
            value = 0.3 * noise
        else:
            # Less for queries and keys: a softmax that is all on one position turns any rounding into another answer.
            # More for the embedding, as in trained models: layers add to it, they do not replace it.
            value = (0.1 if "q_proj" in name or "k_proj" in name else 0.4 if "embed" in name else 0.2) * noise
        parameter.data = rounded(value)


@torch.no_grad()
def expectation(model, vocabulary, generator):
    """Prompt, logits at POSITIONS, greedy continuation; None when a choice was too close."""
    prompt = torch.randint(0, vocabulary, (PROMPT_TOKENS,), generator=generator)
    tokens = prompt.tolist()
    logits = None
    for _ in range(GREEDY_TOKENS):
        row = model(torch.tensor([tokens]), use_cache=False).logits[0].float()
        logits = row if logits is None else logits
        best = row[-1].topk(2).values
        if best[0] - best[1] < MIN_GAP:
            return None
        tokens.append(int(row[-1].argmax()))
    return {
        "prompt": prompt.tolist(),
        "greedy": tokens[PROMPT_TOKENS:],
        "positions": POSITIONS,
        "logits": [[float(f"{value:.8g}") for value in logits[p].tolist()] for p in POSITIONS],
    }


def settle(config, centre=1.0, change=None):
    """A model of `config` whose greedy choices are clear, and what it answers."""
    for seed in range(100):
        generator = torch.Generator().manual_seed(seed)
        config._attn_implementation = "eager"
        model = tf.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        randomise(model, generator, centre)
        if change:
            change(model, np.random.default_rng(seed))
        expected = expectation(model, config.vocab_size, generator)
        if expected:
            return model, expected
    raise RuntimeError("no seed gave clear choices")


def write_json(path, value):
    path.write_text(json.dumps(value, separators=(",", ":")) + "\n")


def own_tensors(model):
    """Named weights, tied ones once."""
    tied = model.config.tie_word_embeddings
    return {
        name: value.clone().contiguous()
        for name, value in model.state_dict().items()
        if not (tied and name == "lm_head.weight") and not name.endswith("inv_freq")
    }


def write_folder(name, config, expected, tensors, shards=1):
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    write_json(folder / "expected.json", expected)
    if shards == 1:
        save_file(tensors, folder / "model.safetensors")
        return
    names = sorted(tensors)
    weight_map = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = {n: tensors[n] for n in names[shard::shards]}
        save_file(part, folder / file)
        weight_map |= {n: file for n in part}
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})


def plain_config(config):
    """What `save_pretrained` writes, without what says nothing here."""
    values = config.to_dict()
    for key in ["transformers_version", "_name_or_path", "architectures", "dtype", "id2label", "label2id", "problem_type",
                "output_hidden_states", "return_dict", "chunk_size_feed_forward", "is_encoder_decoder", "use_cache",
                "output_attentions", "initializer_range", "attention_dropout"]:
        values.pop(key, None)
    return {key: value for key, value in values.items() if not key.startswith("_")}


def old_config(config):
    """The form before Transformers 5: the rotation's numbers at the top."""
    values = plain_config(config)
    rope = dict(values.pop("rope_parameters"))
    values.pop("layer_types", None)
    if "full_attention" in rope:
        values["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        rope = dict(rope["full_attention"])
    values["rope_theta"] = rope.pop("rope_theta")
    if "partial_rotary_factor" in rope:
        values["partial_rotary_factor"] = rope.pop("partial_rotary_factor")
    if rope.get("rope_type", "default") != "default":
        values["rope_scaling"] = rope
    else:
        values["rope_scaling"] = None
    return values


def permuted(weight, heads):
    """Llama's query and key rows in GGUF: value i of a head's first half beside value i of its second."""
    rows = weight.shape[0]
    return weight.reshape(heads, 2, rows // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


GGUF_NAMES = {
    "embed_tokens": "token_embd", "word_embeddings": "token_embd", "lm_head": "output",
    "norm": "output_norm", "final_layernorm": "output_norm", "ln_f": "output_norm",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.dense": "attn_output", "self_attention.dense": "attn_output",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "self_attention.query_key_value": "attn_qkv",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "mlp.fc1": "ffn_up", "mlp.fc2": "ffn_down",
    "mlp.dense_h_to_4h": "ffn_up", "mlp.dense_4h_to_h": "ffn_down",
    "pre_feedforward_layernorm": "ffn_norm", "post_feedforward_layernorm": "post_ffw_norm",
}


def gguf_name(name, has_post_norms):
    stem, kind = name.rsplit(".", 1)
    parts = stem.removeprefix("model.").removeprefix("transformer.").split(".")
    if parts[0] not in ("layers", "h"):
        return f"{GGUF_NAMES[parts[0]]}.{kind}"
    own = ".".join(parts[2:])
    target = GGUF_NAMES[own]
    if has_post_norms and own == "post_attention_layernorm":
        target = "post_attention_norm"
    return f"blk.{parts[1]}.{target}.{kind}"


def gguf_writer(path, architecture, config, norm_epsilon):
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_context_length(512)
    writer.add_uint32(f"{architecture}.feed_forward_length",
                      getattr(config, "intermediate_size", None) or config.ffn_hidden_size)
    (writer.add_layer_norm_eps if architecture in ("phi2", "falcon") else writer.add_layer_norm_rms_eps)(norm_epsilon)
    return writer


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_gguf(name, architecture, model, quant, keys, norm_epsilon):
    """The model under GGUF's names, matrices as `quant`."""
    config = model.config
    writer = gguf_writer(HERE / f"{name}.gguf", architecture, config, norm_epsilon)
    for key, value in keys.items():
        add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}[type(value)]
        add(f"{architecture}.{key}", value)
    for tensor, value in own_tensors(model).items():
        target = gguf_name(tensor, architecture == "gemma3")
        value = value.numpy()
        if architecture.startswith("gemma") and target.endswith("norm.weight"):
            value = value + 1.0
        if architecture == "llama" and ".attn_q." in target:
            value = permuted(value, config.num_attention_heads)
        if architecture == "llama" and ".attn_k." in target:
            value = permuted(value, config.num_key_value_heads)
        value = np.ascontiguousarray(value, dtype=np.float32)
        if value.ndim == 1 or quant == gguf.GGMLQuantizationType.F32:
            writer.add_tensor(target, value)
        else:
            writer.add_tensor(target, gguf.quants.quantize(value, quant), raw_dtype=quant)
    finish(writer)


def architectures():
    """Every safetensors model, and the GGUF twin of some."""
    types = gguf.GGMLQuantizationType
    common = dict(vocab_size=80, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=128,
                  bos_token_id=1, eos_token_id=2, pad_token_id=0)

    config = tf.LlamaConfig(**common, hidden_size=48, intermediate_size=56, num_key_value_heads=4, rms_norm_eps=1e-5,
                            tie_word_embeddings=False)
    model, expected = settle(config)
    write_folder("llama2", plain_config(config), expected, own_tensors(model))

    # Every pair of the rotation: fast, between and slow.
    scaling = dict(rope_type="llama3", rope_theta=10000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                   original_max_position_embeddings=32)
    config = tf.LlamaConfig(**common, hidden_size=64, intermediate_size=72, num_key_value_heads=2, rms_norm_eps=1e-5,
                            tie_word_embeddings=True, rope_parameters=scaling)
    model, expected = settle(config)
    write_folder("llama32", old_config(config), expected, own_tensors(model))
    write_llama_divisors(model, scaling)

    config = tf.LlamaConfig(**common, hidden_size=40, intermediate_size=56, num_key_value_heads=2, rms_norm_eps=1e-6,
                            tie_word_embeddings=False,
                            rope_parameters=dict(rope_type="linear", rope_theta=1000.0, factor=4.0))
    model, expected = settle(config)
    old = old_config(config)
    old["rope_scaling"] = dict(type="linear", factor=4.0)
    write_folder("llama_linear", old, expected, own_tensors(model), shards=3)

    config = tf.LlamaConfig(**common, hidden_size=64, intermediate_size=96, num_key_value_heads=1, rms_norm_eps=1e-5,
                            tie_word_embeddings=False)
    model, expected = settle(config)
    write_folder("tinyllama", plain_config(config), expected,
                 {name: value.to(torch.bfloat16) for name, value in own_tensors(model).items()})

    config = tf.MistralConfig(**common, hidden_size=56, intermediate_size=40, num_key_value_heads=2, rms_norm_eps=1e-5,
                              sliding_window=8, head_dim=16, tie_word_embeddings=False)
    model, expected = settle(config)
    write_folder("mistral", plain_config(config), expected, own_tensors(model))

    config = tf.Qwen2Config(**common, hidden_size=48, intermediate_size=56, num_key_value_heads=2, rms_norm_eps=1e-6,
                            tie_word_embeddings=True)
    model, expected = settle(config)
    write_folder("qwen2", plain_config(config), expected, own_tensors(model))
    write_gguf("qwen2", "qwen2", model, types.F16,
               {"attention.head_count_kv": 2, "rope.freq_base": 10000.0}, config.rms_norm_eps)

    config = tf.Qwen2Config(**common, hidden_size=48, intermediate_size=40, num_key_value_heads=2, rms_norm_eps=1e-6,
                            use_sliding_window=True, sliding_window=8, max_window_layers=1, tie_word_embeddings=True)
    model, expected = settle(config)
    write_folder("qwen2_window", plain_config(config), expected, own_tensors(model))

    config = tf.Qwen3Config(**common, hidden_size=40, intermediate_size=72, num_key_value_heads=2, head_dim=16,
                            rms_norm_eps=1e-6, tie_word_embeddings=True)
    model, expected = settle(config)
    write_folder("qwen3", plain_config(config), expected, own_tensors(model))
    write_gguf("qwen3", "qwen3", model, types.BF16,
               {"attention.head_count_kv": 2, "attention.key_length": 16, "rope.freq_base": 10000.0},
               config.rms_norm_eps)

    config = tf.GemmaConfig(**common, hidden_size=48, intermediate_size=72, num_key_value_heads=1, head_dim=16,
                            rms_norm_eps=1e-6)
    model, expected = settle(config, centre=0.0)
    write_folder("gemma", plain_config(config), expected, own_tensors(model))
    write_gguf("gemma", "gemma", model, types.F16,
               {"attention.head_count_kv": 1, "attention.key_length": 16}, config.rms_norm_eps)

    config = tf.Gemma2Config(**common, hidden_size=48, intermediate_size=64, num_key_value_heads=2, head_dim=16,
                             rms_norm_eps=1e-6, sliding_window=8, attn_logit_softcapping=3.0,
                             final_logit_softcapping=4.0, query_pre_attn_scalar=24)
    model, expected = settle(config, centre=0.0)
    write_folder("gemma2", plain_config(config), expected, own_tensors(model))

    rope = {"full_attention": dict(rope_type="linear", rope_theta=100000.0, factor=8.0),
            "sliding_attention": dict(rope_type="default", rope_theta=1000.0)}
    config = tf.Gemma3TextConfig(**(common | dict(num_hidden_layers=3)), hidden_size=40, intermediate_size=56,
                                 num_key_value_heads=2, head_dim=16, rms_norm_eps=1e-6, sliding_window=8,
                                 query_pre_attn_scalar=24, rope_parameters=rope,
                                 layer_types=["sliding_attention", "full_attention", "sliding_attention"])
    model, expected = settle(config, centre=0.0)
    # As the multimodal checkpoints have it: inside another model, in the older form.
    inner = old_config(config) | {"sliding_window_pattern": 2}
    tensors = {f"language_model.{name}": value for name, value in own_tensors(model).items()}
    write_folder("gemma3", {"model_type": "gemma3", "text_config": inner}, expected, tensors)
    write_json(HERE / "gemma3" / "config_v5.json", {"model_type": "gemma3", "text_config": plain_config(config)})
    config.query_pre_attn_scalar = 16
    model, expected = settle(config, centre=0.0)
    write_gguf("gemma3", "gemma3", model, types.F16,
               {"attention.head_count_kv": 2, "attention.key_length": 16, "attention.sliding_window": 8,
                "attention.sliding_window_pattern": 2, "rope.freq_base": 100000.0, "rope.freq_base_swa": 1000.0,
                "rope.scaling.type": "linear", "rope.scaling.factor": 8.0}, config.rms_norm_eps)
    write_json(HERE / "gemma3.json", expected)

    config = tf.PhiConfig(**common, hidden_size=48, intermediate_size=72, num_key_value_heads=4, layer_norm_eps=1e-5,
                          rope_parameters=dict(rope_type="default", rope_theta=10000.0, partial_rotary_factor=0.5))
    # 6 of 12 values turn: a part of the head, and neither a power of two.
    model, expected = settle(config)
    write_folder("phi", old_config(config), expected, own_tensors(model))
    write_gguf("phi", "phi2", model, types.F16,
               {"attention.head_count_kv": 4, "rope.dimension_count": 6}, config.layer_norm_eps)

    config = tf.FalconConfig(**common, hidden_size=48, ffn_hidden_size=104, layer_norm_epsilon=1e-5, alibi=False,
                             bias=False, multi_query=True, parallel_attn=True, new_decoder_architecture=False)
    model, expected = settle(config)
    write_folder("falcon", plain_config(config), expected, own_tensors(model))
    write_gguf("falcon", "falcon", model, types.F16, {"attention.head_count_kv": 1}, config.layer_norm_epsilon)


def write_llama_divisors(model, scaling):
    """The GGUF twin of a Llama 3.2: permuted rows, and the scaled rotation as a tensor of divisors."""
    config = model.config
    head_dim = config.hidden_size // config.num_attention_heads
    divisors = []
    for i in range(0, head_dim, 2):
        frequency = scaling["rope_theta"] ** (-i / head_dim)
        turns = scaling["original_max_position_embeddings"] * frequency / (2 * math.pi)
        low, high, factor = (scaling[k] for k in ("low_freq_factor", "high_freq_factor", "factor"))
        kept = min(max((turns - low) / (high - low), 0.0), 1.0)
        divisors.append(1.0 / ((1.0 - kept) / factor + kept))
    model.register_buffer("divisors", torch.tensor(divisors))
    own = own_tensors(model)
    own.pop("divisors")
    writer = gguf_writer(HERE / "llama32.gguf", "llama", config, config.rms_norm_eps)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(scaling["rope_theta"])
    writer.add_rope_dimension_count(head_dim)
    writer.add_tensor("rope_freqs.weight", np.array(divisors, dtype=np.float32))
    for tensor, value in own.items():
        target = gguf_name(tensor, False)
        value = value.numpy()
        if ".attn_q." in target:
            value = permuted(value, config.num_attention_heads)
        if ".attn_k." in target:
            value = permuted(value, config.num_key_value_heads)
        value = np.ascontiguousarray(value, dtype=np.float32)
        if value.ndim == 1:
            writer.add_tensor(target, value)
        else:
            half = gguf.GGMLQuantizationType.F16
            writer.add_tensor(target, gguf.quants.quantize(value, half), raw_dtype=half)
    finish(writer)


def random_blocks(kind, shape, rng):
    """Blocks of a K type with every field in use; small scales, so that weights scatter by about 0.06."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    count = math.prod(shape) // block
    data = rng.integers(0, 256, (count, size), dtype=np.uint8)
    scale = lambda low, high: rng.uniform(low, high, count).astype(np.float16).view(np.uint8).reshape(count, 2)
    types = gguf.GGMLQuantizationType
    if kind == types.Q6_K:
        # Scale of 16 signed scales, last.
        data[:, -2:] = scale(2e-5, 5e-5)
    else:
        # Scale of scales, scale of minimums: a weight is about 32 d (q - q's mean).
        levels = 15 if kind == types.Q4_K else 31
        d = rng.uniform(2e-4, 4e-4, count) * 15 / levels
        data[:, 0:2] = d.astype(np.float16).view(np.uint8).reshape(count, 2)
        data[:, 2:4] = (d * levels / 2).astype(np.float16).view(np.uint8).reshape(count, 2)
    return data.reshape(*shape[:-1], shape[-1] // block * size)


def quantised():
    """A Llama in each quantised type; what it answers is said by Transformers over the dequantised weights."""
    types = gguf.GGMLQuantizationType
    for kind in [types.Q4_0, types.Q4_1, types.Q5_0, types.Q5_1, types.Q8_0, types.Q4_K, types.Q5_K, types.Q6_K]:
        is_k = kind in (types.Q4_K, types.Q5_K, types.Q6_K)
        config = tf.LlamaConfig(
            vocab_size=64, num_hidden_layers=1 if is_k else 2, num_attention_heads=4, max_position_embeddings=128,
            hidden_size=256 if is_k else 64, intermediate_size=96, head_dim=16, num_key_value_heads=1 if is_k else 2,
            rms_norm_eps=1e-5, tie_word_embeddings=True)
        blocks = {}

        def change(model, rng):
            blocks.clear()
            for name, parameter in model.named_parameters():
                if parameter.ndim == 1:
                    continue
                heads = 4 if "q_proj" in name else config.num_key_value_heads if "k_proj" in name else None
                # Rows of the K types are whole 256s; the others are Q8_0, a mixture as real files are.
                own = kind if not is_k or parameter.shape[-1] % 256 == 0 else types.Q8_0
                if own == kind and is_k:
                    data = random_blocks(own, parameter.shape, rng)
                else:
                    value = parameter.data.numpy()
                    data = gguf.quants.quantize(np.ascontiguousarray(permuted(value, heads) if heads else value), own)
                value = gguf.quants.dequantize(data, own)
                blocks[name] = (data, own)
                # The file's rows are permuted; back to the order Transformers has them in.
                if heads:
                    rows = value.shape[0]
                    value = value.reshape(heads, rows // heads // 2, 2, -1).swapaxes(1, 2).reshape(value.shape)
                parameter.data = torch.tensor(np.ascontiguousarray(value))

        model, expected = settle(config, change=change)
        name = f"quant_{kind.name.lower()}"
        writer = gguf_writer(HERE / f"{name}.gguf", "llama", config, config.rms_norm_eps)
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_key_length(config.head_dim)
        writer.add_rope_dimension_count(config.head_dim)
        for tensor, value in own_tensors(model).items():
            target = gguf_name(tensor, False)
            if tensor in blocks:
                writer.add_tensor(target, blocks[tensor][0], raw_dtype=blocks[tensor][1])
            else:
                writer.add_tensor(target, value.numpy())
        finish(writer)
        write_json(HERE / f"{name}.json", expected)


AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


def awq():
    """A Llama whose layers are packed as AWQ's gemm kernels read them; groups of 32 inputs."""
    group = 32
    config = tf.LlamaConfig(
        vocab_size=96, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=128, hidden_size=64,
        intermediate_size=96, num_key_value_heads=2, rms_norm_eps=1e-5, tie_word_embeddings=False)
    packed = {}

    def words(values):
        """Eight columns a word, lowest nibble first in AWQ's order."""
        rows, columns = values.shape
        eights = values.reshape(rows, columns // 8, 8).astype(np.uint32)
        out = np.zeros((rows, columns // 8), dtype=np.uint32)
        for nibble, column in enumerate(AWQ_ORDER):
            out |= eights[:, :, column] << np.uint32(4 * nibble)
        return torch.tensor(out.view(np.int32))

    def change(model, rng):
        packed.clear()
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 or not ".layers." in name:
                continue
            columns, k = parameter.shape
            q = rng.integers(0, 16, (k, columns))
            zeros = rng.integers(4, 12, (k // group, columns))
            high = 0.03 if "q_proj" in name or "k_proj" in name else 0.06
            scales = rng.uniform(high / 3, high, (k // group, columns)).astype(np.float16)
            spread = lambda x: np.repeat(x, group, axis=0)
            weight = (q - spread(zeros)) * spread(scales).astype(np.float32)
            parameter.data = torch.tensor(np.ascontiguousarray(weight.T), dtype=torch.float32)
            stem = name.removesuffix("weight")
            packed[stem + "qweight"] = words(q)
            packed[stem + "qzeros"] = words(zeros)
            packed[stem + "scales"] = torch.tensor(scales)

    model, expected = settle(config, change=change)
    tensors = {name: value.to(torch.float16) for name, value in own_tensors(model).items()
               if name.removesuffix("weight") + "qweight" not in packed}
    described = plain_config(config) | {"quantization_config": {
        "quant_method": "awq", "bits": 4, "group_size": group, "version": "gemm", "zero_point": True}}
    write_folder("awq", described, expected, tensors | packed)


if __name__ == "__main__":
    architectures()
    quantised()
    awq()
