//! A record as bytes and back: MessagePack with named fields for the rows, bodies raw behind it.
//! Fields added later read as their default from older frames; unknown fields are skipped.

use std::cell::RefCell;

use serde::{Deserialize, Serialize};

use crate::error::Lost;
use crate::record::{AttemptRow, Bodies, LogRecord, RequestRow};

/// An encoding buffer larger than this is not kept for the thread's next record.
const MAX_KEPT_BUFFER_BYTES: usize = 64 << 10;

#[derive(Serialize)]
struct MetaOut<'a> {
    request: &'a RequestRow,
    attempts: &'a [AttemptRow],
    bodies: &'a [BodySpan],
}

#[derive(Deserialize)]
struct MetaIn {
    request: RequestRow,
    attempts: Vec<AttemptRow>,
    #[serde(default)]
    bodies: Vec<BodySpan>,
}

/// The bodies of one attempt: how many of the bytes behind the meta are its own, in order.
#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
struct BodySpan {
    attempt: u32,
    request_bytes: u32,
    response_bytes: u32,
    request_complete: bool,
    response_complete: bool,
}

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Encodes `record` and hands its parts to `write`. Bodies that would make the frame longer than
/// `max_bytes` are left out and marked as cut: the row is worth more than its bodies.
pub(super) fn encode(
    record: &LogRecord,
    max_bytes: u64,
    write: impl FnOnce(&[u8], &[&[u8]]) -> Result<(), Lost>,
) -> Result<(), Lost> {
    let mut spans = Vec::new();
    let mut bodies: Vec<&[u8]> = Vec::new();
    let mut body_bytes = 0;
    for (index, attempt) in record.attempts.iter().enumerate() {
        let Some(body) = &attempt.body else { continue };
        let bytes = (body.request.len() + body.response.len()) as u64;
        let fits = body_bytes + bytes < max_bytes;
        if fits {
            body_bytes += bytes;
            bodies.extend([body.request.as_slice(), body.response.as_slice()]);
        }
        spans.push(BodySpan {
            attempt: index as u32,
            request_bytes: if fits { body.request.len() as u32 } else { 0 },
            response_bytes: if fits { body.response.len() as u32 } else { 0 },
            request_complete: body.request_complete && (fits || body.request.is_empty()),
            response_complete: body.response_complete && (fits || body.response.is_empty()),
        });
    }
    let meta = MetaOut {
        request: &record.request,
        attempts: &record.attempts,
        bodies: &spans,
    };
    BUFFER.with_borrow_mut(|buffer| {
        buffer.clear();
        meta.serialize(&mut rmp_serde::Serializer::new(&mut *buffer).with_struct_map())
            .map_err(|_| Lost::Encode)?;
        let bytes = buffer.len() as u64 + body_bytes;
        let written = if buffer.len() as u64 > max_bytes || bytes > u64::from(u32::MAX / 2) {
            Err(Lost::TooLarge { bytes })
        } else {
            write(buffer, &bodies)
        };
        if buffer.capacity() > MAX_KEPT_BUFFER_BYTES {
            *buffer = Vec::new();
        }
        written
    })
}

/// The record of a frame; `None` when the bytes are not one.
pub(super) fn decode(meta: &[u8], mut bodies: &[u8]) -> Option<LogRecord> {
    let meta: MetaIn = rmp_serde::from_slice(meta).ok()?;
    let mut attempts = meta.attempts;
    for span in meta.bodies {
        let request;
        let response;
        (request, bodies) = bodies.split_at_checked(span.request_bytes as usize)?;
        (response, bodies) = bodies.split_at_checked(span.response_bytes as usize)?;
        attempts.get_mut(span.attempt as usize)?.body = Some(Bodies {
            request: request.to_vec(),
            response: response.to_vec(),
            request_complete: span.request_complete,
            response_complete: span.response_complete,
        });
    }
    for attempt in &mut attempts {
        attempt.collect = meta.request.collect;
    }
    Some(LogRecord {
        request: meta.request,
        attempts,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> LogRecord {
        let body = Bodies {
            request: b"{\"a\":1}".to_vec(),
            response: vec![0, 255, 13, 10],
            request_complete: true,
            response_complete: false,
        };
        LogRecord {
            request: RequestRow {
                event_id: "e".into(),
                collect: true,
                ..Default::default()
            },
            attempts: vec![
                AttemptRow {
                    id: "1".into(),
                    collect: true,
                    seconds: Some(0.5),
                    ..Default::default()
                },
                AttemptRow {
                    id: "2".into(),
                    collect: true,
                    body: Some(body),
                    ..Default::default()
                },
            ],
        }
    }

    fn encoded(record: &LogRecord, max_bytes: u64) -> Result<(Vec<u8>, Vec<u8>), Lost> {
        let mut parts = (Vec::new(), Vec::new());
        encode(record, max_bytes, |meta, bodies| {
            parts = (meta.to_vec(), bodies.concat());
            Ok(())
        })?;
        Ok(parts)
    }

    #[test]
    fn a_record_comes_back_as_it_was() {
        let (meta, bodies) = encoded(&record(), 1 << 20).unwrap();
        assert_eq!(decode(&meta, &bodies), Some(record()));
    }

    #[test]
    fn bodies_that_do_not_fit_are_cut_and_marked() {
        let mut large = record();
        large.attempts[1].body.as_mut().unwrap().response = vec![7; 100_000];
        let (meta, bodies) = encoded(&large, 50_000).unwrap();
        let body = decode(&meta, &bodies)
            .unwrap()
            .attempts
            .remove(1)
            .body
            .unwrap();
        assert_eq!((body.request.len(), body.response.len()), (0, 0));
        assert!(!body.request_complete && !body.response_complete);
    }

    #[test]
    fn rows_that_do_not_fit_are_refused() {
        let mut large = record();
        large.request.metadata = "x".repeat(5_000);
        assert!(matches!(encoded(&large, 4_000), Err(Lost::TooLarge { .. })));
    }

    #[test]
    fn fields_of_another_version_are_defaulted_or_skipped() {
        #[derive(Serialize)]
        struct Row {
            event_id: &'static str,
            invented_later: u8,
        }
        #[derive(Serialize)]
        struct Meta {
            request: Row,
            attempts: Vec<Row>,
            also_invented: &'static str,
        }
        let meta = Meta {
            request: Row {
                event_id: "e",
                invented_later: 1,
            },
            attempts: vec![Row {
                event_id: "e",
                invented_later: 2,
            }],
            also_invented: "x",
        };
        let read = decode(&rmp_serde::to_vec_named(&meta).unwrap(), &[]).unwrap();
        assert_eq!(read.request.event_id, "e");
        assert_eq!(read.attempts[0].event_id, "e");
        assert_eq!(read.attempts[0].tokens_in, None);
    }
}
