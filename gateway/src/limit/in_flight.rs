//! How many requests may be in flight: in the whole process, and through one gateway.
//!
//! Past either bound a request is refused at once; it does not wait here. A permit lives as long as
//! its request.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use super::GatewayKey;
use crate::config::Gateway;

pub struct InFlight {
    total: Arc<AtomicUsize>,
    max_total: usize,
    /// Only gateways with a bound of their own: as many as the configuration names.
    gateways: RwLock<HashMap<GatewayKey, Arc<AtomicUsize>>>,
}

/// Which bound was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    Server,
    Gateway,
}

/// Room for one request, given back when it is dropped.
#[derive(Debug)]
pub struct InFlightPermit {
    _total: Slot,
    _gateway: Option<Slot>,
}

impl InFlight {
    pub fn new(max_total: usize) -> InFlight {
        InFlight {
            total: Arc::default(),
            max_total,
            gateways: RwLock::default(),
        }
    }

    pub fn enter(&self, gateway: &Gateway) -> Result<InFlightPermit, Full> {
        let total = Slot::take(&self.total, self.max_total).ok_or(Full::Server)?;
        let own = match gateway.max_in_flight {
            None => None,
            Some(max) => Some(Slot::take(&self.counter(gateway), max).ok_or(Full::Gateway)?),
        };
        Ok(InFlightPermit {
            _total: total,
            _gateway: own,
        })
    }

    /// Requests in flight now.
    pub fn total(&self) -> usize {
        self.total.load(Ordering::Relaxed)
    }

    fn counter(&self, gateway: &Gateway) -> Arc<AtomicUsize> {
        let key = GatewayKey::of(gateway);
        let known = self.gateways.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(counter) = known.get(&key) {
            return counter.clone();
        }
        drop(known);
        let mut gateways = self
            .gateways
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        gateways.entry(key).or_default().clone()
    }
}

#[derive(Debug)]
struct Slot(Arc<AtomicUsize>);

impl Slot {
    fn take(counter: &Arc<AtomicUsize>, max: usize) -> Option<Slot> {
        let add = |taken: usize| (taken < max).then_some(taken + 1);
        counter
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, add)
            .ok()?;
        Some(Slot(counter.clone()))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Timeouts;

    fn gateway(id: &str, max_in_flight: Option<usize>) -> Gateway {
        Gateway {
            max_in_flight,
            ..Gateway::unconfigured("acct", id, &Timeouts::default())
        }
    }

    #[test]
    fn both_bounds_hold_and_permits_come_back() {
        let limit = InFlight::new(3);
        let (narrow, wide) = (gateway("narrow", Some(1)), gateway("wide", None));
        let first = limit.enter(&narrow).unwrap();
        assert_eq!(limit.enter(&narrow).unwrap_err(), Full::Gateway);
        assert_eq!(limit.total(), 1, "a refused request holds nothing");
        let others = [limit.enter(&wide).unwrap(), limit.enter(&wide).unwrap()];
        assert_eq!(limit.enter(&wide).unwrap_err(), Full::Server);
        drop((first, others));
        assert_eq!(limit.total(), 0);
        assert!(limit.enter(&narrow).is_ok());
    }

    #[test]
    fn never_more_than_the_bound_from_many_threads() {
        let limit = InFlight::new(8);
        let gateway = gateway("g", Some(5));
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let permit = limit.enter(&gateway);
                        assert!(limit.total() <= 8);
                        drop(permit);
                    }
                });
            }
        });
        assert_eq!(limit.total(), 0);
    }
}
