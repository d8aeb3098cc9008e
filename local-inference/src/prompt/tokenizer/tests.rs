use super::*;
use crate::catalogue;
use crate::testing::model_dir_or_skip;
use crate::weights::gguf::Gguf;
use std::path::{Path, PathBuf};
use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/tokenizers")
        .join(name)
}

fn gguf(path: &Path) -> Tokenizer {
    let bytes = std::fs::read(path).expect("the file is there");
    let file = Gguf::parse(&bytes).expect("a valid file");
    Tokenizer::from_gguf(&file).expect("a known tokenizer")
}

fn written(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    let bytes = ids.iter().flat_map(|id| tokenizer.token_bytes(*id));
    String::from_utf8_lossy(&bytes.copied().collect::<Vec<u8>>()).into_owned()
}

#[test]
fn a_vocabulary_that_does_not_fit_together_is_refused() {
    let build = |tokens: &[&str], merges: &[&str], kinds: &[i64]| {
        Tokenizer::new(tokens, merges, kinds, None)
            .err()
            .map(|error| error.to_string())
    };
    assert!(build(&["a"], &[], &[]).is_some());
    assert!(build(&["a"], &["ab"], &[1]).is_some());
    assert!(build(&["a"], &["a b"], &[1]).is_some());
    assert!(build(&["漢"], &[], &[1]).is_some());
    assert!(build(&["a", "b", "ab"], &["a b"], &[1, 1, 1]).is_none());
}

/// Expected ids are by a separate, naive byte-pair merge over the file's tables (each digit alone, then GPT-2's pattern).
#[test]
fn smollm2_texts_become_the_ids_it_was_trained_with() {
    let Some(directory) = model_dir_or_skip("the tokenizer's ids") else {
        return;
    };
    let path = directory.join(&*catalogue::all()[0].file);
    let tokenizer = gguf(&path);
    let check = |text: &str, ids: &[u32]| {
        assert_eq!(tokenizer.encode(text).as_deref(), Ok(ids), "{text:?}");
        assert_eq!(
            tokenizer.encode_prompt(text).as_deref(),
            Ok(ids),
            "{text:?}"
        );
        let plain = text.replace("<|im_start|>", "").replace("<|im_end|>", "");
        assert_eq!(written(&tokenizer, ids), plain);
    };
    check(
        "<|im_start|>user\nIn 2024, what's 3.14 + 2?<|im_end|>\n",
        &[
            1, 4093, 198, 788, 216, 34, 32, 34, 36, 28, 732, 506, 216, 35, 30, 33, 36, 1232, 216,
            34, 47, 2, 198,
        ],
    );
    check(
        "  naïve 漢字 👩‍👩‍👧\t\n\n x",
        &[
            216, 15486, 46494, 17097, 137, 112, 36518, 15107, 235, 119, 321, 231, 10813, 235, 119,
            321, 231, 10813, 235, 117, 197, 1116, 1792,
        ],
    );
    check(
        "don't STOP  it's 100%",
        &[12420, 982, 5022, 7627, 216, 357, 506, 216, 33, 32, 32, 21],
    );
    check(
        "def f(x):\n    return x**2\n",
        &[1604, 275, 24, 104, 727, 472, 1003, 1792, 828, 34, 198],
    );
    assert_eq!(tokenizer.end_tokens, [0, 2]);
    assert!(tokenizer.is_end(2) && !tokenizer.is_end(1));
    assert!(tokenizer.is_special(1) && !tokenizer.is_special(4093));
    assert_eq!(
        (tokenizer.begin.id, tokenizer.eos_text()),
        (Some(1), "<|im_end|>")
    );
}

/// llama.cpp keeps the vocabularies of several families with texts and the ids their own tokenizers give them.
#[test]
fn the_families_vocabularies_give_the_ids_of_their_own_tokenizers() {
    let Some(folder) = std::env::var_os("AI_GATEWAY_TEST_VOCABULARY_DIR").map(PathBuf::from) else {
        println!(
            "SKIPPED: the families' vocabularies: set AI_GATEWAY_TEST_VOCABULARY_DIR to the `models` folder of llama.cpp's source"
        );
        return;
    };
    let names = [
        "llama-spm",
        "phi-3",
        "llama-bpe",
        "qwen2",
        "deepseek-llm",
        "deepseek-coder",
        "falcon",
        "gpt-2",
        "starcoder",
        "refact",
    ];
    for name in names {
        let path = folder.join(format!("ggml-vocab-{name}.gguf"));
        let tokenizer = gguf(&path);
        let read = |ending: &str| {
            std::fs::read_to_string(path.with_extension(ending)).expect("the file is there")
        };
        let (texts, ids) = (read("gguf.inp"), read("gguf.out"));
        let texts: Vec<&str> = texts.split("\n__ggml_vocab_test__\n").collect();
        for (text, line) in texts.iter().zip(ids.lines()) {
            let expected: Vec<u32> = line
                .split_whitespace()
                .map(|id| id.parse().expect("a number"))
                .collect();
            assert_eq!(
                tokenizer.encode(text),
                Ok(expected.clone()),
                "{name}: {text:?}"
            );
            let space = if tokenizer.has_space_prefix() && !text.is_empty() {
                " "
            } else {
                ""
            };
            assert_eq!(written(&tokenizer, &expected), format!("{space}{text}"));
        }
    }
}

