use super::*;
use crate::request::ToolCall;
use serde_json::json;

fn message(role: &str, content: &str) -> Message {
    Message::new(role, content)
}

fn own(source: &str) -> ChatTemplate {
    ChatTemplate::new(source, "<s>", "</s>").expect("a valid template")
}

fn plain(template: &ChatTemplate, messages: &[Message]) -> Result<String, String> {
    let rendered = template.render(messages, &[], &Map::new());
    rendered.map_err(|error| error.to_string())
}

fn calling(calls: &[(&str, &str, &str)]) -> Message {
    let calls = calls.iter().map(|(id, name, arguments)| ToolCall {
        id: (*id).to_owned(),
        name: (*name).to_owned(),
        arguments: (*arguments).to_owned(),
    });
    Message {
        tool_calls: calls.collect(),
        ..message("assistant", "")
    }
}

fn result(id: Option<&str>, content: &str) -> Message {
    Message {
        tool_call_id: id.map(str::to_owned),
        ..message("tool", content)
    }
}

fn weather() -> Tool {
    Tool {
        name: "weather".to_owned(),
        description: Some("Tells the <weather>".to_owned()),
        parameters: json!({
            "type": "object",
            "properties": {"place": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["place"],
        }),
    }
}

#[test]
fn python_methods_and_block_trimming_work_as_in_transformers() {
    let source = "{% for message in messages %}\n    {%- if message['role'].startswith('u') %}\n[{{ message.content.strip() }}]\n    {%- endif %}\n{% endfor %}{{ eos_token }}";
    let text = plain(
        &own(source),
        &[message("user", "  hi "), message("assistant", "x")],
    );
    assert_eq!(text.as_deref(), Ok("[hi]</s>"));
}

#[test]
fn a_refusing_or_endless_template_is_the_requests_error() {
    let error = plain(&own("{{ raise_exception('roles must alternate') }}"), &[]);
    assert!(error.is_err_and(|error| error.contains("roles must alternate")));
    let endless = "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}";
    assert!(plain(&own(endless), &[]).is_err());
}

#[test]
fn what_transformers_gives_templates_is_there() {
    let check = |source: &str, expected: &str| {
        let options = json!({"enable_thinking": false, "messages": "not this", "n": 1.5});
        let options = options.as_object().expect("an object");
        let text = own(source).render(&[message("user", "hi")], &[], options);
        assert_eq!(text.as_deref(), Ok(expected), "{source}");
    };
    check("{{ bos_token }}{{ messages[0].content }}", "<s>hi");
    check("{{ tools is none }}{{ documents is none }}", "TrueTrue");
    check("{% if add_generation_prompt %}yes{% endif %}", "yes");
    check(
        "{{ enable_thinking is defined and not enable_thinking }}",
        "True",
    );
    check("{{ strftime_now('%Y-%m-%d')|length }}", "10");
    check(
        "{{ {'a': [1, 2.0, true, none], 'b<&': 'x\\'y'} | tojson }}",
        "{\"a\": [1, 2.0, true, null], \"b<&\": \"x'y\"}",
    );
    check("{{ none is iterable }} {{ 'a' is iterable }}", "False True");
    check(
        "[{{ 'a\n\nb\n'|indent(2, first=true) }}][{{ 'a\nb'|indent }}]",
        "[  a\n\n  b\n][a\n    b]",
    );
    check(
        "{{ {'b': 'é\\n', 'a': []} | tojson(ensure_ascii=true, sort_keys=true) }}",
        r#"{"a": [], "b": "\u00e9\n"}"#,
    );
    check(
        "{{ {'a': [1], 'c': {}} | tojson(indent=2) }}",
        "{\n  \"a\": [\n    1\n  ],\n  \"c\": {}\n}",
    );
    check(
        "{{ [1, {'a': 2}] | tojson(separators=(',', ':')) }}",
        "[1,{\"a\":2}]",
    );
    check(
        "{{ {'a': 1, 'b': [true, 'x']} }}",
        "{'a': 1, 'b': [True, 'x']}",
    );
    check(
        "{% set ns = namespace(n=0) %}{% for i in range(5) %}{% if i == 3 %}{% break %}{% endif %}{% if i == 1 %}{% continue %}{% endif %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}",
        "2",
    );
    check(
        "a\n  {%- generation -%}  b  {%- endgeneration %}\nc{% generation %}d{% endgeneration %}",
        "abcd",
    );
    check("{{ n + 1 }} {{ '%s' % 'x' if false else 'y' }}", "2.5 y");
}

/// The expected texts are Python's `json.dumps` of the same numbers.
#[test]
fn numbers_are_written_as_python_writes_them() {
    for (number, expected) in [
        (json!(0.0), "0.0"),
        (json!(-2.5), "-2.5"),
        (json!(1e20), "1e+20"),
        (json!(1e15), "1000000000000000.0"),
        (json!(1.5e16), "1.5e+16"),
        (json!(0.0001), "0.0001"),
        (json!(1e-7), "1e-07"),
        (json!(18446744073709551615u64), "18446744073709551615"),
        (json!(-3), "-3"),
    ] {
        let text = python::Style::default().json(&python::value(&number));
        assert_eq!(text, expected);
    }
}

/// The constructs of Llama 3.1's: tools in the first user message, a date, one call a message.
const LLAMA31: &str = "{{- bos_token }}
{%- if not tools_in_user_message is defined %}{%- set tools_in_user_message = true %}{%- endif %}
{%- if not date_string is defined %}{%- set date_string = \"26 Jul 2024\" %}{%- endif %}
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}{%- set system_message = \"\" %}{%- endif %}
{{- \"<|start_header_id|>system<|end_header_id|>\\n\\nToday Date: \" + date_string + \"\\n\\n\" + system_message + \"<|eot_id|>\" }}
{%- if tools_in_user_message and not tools is none %}
    {%- set first = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
    {{- '<|start_header_id|>user<|end_header_id|>\\n\\n' }}
    {%- for t in tools %}{{- t | tojson(indent=4) }}{{- \"\\n\\n\" }}{%- endfor %}
    {{- first + \"<|eot_id|>\" }}
{%- endif %}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}{{- raise_exception(\"one call at once\") }}{%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}
        {{- '{\"name\": \"' + tool_call.name + '\", ' }}{{- '\"parameters\": ' }}{{- tool_call.arguments | tojson }}{{- \"}\" }}
        {{- \"<|eot_id|>\" }}
    {%- elif message.role == \"tool\" or message.role == \"ipython\" %}
        {{- \"<|start_header_id|>ipython<|end_header_id|>\\n\\n\" }}
        {%- if message.content is mapping or message.content is iterable %}{{- message.content | tojson }}{%- else %}{{- message.content }}{%- endif %}
        {{- \"<|eot_id|>\" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}
";

#[test]
fn a_template_of_llama_31s_kind() {
    let template = own(LLAMA31);
    let chat = [
        message("user", "Weather in Bonn and Rome?"),
        calling(&[
            ("a", "weather", r#"{"place":"Bonn"}"#),
            ("b", "weather", r#"{"place":"Rome"}"#),
        ]),
        result(Some("b"), "wet"),
        result(Some("a"), "dry"),
    ];
    let options = json!({"date_string": "1 May 2025"});
    let text = template
        .render(&chat, &[weather()], options.as_object().expect("an object"))
        .expect("it renders");
    let call = |place: &str, weather: &str| {
        format!(
            "<|start_header_id|>assistant<|end_header_id|>\n\n{{\"name\": \"weather\", \"parameters\": {{\"place\": \"{place}\"}}}}<|eot_id|>\
             <|start_header_id|>ipython<|end_header_id|>\n\n\"{weather}\"<|eot_id|>"
        )
    };
    let tool = "{\n    \"type\": \"function\",\n    \"function\": {\n        \"name\": \"weather\",\n        \"description\": \"Tells the <weather>\",\n        \"parameters\": {\n            \"type\": \"object\",\n            \"properties\": {\n                \"place\": {\n                    \"type\": \"string\"\n                },\n                \"days\": {\n                    \"type\": \"integer\"\n                }\n            },\n            \"required\": [\n                \"place\"\n            ]\n        }\n    }\n}\n\n";
    let expected = format!(
        "<s><|start_header_id|>system<|end_header_id|>\n\nToday Date: 1 May 2025\n\n<|eot_id|>\
         <|start_header_id|>user<|end_header_id|>\n\n{tool}Weather in Bonn and Rome?<|eot_id|>{}{}\
         <|start_header_id|>assistant<|end_header_id|>\n\n",
        call("Bonn", "dry"),
        call("Rome", "wet"),
    );
    assert_eq!(text, expected);
}

/// The constructs of Qwen 2.5's: tools in the system message, results joined in one user message.
const QWEN25: &str = r#"{%- if tools %}
    {{- '<|im_start|>system\n' }}{{- messages[0]['content'] if messages[0]['role'] == 'system' else 'You are helpful.' }}
    {{- "\n\n<tools>" }}
    {%- for tool in tools %}{{- "\n" }}{{- tool | tojson }}{%- endfor %}
    {{- "\n</tools><|im_end|>\n" }}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>' + message.role }}
        {%- if message.content %}{{- '\n' + message.content }}{%- endif %}
        {%- for tool_call in message.tool_calls %}
            {%- if tool_call.function is defined %}{%- set tool_call = tool_call.function %}{%- endif %}
            {{- '\n<tool_call>\n{"name": "' }}{{- tool_call.name }}{{- '", "arguments": ' }}{{- tool_call.arguments | tojson }}{{- '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- elif message.role == "tool" %}
        {%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != "tool") %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\n<tool_response>\n' }}{{- message.content }}{{- '\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}{{- '<|im_end|>\n' }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}
"#;

#[test]
fn a_template_of_qwen_25s_kind_reads_calls_that_were_told_as_text() {
    let template = own(QWEN25);
    let call = r#"{"name": "weather", "arguments": {"place": "Bonn", "days": 2}}"#;
    // As `runWithTools` sends them: calls and results one after the other, no ids.
    let chat = [
        message("user", "Weather?"),
        message("assistant", call),
        message(
            "assistant",
            r#"[{"id":"x","type":"function","function":{"name":"weather","arguments":"{}"}}]"#,
        ),
        Message {
            name: Some("weather".to_owned()),
            ..result(None, "\"dry\"")
        },
        result(None, "\"wet\""),
    ];
    let text = template
        .render(&chat, &[weather()], &Map::new())
        .expect("it renders");
    let expected = "<|im_start|>system\nYou are helpful.\n\n<tools>\n{\"type\": \"function\", \"function\": {\"name\": \"weather\", \"description\": \"Tells the <weather>\", \"parameters\": {\"type\": \"object\", \"properties\": {\"place\": {\"type\": \"string\"}, \"days\": {\"type\": \"integer\"}}, \"required\": [\"place\"]}}}\n</tools><|im_end|>\n\
        <|im_start|>user\nWeather?<|im_end|>\n\
        <|im_start|>assistant\n<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"place\": \"Bonn\", \"days\": 2}}\n</tool_call>\n<tool_call>\n{\"name\": \"weather\", \"arguments\": {}}\n</tool_call><|im_end|>\n\
        <|im_start|>user\n<tool_response>\n\"dry\"\n</tool_response>\n<tool_response>\n\"wet\"\n</tool_response><|im_end|>\n\
        <|im_start|>assistant\n";
    assert_eq!(text, expected);
    // Words that only look like a call stay words, and so does a call nobody answered.
    for said in [call, "{\"name\": 3}", "[]", "{"] {
        let text = plain(
            &template,
            &[message("assistant", said), message("user", "go on")],
        );
        assert!(text.is_ok_and(|text| text.contains(&format!("assistant\n{said}<|im_end|>"))));
    }
}

/// The constructs of Mistral v0.3's: tools before the last user message, alternation, ids of nine characters.
const MISTRAL: &str = r#"{%- set loop_messages = messages %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}
{%- set ns = namespace(index=0) %}
{%- for message in loop_messages if not (message.role == "tool" or (message.tool_calls is defined and message.tool_calls is not none)) %}
    {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}{{- raise_exception("roles must alternate") }}{%- endif %}
    {%- set ns.index = ns.index + 1 %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if tools is not none and (message == user_messages[-1]) %}
            {{- "[AVAILABLE_TOOLS] [" }}
            {%- for tool in tools %}
                {%- set tool = tool.function %}
                {{- '{"type": "function", "function": {' }}
                {%- for key, val in tool.items() if key != "return" %}
                    {%- if val is string %}{{- '"' + key + '": "' + val + '"' }}{%- else %}{{- '"' + key + '": ' + val|tojson }}{%- endif %}
                    {%- if not loop.last %}{{- ", " }}{%- endif %}
                {%- endfor %}
                {{- "}}" }}{%- if not loop.last %}{{- ", " }}{%- else %}{{- "]" }}{%- endif %}
            {%- endfor %}
            {{- "[/AVAILABLE_TOOLS]" }}
        {%- endif %}
        {{- "[INST] " + message["content"] + "[/INST]" }}
    {%- elif message.tool_calls is defined and message.tool_calls is not none %}
        {{- "[TOOL_CALLS] [" }}
        {%- for tool_call in message.tool_calls %}
            {%- set out = tool_call.function|tojson %}
            {{- out[:-1] }}
            {%- if not tool_call.id is defined or tool_call.id|length != 9 %}{{- raise_exception("Tool call IDs should be alphanumeric strings with length 9!") }}{%- endif %}
            {{- ', "id": "' + tool_call.id + '"}' }}
            {%- if not loop.last %}{{- ", " }}{%- else %}{{- "]" + eos_token }}{%- endif %}
        {%- endfor %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token }}
    {%- elif message["role"] == "tool_results" or message["role"] == "tool" %}
        {%- if message.content is defined and message.content.content is defined %}{%- set content = message.content.content %}{%- else %}{%- set content = message.content %}{%- endif %}
        {{- '[TOOL_RESULTS] {"content": ' + content|string + ", " }}
        {{- '"call_id": "' + message.tool_call_id + '"}[/TOOL_RESULTS]' }}
    {%- endif %}
{%- endfor %}
"#;

#[test]
fn a_template_of_mistral_v03s_kind_gets_ids_it_takes() {
    let chat = [
        message("user", "Weather?"),
        calling(&[
            ("call_with_a_long_id", "weather", r#"{"place":"Bonn"}"#),
            ("abcDEF123", "weather", "{}"),
        ]),
        result(Some("abcDEF123"), "wet"),
        result(Some("call_with_a_long_id"), "dry"),
        message("assistant", "Dry."),
        message("user", "Sure?"),
    ];
    let text = own(MISTRAL).render(&chat, &[weather()], &Map::new());
    let expected = "<s>[INST] Weather?[/INST][TOOL_CALLS] [{\"name\": \"weather\", \"arguments\": {\"place\": \"Bonn\"}, \"id\": \"call00000\"}, {\"name\": \"weather\", \"arguments\": {}, \"id\": \"abcDEF123\"}]</s>\
        [TOOL_RESULTS] {\"content\": wet, \"call_id\": \"abcDEF123\"}[/TOOL_RESULTS][TOOL_RESULTS] {\"content\": dry, \"call_id\": \"call00000\"}[/TOOL_RESULTS] Dry.</s>\
        [AVAILABLE_TOOLS] [{\"type\": \"function\", \"function\": {\"name\": \"weather\", \"description\": \"Tells the <weather>\", \"parameters\": {\"type\": \"object\", \"properties\": {\"place\": {\"type\": \"string\"}, \"days\": {\"type\": \"integer\"}}, \"required\": [\"place\"]}}}][/AVAILABLE_TOOLS][INST] Sure?[/INST]";
    assert_eq!(text.as_deref(), Ok(expected));
    let refused = plain(&own(MISTRAL), &[message("assistant", "first")]);
    assert!(refused.is_err_and(|error| error.contains("roles must alternate")));
}

/// The constructs of Gemma 3's: the system message in front of the first turn, content that may be a list, `model` for assistant.
const GEMMA3: &str = "{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}{%- set first_user_prefix = messages[0]['content'] + '\n\n' -%}{%- else -%}{%- set first_user_prefix = messages[0]['content'][0]['text'] + '\n\n' -%}{%- endif -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = \"\" -%}{%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}{{ raise_exception(\"roles must alternate\") }}{%- endif -%}
    {%- if (message['role'] == 'assistant') -%}{%- set role = \"model\" -%}{%- else -%}{%- set role = message['role'] -%}{%- endif -%}
    {{ '<start_of_turn>' + role + '\n' + (first_user_prefix if loop.first else \"\") }}
    {%- if message['content'] is string -%}{{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}{%- for item in message['content'] -%}{{ item['text'] | trim }}{%- endfor -%}{%- endif -%}
    {{ '<end_of_turn>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{'<start_of_turn>model\n'}}
{%- endif -%}
";

#[test]
fn a_template_of_gemma_3s_kind_is_told_tools_in_words() {
    let template = own(GEMMA3);
    let chat = [
        message("system", "Be brief."),
        message("user", " Hi "),
        message("assistant", "Hello"),
        message("user", "Bye"),
    ];
    assert_eq!(
        plain(&template, &chat).as_deref(),
        Ok(
            "<s><start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n<start_of_turn>model\nHello<end_of_turn>\n<start_of_turn>user\nBye<end_of_turn>\n<start_of_turn>model\n"
        )
    );
    let chat = [
        message("user", "Weather?"),
        calling(&[("a", "weather", "{}")]),
        result(Some("a"), "dry"),
    ];
    let text = template
        .render(&chat, &[weather()], &Map::new())
        .expect("it renders");
    assert!(text.starts_with("<s><start_of_turn>user\nYou can use functions."));
    assert!(
        text.contains(
            "<start_of_turn>model\n{\"name\": \"weather\", \"arguments\": {}}<end_of_turn>"
        )
    );
    assert!(text.contains("<start_of_turn>user\nResult of"));
}

#[test]
fn a_model_with_a_template_for_tools_uses_it_for_them() {
    let compile = |source| Box::new(Jinja::new(source, "<s>", "</s>").expect("a valid template"));
    let template = ChatTemplate {
        form: Form::Own {
            usual: compile("plain {{ messages[0].content }}"),
            tool_use: Some(compile(
                "{% macro kind(spec) %}{{ 'number' if spec.type == 'integer' else spec.type }}{% endmacro %}{% for tool in tools %}{{ tool.function.name }}({% for name, spec in tool.function.parameters.properties.items() %}{{ name }}: {{ kind(spec) }}{{ ', ' if not loop.last }}{% endfor %}){% endfor %}<tool_call>",
            )),
        },
        system: None,
    };
    let chat = [message("user", "Hi")];
    assert_eq!(plain(&template, &chat).as_deref(), Ok("plain Hi"));
    let text = template.render(&chat, &[weather()], &Map::new());
    assert_eq!(
        text.as_deref(),
        Ok("weather(place: string, days: number)<tool_call>")
    );
}

#[test]
fn calls_come_in_the_shape_a_template_asks_for() {
    let source = "{% for m in messages %}{% if m['content'] is none %}calls{% else %}[{{ m.content }}]{% endif %}{% endfor %}{% if tools %}{% endif %}";
    let chat = [message("user", ""), calling(&[("a", "weather", "no JSON")])];
    assert_eq!(plain(&own(source), &chat).as_deref(), Ok("[]calls"));
    let source = "{% for m in messages if m.tool_calls %}{{ 'arguments ' + m.tool_calls[0].function.arguments }}{% endfor %}{% if tools %}{% endif %}";
    let chat = [calling(&[("a", "weather", r#"{"place": "Bonn"}"#)])];
    assert_eq!(
        plain(&own(source), &chat).as_deref(),
        Ok("arguments {\"place\": \"Bonn\"}")
    );
    let source = "{% for m in messages %}[{{ m.content }}{{ m.tool_calls[0].function.arguments }}]{% endfor %}{% if tools %}{% endif %}";
    let chat = [calling(&[("a", "weather", "no JSON")])];
    assert_eq!(plain(&own(source), &chat).as_deref(), Ok("[no JSON]"));
}

#[test]
fn a_lone_prompt_is_a_chat_of_one() {
    let template = own("{{ messages[0].role }}:{{ messages[0].content }}|{{ messages|length }}");
    assert_eq!(
        plain(&template, &template.chat_of("x".to_owned())).as_deref(),
        Ok("user:x|1")
    );
    let template = template.with_system(Some("Be kind.".to_owned()));
    assert_eq!(
        plain(&template, &template.chat_of("x".to_owned())).as_deref(),
        Ok("system:Be kind.|2")
    );
    let phi = ChatTemplate::named(Named::find("phi-2").expect("a form"));
    assert_eq!(
        plain(&phi, &phi.chat_of("x".to_owned())).as_deref(),
        Ok("Instruct: x\nOutput:")
    );
}

/// The chat S U A U in every form that is marks around messages.
#[test]
fn the_forms_by_name() {
    let check = |name: &str, expected: &str| {
        let named = Named::find(name).expect("a form of that name");
        let chat = [
            message("system", "S"),
            message("user", "U"),
            message("assistant", "A"),
            message("other", "O"),
            message("user", "V"),
        ];
        assert_eq!(named.render(&chat), expected, "{name}");
    };
    check("bare", "S U A V");
    check(
        "llama2",
        "[INST] <<SYS>>\nS\n<</SYS>>\n\nU [/INST] A</s><s>[INST] V [/INST]",
    );
    check(
        "mistral-instruct",
        "<s>[INST] S U [/INST] A</s>[INST] V [/INST]",
    );
    check("inst", "[INST] S U [/INST] A [INST] V [/INST]");
    check(
        "llama3",
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nU<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nA<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nV<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    );
    let chatml = "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n<|im_start|>user\nV<|im_end|>\n<|im_start|>assistant\n";
    check("chatml", chatml);
    check("hermes2-pro", chatml);
    check(
        "gemma",
        "<start_of_turn>user\nU<end_of_turn>\n<start_of_turn>model\nA<end_of_turn>\n<start_of_turn>user\nV<end_of_turn>\n<start_of_turn>model\n",
    );
    check(
        "zephyr",
        "<s><|system|>\nS</s>\n<|user|>\nU</s>\n<|assistant|>\nA</s>\n<|user|>\nV</s>\n<|assistant|>\n",
    );
    check(
        "tinyllama",
        "<|system|>\nS</s>\n<|user|>\nU</s>\n<|assistant|>\nA</s>\n<|user|>\nV</s>\n<|assistant|>\n",
    );
    check(
        "openchat",
        "GPT4 User: S U<|end_of_turn|>GPT4 Assistant: A<|end_of_turn|>GPT4 User: V<|end_of_turn|>GPT4 Assistant:",
    );
    check(
        "openchat-alt",
        "<s>Human: S U<|end_of_turn|>Assistant: A<|end_of_turn|><s>Human: V<|end_of_turn|>Assistant:",
    );
    check(
        "starling",
        "GPT4 Correct User: S U<|end_of_turn|>GPT4 Correct Assistant: A<|end_of_turn|>GPT4 Correct User: V<|end_of_turn|>GPT4 Correct Assistant:",
    );
    check(
        "deepseek",
        "S\n### Instruction:\nU\n### Response:\nA\n### Instruction:\nV\n### Response:\n",
    );
    check(
        "orca-hashes",
        "### System:\nS\n\n### User:\nU\n\n### Assistant:\nA\n\n### User:\nV\n\n### Assistant:\n\n",
    );
    check("falcon", "S\nUser: U\nAssistant: A\nUser: V\nAssistant:");
    check("phi-2", "User: U\nAssistant: A\nUser: V\nAssistant:");
    check(
        "sqlcoder",
        "### Task\nGenerate a SQL query to answer [QUESTION]V[/QUESTION]\n\n### Database Schema\nThe query will run on a database with the following schema:\nS\n\n### Answer\nGiven the database schema, here is the SQL query that [QUESTION]V[/QUESTION]\n[SQL]",
    );
    assert!(Named::find("none-such").is_none());
}

#[test]
fn the_forms_particular_roles() {
    let render = |name: &str, chat: &[Message]| Named::find(name).map(|named| named.render(chat));
    let check = |name: &str, chat: &[(&str, &str)], expected: &str| {
        let chat: Vec<Message> = chat
            .iter()
            .map(|(role, text)| message(role, text))
            .collect();
        assert_eq!(render(name, &chat).as_deref(), Some(expected), "{name}");
    };
    check("llama2", &[("user", "U")], "<s>[INST] U [/INST]");
    check("mistral-instruct", &[("user", "U")], "[INST] U [/INST]");
    check(
        "llama3",
        &[("system", "S"), ("system", "T")],
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    );
    check(
        "hermes2-pro",
        &[("tool_query", "Q\n"), ("tool_response", "R\n")],
        "<|im_start|>assistant\n<tool_call>\nQ\n</tool_call><|im_end|>\n<|im_start|>tool\n<tool_response>\nR\n</tool_response>\n<|im_end|>\n<|im_start|>assistant\n",
    );
    check(
        "starling",
        &[("code_user", "U"), ("code_assistant", "A")],
        "Code User: U<|end_of_turn|>Code Assistant: A<|end_of_turn|>GPT4 Correct Assistant:",
    );
    check(
        "openchat",
        &[("user", "U"), ("system", "S"), ("user", "V")],
        "GPT4 User: U<|end_of_turn|>GPT4 User: V<|end_of_turn|>GPT4 Assistant:",
    );
}

#[test]
fn llama_guard_judges_the_last_message() {
    let named = Named::find("llama-guard").expect("a form");
    let text = named.render(&[message("user", "U"), message("assistant", "A")]);
    assert!(text.starts_with("<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nTask: Check if there is unsafe content in 'Agent' messages"));
    assert!(text.contains(
        "<BEGIN UNSAFE CONTENT CATEGORIES>\nS1: Violent Crimes.\nS2: Non-Violent Crimes.\n"
    ));
    assert!(text.contains("S14: Code Interpreter Abuse.\n<END UNSAFE CONTENT CATEGORIES>\n\n<BEGIN CONVERSATION>\n\nUser: U\n\nAgent: A\n\n<END CONVERSATION>"));
    assert!(text.ends_with(
        "violated categories.<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    ));
    assert!(
        named
            .render(&[message("user", "U")])
            .contains("ONLY THE LAST User message")
    );
}
