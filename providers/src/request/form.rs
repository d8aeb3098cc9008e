//! The `model` and `stream` fields of a multipart form, which may stand before or after its files.

use memchr::memmem;

use super::body::Said;
use super::cut_name;

/// Parts looked at; a form with more is read no further.
const MAX_PARTS: usize = 128;
/// Longest part head looked at, in bytes; a part with a longer one is passed over.
const MAX_HEAD_BYTES: usize = 4096;
/// Longest field value that counts; longer ones are files or prompts.
const MAX_VALUE_BYTES: usize = 512;

pub(super) fn read(content_type: &str, bytes: &[u8], said: &mut Said) {
    let Some(boundary) = boundary(content_type) else {
        return;
    };
    let delimiter = format!("--{boundary}");
    let finder = memmem::Finder::new(delimiter.as_bytes());
    let mut parts = finder.find_iter(bytes).take(MAX_PARTS + 1).peekable();
    while let Some(start) = parts.next() {
        let end = parts.peek().copied().unwrap_or(bytes.len());
        read_part(&bytes[start + delimiter.len()..end], said);
    }
}

fn read_part(part: &[u8], said: &mut Said) {
    let head_end = memmem::find(&part[..part.len().min(MAX_HEAD_BYTES)], b"\r\n\r\n");
    let Some(head_end) = head_end else { return };
    let value = &part[head_end + 4..];
    // The line break before the next delimiter belongs to the delimiter.
    let value = value.strip_suffix(b"\r\n").unwrap_or(value);
    let head = String::from_utf8_lossy(&part[..head_end]);
    let Some(name) = field_name(&head) else {
        return;
    };
    let value = (value.len() <= MAX_VALUE_BYTES)
        .then(|| std::str::from_utf8(value).ok())
        .flatten();
    match (name.as_str(), value) {
        ("model" | "model_id", Some(value)) => said.model = cut_name(value),
        ("stream", Some(value)) => {
            said.stream = Some(matches!(value.trim(), "true" | "True" | "1"))
        }
        ("prompt" | "input", Some(value)) => said.text_bytes += value.len() as u64,
        _ => {}
    }
}

/// The name of a plain field; files have none here.
fn field_name(head: &str) -> Option<String> {
    let line = head.lines().find(|line| {
        line.split(':')
            .next()
            .is_some_and(|name| name.trim().eq_ignore_ascii_case("content-disposition"))
    })?;
    let mut name = None;
    for parameter in line.split(';').skip(1) {
        let (key, value) = parameter.split_once('=')?;
        match key.trim().to_ascii_lowercase().as_str() {
            "name" => name = Some(value.trim().trim_matches('"').to_owned()),
            "filename" | "filename*" => return None,
            _ => {}
        }
    }
    name
}

fn boundary(content_type: &str) -> Option<&str> {
    let value = content_type.split(';').skip(1).find_map(|parameter| {
        let (key, value) = parameter.split_once('=')?;
        key.trim()
            .eq_ignore_ascii_case("boundary")
            .then(|| value.trim().trim_matches('"'))
    })?;
    // RFC 2046 allows 70; an empty one would match everywhere.
    (1..=70).contains(&value.len()).then_some(value)
}
