"""Makes the tiny encoders that the tests hold ours to, and what PyTorch computes with them.

    pip install torch==2.15.0 transformers==5.23.0 tokenizers==0.23.3 safetensors==0.8.0 sentence-transformers==6.2.0
    python make_encoders.py [FOLDER OF all-MiniLM-L6-v2]

Writes `encoders/<name>/` beside this file (weights from a seed, a tokenizer of a few words) and `encoders/expected.json`:
vectors and scores by plain Transformers modules. With the folder given it writes `encoders/all-minilm.json` too: what
sentence-transformers makes of ten sentences. The tests themselves read only what is committed.
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
    XLMRobertaModel,
)

HERE = Path(__file__).parent / "encoders"
WORDS = "the cat sat on a mat and dog ran far away who is where what sea blue red sky over under hill".split()
TEXTS = [
    "the cat sat on the mat",
    "a",
    "where is the blue sea",
    "the dog ran far away over the red hill and under the blue sky",
    "unknown words here sat",
    " ".join(WORDS * 3),
]
QUERY = "where is the cat"
# Hidden sizes that are no multiple of 16, so that every vector loop has a rest.
SIZES = dict(hidden_size=28, num_attention_heads=2, intermediate_size=52, num_hidden_layers=2)


def bert_tokenizer():
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return tokenizer, len(vocabulary)


def roberta_tokenizer():
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [("\u2581" + word, -float(i + 1)) for i, word in enumerate(WORDS)]
    pieces += [(letter, -50.0) for letter in "\u2581abcdefghijklmnopqrstuvwxyz"]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    # A padding token written in a text is one, and has the padding's position.
    tokenizer.add_special_tokens(["<pad>"])
    return tokenizer, len(pieces)


def write(name, model, tokenizer, limit=None, pooling=None):
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    state = {key: value.contiguous() for key, value in model.state_dict().items() if "position_ids" not in key}
    save_file(state, folder / "model.safetensors")
    config = model.config.to_dict() | {"architectures": [type(model).__name__]}
    (folder / "config.json").write_text(json.dumps(config, indent=1, default=str) + "\n")
    tokenizer.save(str(folder / "tokenizer.json"))
    if limit:
        (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": limit}) + "\n")
    if pooling:
        (folder / "1_Pooling").mkdir()
        flags = {f"pooling_mode_{kind}": pooling == kind for kind in ("cls_token", "mean_tokens", "max_tokens")}
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(flags) + "\n")
        modules = [{"type": f"sentence_transformers.models.{kind}"} for kind in ("Transformer", "Pooling", "Normalize")]
        (folder / "modules.json").write_text(json.dumps(modules) + "\n")


def spread(model):
    """Weights large enough that a mistake anywhere shows; biases and norms that are not zeros and ones."""
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape) * (0.25 if parameter.dim() > 1 else 0.3)
    for name, parameter in model.named_parameters():
        if name.endswith("LayerNorm.weight"):
            parameter.data += 1.0
    return model.eval()


def tensors(tokenizer, window, text, pair=None):
    tokenizer.enable_truncation(window, strategy="longest_first")
    encoding = tokenizer.encode(text, pair) if pair else tokenizer.encode(text)
    return {
        "input_ids": torch.tensor([encoding.ids]),
        "attention_mask": torch.ones(1, len(encoding.ids), dtype=torch.long),
        "token_type_ids": torch.tensor([encoding.type_ids]),
    }


def rounded(values):
    return [round(float(value), 7) for value in values]


@torch.no_grad()
def embeddings(model, tokenizer, window):
    rows = []
    for text in TEXTS:
        inputs = tensors(tokenizer, window, text)
        hidden = model(**inputs).last_hidden_state[0]
        unit = lambda row: rounded(torch.nn.functional.normalize(row, dim=0))
        rows.append({"text": text, "tokens": len(hidden), "mean": unit(hidden.mean(0)), "cls": unit(hidden[0])})
    return rows


@torch.no_grad()
def scores(model, tokenizer, window):
    rows = []
    for context in TEXTS:
        inputs = tensors(tokenizer, window, QUERY, context)
        inputs["token_type_ids"].zero_()
        logit = model(**inputs).logits[0, 0]
        rows.append({"context": context, "tokens": inputs["input_ids"].shape[1], "score": rounded([logit.sigmoid()])[0]})
    return rows


def main():
    torch.manual_seed(20260501)
    expected = {}

    tokenizer, size = bert_tokenizer()
    config = BertConfig(vocab_size=size, max_position_embeddings=40, type_vocab_size=2, pad_token_id=0, **SIZES)
    model = spread(BertModel(config, add_pooling_layer=False))
    write("bert", model, tokenizer, limit=24, pooling="cls_token")
    expected["bert"] = embeddings(model, tokenizer, 24)

    tokenizer, size = roberta_tokenizer()
    roberta = dict(vocab_size=size, max_position_embeddings=42, type_vocab_size=1, pad_token_id=1, layer_norm_eps=1e-5)
    model = spread(XLMRobertaModel(XLMRobertaConfig(**roberta, **SIZES), add_pooling_layer=False))
    TEXTS.append("the cat <pad> sat")
    write("xlm-roberta", model, tokenizer)
    expected["xlm-roberta"] = embeddings(model, tokenizer, 40)

    config = XLMRobertaConfig(**roberta, **SIZES, num_labels=1)
    model = spread(XLMRobertaForSequenceClassification(config))
    write("xlm-roberta-classifier", model, tokenizer)
    expected["xlm-roberta-classifier"] = {"query": QUERY, "rows": scores(model, tokenizer, 40)}
    write_json("expected.json", expected)

    if len(sys.argv) > 1:
        write_json("all-minilm.json", all_minilm(sys.argv[1]))


def all_minilm(folder):
    """Sixteen components of each vector in full, the rest by weighted sums that no two swapped components survive."""
    from sentence_transformers import SentenceTransformer

    sentences = [
        "A man is eating food.",
        "The quick brown fox jumps over the lazy dog.",
        "Where can I find the nearest railway station?",
        "def add(a, b):\n    return a + b",
        "Ein Satz auf Deutsch, mit Umlauten: äöüß.",
        "漢字 and emoji 👩‍👩‍👧 in one line",
        "x",
        "",
        "3.14159 is close to pi, 2.71828 to e; 100% of 42.",
        "The wind blew over the hill and the river ran to the sea. " * 40,
    ]
    model = SentenceTransformer(folder, device="cpu")
    vectors = torch.tensor(model.encode(sentences, batch_size=1, normalize_embeddings=True))
    count = vectors.shape[1]
    ramp = torch.arange(count) / count
    return [
        {
            "text": sentence,
            "tokens": len(model.tokenizer(sentence, truncation=True, max_length=model.max_seq_length)["input_ids"]),
            "first": rounded(vector[:16]),
            "ramp": rounded([vector @ ramp])[0],
            "wave": rounded([vector @ torch.cos(torch.arange(count) * 1.0)])[0],
        }
        for sentence, vector in zip(sentences, vectors)
    ]


def write_json(name, value):
    """A line for each row, so that a change is one to the eye."""
    text = json.dumps(value, ensure_ascii=False).replace("}, {", "},\n{").replace("[{", "[\n{")
    (HERE / name).write_text(text + "\n")


if __name__ == "__main__":
    main()
