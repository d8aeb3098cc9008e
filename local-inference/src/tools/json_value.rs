//! Finds the end of one JSON value in a stream of characters, and the first character that cannot belong to it (RFC 8259).

/// Deeper values are refused; `serde_json`, which reads them later, has the same bound.
const MAX_DEPTH: usize = 127;

/// What a character was to the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scan {
    /// Part of it, and more is to come.
    Inside,
    /// Its last character.
    Last,
    /// The value, a number, had ended before it.
    After,
    /// It cannot stand here.
    Broken,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expect {
    Value,
    /// After `[`: a value or `]`.
    ValueOrEnd,
    Key,
    /// After `{`: a key or `}`.
    KeyOrEnd,
    Colon,
    CommaOrEnd,
    Text {
        is_key: bool,
    },
    Escape {
        is_key: bool,
    },
    Hex {
        is_key: bool,
        left: u8,
    },
    /// The letters of `true`, `false` or `null` still to come.
    Letters(&'static str),
    Number(Digits),
}

/// Where in a number one is; the states a number may end in are `Zero`, `Whole`, `Fraction` and `Exponent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Digits {
    Minus,
    Zero,
    Whole,
    Point,
    Fraction,
    E,
    Sign,
    Exponent,
}

#[derive(Debug)]
pub(super) struct JsonValue {
    expect: Expect,
    /// Open brackets: true for an object.
    open: Vec<bool>,
}

impl JsonValue {
    pub(super) fn new() -> JsonValue {
        JsonValue {
            expect: Expect::Value,
            open: Vec::new(),
        }
    }

    pub(super) fn push(&mut self, letter: char) -> Scan {
        match self.expect {
            Expect::Text { is_key } => match letter {
                '"' => self.end_of_text(is_key),
                '\\' => self.go(Expect::Escape { is_key }),
                '\0'..='\x1f' => Scan::Broken,
                _ => Scan::Inside,
            },
            Expect::Escape { is_key } => match letter {
                'u' => self.go(Expect::Hex { is_key, left: 4 }),
                '"' | '\\' | '/' | 'b' | 'f' | 'n' | 'r' | 't' => self.go(Expect::Text { is_key }),
                _ => Scan::Broken,
            },
            Expect::Hex { is_key, left } if letter.is_ascii_hexdigit() => self.go(match left {
                1 => Expect::Text { is_key },
                _ => Expect::Hex {
                    is_key,
                    left: left - 1,
                },
            }),
            Expect::Hex { .. } => Scan::Broken,
            Expect::Letters(rest) => match rest.strip_prefix(letter) {
                Some("") => self.end_of_value(),
                Some(rest) => self.go(Expect::Letters(rest)),
                None => Scan::Broken,
            },
            Expect::Number(digits) => self.number(digits, letter),
            _ if matches!(letter, ' ' | '\t' | '\n' | '\r') => Scan::Inside,
            Expect::Value => self.value(letter),
            Expect::ValueOrEnd if letter == ']' => self.close(false),
            Expect::ValueOrEnd => self.value(letter),
            Expect::KeyOrEnd if letter == '}' => self.close(true),
            Expect::KeyOrEnd | Expect::Key if letter == '"' => {
                self.go(Expect::Text { is_key: true })
            }
            Expect::Colon if letter == ':' => self.go(Expect::Value),
            Expect::CommaOrEnd => match (letter, self.open.last()) {
                (',', Some(true)) => self.go(Expect::Key),
                (',', Some(false)) => self.go(Expect::Value),
                ('}', _) => self.close(true),
                (']', _) => self.close(false),
                _ => Scan::Broken,
            },
            _ => Scan::Broken,
        }
    }

    fn go(&mut self, expect: Expect) -> Scan {
        self.expect = expect;
        Scan::Inside
    }