const BEGIN: &[u32] = &[1];

/// The ids of each text, and what they write: the text again, unless control tokens are among them.
fn check(tokenizer: &Tokenizer, expected: &[(&str, &[u32])]) {
    for (text, ids) in expected {
        assert_eq!(tokenizer.encode(text).as_deref(), Ok(*ids), "{text:?}");
        if !ids.iter().any(|id| tokenizer.is_special(*id)) {
            let space = if tokenizer.has_space_prefix() {
                " "
            } else {
                ""
            };
            assert_eq!(written(tokenizer, ids), format!("{space}{text}"));
        }
    }
}

/// Expected ids are sentencepiece's own.
#[test]
fn a_sentencepiece_vocabulary_is_joined_by_score() {
    let tokenizer = gguf(&fixture("marked.gguf"));
    let expected: &[(&str, &[u32])] = &[
        (
            "Hello world",
            &[360, 75, 290, 372, 366, 265, 366, 367, 372, 368],
        ),
        (
            "  two  spaces ",
            &[
                360, 360, 360, 364, 374, 366, 360, 264, 373, 361, 379, 362, 365, 360,
            ],
        ),
        (
            "banana aaaaaaa ananas aaaaa",
            &[303, 284, 288, 259, 361, 266, 302, 288, 361],
        ),
        (
            "It's 2024: naïve 漢字 and 👩‍👩‍👧!",
            &[
                280, 364, 375, 365, 345, 357, 401, 283, 321, 279, 360, 233, 191, 165, 232, 176,
                154, 287, 360, 243, 162, 148, 172, 229, 131, 144, 243, 162, 148, 172, 229, 131,
                144, 243, 162, 148, 170, 36,
            ],
        ),
        (
            "tab\tand\n\nnewlines\n",
            &[
                360, 364, 361, 384, 12, 260, 368, 397, 397, 363, 326, 372, 328, 362, 365, 397,
            ],
        ),
        ("<s>the dog</s> says", &[1, 274, 304, 2, 360, 264, 299]),
        (
            "привет, the lazy  dog",
            &[
                360, 211, 194, 344, 211, 181, 211, 184, 212, 133, 370, 274, 349, 319, 377, 360, 304,
            ],
        ),
    ];
    check(&tokenizer, expected);
    assert_eq!(tokenizer.encode(""), Ok(vec![]));
    let prompt = |text| tokenizer.encode_prompt(text);
    assert_eq!(
        prompt("Hello").map(|ids| ids[..2].to_vec()),
        Ok(vec![1, 360])
    );
    assert_eq!(
        prompt("<s>the dog</s> says"),
        tokenizer.encode("<s>the dog</s> says")
    );
    assert_eq!((tokenizer.begin.id, tokenizer.end.id), (Some(1), Some(2)));
    assert_eq!(
        (tokenizer.bos_text(), tokenizer.eos_text()),
        ("<s>", "</s>")
    );
    assert_eq!(tokenizer.end_tokens, [2]);
    let special: Vec<u32> = (0..500).filter(|id| tokenizer.is_special(*id)).collect();
    let outside: Vec<u32> = (tokenizer.vocabulary() as u32..500).collect();
    assert_eq!(special, [vec![0, 1, 2], outside].concat());
}

#[test]
fn a_vocabulary_without_space_prefix_takes_its_given_tokens_first() {
    let tokenizer = gguf(&fixture("given.gguf"));
    let expected: &[(&str, &[u32])] = &[
        ("Hello world", &[77, 327, 372, 366, 266, 366, 367, 372, 368]),
        (
            "  two  spaces ",
            &[4, 364, 374, 366, 4, 365, 373, 361, 379, 362, 365, 360],
        ),
        (
            "banana aaaaaaa ananas aaaaa",
            &[384, 262, 284, 288, 261, 361, 267, 304, 288, 361],
        ),
        (
            "It's 2024: naïve 漢字 and 👩‍👩‍👧!",
            &[
                318, 375, 365, 347, 358, 401, 360, 292, 413, 281, 360, 235, 193, 167, 234, 178,
                156, 287, 360, 245, 164, 150, 174, 231, 133, 146, 245, 164, 150, 174, 231, 133,
                146, 245, 164, 150, 172, 38,
            ],
        ),
        (
            "tab\tand\n\nnewlines\n",
            &[
                364, 361, 384, 14, 262, 368, 397, 397, 363, 329, 372, 331, 362, 365, 397,
            ],
        ),
        ("a<tab>b   c", &[361, 3, 384, 4, 282]),
    ];
    check(&tokenizer, expected);
    assert_eq!(tokenizer.encode_prompt("a"), tokenizer.encode("a"));
    assert_eq!(tokenizer.token_bytes(3), b"<tab>");
    assert_eq!(tokenizer.token_bytes(4), b"  ");
    assert!(!tokenizer.is_special(3));
}

