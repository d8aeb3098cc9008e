use super::*;

fn prepared(schema: Value) -> Value {
    let mut prepared = prepare(&schema).expect("a schema that can be held");
    let keys = prepared.as_object_mut().expect("an object");
    keys.shift_remove("x-guidance");
    prepared
}

fn refused(schema: Value, part: &str) {
    let error = prepare(&schema).expect_err("a schema that cannot be held");
    assert!(error.contains(part), "{error}");
    assert!(!error.contains('\n') && !error.ends_with('.'));
}

#[test]
fn what_is_left_open_is_said() {
    assert_eq!(
        prepared(
            json!({"title": "T", "properties": {"a": {"type": "string", "description": "d"}}, "required": ["a"]})
        ),
        json!({"properties": {"a": {"type": "string"}}, "required": ["a"], "type": "object", "additionalProperties": false})
    );
    // Open by its author's word, or because a required name is not listed.
    for schema in [
        json!({"type": "object", "properties": {"a": {"type": "null"}}, "additionalProperties": true}),
        json!({"type": "object", "properties": {"a": {"type": "null"}}, "required": ["b"]}),
    ] {
        let prepared = prepared(schema);
        assert_eq!(prepared["additionalProperties"], any_reference());
        assert!(prepared["$defs"][ANY].is_object());
    }
    let number = prepared(json!({"type": "integer", "minimum": 3}));
    assert_eq!(
        number,
        json!({"type": "integer", "minimum": 3, "maximum": BIGGEST})
    );
    // Schemas laid over each other keep their objects open.
    let combined = prepared(json!({"allOf": [
        {"type": "object", "properties": {"a": {"type": "null"}}},
        {"type": "object", "properties": {"b": {"type": "null"}}}]}));
    assert_eq!(combined["allOf"][0].get("additionalProperties"), None);
    assert_eq!(
        prepared(
            json!({"allOf": [{"$ref": "#/$defs/x"}], "default": 1, "$defs": {"x": {"type": "null"}}})
        ),
        json!({"allOf": [{"$ref": "#/$defs/x"}], "$defs": {"x": {"type": "null"}}})
    );
    assert_eq!(
        prepared(json!({"type": "string", "format": "color"})),
        json!({"type": "string"})
    );
}

#[test]
fn what_cannot_be_held_is_refused_with_its_place() {
    refused(
        json!({"properties": {"tags": {"type": "array", "uniqueItems": true}}}),
        "`uniqueItems` at `/properties/tags`",
    );
    refused(json!({"not": {}}), "`not` at the top");
    refused(json!({"$ref": "http://x/y"}), "points out of the schema");
    refused(
        json!({"items": 3}),
        "`/items` is neither object nor boolean",
    );
    refused(
        json!({"oneOf": [{"type": "integer"}, {"type": "number"}]}),
        "`oneOf` at the top",
    );
    refused(json!(false), "no answer");
    let deep = (0..70).fold(
        json!({"type": "null"}),
        |inner, _| json!({"type": "array", "items": inner}),
    );
    refused(deep, "64 levels");
}

#[test]
fn arguments_are_an_object_whatever_is_missing() {
    let any = arguments(&json!({}));
    assert_eq!(any, any_object());
    for nothing in [
        json!(null),
        json!("x"),
        json!({"type": "object"}),
        json!({"type": "object", "properties": {}, "description": "d"}),
        json!({"type": "null"}),
    ] {
        let schema = arguments(&nothing);
        assert_eq!(
            (&schema["type"], &schema["additionalProperties"]),
            (&json!("object"), &json!(false)),
            "{nothing}"
        );
    }
    let schema = arguments(
        &json!({"properties": {"a": {"description": "no type"}, "b": {"type": "array", "uniqueItems": true}}}),
    );
    assert_eq!(schema["type"], "object");
    assert_eq!(schema["properties"]["a"], any_reference());
    assert_eq!(schema["properties"]["b"]["items"], any_reference());
}