    fn value(&mut self, letter: char) -> Scan {
        match letter {
            '{' | '[' if self.open.len() == MAX_DEPTH => Scan::Broken,
            '{' => {
                self.open.push(true);
                self.go(Expect::KeyOrEnd)
            }
            '[' => {
                self.open.push(false);
                self.go(Expect::ValueOrEnd)
            }
            '"' => self.go(Expect::Text { is_key: false }),
            't' => self.go(Expect::Letters("rue")),
            'f' => self.go(Expect::Letters("alse")),
            'n' => self.go(Expect::Letters("ull")),
            '-' => self.go(Expect::Number(Digits::Minus)),
            '0' => self.go(Expect::Number(Digits::Zero)),
            '1'..='9' => self.go(Expect::Number(Digits::Whole)),
            _ => Scan::Broken,
        }
    }

    fn number(&mut self, digits: Digits, letter: char) -> Scan {
        let next = match (digits, letter) {
            (Digits::Minus, '0') => Digits::Zero,
            (Digits::Minus, '1'..='9') | (Digits::Whole, '0'..='9') => Digits::Whole,
            (Digits::Zero | Digits::Whole, '.') => Digits::Point,
            (Digits::Point | Digits::Fraction, '0'..='9') => Digits::Fraction,
            (Digits::Zero | Digits::Whole | Digits::Fraction, 'e' | 'E') => Digits::E,
            (Digits::E, '+' | '-') => Digits::Sign,
            (Digits::E | Digits::Sign | Digits::Exponent, '0'..='9') => Digits::Exponent,
            (Digits::Minus | Digits::Point | Digits::E | Digits::Sign, _) => return Scan::Broken,
            _ => {
                // The number ended before this letter; in brackets the letter is theirs.
                return match self.end_of_value() {
                    Scan::Last => Scan::After,
                    _ => self.push(letter),
                };
            }
        };
        self.go(Expect::Number(next))
    }

    fn end_of_text(&mut self, is_key: bool) -> Scan {
        match is_key {
            true => self.go(Expect::Colon),
            false => self.end_of_value(),
        }
    }

    fn close(&mut self, is_object: bool) -> Scan {
        match self.open.pop() {
            Some(open) if open == is_object => self.end_of_value(),
            _ => Scan::Broken,
        }
    }

    fn end_of_value(&mut self) -> Scan {
        match self.open.is_empty() {
            true => Scan::Last,
            false => self.go(Expect::CommaOrEnd),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the value ends and how: the count of characters before the deciding one.
    fn end(text: &str) -> (usize, Scan) {
        let mut value = JsonValue::new();
        for (index, letter) in text.chars().enumerate() {
            match value.push(letter) {
                Scan::Inside => {}
                scan => return (index, scan),
            }
        }
        (text.chars().count(), Scan::Inside)
    }

    #[test]
    fn ends_where_the_library_says_it_ends() {
        for text in [
            "{}",
            "[]",
            r#"{"a":{"b":[1,-2.5e+3,0,true,false,null,"x\"\\\u00e9}"]}}"#,
            "[ 1 , [ ] , { } ]",
            r#""漢 \n""#,
            "true",
            r#"{"a":0}"#,
        ] {
            serde_json::from_str::<serde_json::Value>(text).expect("valid JSON");
            let last = text.chars().count() - 1;
            assert_eq!(end(&format!("{text} x")), (last, Scan::Last), "{text}");
            for cut in text.char_indices().map(|(at, _)| at).skip(1) {
                assert_eq!(end(&text[..cut]).1, Scan::Inside, "{}", &text[..cut]);
            }
        }
        assert_eq!(end("-12.5,"), (5, Scan::After));
        assert_eq!(end("0]"), (1, Scan::After));
    }

    #[test]
    fn breaks_at_the_first_wrong_character() {
        for (text, at) in [
            ("x", 0),
            ("{1", 1),
            (r#"{"a",}"#, 4),
            (r#"{"a":1,}"#, 7),
            ("[1,]", 3),
            ("[1}", 2),
            ("{]", 1),
            ("[01]", 2),
            ("[1.]", 3),
            ("[-]", 2),
            ("nul}", 3),
            ("\"a\nb\"", 2),
            (r#""\x""#, 2),
            (r#""\u12g4""#, 5),
        ] {
            assert_eq!(end(text), (at, Scan::Broken), "{text}");
        }
        assert_eq!(end(&"[".repeat(200)), (MAX_DEPTH, Scan::Broken));
    }
}
