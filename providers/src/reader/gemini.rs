//! Gemini and Vertex: every event, array element or document is a whole answer with part of the text, and its
//! usage is a running total. No event marks the end; the finish reason of each candidate does.

use serde::Deserialize;

use crate::{Failure, FailureClass, Usage};

use super::lenient::{Flag, Len, List, Num, Obj, Raw, Text};
use super::notes::Notes;

/// Candidates followed; replies have up to eight.
const MAX_CANDIDATES: usize = 64;

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Reply<'a> {
    #[serde(borrow)]
    candidates: List<Obj<Candidate<'a>>>,
    #[serde(borrow)]
    prompt_feedback: Obj<Feedback<'a>>,
    #[serde(borrow)]
    usage_metadata: Raw<'a>,
    #[serde(borrow)]
    model_version: Text<'a>,
    #[serde(borrow)]
    response_id: Text<'a>,
    #[serde(borrow)]
    error: Raw<'a>,
    // Vertex `predict`: embeddings and pictures.
    #[serde(borrow)]
    predictions: List<Obj<Prediction<'a>>>,
    metadata: Obj<PredictMetadata>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Candidate<'a> {
    index: Num,
    content: Obj<Content<'a>>,
    #[serde(borrow)]
    finish_reason: Text<'a>,
    #[serde(borrow)]
    grounding_metadata: Obj<Grounding<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Content<'a> {
    #[serde(borrow)]
    parts: List<Obj<Part<'a>>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Part<'a> {
    text: Len,
    #[serde(borrow)]
    #[serde(rename = "functionCall")]
    function_call: Raw<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Grounding<'a> {
    #[serde(borrow)]
    web_search_queries: List<Raw<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Feedback<'a> {
    #[serde(borrow)]
    block_reason: Text<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Prediction<'a> {
    embeddings: Obj<Embeddings>,
    #[serde(borrow)]
    bytes_base64_encoded: Raw<'a>,
    #[serde(borrow)]
    gcs_uri: Raw<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Embeddings {
    statistics: Obj<Statistics>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Statistics {
    token_count: Num,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PredictMetadata {
    billable_character_count: Num,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Wire<'a> {
    prompt_token_count: Num,
    cached_content_token_count: Num,
    candidates_token_count: Num,
    /// The live form's name for the same.
    response_token_count: Num,
    thoughts_token_count: Num,
    tool_use_prompt_token_count: Num,
    total_token_count: Num,
    #[serde(borrow)]
    prompt_tokens_details: List<Obj<Modality<'a>>>,
    #[serde(borrow)]
    candidates_tokens_details: List<Obj<Modality<'a>>>,
    #[serde(borrow)]
    traffic_type: Text<'a>,
    #[serde(borrow)]
    service_tier: Text<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Modality<'a> {
    #[serde(borrow)]
    modality: Text<'a>,
    token_count: Num,
}

/// The running totals, last non-null number wins.
#[derive(Debug, Default)]
struct Counts {
    prompt: Option<u64>,
    candidates: Option<u64>,
    thoughts: Option<u64>,
    tool: Option<u64>,
    total: Option<u64>,
}

/// Reads one reply in this format.
#[derive(Debug, Default)]
pub(super) struct Gemini {
    counts: Counts,
    plain: Usage,
    is_told: bool,
    /// Index of each candidate seen, and whether it has finished.
    candidates: Vec<(u64, bool)>,
}

impl Gemini {
    pub fn event(&mut self, notes: &mut Notes, data: &[u8]) {
        let Ok(reply) = serde_json::from_slice::<Reply<'_>>(data) else {
            notes.malformed();
            return;
        };
        notes.stage_start();
        self.reply(notes, &reply, data);
        let all_finished = self.candidates.iter().all(|(_, finished)| *finished);
        if all_finished && !self.candidates.is_empty() {
            notes.whole();
        }
    }

    /// A whole JSON body. True when it is a complete answer.
    pub fn document(&mut self, notes: &mut Notes, body: &[u8]) -> bool {
        let Ok(reply) = serde_json::from_slice::<Reply<'_>>(body) else {
            notes.malformed();
            return false;
        };
        self.reply(notes, &reply, body);
        // A document that has candidates must have finished them; any other document just is.
        self.candidates.iter().all(|(_, finished)| *finished)
    }

    pub fn settle(&mut self, notes: &mut Notes) {
        if !self.is_told {
            return;
        }
        let mut usage = self.plain.clone();
        let counts = &self.counts;
        let tool = counts.tool.unwrap_or(0);
        if let Some(prompt) = counts.prompt {
            usage.in_total = Some(prompt + tool);
        }
        usage.in_tool = counts.tool;
        usage.reasoning = counts.thoughts;
        usage.out_total = counts.output();
        usage.fill_in_plain();
        notes.usage = Some(usage);
    }

    fn reply(&mut self, notes: &mut Notes, reply: &Reply<'_>, data: &[u8]) {
        if reply.error.is_truthy() {
            notes.fail_by(data);
        }
        notes.model(&reply.model_version);
        notes.response_id(&reply.response_id);
        self.usage(notes, &reply.usage_metadata);
        for candidate in reply.candidates.0.iter().flat_map(|candidate| &candidate.0) {
            self.candidate(notes, candidate);
        }
        let feedback = reply.prompt_feedback.0.as_ref();
        if let Some(reason) = feedback.and_then(|feedback| feedback.block_reason.get()) {
            notes.finish(&Text(Some(reason.into())));
            notes.refuse(FailureClass::ContentPolicy, reason);
            notes.whole();
        }
        self.predictions(reply);
    }

    fn candidate(&mut self, notes: &mut Notes, candidate: &Candidate<'_>) {
        let index = candidate.index.0.unwrap_or(0);
        let is_finished = candidate
            .finish_reason
            .get()
            .is_some_and(|reason| reason != "CONTINUATION");
        let known = self.candidates.iter().position(|(seen, _)| *seen == index);
        match known {
            Some(at) => self.candidates[at].1 |= is_finished,
            None if self.candidates.len() < MAX_CANDIDATES => {
                self.candidates.push((index, is_finished));
            }
            None => {}
        }
        for part in candidate
            .content
            .0
            .iter()
            .flat_map(|content| &content.parts.0)
            .flat_map(|part| &part.0)
        {
            notes.text(part.text.0);
            if let Some(call) = part.function_call.0 {
                notes.text(call.len() as u64);
            }
            // A picture, a file, code: anything that is there is content.
            notes.stage_content();
        }
        notes.finish(&candidate.finish_reason);
        let queries = candidate
            .grounding_metadata
            .0
            .as_ref()
            .map_or(0, |g| g.web_search_queries.0.len());
        if queries > 0 {
            self.plain.web_searches = Some(queries as u64);
        }
    }

    fn usage(&mut self, notes: &mut Notes, raw: &Raw<'_>) {
        let Some(wire) = raw.read::<Wire<'_>>().filter(|_| raw.is_object()) else {
            return;
        };
        self.is_told = true;
        notes.usage_raw(raw.0.unwrap_or_default());
        let counts = &mut self.counts;
        counts.prompt = wire.prompt_token_count.0.or(counts.prompt);
        let candidates = wire
            .candidates_token_count
            .0
            .or(wire.response_token_count.0);
        counts.candidates = candidates.or(counts.candidates);
        counts.thoughts = wire.thoughts_token_count.0.or(counts.thoughts);
        counts.tool = wire.tool_use_prompt_token_count.0.or(counts.tool);
        counts.total = wire.total_token_count.0.or(counts.total);

        let plain = &mut self.plain;
        plain.cache_read = wire.cached_content_token_count.0.or(plain.cache_read);
        let of = |list: &List<Obj<Modality<'_>>>, name: &str| {
            let found = list
                .0
                .iter()
                .flat_map(|item| &item.0)
                .find(|item| item.modality.is(name));
            found.and_then(|item| item.token_count.0)
        };
        plain.in_audio = of(&wire.prompt_tokens_details, "AUDIO").or(plain.in_audio);
        plain.in_image = of(&wire.prompt_tokens_details, "IMAGE").or(plain.in_image);
        plain.in_video = of(&wire.prompt_tokens_details, "VIDEO").or(plain.in_video);
        plain.out_audio = of(&wire.candidates_tokens_details, "AUDIO").or(plain.out_audio);
        plain.out_image = of(&wire.candidates_tokens_details, "IMAGE").or(plain.out_image);
        if let Some(tier) = wire.service_tier.get().or(wire.traffic_type.get()) {
            plain.tier = Some(tier.to_ascii_lowercase());
        }
    }

    fn predictions(&mut self, reply: &Reply<'_>) {
        let mut tokens = None;
        let mut images = 0;
        for prediction in reply
            .predictions
            .0
            .iter()
            .flat_map(|prediction| &prediction.0)
        {
            let statistics = prediction
                .embeddings
                .0
                .as_ref()
                .and_then(|e| e.statistics.0.as_ref());
            if let Some(count) = statistics.and_then(|statistics| statistics.token_count.0) {
                tokens = Some(tokens.unwrap_or(0) + count);
            }
            // Entries that a filter removed have neither.
            if prediction.bytes_base64_encoded.0.is_some() || prediction.gcs_uri.0.is_some() {
                images += 1;
            }
        }
        if let Some(tokens) = tokens {
            self.counts.prompt = Some(tokens);
            self.is_told = true;
        }
        if images > 0 {
            self.plain.images = Some(images);
            self.is_told = true;
        }
        let metadata = reply.metadata.0.as_ref();
        if let Some(count) = metadata.and_then(|metadata| metadata.billable_character_count.0) {
            self.plain.characters = Some(count);
            self.is_told = true;
        }
    }
}

