//! Answers held to a grammar: JSON, JSON by a schema, tool calls. What is finished is valid; what ran out of length says so.
//!
//! [`GrammarFactory`] is one a model. [`GrammarFactory::compile`] turns a [`Constraint`] into a [`Grammar`]; it takes about a millisecond
//! (0.1 s for the first one of a model, more for a schema near the bounds) and belongs off the engine thread, before the queue.
//! In the queue a sequence owns its grammar; for each token:
//!
//! ```text
//! logits -> (log-probabilities) -> grammar.mask(logits) -> sampler -> token -> grammar.accept(token)
//! ```
//!
//! then ends, with `StopReason::Stop`, where [`Grammar::is_complete`]: no token can follow. The model's end tokens are masked
//! until the grammar may end. Several answers to one prompt take a [`Grammar::fork`] each, before the first token. The recogniser is
//! llguidance: an Earley parser over derivatives of regular expressions, run along a trie of the vocabulary. Over 49 152 tokens a mask
//! takes 35 us on average, 0.6 ms for the slowest in a hundred (200 schemas of the tests, Zen 4), and `accept` one.

mod disjoint;
mod schema;
mod trigger;

use crate::error::EngineError;
use crate::prompt::tokenizer::Tokenizer;
use crate::request::{OutputFormat, Tool, ToolChoice};
use crate::tools::{CallsFrom, Markers, ToolFormat, arguments_name};
use llguidance::api::{GrammarWithLexer, StopReason, TopLevelGrammar};
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{
    ApproximateTokEnv, InferenceCapabilities, SimpleVob, TokEnv, TokRxInfo, TokTrie,
};
use llguidance::{Matcher, ParserFactory};
use serde_json::Value;
use std::sync::{Arc, OnceLock};
use trigger::{Seen, Trigger};

/// JSON text of a request's schemas, all together. More is the caller's error.
const MAX_SCHEMA_BYTES: usize = 256 * 1024;
/// Symbols of a compiled grammar; a schema that takes more is the caller's error.
const MAX_GRAMMAR_SYMBOLS: usize = 200_000;
/// Work to build the lexer, about 50 000 a millisecond; a schema that takes more is the caller's error.
const MAX_COMPILE_FUEL: u64 = 2_000_000;
/// Work for one mask, about 14 000 a millisecond: it bounds what one answer costs its neighbours in a step. A grammar that takes more
/// ends its generation with an error that says so.
const MAX_MASK_FUEL: u64 = 100_000;
/// Parser items of one mask, about 20 000 a millisecond; as above.
const MAX_MASK_ITEMS: usize = 50_000;
/// States of one answer's lexer, one or two kilobytes each; as above.
const MAX_LEXER_STATES: usize = 50_000;

/// What an answer is held to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Constraint {
    JsonObject,
    JsonSchema(Value),
    Calls(Calls),
    /// JSON of this form, or calls: tools the model may use or not, and an answer that must be JSON.
    JsonOrCalls(Box<Constraint>, Calls),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Calls {
    pub tools: Vec<Tool>,
    pub format: ToolFormat,
    pub from: CallsFrom,
}

impl Constraint {
    /// What a request asks for; `None`: free text. `format` is how the model writes calls. With tools left to the model, calls
    /// are held from the place where it begins one.
    ///
    /// # Errors
    /// A choice that names no tool, or asks for a call without any.
    pub(crate) fn of(
        output: &OutputFormat,
        tools: &[Tool],
        choice: &ToolChoice,
        format: ToolFormat,
    ) -> Result<Option<Constraint>, EngineError> {
        let calls = |tools: &[Tool], from| Calls {
            tools: tools.to_vec(),
            format,
            from,
        };
        let json = match output {
            OutputFormat::Text => None,
            OutputFormat::JsonObject => Some(Constraint::JsonObject),
            OutputFormat::JsonSchema(schema) => Some(Constraint::JsonSchema(schema.clone())),
        };
        let invalid = |reason: String| EngineError::Invalid {
            field: "tool_choice",
            reason,
        };
        let parallel = CallsFrom::Start { parallel: true };
        Ok(match (choice, json) {
            (ToolChoice::Named(name), _) => {
                let named = tools.iter().find(|tool| tool.name == *name);
                let named = named.ok_or_else(|| {
                    invalid(format!("names `{name}`, which is not among the tools"))
                })?;
                let from = CallsFrom::Start { parallel: false };
                Some(Constraint::Calls(calls(std::slice::from_ref(named), from)))
            }
            (ToolChoice::Required, _) if tools.is_empty() => {
                return Err(invalid(
                    "asks for a call, and there are no tools".to_owned(),
                ));
            }
            (ToolChoice::Required, _) => Some(Constraint::Calls(calls(tools, parallel))),
            (ToolChoice::Auto, json) if !tools.is_empty() => Some(match json {
                Some(json) => Constraint::JsonOrCalls(Box::new(json), calls(tools, parallel)),
                None => Constraint::Calls(calls(tools, CallsFrom::Marker)),
            }),
            (_, json) => json,
        })
    }
}

