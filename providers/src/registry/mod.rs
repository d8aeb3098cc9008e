//! Which providers there are, and what is special about each: a table, read by slug or alias.
//!
//! A row holds data only. What a row's `layout` means for a path is in [`crate::url`], what its `scheme` means
//! for a stored key in [`crate::credential`], what its `family` means for a request in [`crate::request`].

mod table;

/// One provider.
#[derive(Debug)]
pub struct ProviderSpec {
    pub slug: &'static str,
    pub aliases: &'static [&'static str],
    /// Host of the provider's API; empty when the request or the configuration names it.
    pub host: &'static str,
    /// What stands between the host and the path remainder, such as `/v1`; no trailing slash.
    pub base_path: &'static str,
    /// First segments of remainders that live beside the base path's version, not under it.
    pub(crate) beside_version: &'static [&'static str],
    /// Remainder used when the request has none: where the provider's realtime socket is.
    pub(crate) realtime_path: &'static str,
    pub(crate) layout: Layout,
    /// Headers a caller may put this provider's key in, lower case, native one first. All of them are removed
    /// when a stored key is used.
    pub credential_headers: &'static [&'static str],
    /// The same for query parameters.
    pub credential_query: &'static [&'static str],
    pub(crate) scheme: Scheme,
    pub(crate) family: Family,
}

/// How the path remainder becomes host and path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Host and base path of the row, then the remainder.
    Plain,
    /// `{resource}/{deployment}/…`
    Azure,
    /// `{service}/{region}/…`
    Bedrock,
    /// The region stands after `locations/`.
    Vertex,
    /// `model/{id}` has its own host, everything else is plain.
    Baseten,
    /// A header may name the true target.
    Fal,
    /// `@cf/…`, `run/@cf/…` or `v1/…` behind a base URL with the account in it.
    WorkersAi,
    /// Nothing but what the configuration gives.
    Custom,
}

/// How a stored key is put on a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// `authorization: {word} {key}`
    Authorization(&'static str),
    /// `{header}: {key}`
    Header(&'static str),
    /// `x-api-key`, but OAuth access keys as bearer.
    Anthropic,
    /// `x-goog-api-key`, but OAuth access keys, and the OpenAI-compatible paths, as bearer.
    Google,
    /// SigV4 for key pairs, bearer for Bedrock API keys.
    Aws,
}

/// Whose request format it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    OpenAi,
    Anthropic,
    Google,
    Vertex,
    Azure,
    Bedrock,
    WorkersAi,
    HuggingFace,
    Replicate,
    Baseten,
    Mistral,
    Cohere,
    Perplexity,
    OpenRouter,
    Elevenlabs,
    Cartesia,
    Deepgram,
    Fal,
    Ideogram,
    /// Nothing is known but the path: it decides.
    Unknown,
}

/// The row for a slug or alias. `custom-*` slugs have no row of their own: see [`custom`].
pub fn find(slug: &str) -> Option<&'static ProviderSpec> {
    all()
        .iter()
        .find(|spec| spec.slug == slug || spec.aliases.contains(&slug))
}

/// Every built-in provider, in the order of the documentation.
pub fn all() -> &'static [ProviderSpec] {
    table::PROVIDERS
}

/// The row used for every `custom-*` slug; its base URL always comes from the configuration.
pub fn custom() -> &'static ProviderSpec {
    &table::CUSTOM
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slugs_and_aliases_name_one_row_each() {
        let mut names: Vec<&str> = all()
            .iter()
            .flat_map(|spec| spec.aliases.iter().chain([&spec.slug]))
            .copied()
            .collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        for name in names {
            assert!(find(name).is_some(), "{name}");
        }
        assert_eq!(
            find("google").map(|spec| spec.slug),
            Some("google-ai-studio")
        );
        assert_eq!(find("xai").map(|spec| spec.slug), Some("grok"));
        assert_eq!(
            find("perplexity").map(|spec| spec.slug),
            Some("perplexity-ai")
        );
        assert!(find("custom-mine").is_none());
        assert!(find("OpenAI").is_none());
    }

    #[test]
    fn rows_are_written_the_way_the_code_reads_them() {
        for spec in all().iter().chain([custom()]) {
            assert!(!spec.base_path.ends_with('/'), "{}", spec.slug);
            assert!(
                spec.base_path.is_empty() || spec.base_path.starts_with('/'),
                "{}",
                spec.slug
            );
            assert!(!spec.realtime_path.starts_with('/'), "{}", spec.slug);
            assert!(!spec.credential_headers.is_empty(), "{}", spec.slug);
            for header in spec.credential_headers {
                assert_eq!(*header, header.to_ascii_lowercase(), "{}", spec.slug);
            }
        }
    }
}