/// Expected ids are those of the `tokenizers` library in Python, which Transformers runs.
#[test]
fn a_folders_tokenizer_gives_the_ids_transformers_does() {
    let marked = Tokenizer::from_files(&fixture("marked/tokenizer.json")).expect("a tokenizer");
    let expected: &[(&str, &[u32])] = &[
        (
            "Hello world",
            &[360, 75, 290, 372, 366, 265, 366, 367, 372, 368],
        ),
        (
            "  two  spaces ",
            &[
                360, 360, 360, 364, 374, 366, 360, 264, 373, 361, 379, 362, 365, 360,
            ],
        ),
        (
            "banana aaaaaaa ananas aaaaa",
            &[303, 284, 288, 259, 361, 266, 302, 288, 361],
        ),
        (
            "It's 2024: naïve 漢字 and 👩‍👩‍👧!",
            &[
                280, 364, 375, 365, 345, 357, 401, 283, 321, 279, 360, 233, 191, 165, 232, 176,
                154, 287, 360, 243, 162, 148, 172, 229, 131, 144, 243, 162, 148, 172, 229, 131,
                144, 243, 162, 148, 170, 36,
            ],
        ),
        (
            "tab\tand\n\nnewlines\n",
            &[
                360, 364, 361, 384, 12, 260, 368, 397, 397, 363, 326, 372, 328, 362, 365, 397,
            ],
        ),
        ("<s>the dog</s> says", &[1, 274, 304, 2, 360, 264, 299]),
        (
            "привет, the lazy  dog",
            &[
                360, 211, 194, 344, 211, 181, 211, 184, 212, 133, 370, 274, 349, 319, 377, 360, 304,
            ],
        ),
    ];
    check(&marked, expected);
    assert_eq!(
        marked.encode_prompt("Hello world"),
        Ok([BEGIN, expected[0].1].concat())
    );
    assert_eq!(
        marked.encode_prompt(expected[5].0).as_deref(),
        Ok(expected[5].1)
    );
    assert!(marked.has_space_prefix() && marked.is_end(2) && marked.is_special(0));
    assert_eq!(marked.token_bytes(3 + 0xe2), b"\xe2");

    let bytes = Tokenizer::from_files(&fixture("bytes/tokenizer.json")).expect("a tokenizer");
    let expected: &[(&str, &[u32])] = &[
        ("Hello world", &[39, 288, 75, 78, 263, 78, 81, 75, 67]),
        (
            "  two  spaces ",
            &[220, 220, 83, 86, 78, 220, 262, 79, 64, 66, 68, 82, 220],
        ),
        (
            "banana aaaaaaa ananas aaaaa",
            &[65, 299, 280, 256, 64, 264, 282, 82, 280, 64],
        ),
        (
            "It's 2024: naïve 漢字 and 👩‍👩‍👧!",
            &[
                328, 313, 220, 324, 19, 25, 297, 285, 107, 277, 220, 162, 120, 95, 161, 255, 245,
                284, 220, 172, 253, 239, 102, 158, 222, 235, 172, 253, 239, 102, 158, 222, 235,
                172, 253, 239, 100, 0,
            ],
        ),
        (
            "tab\tand\n\nnewlines\n",
            &[
                83, 64, 65, 197, 257, 67, 198, 198, 77, 68, 86, 75, 72, 77, 68, 82, 198,
            ],
        ),
        (
            "<s>the dog</s> says",
            &[27, 82, 29, 258, 68, 301, 27, 14, 82, 29, 262, 304],
        ),
        (
            "привет, the lazy  dog",
            &[
                140, 123, 293, 292, 140, 110, 140, 113, 141, 224, 11, 272, 220, 75, 334, 88, 220,
                301,
            ],
        ),
        (
            "<|begin_of_text|>the<tool_call>dog<|eot_id|>",
            &[340, 258, 68, 344, 67, 290, 342],
        ),
    ];
    check(&bytes, expected);
    assert_eq!(
        bytes.encode_prompt("Hello world"),
        Ok([&[340], expected[0].1].concat())
    );
    assert!(!bytes.has_space_prefix());
    assert_eq!(bytes.end_tokens, [341, 342]);
    assert_eq!(
        (bytes.begin.id, bytes.eos_text()),
        (Some(340), "<|eot_id|>")
    );
    assert_eq!(bytes.token_bytes(340), b"");
    assert_eq!(bytes.control_token("<|python_tag|>"), Some(343));
    assert_eq!(bytes.control_token("<tool_call>"), None);
    assert!(bytes.is_special(343) && !bytes.is_special(344));
    assert_eq!(bytes.vocabulary(), 345);
}