impl Counts {
    /// Thoughts stand beside the candidates, except on hosts that count them in. What the total leaves after
    /// the input settles it; a total that fits neither reading is not believed. Zeros are left out on the wire.
    fn output(&self) -> Option<u64> {
        let candidates = self.candidates.unwrap_or(0);
        let beside = candidates + self.thoughts.unwrap_or(0);
        let input = self.prompt.unwrap_or(0) + self.tool.unwrap_or(0);
        let rest = self.total.and_then(|total| total.checked_sub(input));
        let is_silent = self.candidates.is_none() && self.thoughts.is_none();
        match rest {
            Some(rest) if rest == candidates || rest == beside || is_silent => Some(rest),
            _ if is_silent => None,
            _ => Some(beside),
        }
    }
}

/// The interactions format: its own events and its own spelling of usage.
#[derive(Debug, Default)]
pub(super) struct Interactions {
    usage: Option<Usage>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Interaction<'a> {
    #[serde(borrow)]
    event_type: Text<'a>,
    #[serde(borrow)]
    id: Text<'a>,
    #[serde(borrow)]
    model: Text<'a>,
    #[serde(borrow)]
    status: Text<'a>,
    #[serde(borrow)]
    usage: Raw<'a>,
    #[serde(borrow)]
    error: Raw<'a>,
    #[serde(borrow)]
    interaction: Raw<'a>,
    done: Flag,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct InteractionUsage {
    total_input_tokens: Num,
    total_output_tokens: Num,
    total_thought_tokens: Num,
    total_cached_tokens: Num,
    total_tool_use_tokens: Num,
    total_tokens: Num,
}

impl Interactions {
    pub fn event(&mut self, notes: &mut Notes, data: &[u8]) {
        if data.trim_ascii() == b"[DONE]" {
            notes.whole();
            return;
        }
        let Ok(event) = serde_json::from_slice::<Interaction<'_>>(data) else {
            notes.malformed();
            return;
        };
        let kind = event.event_type.or_empty().to_owned();
        match kind.as_str() {
            "interaction.created" | "interaction.start" | "interaction.status_update" => {
                notes.stage_start()
            }
            "error" => notes.fail_by(data),
            "step.delta" | "content.delta" => {
                let bytes = super::scan::text_len(data, &[b"text", b"arguments"]);
                notes.text(bytes);
                notes.stage_content();
            }
            _ => notes.stage_content(),
        }
        if let Some(inner) = event.interaction.read::<Interaction<'_>>() {
            self.take(notes, &inner);
        }
        self.take(notes, &event);
        if kind == "interaction.completed" || kind == "interaction.complete" {
            notes.whole();
        }
    }

    /// A whole JSON body. True when it is a complete answer.
    pub fn document(&mut self, notes: &mut Notes, body: &[u8]) -> bool {
        let Ok(interaction) = serde_json::from_slice::<Interaction<'_>>(body) else {
            notes.malformed();
            return false;
        };
        self.take(notes, &interaction);
        if interaction.error.is_truthy() {
            notes.fail_by(body);
        }
        !matches!(interaction.status.or_empty(), "in_progress" | "queued")
    }

    pub fn settle(&mut self, notes: &mut Notes) {
        notes.usage = self.usage.take();
    }

    fn take(&mut self, notes: &mut Notes, interaction: &Interaction<'_>) {
        notes.model(&interaction.model);
        if interaction.event_type.get().is_none() {
            notes.response_id(&interaction.id);
        }
        match interaction.status.or_empty() {
            "" | "in_progress" | "queued" => {}
            "failed" => notes.fail(Failure::in_band(
                notes.dialect,
                "",
                "",
                "the interaction failed",
            )),
            status => notes.finish(&Text(Some(status.into()))),
        }
        let Some(wire) = interaction.usage.read::<InteractionUsage>() else {
            return;
        };
        notes.usage_raw(interaction.usage.0.unwrap_or_default());
        let (input, output) = (wire.total_input_tokens.0, wire.total_output_tokens.0);
        let tool = wire.total_tool_use_tokens.0.unwrap_or(0);
        let thoughts = wire.total_thought_tokens.0.unwrap_or(0);
        let plain = input.unwrap_or(0) + output.unwrap_or(0);
        // Thoughts and tool results beside the two counts show in the total, as in the older format.
        let total = wire.total_tokens.0;
        let has_thoughts_beside =
            total == Some(plain + thoughts) || total == Some(plain + thoughts + tool);
        let has_tool_beside = total == Some(plain + tool) || total == Some(plain + thoughts + tool);
        let mut usage = Usage {
            in_total: input.map(|count| count + if has_tool_beside { tool } else { 0 }),
            out_total: output.map(|count| count + if has_thoughts_beside { thoughts } else { 0 }),
            cache_read: wire.total_cached_tokens.0,
            in_tool: wire.total_tool_use_tokens.0,
            reasoning: wire.total_thought_tokens.0,
            ..Usage::default()
        };
        usage.fill_in_plain();
        self.usage = Some(usage);
    }
}
