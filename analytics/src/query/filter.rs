//! One clause of a question: a key, an operator and the values it is compared with.

use crate::error::Error;

/// A clause. Several values mean "any of them"; for `Neq`, "none of them".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    pub key: FilterKey,
    pub operator: Operator,
    /// As text, whatever they were on the wire.
    pub values: Vec<String>,
}

/// A row whose value is unknown (no tokens reported, no feedback given) matches no clause on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    Eq,
    Neq,
    /// Text only, with regard to case.
    Contains,
    Lt,
    Gt,
}

impl Operator {
    pub fn parse(name: &str) -> Option<Operator> {
        Some(match name {
            "eq" => Operator::Eq,
            "neq" => Operator::Neq,
            "contains" => Operator::Contains,
            "lt" => Operator::Lt,
            "gt" => Operator::Gt,
            _ => return None,
        })
    }
}

macro_rules! keys {
    ($($variant:ident = $name:literal, $meaning:literal;)*) => {
        /// What a clause looks at.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum FilterKey {
            $(#[doc = $meaning] $variant,)*
        }

        impl FilterKey {
            pub const ALL: &'static [FilterKey] = &[$(FilterKey::$variant,)*];

            /// The key a name of the logs API stands for.
            pub fn parse(name: &str) -> Option<FilterKey> {
                match name {
                    $($name => Some(FilterKey::$variant),)*
                    _ => None,
                }
            }

            pub fn name(self) -> &'static str {
                match self {
                    $(FilterKey::$variant => $name,)*
                }
            }
        }
    };
}

keys! {
    Id = "id", "id of the attempt";
    CreatedAt = "created_at", "RFC 3339 time";
    RequestContentType = "request_content_type", "text";
    ResponseContentType = "response_content_type", "text";
    RequestType = "request_type", "text";
    StatusCode = "status_code", "whole number";
    Success = "success", "true or false";
    Cached = "cached", "true or false";
    Provider = "provider", "text";
    Model = "model", "text";
    ModelType = "model_type", "text";
    Cost = "cost", "US dollars";
    Tokens = "tokens", "prompt and generated tokens together, unknown ones as none";
    TokensIn = "tokens_in", "whole number";
    TokensOut = "tokens_out", "whole number";
    Duration = "duration", "whole milliseconds";
    Feedback = "feedback", "not kept yet: matches no row";
    EventId = "event_id", "text";
    MetadataKey = "metadata.key", "name of a metadata entry";
    MetadataValue = "metadata.value", "value of a metadata entry; right behind a `metadata.key eq`, of that entry";
    Authentication = "authentication", "true or false";
    Wholesale = "wholesale", "always false here";
    Byok = "byok", "true or false";
    CompatibilityMode = "compatibilityMode", "always false here";
    DlpAction = "dlp_action", "always empty here";
    UserAgent = "user_agent", "text";
}

/// How the values of a key are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comparison {
    Text,
    Integer,
    Flag,
    Time,
    /// US dollars on the wire, pico dollars in the column.
    Dollars,
    MetadataKey,
    MetadataValue,
}

impl FilterKey {
    pub(crate) fn comparison(self) -> Comparison {
        use FilterKey::*;
        match self {
            Id | RequestContentType | ResponseContentType | RequestType | Provider | Model
            | ModelType | EventId | DlpAction | UserAgent => Comparison::Text,
            StatusCode | Tokens | TokensIn | TokensOut | Duration | Feedback => Comparison::Integer,
            Success | Cached | Authentication | Wholesale | Byok | CompatibilityMode => {
                Comparison::Flag
            }
            CreatedAt => Comparison::Time,
            Cost => Comparison::Dollars,
            MetadataKey => Comparison::MetadataKey,
            MetadataValue => Comparison::MetadataValue,
        }
    }
}

impl Filter {
    /// The number a value stands for, in the unit of its column.
    pub(crate) fn integer(&self, value: &str) -> Result<i64, Error> {
        let (number, expected) = match self.key.comparison() {
            Comparison::Flag => (flag(value), "true or false"),
            Comparison::Time => (time_us(value), "an RFC 3339 time"),
            Comparison::Dollars => (dollars_to_pico(value), "a number of US dollars"),
            _ => (value.parse().ok(), "a whole number"),
        };
        number.ok_or_else(|| {
            let shown: String = value.chars().take(64).collect();
            Error::Query(format!(
                "`{shown}` is no value for `{}`: {expected} is expected",
                self.key.name()
            ))
        })
    }
}

fn flag(value: &str) -> Option<i64> {
    match value {
        "true" | "1" => Some(1),
        "false" | "0" => Some(0),
        _ => None,
    }
}

fn time_us(value: &str) -> Option<i64> {
    let time: jiff::Timestamp = value.parse().ok()?;
    Some(time.as_microsecond())
}

fn dollars_to_pico(value: &str) -> Option<i64> {
    let pico = (value.parse::<f64>().ok()? * 1e12).round();
    (pico.abs() < 9e18).then_some(pico as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(key: FilterKey, value: &str, expected: Option<i64>) {
        let filter = Filter {
            key,
            operator: Operator::Eq,
            values: vec![value.into()],
        };
        assert_eq!(filter.integer(value).ok(), expected, "{key:?} {value}");
    }

    #[test]
    fn values_are_read_in_the_unit_of_their_column() {
        check(FilterKey::Success, "true", Some(1));
        check(FilterKey::Success, "0", Some(0));
        check(FilterKey::Success, "yes", None);
        check(
            FilterKey::CreatedAt,
            "2026-01-02T03:04:05.000006Z",
            Some(1_767_323_045_000_006),
        );
        check(FilterKey::CreatedAt, "yesterday", None);
        check(FilterKey::Cost, "0.00123", Some(1_230_000_000));
        check(FilterKey::Cost, "1e400", None);
        check(FilterKey::Cost, "NaN", None);
        check(FilterKey::TokensIn, "12", Some(12));
        check(FilterKey::TokensIn, "1.5", None);
    }

    #[test]
    fn every_key_parses_from_its_name() {
        for key in FilterKey::ALL {
            assert_eq!(FilterKey::parse(key.name()), Some(*key));
        }
        assert_eq!(FilterKey::parse("id; DROP TABLE"), None);
    }
}
