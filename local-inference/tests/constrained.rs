//! The real model held to schemas and to calls: what is finished parses and validates, what is not says so.

use local_inference::testing::{model_dir_or_skip, with_template};
use local_inference::{
    EngineConfig, EngineHandle, GenerateRequest, Message, OutputFormat, Prompt, SamplingParams,
    StopReason, TokenEvent, Tool, ToolChoice, catalogue,
};
use serde_json::{Value, json};

const CHATML: &str = "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n";

/// An engine with the real model, whose template has `marks` where it tells of tools.
fn engine(test: &str, marks: &str) -> Option<EngineHandle> {
    let model_dir = model_dir_or_skip(test)?;
    let config = EngineConfig {
        model_dir,
        max_running: 16,
        max_waiting: 256,
        ..EngineConfig::default()
    };
    let template = match marks {
        "" => CHATML.to_owned(),
        marks => format!("{{% if tools %}}{{# {marks} #}}{{% endif %}}{CHATML}"),
    };
    Some(with_template(config, &template))
}

#[derive(Debug, Default, PartialEq)]
struct Answer {
    text: String,
    calls: Vec<(String, String)>,
    stop: Option<StopReason>,
}

async fn answer(engine: EngineHandle, request: GenerateRequest) -> Answer {
    let mut generation = engine.generate(request).await.expect("a valid request");
    let mut answer = Answer::default();
    while let Some(event) = generation.events.recv().await {
        match event {
            TokenEvent::Text { text, .. } => answer.text += &text,
            TokenEvent::ToolCallStart { name, .. } => answer.calls.push((name, String::new())),
            TokenEvent::ToolCallArguments { index, text, .. } => {
                answer.calls[index as usize].1 += &text;
            }
            TokenEvent::Done { stop, .. } => answer.stop = Some(stop),
            TokenEvent::Failed(error) => panic!("{error}"),
        }
    }
    answer
}

fn request(question: String, seed: u64, max_tokens: u32) -> GenerateRequest {
    let prompt = Prompt::Messages(vec![Message::new("user", question)]);
    GenerateRequest {
        sampling: SamplingParams {
            temperature: 0.8,
            seed: Some(seed),
            max_tokens: Some(max_tokens),
            ..SamplingParams::default()
        },
        ..GenerateRequest::new(&*catalogue::all()[0].id, prompt)
    }
}

/// Runs all at once and gives the answers in order.
async fn all(engine: &EngineHandle, requests: Vec<GenerateRequest>) -> Vec<Answer> {
    let running: Vec<_> = requests
        .into_iter()
        .map(|request| tokio::spawn(answer(engine.clone(), request)))
        .collect();
    let mut answers = Vec::new();
    for task in running {
        answers.push(task.await.expect("no panic"));
    }
    answers
}

fn check(schema: &Value, text: &str, about: &str) {
    let value: Value =
        serde_json::from_str(text).unwrap_or_else(|error| panic!("{about}: {text:?}: {error}"));
    let options = jsonschema::options().should_validate_formats(true);
    let validator = options.build(schema).expect("a schema");
    if let Err(error) = validator.validate(&value) {
        panic!("{about}: {text}: {error}");
    }
}

#[tokio::test]
async fn two_hundred_schemas_are_answered_with_json_that_validates() {
    let Some(engine) = engine("answers by 200 schemas", "") else {
        return;
    };
    let entries: Vec<Value> =
        serde_json::from_str(include_str!("schemas.json")).expect("the schemas");
    assert_eq!(entries.len(), 200);
    let about = |entry: &Value| entry["about"].as_str().unwrap_or_default().to_owned();
    let requests = entries
        .iter()
        .zip(0..)
        .map(|(entry, seed)| GenerateRequest {
            format: OutputFormat::JsonSchema(entry["schema"].clone()),
            ..request(format!("Give {} as JSON.", about(entry)), seed, 120)
        });
    let answers = all(&engine, requests.collect()).await;
    let mut finished = 0;
    for (entry, answer) in entries.iter().zip(&answers) {
        match answer.stop {
            Some(StopReason::Stop) => {
                finished += 1;
                check(&entry["schema"], &answer.text, &about(entry));
            }
            stop => assert_eq!(stop, Some(StopReason::Length), "{}", about(entry)),
        }
        assert_eq!(answer.calls, []);
    }
    println!("{finished} of 200 answers ended within 120 tokens");
    assert!(finished >= 170, "{finished}");
}

#[tokio::test]
async fn an_answer_cut_by_its_length_says_so_and_any_object_is_an_object() {
    let Some(engine) = engine("JSON cut short", "") else {
        return;
    };
    let ask = |max_tokens| GenerateRequest {
        format: OutputFormat::JsonObject,
        ..request("Describe Paris as JSON.".to_owned(), 3, max_tokens)
    };
    let answers = all(&engine, vec![ask(5), ask(400)]).await;
    assert_eq!(answers[0].stop, Some(StopReason::Length));
    assert!(serde_json::from_str::<Value>(&answers[0].text).is_err());
    assert!(answers[1].text.starts_with(&answers[0].text));
    if answers[1].stop == Some(StopReason::Stop) {
        check(&json!({"type": "object"}), &answers[1].text, "any object");
    }
}