#[test]
fn files_that_are_missing_or_broken_say_so() {
    let error = |name: &str| {
        Tokenizer::from_files(&fixture(name))
            .err()
            .map(|error| error.to_string())
    };
    assert!(error("nowhere/tokenizer.json").is_some_and(|text| text.contains("nowhere")));
    assert!(error("marked.gguf").is_some_and(|text| text.contains("marked.gguf")));
}

/// Words by Python's `tokenizers` with the steps of each family's own `tokenizer.json`.
#[test]
fn each_pre_tokenizer_cuts_words_where_its_family_does() {
    let text = "It'S 1234 x=12;\r\n\n  été漢字 don't  ";
    let check = |name: &str, expected: &[&str]| {
        let steps = split::by_name(name)
            .expect("valid patterns")
            .expect("a known name");
        let mut words = PreTokenizedString::from(text);
        steps.pre_tokenize(&mut words).expect("cut");
        let words = words.get_splits(OffsetReferential::Normalized, OffsetType::Byte);
        let words: Vec<&str> = words.iter().map(|(word, _, _)| *word).collect();
        assert_eq!(words, expected, "{name}");
    };
    check(
        "gpt-2",
        &[
            "It",
            "'",
            "S",
            "Ġ1234",
            "Ġx",
            "=",
            "12",
            ";",
            "čĊĊĠ",
            "ĠÃ©tÃ©æ¼¢åŃĹ",
            "Ġdon",
            "'t",
            "ĠĠ",
        ],
    );
    check(
        "smollm",
        &[
            "It",
            "'",
            "S",
            "Ġ",
            "1",
            "2",
            "3",
            "4",
            "Ġx",
            "=",
            "1",
            "2",
            ";",
            "čĊĊĠ",
            "ĠÃ©tÃ©æ¼¢åŃĹ",
            "Ġdon",
            "'t",
            "ĠĠ",
        ],
    );
    check(
        "llama-bpe",
        &[
            "It",
            "'S",
            "Ġ",
            "123",
            "4",
            "Ġx",
            "=",
            "12",
            ";čĊĊ",
            "Ġ",
            "ĠÃ©tÃ©æ¼¢åŃĹ",
            "Ġdon",
            "'t",
            "ĠĠ",
        ],
    );
    check(
        "qwen2",
        &[
            "It",
            "'S",
            "Ġ",
            "1",
            "2",
            "3",
            "4",
            "Ġx",
            "=",
            "1",
            "2",
            ";čĊĊ",
            "Ġ",
            "ĠÃ©tÃ©æ¼¢åŃĹ",
            "Ġdon",
            "'t",
            "ĠĠ",
        ],
    );
    check(
        "deepseek-llm",
        &[
            "It",
            "'",
            "S",
            "Ġ",
            "1",
            "2",
            "3",
            "4",
            "Ġx",
            "=",
            "1",
            "2",
            ";",
            "č",
            "Ċ",
            "Ċ",
            "Ġ",
            "ĠÃ©",
            "t",
            "Ã©",
            "æ¼¢åŃĹ",
            "Ġdon",
            "'",
            "t",
            "ĠĠ",
        ],
    );
    check(
        "deepseek-coder",
        &[
            "It",
            "'",
            "S",
            "Ġ",
            "1",
            "2",
            "3",
            "4",
            "Ġx",
            "=",
            "1",
            "2",
            ";",
            "č",
            "Ċ",
            "Ċ",
            "Ġ",
            "ĠÃ©tÃ©",
            "æ¼¢åŃĹ",
            "Ġdon",
            "'",
            "t",
            "ĠĠ",
        ],
    );
    check(
        "falcon",
        &[
            "It",
            "'",
            "S",
            "Ġ",
            "123",
            "4",
            "Ġx",
            "=",
            "12",
            ";",
            "čĊĊĠ",
            "ĠÃ©tÃ©æ",
            "¼",
            "¢åŃĹ",
            "Ġdon",
            "'",
            "t",
            "ĠĠ",
        ],
    );
    assert!(split::by_name("something-else").is_ok_and(|steps| steps.is_none()));
}
