use super::*;
use crate::testing::{END, MARKER, byte_tokenizer};
use serde_json::json;

fn factory() -> GrammarFactory {
    let tokenizer = byte_tokenizer().expect("bytes as tokens");
    GrammarFactory::new(Arc::new(tokenizer), Markers::default())
}

const VOCABULARY: usize = 258;

fn allowed(grammar: &mut Grammar) -> Vec<bool> {
    let mut logits = vec![1.0; VOCABULARY];
    grammar.mask(&mut logits).expect("a small grammar");
    logits.iter().map(|logit| *logit == 1.0).collect()
}

/// Writes as much of `text` as the grammar allows: the bytes written, and whether the answer may end there.
fn write(grammar: &mut Grammar, text: &str) -> (usize, bool) {
    for (index, byte) in text.bytes().enumerate() {
        if grammar.is_complete() || !allowed(grammar)[usize::from(byte)] {
            return (index, false);
        }
        grammar.accept(u32::from(byte)).expect("it was allowed");
    }
    let may_end = grammar.is_complete() || allowed(grammar)[END as usize];
    (text.len(), may_end)
}

fn check(factory: &GrammarFactory, constraint: &Constraint, valid: &[&str], invalid: &[&str]) {
    let grammar = factory.compile(constraint).expect("a constraint");
    for text in valid {
        assert_eq!(
            write(&mut grammar.fork(), text),
            (text.len(), true),
            "{text}"
        );
    }
    for text in invalid {
        let written = write(&mut grammar.fork(), text);
        assert_ne!(written, (text.len(), true), "{text}");
    }
}

#[test]
fn any_json_object_is_an_object_and_nothing_else() {
    check(
        &factory(),
        &Constraint::JsonObject,
        &[
            "{}",
            r#"{"a":1,"b":[true,null,{"c":"x\n漢"}]}"#,
            r#"{"a": -1.5, "b": [1, 2]}"#,
        ],
        &[
            "[]",
            "x",
            "{ }",
            "{\n}",
            r#"{"a":1e999}"#,
            r#"{"a":01}"#,
            r#"{"a":"x"#,
            "{\"a\":\"\n\"}",
            r#"{"a":  1}"#,
            "{} ",
        ],
    );
}

