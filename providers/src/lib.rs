//! placeholder

mod dialect;
mod usage;

pub use dialect::Dialect;
pub use usage::{ModelUsage, Usage, UsageSource};
