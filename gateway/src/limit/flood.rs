//! The guard against one address sending far too much. Off by default.
//!
//! A token bucket (GCRA) for each client address; an IPv6 client is its /64, since that is what one
//! customer is given. Addresses remembered are bounded: past the bound the longest unseen are
//! forgotten and begin anew with a full burst, which errs towards letting through.

use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use super::RetryAfter;
use crate::config;

pub struct Flood {
    quota: Quota,
    clock: DefaultClock,
    clients: Cache<IpAddr, Arc<DefaultDirectRateLimiter>>,
}

impl Flood {
    pub fn new(config: &config::Flood) -> Flood {
        let rate = NonZeroU32::new(config.requests_per_second).unwrap_or(NonZeroU32::MIN);
        let burst = NonZeroU32::new(config.burst).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::per_second(rate).allow_burst(burst);
        // After this long without a request a bucket is full again: forgetting it changes nothing.
        let refill = quota.burst_size_replenished_in() + Duration::from_secs(1);
        let clients = Cache::builder()
            .max_capacity(config.max_clients)
            .eviction_policy(EvictionPolicy::lru())
            .time_to_idle(refill)
            .build();
        Flood {
            quota,
            clock: DefaultClock::default(),
            clients,
        }
    }

    /// Counts one request of this address.
    pub fn check(&self, client: IpAddr) -> Result<(), RetryAfter> {
        let bucket = self.clients.get_with(network(client), || {
            Arc::new(RateLimiter::direct(self.quota))
        });
        bucket
            .check()
            .map_err(|refused| RetryAfter(refused.wait_time_from(self.clock.now())))
    }
}

/// What counts as one client.
fn network(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flood(burst: u32, max_clients: u64) -> Flood {
        Flood::new(&config::Flood {
            requests_per_second: 1,
            burst,
            max_clients,
        })
    }

    #[test]
    fn an_address_gets_its_burst_and_no_more() {
        let flood = flood(3, 100);
        let client: IpAddr = "192.0.2.1".parse().unwrap();
        let passed = (0..10).filter(|_| flood.check(client).is_ok()).count();
        assert_eq!(passed, 3);
        let wait = flood.check(client).unwrap_err();
        assert!(wait.0 <= Duration::from_secs(1) && wait.seconds() == 1);
        assert!(
            flood.check("192.0.2.2".parse().unwrap()).is_ok(),
            "others are not touched"
        );
    }

    #[test]
    fn an_ipv6_client_is_its_network() {
        let flood = flood(1, 100);
        assert!(flood.check("2001:db8::1".parse().unwrap()).is_ok());
        assert!(flood.check("2001:db8::ffff".parse().unwrap()).is_err());
        assert!(flood.check("2001:db8:0:1::1".parse().unwrap()).is_ok());
        assert!(flood.check("192.0.2.1".parse().unwrap()).is_ok());
        assert!(
            flood.check("::ffff:192.0.2.1".parse().unwrap()).is_err(),
            "mapped is the same"
        );
    }

    #[test]
    fn memory_is_bounded() {
        let flood = flood(1, 50);
        for index in 0..2_000u32 {
            let _ = flood.check(IpAddr::from(index.to_be_bytes()));
        }
        flood.clients.run_pending_tasks();
        assert!(
            flood.clients.entry_count() <= 50,
            "{}",
            flood.clients.entry_count()
        );
    }
}