/// Compiles grammars for one vocabulary. The tries are built on first use: some 50 ms and 10 MB for 50 000 tokens.
pub(crate) struct GrammarFactory {
    tokenizer: Arc<Tokenizer>,
    markers: Markers,
    built: OnceLock<Result<(ParserFactory, TokEnv), String>>,
}

impl GrammarFactory {
    pub(crate) fn new(tokenizer: Arc<Tokenizer>, markers: Markers) -> GrammarFactory {
        GrammarFactory {
            tokenizer,
            markers,
            built: OnceLock::new(),
        }
    }

    /// # Errors
    /// `Invalid` for what the caller can change: a schema too large or with a part that cannot be held.
    pub(crate) fn compile(&self, constraint: &Constraint) -> Result<Grammar, EngineError> {
        let (parsers, vocabulary) = self
            .built
            .get_or_init(|| {
                build(&self.tokenizer, &self.markers).map_err(|error| error.to_string())
            })
            .as_ref()
            .map_err(|cause| EngineError::Internal(format!("no grammars: {cause}")))?;
        let matcher = match constraint {
            Constraint::JsonObject | Constraint::JsonSchema(_) => {
                matcher(parsers, vec![answer(constraint)?]).map_err(unfit_schema)?
            }
            Constraint::Calls(calls) => self.calls(parsers, None, calls)?,
            Constraint::JsonOrCalls(json, calls) => self.calls(parsers, Some(json), calls)?,
        };
        let trigger = match constraint {
            Constraint::Calls(calls) if calls.from == CallsFrom::Marker => {
                Some(Trigger::new(calls.format, &calls.tools))
            }
            _ => None,
        };
        Ok(Grammar {
            initial: trigger.is_some().then(|| Box::new(matcher.deep_clone())),
            is_active: trigger.is_none(),
            matcher,
            trigger,
            vocabulary: Arc::clone(vocabulary),
        })
    }

    /// Calls, and the JSON that may stand in their place.
    fn calls(
        &self,
        parsers: &ParserFactory,
        json: Option<&Constraint>,
        calls: &Calls,
    ) -> Result<Matcher, EngineError> {
        check_size(
            "tools",
            calls.tools.iter().map(|tool| tool.parameters.to_string()),
        )?;
        let names: Vec<&str> = calls.tools.iter().map(|tool| tool.name.as_str()).collect();
        let mut lark = calls.format.lark(&names, &self.markers, calls.from);
        let mut grammars = Vec::new();
        if let Some(json) = json {
            lark = lark.replacen("start:", "calls:", 1) + "start: @answer | calls\n";
            grammars.push(answer(json)?);
        }
        grammars.insert(0, GrammarWithLexer::from_lark(lark));
        let own = grammars.len();
        for (index, tool) in calls.tools.iter().enumerate() {
            grammars.push(named(
                &arguments_name(index),
                schema::arguments(&tool.parameters),
            ));
        }
        let error = match matcher(parsers, grammars.clone()) {
            Ok(matcher) => return Ok(matcher),
            Err(error) => error,
        };
        // A tool whose parameters cannot be held is called with any object: a request that only offers it should not fail for it.
        let mut is_changed = false;
        for (index, tool) in calls.tools.iter().enumerate() {
            let arguments = &mut grammars[own + index];
            let alone = GrammarWithLexer {
                name: None,
                ..arguments.clone()
            };
            if let Err(cause) = matcher(parsers, vec![alone]) {
                tracing::debug!(tool = tool.name, cause, "arguments are any object");
                *arguments = named(&arguments_name(index), schema::any_object());
                is_changed = true;
            }
        }
        let invalid = |cause: String| EngineError::Invalid {
            field: "tools",
            reason: format!("cannot be followed token by token: {cause}"),
        };
        match is_changed {
            true => matcher(parsers, grammars).map_err(invalid),
            false => Err(invalid(error)),
        }
    }
}

