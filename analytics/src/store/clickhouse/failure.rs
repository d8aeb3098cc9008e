//! What a failed call to ClickHouse means: send it again, or these rows will never go in.

use clickhouse::error::Error as ClientError;

use crate::error::Error;

/// Longest text of a server's error we keep; it may quote what it did not understand.
const MAX_TEXT_CHARS: usize = 300;

/// Server codes that speak of the rows, not of the server: CANNOT_PARSE_TEXT,
/// CANNOT_PARSE_QUOTED_STRING, CANNOT_PARSE_INPUT_ASSERTION_FAILED, CANNOT_READ_ALL_DATA,
/// CANNOT_PARSE_DATE, CANNOT_PARSE_DATETIME, ARGUMENT_OUT_OF_BOUND, CANNOT_CONVERT_TYPE,
/// CANNOT_PARSE_NUMBER, INCORRECT_DATA, TOO_LARGE_STRING_SIZE, VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE,
/// CANNOT_INSERT_NULL_IN_ORDINARY_COLUMN, VIOLATED_CONSTRAINT.
const CONTENT_CODES: [u32; 14] = [6, 26, 27, 33, 38, 41, 69, 70, 72, 117, 131, 321, 349, 469];

/// Whether the rows themselves are at fault, so that sending them again cannot help.
pub(super) fn is_about_content(error: &ClientError) -> bool {
    match error {
        ClientError::BadResponse(text) => {
            code(text).is_some_and(|code| CONTENT_CODES.contains(&code))
        }
        ClientError::SequenceMustHaveLength | ClientError::Custom(_) => true, // our own encoding
        _ => false,
    }
}

/// UNKNOWN_TABLE, UNKNOWN_DATABASE.
pub(super) fn is_about_missing_tables(error: &ClientError) -> bool {
    matches!(error, ClientError::BadResponse(text) if matches!(code(text), Some(60 | 81)))
}

/// The server's exception code, `Code: 241. DB::Exception: …`.
fn code(text: &str) -> Option<u32> {
    let digits = text.split("Code: ").nth(1)?;
    let end = digits
        .find(|character: char| !character.is_ascii_digit())
        .unwrap_or(digits.len());
    digits[..end].parse().ok()
}

pub(super) fn describe(error: &ClientError) -> String {
    let text = error.to_string();
    text.chars()
        .map(|character| {
            if character.is_control() {
                ' '
            } else {
                character
            }
        })
        .take(MAX_TEXT_CHARS)
        .collect()
}

pub(super) fn failed(error: ClientError) -> Error {
    Error::Unavailable(describe(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: bool) {
        assert_eq!(
            is_about_content(&ClientError::BadResponse(text.into())),
            expected,
            "{text}"
        );
    }

    #[test]
    fn only_errors_about_rows_are_final() {
        check("Code: 117. DB::Exception: odd bytes (INCORRECT_DATA)", true);
        check("Code: 469. DB::Exception: Constraint `c` is violated", true);
        check("Code: 241. DB::Exception: memory limit exceeded", false);
        check("Code: 60. DB::Exception: no such table", false);
        check("503 Service Unavailable", false);
        assert!(!is_about_content(&ClientError::TimedOut));
    }
}
