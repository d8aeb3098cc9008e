//! What we know of the outside vendors: where a request goes, what its credential looks like, what it
//! asks for, what an answer used, what went wrong, and what it costs.
//!
//! Pure: no sockets, no clock, no environment. The time and every header arrive as arguments, so the
//! whole crate is tested with bytes.
//!
//! | a request, on its way | room |
//! | --- | --- |
//! | slug → what is special about the provider | `registry` |
//! | path, query, base URL → host and path upstream | `url` |
//! | which headers travel, what is redacted | `headers` |
//! | stored key → headers, signature | `credential` |
//! | model, stream, kind of request | `request` |
//! | **an answer, on its way back** | |
//! | wire format | `dialect` |
//! | bytes → events, frames, lines | [`sse`], [`eventstream`], [`jsonlines`] |
//! | the reply, listened to while it is passed on | `reader` |
//! | what to write when it breaks off | `frames` |
//! | status and error body → class, retry hint | `failure` |
//! | numbers in one form | `usage` |
//! | numbers → money | `catalog` |

mod catalog;
mod credential;
mod dialect;
pub mod eventstream;
mod failure;
mod frames;
mod headers;
pub mod jsonlines;
mod reader;
mod registry;
mod request;
pub mod sse;
mod url;
mod usage;

pub use catalog::{Catalog, CatalogError, Cost, CustomCost, Price, cost};
pub use credential::{Credential, CredentialError, apply_credential, presented_credential, vertex};
pub use dialect::Dialect;
pub use failure::{Failure, FailureClass, classify};
pub use frames::error_frame;
pub use headers::{
    is_forwarded_request_header, is_forwarded_response_header, redact_path, redact_subprotocols,
};
pub use reader::{Ending, Framing, Progress, Reading, ReplyHead, ReplyReader};
pub use registry::{ProviderSpec, all, custom, find};
pub use request::{RequestFacts, RequestType, read_request};
pub use url::{AwsScope, PathError, Upstream, upstream};
pub use usage::{ModelUsage, Usage, UsageSource};