/// The grammar of an answer that is JSON.
fn answer(constraint: &Constraint) -> Result<GrammarWithLexer, EngineError> {
    let schema = match constraint {
        Constraint::JsonSchema(schema) => {
            check_size("response_format", std::iter::once(schema.to_string()))?;
            schema::prepare(schema).map_err(unfit_schema)?
        }
        _ => schema::any_object(),
    };
    Ok(named("answer", schema))
}

fn named(name: &str, schema: Value) -> GrammarWithLexer {
    GrammarWithLexer {
        name: Some(name.to_owned()),
        ..GrammarWithLexer::from_json_schema(schema)
    }
}

fn check_size(
    field: &'static str,
    schemas: impl Iterator<Item = String>,
) -> Result<(), EngineError> {
    let bytes: usize = schemas.map(|schema| schema.len()).sum();
    if bytes <= MAX_SCHEMA_BYTES {
        return Ok(());
    }
    let reason = format!("holds {bytes} bytes of schema, at most {MAX_SCHEMA_BYTES} are allowed");
    Err(EngineError::Invalid { field, reason })
}

fn unfit_schema(cause: String) -> EngineError {
    EngineError::Invalid {
        field: "response_format",
        reason: format!("holds a schema that cannot be followed token by token: {cause}"),
    }
}

/// The first grammar, which may name the others.
fn matcher(parsers: &ParserFactory, grammars: Vec<GrammarWithLexer>) -> Result<Matcher, String> {
    let grammar = TopLevelGrammar {
        grammars,
        max_tokens: None,
    };
    let parser = parsers
        .create_parser(grammar)
        .map_err(|error| in_one_line(&format!("{error:#}")))?;
    Ok(Matcher::new(Ok(parser)))
}

