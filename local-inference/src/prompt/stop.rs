//! Stop strings over a stream of text: nothing of a match, nor of its beginning, is let out too early.

#[derive(Debug, Default)]
pub(crate) struct StopMatcher {
    stops: Vec<String>,
    /// Text that may be the beginning of a stop string.
    held: String,
}

impl StopMatcher {
    /// Empty strings are ignored: they would end every answer before its first letter.
    pub(crate) fn new(stops: &[String]) -> StopMatcher {
        let stops = stops
            .iter()
            .filter(|stop| !stop.is_empty())
            .cloned()
            .collect();
        StopMatcher {
            stops,
            held: String::new(),
        }
    }

    /// Takes text and gives what may go out, and whether a stop string was met (it and all after it are dropped).
    pub(crate) fn push(&mut self, text: &str) -> (String, bool) {
        if self.stops.is_empty() {
            return (text.to_owned(), false);
        }
        self.held.push_str(text);
        let first = self
            .stops
            .iter()
            .filter_map(|stop| self.held.find(stop.as_str()))
            .min();
        if let Some(at) = first {
            self.held.truncate(at);
            return (std::mem::take(&mut self.held), true);
        }
        let safe = self.held.len() - self.longest_beginning();
        let rest = self.held.split_off(safe);
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// The end: what was held is no stop string any more.
    pub(crate) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Bytes at the end of `held` that begin some stop string.
    fn longest_beginning(&self) -> usize {
        let beginning = |stop: &String| {
            (1..stop.len())
                .rev()
                .filter(|length| stop.is_char_boundary(*length))
                .find(|length| self.held.ends_with(&stop[..*length]))
                .unwrap_or(0)
        };
        self.stops.iter().map(beginning).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(stops: &[&str], text: &str, expected: &str, expected_stop: bool) {
        let stops: Vec<String> = stops.iter().map(|stop| (*stop).to_owned()).collect();
        let characters: Vec<String> = text.chars().map(String::from).collect();
        for size in 1..=characters.len().max(1) {
            let (mut matcher, mut out, mut met) = (StopMatcher::new(&stops), String::new(), false);
            for part in characters.chunks(size) {
                let (piece, stop) = matcher.push(&part.concat());
                out.push_str(&piece);
                met = stop;
                if met {
                    break;
                }
            }
            if !met {
                out.push_str(&matcher.finish());
            }
            assert_eq!(
                (out.as_str(), met),
                (expected, expected_stop),
                "in pieces of {size}"
            );
        }
    }

    #[test]
    fn ends_before_the_first_stop_string_however_the_text_is_cut() {
        check(&["\n\n"], "one\ntwo\n\nthree", "one\ntwo", true);
        check(&["END", "EN"], "an ENd", "an ", true);
        check(&["aab"], "aaab", "a", true);
        check(&["漢字"], "漢漢字", "漢", true);
        check(&["stop"], "sto", "sto", false);
        check(&[""], "all", "all", false);
        check(&[], "all", "all", false);
    }
}
