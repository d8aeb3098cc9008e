//! Paths of the API, as clients write them.

/// What a path asks of the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LocalEndpoint {
    /// The native form. An empty model: the body names it.
    Run {
        model: String,
    },
    ChatCompletions,
    Completions,
    Embeddings,
    Responses,
    /// OpenAI's list of models.
    Models,
}

impl LocalEndpoint {
    /// OpenAI's forms have their own errors.
    pub(super) fn is_openai(&self) -> bool {
        !matches!(self, LocalEndpoint::Run { .. })
    }
}

/// Reads the path after `workers-ai/` or `/ai/`, still percent-encoded: clients send model names with `/` and `@`
/// bare or encoded. `None`: nothing of ours.
pub fn endpoint(rest: &str) -> Option<LocalEndpoint> {
    let path = rest.split('?').next().unwrap_or_default();
    let decoded = percent_encoding::percent_decode_str(path)
        .decode_utf8()
        .ok()?;
    let path = decoded.trim_matches('/');
    let run = |name: &str| LocalEndpoint::Run {
        model: name.to_owned(),
    };
    let model = |name: &str| {
        let is_clean = !name.split('/').any(|part| part.is_empty() || part == "..");
        (name.starts_with('@') && name.contains('/') && is_clean).then(|| run(name))
    };
    match path {
        "v1/chat/completions" => Some(LocalEndpoint::ChatCompletions),
        "v1/completions" => Some(LocalEndpoint::Completions),
        "v1/embeddings" => Some(LocalEndpoint::Embeddings),
        "v1/responses" => Some(LocalEndpoint::Responses),
        "v1/models" => Some(LocalEndpoint::Models),
        "run" => Some(run("")),
        _ => match path.strip_prefix("run/") {
            // Any name after `run/` is a model's, if an unknown one.
            Some(name) => model(name).or_else(|| {
                let is_clean = !name.split('/').any(|part| part == "..");
                is_clean.then(|| run(name))
            }),
            None => model(path),
        },
    }
}