/// The library's words without the state it prints behind them.
fn in_one_line(text: &str) -> String {
    let text = text.split("\n<").next().unwrap_or(text);
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn build(
    tokenizer: &Tokenizer,
    markers: &Markers,
) -> Result<(ParserFactory, TokEnv), Box<dyn std::error::Error>> {
    let ids = 0..u32::try_from(tokenizer.vocabulary())?;
    let words: Vec<Vec<u8>> = ids
        .clone()
        .map(|id| match markers.text(id) {
            Some(text) => [&[TokTrie::SPECIAL_TOKEN_MARKER], text.as_bytes()].concat(),
            None => tokenizer.token_bytes(id).to_vec(),
        })
        .collect();
    let ends: Vec<u32> = ids.clone().filter(|id| tokenizer.is_end(*id)).collect();
    let first = *ends.first().ok_or("the vocabulary has no end token")?;
    let trie = TokTrie::from(&TokRxInfo::new(ids.end, first), &words).with_eos_tokens(&ends);
    let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
    let mut parsers = ParserFactory::new(
        &environment,
        InferenceCapabilities::default(),
        &SlicedBiasComputer::json_slices(),
    )?;
    parsers.quiet();
    let limits = parsers.limits_mut();
    limits.max_grammar_size = MAX_GRAMMAR_SYMBOLS;
    limits.initial_lexer_fuel = MAX_COMPILE_FUEL;
    limits.step_lexer_fuel = MAX_MASK_FUEL;
    limits.step_max_items = MAX_MASK_ITEMS;
    limits.max_lexer_states = MAX_LEXER_STATES;
    limits.verbose_errors = false;
    Ok((parsers, environment))
}

/// Where one answer stands in its grammar.
pub(crate) struct Grammar {
    matcher: Matcher,
    /// Off: the text is free.
    is_active: bool,
    /// Begins the grammar in the middle of an answer.
    trigger: Option<Trigger>,
    /// The matcher for the next call, where there is a trigger.
    initial: Option<Box<Matcher>>,
    vocabulary: TokEnv,
}

impl Grammar {
    /// An independent copy, for another answer to the same prompt.
    pub(crate) fn fork(&self) -> Grammar {
        let initial = self.initial.as_ref();
        Grammar {
            matcher: self.matcher.deep_clone(),
            is_active: self.is_active,
            trigger: self.trigger.clone(),
            initial: initial.map(|matcher| Box::new(matcher.deep_clone())),
            vocabulary: Arc::clone(&self.vocabulary),
        }
    }

    /// Sets the logits of all tokens that cannot come next to negative infinity. Does nothing where the text is free.
    ///
    /// # Errors
    /// The grammar takes more work here than the bounds allow.
    pub(crate) fn mask(&mut self, logits: &mut [f32]) -> Result<(), EngineError> {
        if !self.is_active {
            return Ok(());
        }
        let allowed = self.matcher.compute_mask_or_eos().map_err(|error| {
            let cause = in_one_line(&error.to_string());
            tracing::debug!(cause, "no mask");
            EngineError::Invalid {
                field: "response_format",
                reason: "holds a schema that takes too much work for one token; a simpler pattern or fewer alternatives help".to_owned(),
            }
        })?;
        apply(&allowed, logits);
        Ok(())
    }

    /// Takes the token that was chosen.
    ///
    /// # Errors
    /// A token that was masked.
    pub(crate) fn accept(&mut self, token: u32) -> Result<(), EngineError> {
        if !self.is_active {
            self.watch(token);
            return Ok(());
        }
        self.matcher.consume_token(token).map_err(|error| {
            let cause = in_one_line(&error.to_string());
            EngineError::Internal(format!("token {token} does not fit the grammar: {cause}"))
        })?;
        if self.trigger.is_some() && self.is_stopped() {
            self.rearm();
        }
        Ok(())
    }

    /// The grammar allows no further token.
    pub(crate) fn is_complete(&self) -> bool {
        self.is_active && self.is_stopped()
    }

    fn is_stopped(&self) -> bool {
        let reason = self.matcher.stop_reason();
        matches!(reason, StopReason::NoExtension | StopReason::EndOfSentence)
    }

    /// Free text: looks for the beginning of a call.
    fn watch(&mut self, token: u32) {
        let (Some(trigger), trie) = (&mut self.trigger, self.vocabulary.tok_trie()) else {
            return;
        };
        let word = trie.token(token);
        let bytes = word
            .strip_prefix(&[TokTrie::SPECIAL_TOKEN_MARKER])
            .unwrap_or(word);
        let Seen::Begun(beginning) = trigger.push(bytes) else {
            return;
        };
        // What the token wrote beyond the marker has to fit; if it does not, the model writes something else, in freedom.
        let tokens = trie.greedy_tokenize(&beginning);
        let taken = self.matcher.try_consume_tokens(&tokens);
        self.is_active = taken.is_ok_and(|taken| taken == tokens.len());
        if !self.is_active || self.is_stopped() {
            self.rearm();
        }
    }

    /// Back to free text, ready for another call.
    fn rearm(&mut self) {
        self.is_active = false;
        if let (Some(trigger), Some(initial)) = (&mut self.trigger, &self.initial) {
            trigger.rearm();
            self.matcher = initial.deep_clone();
        }
    }
}

fn apply(allowed: &SimpleVob, logits: &mut [f32]) {
    let words = allowed.as_slice().iter().copied();
    // A model may have more rows than the tokenizer has tokens; those are no tokens.
    for (word, group) in words.chain(std::iter::repeat(0)).zip(logits.chunks_mut(32)) {
        match word {
            0 => group.fill(f32::NEG_INFINITY),
            u32::MAX => {}
            _ => {
                for (bit, logit) in group.iter_mut().enumerate() {
                    if word >> bit & 1 == 0 {
                        *logit = f32::NEG_INFINITY;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