fn tool(name: &str, parameters: Value) -> Tool {
    Tool {
        name: name.to_owned(),
        description: None,
        parameters,
    }
}

/// Ten sets of tools, with what real callers leave out.
fn tool_sets() -> Vec<Vec<Tool>> {
    let object = |properties: Value, required: Value| json!({"type": "object", "properties": properties, "required": required});
    let city = object(
        json!({"city": {"type": "string", "maxLength": 20}}),
        json!(["city"]),
    );
    let sum = object(
        json!({"a": {"type": "integer", "minimum": 0, "maximum": 999}, "b": {"type": "integer", "minimum": 0, "maximum": 999}}),
        json!(["a", "b"]),
    );
    let weather = || tool("get_weather", city.clone());
    let add = || tool("add", sum.clone());
    vec![
        vec![weather()],
        vec![weather(), add()],
        vec![tool("now", Value::Null)],
        vec![tool("now", json!({"type": "object", "properties": {}})), weather()],
        // No type; a property without one; no `required`.
        vec![tool("search", json!({"properties": {"query": {"type": "string", "maxLength": 20}}}))],
        vec![tool("chooseTool", object(json!({"tools": {"type": "array", "items": {"type": "string", "enum": ["a", "b", "c"]}, "maxItems": 2}}), json!(["tools"])))],
        vec![tool("book-flight.v2", object(json!({"from": {"enum": ["BER", "CDG"]}, "to": {"enum": ["JFK", "SFO"]}, "day": {"type": "string", "format": "date"}, "seats": {"type": ["integer", "null"], "minimum": 1, "maximum": 9}}), json!(["from", "to", "day"])))],
        vec![tool("set_light", object(json!({"on": {"type": "boolean"}, "level": {"type": "number", "minimum": 0, "maximum": 1}, "scene": {"$ref": "#/$defs/scene"}}), json!(["on"])).as_object().map(|keys| {
            let mut keys = keys.clone();
            keys.insert("$defs".to_owned(), json!({"scene": {"type": "string", "enum": ["day", "night"]}}));
            Value::Object(keys)
        }).expect("an object"))],
        vec![tool("größe", object(json!({"länge": {"type": "integer", "minimum": 0, "maximum": 99}}), json!(["länge"])))],
        vec![add(), weather(), tool("now", Value::Null), tool("note", object(json!({"text": {"type": "string", "maxLength": 15}, "tags": {"type": "array", "items": {"type": "string", "maxLength": 6}, "maxItems": 2}}), json!(["text"])))],
    ]
}

async fn check_forced_calls(marks: &str) {
    let Some(engine) = engine("forced calls", marks) else {
        return;
    };
    let sets = tool_sets();
    assert_eq!(sets.len(), 10);
    let ask = |tools: &Vec<Tool>, tool_choice, seed| GenerateRequest {
        tools: tools.clone(),
        tool_choice,
        ..request(
            "What is the weather in Paris, and what is 2 + 3?".to_owned(),
            seed,
            160,
        )
    };
    let required = sets
        .iter()
        .zip(0..)
        .map(|(tools, seed)| ask(tools, ToolChoice::Required, seed));
    let named = sets.iter().zip(100..).map(|(tools, seed)| {
        let last = tools.last().expect("a tool").name.clone();
        ask(tools, ToolChoice::Named(last), seed)
    });
    let answers = all(&engine, required.chain(named).collect()).await;
    for (index, answer) in answers.iter().enumerate() {
        let (tools, is_named) = (&sets[index % 10], index >= 10);
        assert_eq!(answer.text, "", "{marks} {answer:?}");
        // Several long calls may take more than the tokens given; all that ended are whole.
        let is_cut = answer.stop == Some(StopReason::Length);
        assert!(
            is_cut || answer.stop == Some(StopReason::ToolCalls),
            "{marks} {answer:?}"
        );
        assert!(!(is_cut && is_named), "{marks} {answer:?}");
        let whole = answer.calls.len() - usize::from(is_cut);
        assert!(whole >= 1, "{marks} {answer:?}");
        for (name, arguments) in &answer.calls[..whole] {
            let tool = tools
                .iter()
                .find(|tool| tool.name == *name)
                .expect("a tool of the set");
            let any = json!({"type": "object"});
            let schema = if tool.parameters.is_null() {
                &any
            } else {
                &tool.parameters
            };
            check(schema, arguments, &format!("{marks} {name}"));
        }
        if is_named {
            assert_eq!(answer.calls.len(), 1, "{marks} {answer:?}");
            assert_eq!(answer.calls[0].0, tools[tools.len() - 1].name);
        }
    }
}

#[tokio::test]
async fn forced_calls_validate_in_hermes_way() {
    check_forced_calls("<tool_call>").await;
}

#[tokio::test]
async fn forced_calls_validate_in_llamas_way() {
    check_forced_calls("<|python_tag|>").await;
}

#[tokio::test]
async fn forced_calls_validate_in_mistrals_ways() {
    check_forced_calls("[TOOL_CALLS]").await;
    check_forced_calls("[TOOL_CALLS] [ARGS]").await;
}

#[tokio::test]
async fn forced_calls_validate_for_a_model_that_learnt_none() {
    check_forced_calls("").await;
}
