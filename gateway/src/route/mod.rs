//! Request → `Plan`: which targets, in which order, under which settings. Pure: opens no sockets.

mod headers;
mod plan;
mod settings;

pub use headers::credentials;
pub use plan::{
    Ground, LocalTarget, Plan, PlanStep, RemoteTarget, StepBody, Target, provider, rest_ai, single,
    universal,
};
pub use settings::{Layers, RecordSettings, TrySettings};
