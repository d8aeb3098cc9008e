use super::*;
use serde_json::Value;

fn tools() -> Vec<Tool> {
    ["get_weather", "add"]
        .into_iter()
        .map(|name| Tool {
            name: name.to_owned(),
            description: None,
            parameters: Value::Null,
        })
        .collect()
}

/// What a whole answer means: pieces of text and of arguments put together.
#[derive(Debug, Default, PartialEq, Eq)]
struct Answer {
    text: String,
    calls: Vec<(String, String)>,
}

fn read<'a>(format: ToolFormat, parts: impl Iterator<Item = &'a str>) -> Answer {
    let mut reader = ToolReader::new(format, &tools());
    let mut pieces = Vec::new();
    for part in parts {
        reader.push(part, &mut pieces);
    }
    reader.finish(&mut pieces);
    let (mut answer, mut open) = (Answer::default(), None);
    for piece in pieces {
        match piece {
            ToolPiece::Text(text) => {
                assert!(!text.is_empty() && open.is_none());
                answer.text += &text;
            }
            ToolPiece::CallStart { index, name } => {
                assert_eq!((index as usize, open), (answer.calls.len(), None));
                open = Some(index);
                answer.calls.push((name, String::new()));
            }
            ToolPiece::Arguments { index, text } => {
                assert_eq!(open, Some(index));
                answer.calls[index as usize].1 += &text;
            }
            ToolPiece::CallEnd { index } => assert_eq!(open.take(), Some(index)),
        }
    }
    assert_eq!(open, None);
    assert_eq!(reader.calls() as usize, answer.calls.len());
    answer
}

/// Whole, letter by letter, and cut in two at each place.
fn check(format: ToolFormat, input: &str, text: &str, calls: &[(&str, &str)]) {
    let expected = Answer {
        text: text.to_owned(),
        calls: calls
            .iter()
            .map(|(name, arguments)| ((*name).to_owned(), (*arguments).to_owned()))
            .collect(),
    };
    let ends = || {
        input
            .char_indices()
            .map(|(at, letter)| at + letter.len_utf8())
    };
    let letters = input
        .char_indices()
        .map(|(at, letter)| &input[at..at + letter.len_utf8()]);
    assert_eq!(read(format, letters), expected, "{input:?} by letters");
    for cut in std::iter::once(0).chain(ends()) {
        let parts = [&input[..cut], &input[cut..]];
        assert_eq!(
            read(format, parts.into_iter()),
            expected,
            "{input:?} at {cut}"
        );
    }
}

