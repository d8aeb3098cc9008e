"""Makes the tiny tokenizers of this folder and prints the ids the tests expect.

Needs sentencepiece, tokenizers and gguf. The texts they learn from are below, so a run gives the same files again.
"""

import json
import os

import gguf
import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
from tokenizers import pre_tokenizers, processors, trainers

HERE = os.path.dirname(os.path.abspath(__file__))
CORPUS = [
    "The quick brown fox jumps over the lazy dog, and the dog says nothing.",
    "A gateway stands between applications and models; it counts, caches and forwards.",
    "aaa aaaa aaaaa aaaaaa banana bananas anna ananas",
    "In 2024 there were 365 days, 12 months, 52 weeks; 3.14 is near pi.",
    "    def walk(self, path):\n        return [part for part in path.split('/')]",
    "It's what we've said; they're here, I'll go, you'd stay, don't shout.",
    "naïve café, Straße, žluťoučký kůň, привет мир, 漢字かな",
] * 3
TEXTS = [
    "Hello world",
    "  two  spaces ",
    "banana aaaaaaa ananas aaaaa",
    "It's 2024: naïve 漢字 and 👩‍👩‍👧!",
    "tab\tand\n\nnewlines\n",
    "<s>the dog</s> says",
    "привет, the lazy  dog",
]


def sentencepiece_model(name, **options):
    path = os.path.join(HERE, name)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_prefix=path, vocab_size=420, model_type="bpe",
        byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
        character_coverage=0.98, hard_vocab_limit=False, minloglevel=2, num_threads=1, **options)
    processor = sentencepiece.SentencePieceProcessor(model_file=path + ".model")
    os.remove(path + ".vocab")
    os.remove(path + ".model")
    return processor


def gguf_file(name, processor, adds_space, adds_bos):
    writer = gguf.GGUFWriter(os.path.join(HERE, name), "llama")
    tokens, scores, kinds = [], [], []
    for i in range(processor.get_piece_size()):
        piece = processor.id_to_piece(i)
        kind = gguf.TokenType.NORMAL
        if processor.is_unknown(i):
            kind = gguf.TokenType.UNKNOWN
        elif processor.is_control(i):
            kind = gguf.TokenType.CONTROL
        elif processor.is_byte(i):
            kind = gguf.TokenType.BYTE
        elif piece in ("<tab>", "▁▁"):
            kind = gguf.TokenType.USER_DEFINED
        tokens.append(piece.encode())
        scores.append(processor.get_score(i))
        kinds.append(kind)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(kinds)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(adds_bos)
    writer.add_add_space_prefix(adds_space)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def with_control_tokens(processor, text, adds_space):
    """What sentencepiece gives for a text cut at its control tokens, each part as a text of its own."""
    ids = []
    while text:
        cuts = [(text.find(t), t, i) for t, i in (("<s>", 1), ("</s>", 2)) if t in text]
        at, token, number = min(cuts) if cuts else (len(text), "", None)
        if at:
            ids += processor.encode(text[:at])
        if number is not None:
            ids.append(number)
        text = text[at + len(token):]
    return ids


def write(folder, tokenizer, config, generation):
    folder = os.path.join(HERE, folder)
    os.makedirs(folder, exist_ok=True)
    tokenizer.save(os.path.join(folder, "tokenizer.json"), pretty=False)
    for name, value in (("tokenizer_config", config), ("generation_config", generation)):
        with open(os.path.join(folder, name + ".json"), "w") as file:
            json.dump(value, file)


def llama2_like(processor):
    """As Llama 2's: merges ranked by the joint token's score, spaces marked, bytes for what is unknown."""
    pieces = [processor.id_to_piece(i) for i in range(processor.get_piece_size())]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    merges = []
    for i, piece in enumerate(pieces):
        if processor.is_control(i) or processor.is_byte(i) or processor.is_unknown(i):
            continue
        local = [(piece[:at], piece[at:]) for at in range(1, len(piece))
                 if piece[:at] in vocabulary and piece[at:] in vocabulary]
        local.sort(key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
        merges += [(processor.get_score(i), pair) for pair in local]
    merges = [pair for _, pair in sorted(merges, key=lambda merge: -merge[0])]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>",
                                     fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.add_special_tokens(
        [AddedToken(t, normalized=False, special=True) for t in ("<unk>", "<s>", "</s>")])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    return tokenizer


def llama3_like():
    pattern = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
               r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(
        vocab_size=340, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    tokenizer.add_special_tokens(["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|python_tag|>"])
    tokenizer.add_tokens(["<tool_call>"])
    begin = tokenizer.token_to_id("<|begin_of_text|>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", pair="<|begin_of_text|> $A $B",
        special_tokens=[("<|begin_of_text|>", begin)])
    return tokenizer


def main():
    processor = sentencepiece_model("marked")
    gguf_file("marked.gguf", processor, True, True)
    print("marked.gguf")
    for text in TEXTS:
        print(" ", json.dumps(text, ensure_ascii=False), with_control_tokens(processor, text, True))

    given = sentencepiece_model("given", add_dummy_prefix=False, user_defined_symbols=["<tab>", "▁▁"])
    gguf_file("given.gguf", given, False, False)
    print("given.gguf")
    for text in [*TEXTS[:5], "a<tab>b   c"]:
        print(" ", json.dumps(text, ensure_ascii=False), given.encode(text))

    tokenizer = llama2_like(processor)
    write("marked", tokenizer,
          {"add_bos_token": True, "add_eos_token": False, "bos_token": {"content": "<s>"},
           "eos_token": "</s>"}, {"eos_token_id": 2})
    print("marked/")
    for text in TEXTS:
        print(" ", json.dumps(text, ensure_ascii=False), tokenizer.encode(text).ids)

    tokenizer = llama3_like()
    eot, end = tokenizer.token_to_id("<|eot_id|>"), tokenizer.token_to_id("<|end_of_text|>")
    write("bytes", tokenizer,
          {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}, {"eos_token_id": [end, eot]})
    print("bytes/", {t: tokenizer.token_to_id(t) for t in ("<|begin_of_text|>", "<|python_tag|>", "<tool_call>")}, end, eot)
    for text in [*TEXTS, "<|begin_of_text|>the<tool_call>dog<|eot_id|>"]:
        print(" ", json.dumps(text, ensure_ascii=False), tokenizer.encode(text).ids)


main()
