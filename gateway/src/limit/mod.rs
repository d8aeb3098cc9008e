//! What a caller may take: three guards, each with its own bound.
//!
//! | guard | asked | question |
//! | --- | --- | --- |
//! | [`flood`] | on arrival, when switched on | does one address send far too much? |
//! | [`in_flight`] | on arrival | is there room for one more request? |
//! | [`requests`], [`shared`] | once a request, after a cache miss | is the gateway's window used up? |
//!
//! The first two protect us and may be rough; the third is a promise to the operator and is exact.

pub mod flood;
pub mod in_flight;
pub mod requests;
pub mod shared;

use std::sync::Arc;
use std::time::Duration;

pub use flood::Flood;
pub use in_flight::{Full, InFlight, InFlightPermit};
pub use requests::{RequestWindows, Taken};
pub use shared::{Reserved, SharedWindows};

use crate::config::Gateway;

/// Refused, with the time after which trying again makes sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryAfter(pub Duration);

impl RetryAfter {
    /// For the `retry-after` header: whole seconds, rounded up, at least one.
    pub fn seconds(self) -> u64 {
        let whole = self.0.as_secs() + u64::from(self.0.subsec_nanos() > 0);
        whole.max(1)
    }
}

/// Which gateway a counter belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct GatewayKey {
    account: Arc<str>,
    gateway: Arc<str>,
}

impl GatewayKey {
    pub(crate) fn of(gateway: &Gateway) -> GatewayKey {
        GatewayKey {
            account: gateway.account.clone(),
            gateway: gateway.id.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_told_in_whole_seconds() {
        let seconds = |ms| RetryAfter(Duration::from_millis(ms)).seconds();
        assert_eq!(
            [seconds(0), seconds(1), seconds(1000), seconds(1001)],
            [1, 1, 1, 2]
        );
    }
}