#[test]
fn hermes_calls_are_read() {
    let check = |input, text, calls| check(ToolFormat::Hermes, input, text, calls);
    check(
        "Just 1 < 2 and <tool> 漢字.\n",
        "Just 1 < 2 and <tool> 漢字.\n",
        &[],
    );
    check(
        "<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": [1, {\"b\": \"}</tool_call>\"}]}}\n</tool_call>",
        "",
        &[("add", r#"{"a": [1, {"b": "}</tool_call>"}]}"#)],
    );
    // Hermes 2 Pro writes the arguments first; another text before, two calls, text after.
    check(
        "Let me see.\n<tool_call>\n{\"arguments\": {\"x\": 1}, \"name\": \"add\"}\n</tool_call>\n<tool_call>{\"name\":\"get_weather\"}</tool_call>\nDone.",
        "Let me see.\nDone.",
        &[("add", r#"{"x": 1}"#), ("get_weather", "{}")],
    );
    // Arguments as quoted JSON, OpenAI's wrapping, further keys, null.
    check(
        r#"<tool_call>{"type":"function","id":7,"function":{"name":"add","arguments":"{\"a\":\"\\u00e9\"}"}}</tool_call><tool_call>{"name":"add","arguments":null}</tool_call>"#,
        "",
        &[("add", r#"{"a":"\u00e9"}"#), ("add", "{}")],
    );
    // A forgotten closing mark; a call straight behind.
    check(
        "<tool_call>{\"name\":\"add\",\"arguments\":{}}\n<tool_call>{\"name\":\"add\",\"arguments\":{}}",
        "",
        &[("add", "{}"), ("add", "{}")],
    );
}

#[test]
fn what_is_no_call_stays_text() {
    for input in [
        "<tool_call>{\"name\": \"rm_rf\", \"arguments\": {}}</tool_call> after",
        "before\n<tool_call>\nget_weather()\n</tool_call>",
        "<tool_call>{\"arguments\": {}}</tool_call>",
        "<tool_call>{\"name\": 3}</tool_call>",
        "<tool_call>{\"name\": \"ad",
        "<tool_call>{\"name\": \"add\" \"arguments\": {}}",
        "<tool_ca",
        " \n",
    ] {
        match input.contains("\"add\" \"") {
            // The call had begun: what is left of it is text.
            true => check(
                ToolFormat::Hermes,
                input,
                "\"arguments\": {}}",
                &[("add", "")],
            ),
            false => check(ToolFormat::Hermes, input, input, &[]),
        }
    }
    // A wrong beginning does not hide a right one.
    check(
        ToolFormat::Hermes,
        "<tool_call>x <tool_<tool_call>{\"name\":\"add\",\"arguments\":{}}</tool_call>",
        "<tool_call>x <tool_",
        &[("add", "{}")],
    );
    for input in [
        "[TOOL_CALLS] [1]",
        "[TOOL_CALLS]rm_rf[ARGS]{}",
        "[TOOL_CALLS]",
        "[TOOL_CALLS] []",
        "[TOOL_CALLS][{\"name\": \"rm_rf\"}] x",
    ] {
        check(ToolFormat::Mistral, input, input, &[]);
    }
    for input in [
        "{\"name\": \"Bob\", \"age\": 3}",
        "{\"answer\": [1, 2]}\nas asked",
        "I call {\"name\": \"add\", \"parameters\": {}}",
        "<|python_tag|>print(\"{}\")",
        "```python\nx = {}\n```",
        "```json\n{\"a\": 1}\n```",
        "[1, 2]",
        "{}",
        "<|python",
        "[{\"a\": 1}, 2]",
    ] {
        check(ToolFormat::Llama3, input, input, &[]);
        check(ToolFormat::Json, input, input, &[]);
    }
}

#[test]
fn a_call_that_is_cut_off_keeps_what_it_had() {
    check(
        ToolFormat::Hermes,
        "<tool_call>{\"name\": \"add\", \"arguments\": {\"a\": \"unfin",
        "",
        &[("add", r#"{"a": "unfin"#)],
    );
    check(
        ToolFormat::MistralNamed,
        "[TOOL_CALLS]add[ARGS]{\"a\"",
        "",
        &[("add", r#"{"a""#)],
    );
    check(
        ToolFormat::Json,
        "{\"name\": \"add\", \"arguments\": {\"a\": oops}}",
        "oops}}",
        &[("add", r#"{"a": "#)],
    );
}

#[test]
fn llama_calls_are_read_with_and_without_the_tag() {
    let check = |input: &str, text: &str, calls: &[(&str, &str)]| {
        check(ToolFormat::Llama3, input, text, calls);
    };
    let call = r#"{"name": "get_weather", "parameters": {"city": "Zürich"}}"#;
    let arguments = [("get_weather", r#"{"city": "Zürich"}"#)];
    check(call, "", &arguments);
    check(&format!("\n<|python_tag|> {call}\n"), "", &arguments);
    check(
        &format!("Sure, <b>:\n<|python_tag|>{call}"),
        "Sure, <b>:",
        &arguments,
    );
    let twice = [arguments[0], ("add", "{}")];
    let second = r#"{"type": "function", "function": "add", "parameters": {}}"#;
    check(&format!("{call}; {second}"), "", &twice);
    check(&format!("{call}\n<|python_tag|>{second}"), "", &twice);
    check(&format!("{call}\nThat is it."), "\nThat is it.", &arguments);
}

#[test]
fn plain_calls_are_read_in_fences_and_arrays() {
    let check = |input: &str, calls: &[(&str, &str)]| check(ToolFormat::Json, input, "", calls);
    let call = r#"{"name": "add", "arguments": {"a": 1}}"#;
    let arguments = ("add", r#"{"a": 1}"#);
    check(call, &[arguments]);
    check(&format!("```json\n{call}\n```"), &[arguments]);
    check(&format!("``` {call}```\n"), &[arguments]);
    check(&format!("[{call}, {call}]"), &[arguments, arguments]);
    check(&format!("```json\n[\n{call}\n]\n```"), &[arguments]);
}

#[test]
fn mistral_calls_are_read_in_both_ways_of_writing() {
    for format in [ToolFormat::Mistral, ToolFormat::MistralNamed] {
        let check = |input, text, calls| check(format, input, text, calls);
        check(
            r#"[TOOL_CALLS] [{"name": "add", "arguments": {"a": 1}}, {"name": "get_weather", "arguments": {}, "id": "VvvODy9mT"}]"#,
            "",
            &[("add", r#"{"a": 1}"#), ("get_weather", "{}")],
        );
        check(
            "[1] Well:\n[TOOL_CALLS]add[ARGS]{\"a\": 1}[TOOL_CALLS]get_weather{\"c\": {}}",
            "[1] Well:",
            &[("add", r#"{"a": 1}"#), ("get_weather", r#"{"c": {}}"#)],
        );
        check(
            r#"[TOOL_CALLS]add[CALL_ID]VvvODy9mT[ARGS]{} ok"#,
            " ok",
            &[("add", "{}")],
        );
        check(
            r#"[TOOL_CALLS]{"name": "add", "arguments": {}}"#,
            "",
            &[("add", "{}")],
        );
        check(
            r#"[TOOL_CALLS][{"name": "add", "arguments": {}}"#,
            "",
            &[("add", "{}")],
        );
    }
}

#[test]
fn arguments_stream_as_soon_as_the_name_is_known() {
    let mut reader = ToolReader::new(ToolFormat::Hermes, &tools());
    let mut push = |text: &str| {
        let mut pieces = Vec::new();
        reader.push(text, &mut pieces);
        pieces
    };
    assert_eq!(push("<tool_call>\n{\"name\": \"add"), []);
    let name = "add".to_owned();
    assert_eq!(push("\""), [ToolPiece::CallStart { index: 0, name }]);
    let arguments = |text: &str| ToolPiece::Arguments {
        index: 0,
        text: text.to_owned(),
    };
    assert_eq!(push(", \"arguments\": {\"a"), [arguments("{\"a")]);
    assert_eq!(push("\": 1"), [arguments("\": 1")]);
    assert_eq!(
        push("}}"),
        [arguments("}"), ToolPiece::CallEnd { index: 0 }]
    );
    assert_eq!(push("\n</tool_call>"), []);
    // An object that is no call streams from its first key on.
    let mut reader = ToolReader::new(ToolFormat::Json, &tools());
    let mut pieces = Vec::new();
    reader.push("{\"city\"", &mut pieces);
    assert_eq!(pieces, [ToolPiece::Text("{\"city\"".to_owned())]);
}

#[test]
fn the_number_of_calls_is_bounded() {
    let call = "<tool_call>{\"name\":\"add\",\"arguments\":{}}</tool_call>";
    let many = call.repeat(MAX_CALLS as usize + 2);
    let answer = read(ToolFormat::Hermes, std::iter::once(many.as_str()));
    assert_eq!(answer.calls.len(), MAX_CALLS as usize);
    assert_eq!(answer.text, call.repeat(2));
}

#[test]
fn templates_tell_their_format() {
    let detect = |template: &str| ToolFormat::detect(template, |_| false);
    let plain = "{% for message in messages %}{{ message.content }} no tools here{% endfor %}";
    assert_eq!(detect(plain), ToolFormat::Json);
    assert!(!uses_tools(plain) && uses_tools("{%- if tools %}x{% endif %}"));
    let with = |text: &str| format!("{{%- if tools is not none %}}{text}{{% endif %}}");
    assert_eq!(
        detect(&with("in <tool_call></tool_call> tags")),
        ToolFormat::Hermes
    );
    assert_eq!(
        detect(&with("<|eot_id|> {{ '\"parameters\": ' }}")),
        ToolFormat::Llama3
    );
    assert_eq!(detect(&with("[TOOL_CALLS] [")), ToolFormat::Mistral);
    assert_eq!(
        detect(&with("[TOOL_CALLS]x[ARGS]")),
        ToolFormat::MistralNamed
    );
    assert_eq!(
        ToolFormat::detect(&with("x"), |token| token == "<tool_call>"),
        ToolFormat::Hermes
    );
}

#[test]
fn ids_have_the_form_their_readers_want_and_differ() {
    let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let first = call_id(ToolFormat::Hermes);
    let rest = first.strip_prefix("call_").expect("the prefix");
    assert!(rest.len() == 24 && is_plain(rest), "{first}");
    assert_ne!(first, call_id(ToolFormat::Hermes));
    let short = call_id(ToolFormat::Mistral);
    assert!(short.len() == 9 && is_plain(&short), "{short}");
}

#[test]
fn markers_are_the_control_tokens_among_the_known_ones() {
    let markers = Markers::new(|text| (text == "[TOOL_CALLS]").then_some(5));
    assert_eq!(markers.text(5), Some("[TOOL_CALLS]"));
    assert_eq!(markers.text(6), None);
    assert_eq!(markers.token("[TOOL_CALLS]"), Some(5));
    assert_eq!(markers.token("<tool_call>"), None);
}