#[test]
fn schemas_are_followed() {
    let factory = factory();
    let schema = |schema: Value| Constraint::JsonSchema(schema);
    check(
        &factory,
        &schema(json!({
            "type": "object",
            "properties": {
                "name": {"type": "string", "minLength": 2, "maxLength": 4},
                "age": {"type": "integer", "minimum": 3, "maximum": 12},
                "kind": {"enum": ["a", "ä", 3, null]},
            },
            "required": ["name", "kind"],
        })),
        &[
            r#"{"name":"ab","age":12,"kind":"ä"}"#,
            r#"{"name": "漢字漢字", "kind": 3}"#,
        ],
        &[
            r#"{"name":"a","kind":3}"#,
            r#"{"name":"ab","age":13,"kind":3}"#,
            r#"{"name":"ab","kind":4}"#,
            r#"{"name":"ab"}"#,
            r#"{"name":"ab","kind":3,"more":1}"#,
        ],
    );
    check(
        &factory,
        &schema(json!({"$ref": "#/$defs/tree", "$defs": {"tree": {
            "type": "object",
            "properties": {"leaf": {"type": "boolean"}, "more": {"type": "array", "items": {"$ref": "#/$defs/tree"}, "maxItems": 2}},
            "required": ["leaf"],
        }}})),
        &[r#"{"leaf":true,"more":[{"leaf":false},{"leaf":true,"more":[]}]}"#],
        &[r#"{"leaf":true,"more":[{"leaf":1}]}"#, r#"{"more":[]}"#],
    );
    check(
        &factory,
        &schema(json!({"type": "string", "format": "date"})),
        &[r#""2024-02-28""#],
        &[r#""2023-02-29""#, r#""2023-04-31""#, r#""yesterday""#],
    );
    check(
        &factory,
        &schema(json!({"oneOf": [
            {"type": "object", "properties": {"kind": {"const": "x"}, "v": {"type": "number"}}, "required": ["kind", "v"]},
            {"type": "object", "properties": {"kind": {"const": "y"}}, "required": ["kind"]}]})),
        &[r#"{"kind":"x","v":-0.5}"#, r#"{"kind":"y"}"#],
        &[r#"{"kind":"y","v":1}"#, r#"{"kind":"x"}"#],
    );
}

#[test]
fn what_cannot_be_followed_is_the_callers_error_with_its_place() {
    let factory = factory();
    let refused = |schema: Value, part: &str| {
        let error = factory.compile(&Constraint::JsonSchema(schema)).err();
        let Some(EngineError::Invalid { field, reason }) = error else {
            panic!("expected a refusal");
        };
        assert_eq!(field, "response_format");
        assert!(reason.contains(part) && !reason.contains('\n'), "{reason}");
    };
    refused(
        json!({"type": "array", "uniqueItems": true}),
        "`uniqueItems`",
    );
    refused(
        json!({"type": "string", "pattern": "(?=a)b"}),
        "look-around",
    );
    refused(
        json!({"type": "string", "minLength": 3, "maxLength": 2}),
        "minLength",
    );
    refused(json!({"type": "strnig"}), "strnig");
    refused(json!({"$ref": "#/nowhere"}), "nowhere");
    refused(
        json!({"const": "x".repeat(MAX_SCHEMA_BYTES)}),
        "at most 262144 are allowed",
    );
    let many: Vec<Value> = (0..40_000).map(|index| json!(index)).collect();
    let error = factory.compile(&Constraint::JsonSchema(json!({"enum": many})));
    assert!(matches!(error, Ok(_) | Err(EngineError::Invalid { .. })));
}

fn tools() -> Vec<Tool> {
    let tool = |name: &str, parameters| Tool {
        name: name.to_owned(),
        description: None,
        parameters,
    };
    vec![
        tool(
            "get_weather",
            json!({"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}, "required": ["city"]}),
        ),
        tool("now", Value::Null),
        // Not to be held token by token: any object will do.
        tool(
            "odd",
            json!({"properties": {"x": {"type": "string", "pattern": "(?=a)b"}}}),
        ),
    ]
}

fn forced(format: ToolFormat, choice: &ToolChoice) -> Constraint {
    let constraint = Constraint::of(&OutputFormat::Text, &tools(), choice, format);
    constraint.expect("a valid choice").expect("a constraint")
}

#[test]
fn forced_calls_are_held_to_each_familys_way_of_writing() {
    let factory = factory();
    let check = |format, valid: &[&str], invalid: &[&str]| {
        check(
            &factory,
            &forced(format, &ToolChoice::Required),
            valid,
            invalid,
        );
    };
    check(
        ToolFormat::Hermes,
        &[
            "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"x\"}}\n</tool_call>",
            "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>\n<tool_call>\n{\"name\": \"odd\", \"arguments\": {\"x\":1}}\n</tool_call>",
        ],
        &[
            "<tool_call>\n{\"name\": \"now\", \"arguments\": {\"x\":1}}\n</tool_call>",
            "<tool_call>\n{\"name\": \"other\", \"arguments\": {}}\n</tool_call>",
            "Well",
            "",
        ],
    );
    check(
        ToolFormat::Llama3,
        &[r#"{"name": "get_weather", "parameters": {"city":"x","days":3}}"#],
        &[r#"{"name": "get_weather", "parameters": {"days":3}}"#],
    );
    check(
        ToolFormat::Json,
        &[r#"{"name": "now", "arguments": {}}"#],
        &[r#"{"name": "now"}"#],
    );
    check(
        ToolFormat::Mistral,
        &[
            r#"[TOOL_CALLS] [{"name": "now", "arguments": {}}, {"name": "now", "arguments": {}}]"#,
            r#"[TOOL_CALLS][{"name": "now", "arguments": {}}]"#,
        ],
        &["[TOOL_CALLS][]"],
    );
    check(
        ToolFormat::MistralNamed,
        &["[TOOL_CALLS]now[ARGS]{}[TOOL_CALLS]get_weather[ARGS]{\"city\":\"\"}"],
        &["[TOOL_CALLS]now{}"],
    );
}

#[test]
fn a_named_call_is_one_call_of_that_function() {
    let factory = factory();
    let named = forced(ToolFormat::Hermes, &ToolChoice::Named("now".to_owned()));
    let call = "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>";
    let mut grammar = factory.compile(&named).expect("a constraint");
    assert_eq!(write(&mut grammar, call), (call.len(), true));
    assert!(grammar.is_complete());
    let nobody = ToolChoice::Named("nobody".to_owned());
    let error = Constraint::of(&OutputFormat::Text, &tools(), &nobody, ToolFormat::Hermes);
    assert!(error.expect_err("unknown").to_string().contains("nobody"));
    let none = Constraint::of(
        &OutputFormat::Text,
        &[],
        &ToolChoice::Required,
        ToolFormat::Json,
    );
    assert!(none.is_err());
}

#[test]
fn calls_stop_at_a_bound() {
    let mut grammar = factory()
        .compile(&forced(ToolFormat::Hermes, &ToolChoice::Required))
        .expect("a constraint");
    let call = "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>";
    let calls = [call; 8].join("\n");
    assert_eq!(write(&mut grammar, &calls), (calls.len(), true));
    assert!(grammar.is_complete());
}

#[test]
fn a_call_the_model_begins_by_itself_is_held_from_there() {
    let factory = factory();
    let auto = |format| {
        let constraint = forced(format, &ToolChoice::Auto);
        factory.compile(&constraint).expect("a constraint")
    };
    let mut grammar = auto(ToolFormat::Hermes);
    for text in ["Free { text <tool_", "No call <b>"] {
        assert_eq!(write(&mut grammar, text), (text.len(), true));
    }
    for _ in 0..2 {
        assert_eq!(write(&mut grammar, "<tool_call>\n{\"na"), (16, false));
        let mut other = grammar.fork();
        assert_eq!(write(&mut other, "me\": \"x"), (6, false));
        let rest = "me\": \"now\", \"arguments\": {}}\n</tool_call>";
        assert_eq!(write(&mut grammar, rest), (rest.len(), true));
        assert!(!grammar.is_complete());
        assert_eq!(write(&mut grammar, "\nmore text"), (10, true));
    }
    let mut grammar = auto(ToolFormat::Llama3);
    assert_eq!(write(&mut grammar, "\n{\"name\":\"now\", \"a"), (17, false));
    let mut grammar = auto(ToolFormat::Llama3);
    let answer = "{\"name\": \"Bob\", \"age\": 3} and so on";
    assert_eq!(write(&mut grammar, answer), (answer.len(), true));
}

#[test]
fn json_may_be_answered_where_tools_may_be_used() {
    let constraint = Constraint::of(
        &OutputFormat::JsonSchema(json!({"type": "integer", "maximum": 9})),
        &tools(),
        &ToolChoice::Auto,
        ToolFormat::Hermes,
    );
    let call = "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>";
    let constraint = constraint.expect("valid").expect("a constraint");
    check(
        &factory(),
        &constraint,
        &["7", "-12", call],
        &["10", "x", "7<tool_call>"],
    );
}

#[test]
fn a_marker_that_is_a_control_token_is_forced_by_its_id() {
    let tokenizer = byte_tokenizer().expect("bytes as tokens");
    let markers = Markers::new(|text| (text == "[TOOL_CALLS]").then_some(MARKER));
    let factory = GrammarFactory::new(Arc::new(tokenizer), markers);
    for choice in [ToolChoice::Required, ToolChoice::Auto] {
        let constraint = forced(ToolFormat::Mistral, &choice);
        let mut grammar = factory.compile(&constraint).expect("a constraint");
        if choice == ToolChoice::Required {
            let allowed = allowed(&mut grammar);
            assert_eq!(
                allowed.iter().position(|token| *token),
                Some(MARKER as usize)
            );
            assert_eq!(allowed.iter().filter(|token| **token).count(), 1);
        }
        grammar.accept(MARKER).expect("it is allowed");
        let rest = "[{\"name\": \"now\", \"arguments\": {}}]";
        assert_eq!(write(&mut grammar, rest), (rest.len(), true));
    }
}

#[test]
fn what_was_masked_is_not_taken_and_masks_fill_every_row() {
    let factory = factory();
    let mut grammar = factory
        .compile(&Constraint::JsonObject)
        .expect("a constraint");
    let mut logits = vec![0.0; VOCABULARY + 30];
    grammar.mask(&mut logits).expect("a small grammar");
    let alive: Vec<usize> = (0..logits.len())
        .filter(|token| logits[*token] == 0.0)
        .collect();
    assert_eq!(alive, [usize::from(b'{')]);
    assert!(grammar.accept(u32::from(b'x')).is_err());
}

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }
}

/// An answer by a model without sense: any allowed byte, and every other time one that closes something, so that it ends.
fn drawn(grammar: &mut Grammar, dice: &mut Dice) -> Option<String> {
    let mut text = Vec::new();
    for _ in 0..300 {
        let allowed = allowed(grammar);
        let all: Vec<u32> = (0..VOCABULARY as u32)
            .filter(|token| allowed[*token as usize])
            .collect();
        let closes = |token: u32| token == END || b"\"]}".contains(&(token as u8));
        let closing: Vec<u32> = all.iter().copied().filter(|token| closes(*token)).collect();
        let token = match closing.is_empty() || dice.below(2) == 0 {
            true => all[dice.below(all.len())],
            false => closing[dice.below(closing.len())],
        };
        grammar.accept(token).expect("it was allowed");
        text.extend(u8::try_from(token));
        if grammar.is_complete() {
            return Some(String::from_utf8(text).expect("only whole characters"));
        }
    }
    None
}

#[test]
fn whatever_is_drawn_from_the_masks_is_valid() {
    let entries: Vec<Value> =
        serde_json::from_str(include_str!("../../../tests/schemas.json")).expect("the schemas");
    let (factory, mut finished) = (factory(), 0);
    for (seed, entry) in (0..).zip(&entries) {
        let (schema, about) = (&entry["schema"], &entry["about"]);
        let options = jsonschema::options().should_validate_formats(true);
        let validator = options.build(schema).expect("a schema");
        let grammar = factory.compile(&Constraint::JsonSchema(schema.clone()));
        let grammar = grammar.unwrap_or_else(|error| panic!("{about}: {error}"));
        let mut dice = Dice(seed);
        for _ in 0..5 {
            let Some(text) = drawn(&mut grammar.fork(), &mut dice) else {
                continue;
            };
            finished += 1;
            let value = serde_json::from_str(&text);
            let value = value.unwrap_or_else(|error| panic!("{about}: {text:?}: {error}"));
            let result = validator.validate(&value);
            result.unwrap_or_else(|error| panic!("{about}: {text}: {error}"));
        }
    }
    assert!(finished > 800, "{finished} of 1000 answers ended");
}
