//! SentencePiece's byte-pair encoding, from the scores a GGUF file carries: of all neighbours whose joint text is a token,
//! the pair with the best score is joined, the leftmost among equals, until none is left.
//!
//! `tokenizers` has no model for it: its merges are ranked by pair, so a token that can be made in two ways would be made
//! in one of them first wherever it stands.

use super::TokenizerError;
use super::pieces::{Kind, byte_of, unmarked};
use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};
use std::path::{Path, PathBuf};
use tokenizers::models::bpe::BpeTrainer;
use tokenizers::{Model, Token};

pub(super) struct SentencePiece {
    /// Tokens text can become: all but control and unknown ones and lone bytes.
    tokens: HashMap<String, (u32, f32)>,
    /// Every token by its name, for the added ones.
    ids: HashMap<String, u32>,
    names: Vec<String>,
    /// The tokens for single bytes: what is in no vocabulary is written with them.
    bytes: Vec<Option<u32>>,
    unknown: Option<u32>,
    /// A space is put before the text, and after each control token in it.
    has_space_prefix: bool,
}

/// A run of text that is one token so far; runs are linked in the order of the text.
#[derive(Clone, Copy)]
struct Run {
    start: usize,
    end: usize,
    previous: Option<usize>,
    next: Option<usize>,
}

/// Two neighbours that could be joined.
struct Pair {
    score: f32,
    left: usize,
    right: usize,
    /// Length of the joint text; another length now means that one of the two has been joined since.
    bytes: usize,
}

impl Ord for Pair {
    /// The greatest is joined first.
    fn cmp(&self, other: &Pair) -> Ordering {
        let by_score = self.score.total_cmp(&other.score);
        by_score.then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Pair) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Pair {
    fn eq(&self, other: &Pair) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Pair {}

impl SentencePiece {
    pub(super) fn new(
        tokens: &[&str],
        scores: &[f32],
        kinds: &[Kind],
        unknown: Option<u32>,
        has_space_prefix: bool,
    ) -> Result<SentencePiece, TokenizerError> {
        if scores.len() != tokens.len() {
            let text = format!("{} tokens, {} scores", tokens.len(), scores.len());
            return Err(TokenizerError::Vocabulary(text));
        }
        let mut bytes = vec![None; 256];
        let mut known = HashMap::with_capacity(tokens.len());
        for (((token, score), kind), id) in tokens.iter().zip(scores).zip(kinds).zip(0u32..) {
            match kind {
                Kind::Byte => {
                    if let Some(byte) = byte_of(token) {
                        bytes[usize::from(byte)] = Some(id);
                    }
                }
                Kind::Control | Kind::Unknown => {}
                Kind::Normal | Kind::UserDefined | Kind::Unused => {
                    known.insert((*token).to_owned(), (id, *score));
                }
            }
        }
        let numbered = || tokens.iter().zip(0u32..);
        let mut ids: HashMap<String, u32> = numbered()
            .map(|(token, id)| ((*token).to_owned(), id))
            .collect();
        // These are looked for in text as it is written, with spaces.
        let given = numbered()
            .zip(kinds)
            .filter(|(_, kind)| **kind == Kind::UserDefined);
        ids.extend(given.map(|((token, id), _)| (unmarked(token), id)));
        Ok(SentencePiece {
            tokens: known,
            ids,
            names: tokens.iter().map(|token| (*token).to_owned()).collect(),
            bytes,
            unknown,
            has_space_prefix,
        })
    }

    /// Ids of a text without control tokens.
    fn encode(&self, text: &str, out: &mut Vec<u32>) {
        if text.is_empty() {
            return;
        }
        let mut marked = String::with_capacity(text.len() * 2);
        if self.has_space_prefix {
            marked.push('▁');
        }
        marked.extend(text.chars().map(|c| if c == ' ' { '▁' } else { c }));
        let mut runs = self.characters(&marked);
        self.join(&marked, &mut runs);
        let mut at = Some(0);
        while let Some(run) = at.map(|at| runs[at]) {
            self.emit(&marked[run.start..run.end], out);
            at = run.next;
        }
    }

    fn characters(&self, text: &str) -> Vec<Run> {
        let mut runs: Vec<Run> = text
            .char_indices()
            .enumerate()
            .map(|(i, (start, letter))| Run {
                start,
                end: start + letter.len_utf8(),
                previous: i.checked_sub(1),
                next: Some(i + 1),
            })
            .collect();
        if let Some(last) = runs.last_mut() {
            last.next = None;
        }
        runs
    }

    /// A joined run keeps the left one's place; the right one's becomes empty.
    fn join(&self, text: &str, runs: &mut [Run]) {
        let mut pairs = BinaryHeap::new();
        for right in 1..runs.len() {
            self.consider(text, runs, right - 1, right, &mut pairs);
        }
        while let Some(pair) = pairs.pop() {
            let (left, right) = (runs[pair.left], runs[pair.right]);
            let is_whole = left.end > left.start
                && left.end == right.start
                && right.end - left.start == pair.bytes;
            if !is_whole {
                continue;
            }
            runs[pair.left].end = right.end;
            runs[pair.left].next = right.next;
            runs[pair.right].end = right.start;
            if let Some(next) = right.next {
                runs[next].previous = Some(pair.left);
                self.consider(text, runs, pair.left, next, &mut pairs);
            }
            if let Some(previous) = left.previous {
                self.consider(text, runs, previous, pair.left, &mut pairs);
            }
        }
    }

    fn consider(
        &self,
        text: &str,
        runs: &[Run],
        left: usize,
        right: usize,
        pairs: &mut BinaryHeap<Pair>,
    ) {
        let joint = &text[runs[left].start..runs[right].end];
        if let Some((_, score)) = self.tokens.get(joint) {
            pairs.push(Pair {
                score: *score,
                left,
                right,
                bytes: joint.len(),
            });
        }
    }

    /// The token of a run, or those of its bytes, or the unknown one.
    fn emit(&self, run: &str, out: &mut Vec<u32>) {
        if let Some((id, _)) = self.tokens.get(run) {
            out.push(*id);
            return;
        }
        let bytes = run.bytes().map(|byte| self.bytes[usize::from(byte)]);
        match bytes.collect::<Option<Vec<u32>>>() {
            Some(ids) => out.extend(ids),
            None => out.extend(self.unknown),
        }
    }
}

impl Model for SentencePiece {
    type Trainer = BpeTrainer;

    fn tokenize(&self, sequence: &str) -> tokenizers::Result<Vec<Token>> {
        let mut ids = Vec::new();
        self.encode(sequence, &mut ids);
        // Nobody reads the texts and places of these tokens: the ids are what is asked for.
        let token = |id| Token::new(id, String::new(), (0, sequence.len()));
        Ok(ids.into_iter().map(token).collect())
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        self.ids.get(token).copied()
    }

    fn id_to_token(&self, id: u32) -> Option<String> {
        self.names.get(id as usize).cloned()
    }

    fn get_vocab(&self) -> std::collections::HashMap<String, u32> {
        self.ids.clone()
    }

    fn get_vocab_size(&self) -> usize {
        self.names.len()
    }

    fn save(&self, _: &Path, _: Option<&str>) -> tokenizers::Result<Vec<PathBuf>> {
        Err("a vocabulary out of a model file is not saved".into())
    }

    fn get_trainer(&self) -> BpeTrainer {
        BpeTrainer::default()
    }
}
