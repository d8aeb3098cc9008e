//! The ledger's rules, one by one and over random traffic.

use super::ledger::{Acquired, Flight, Ledger, MAX_AT_ONCE, Order};
use super::*;
use std::collections::{BTreeMap, HashSet};

fn hash(name: u8) -> AdapterHash {
    AdapterHash([name; 32])
}

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// A ledger and what it ordered last.
struct Book {
    ledger: Ledger,
    now: Duration,
    orders: Vec<Order>,
}

impl Book {
    fn new(capacity: usize) -> Book {
        Book {
            ledger: Ledger::new(capacity),
            now: Duration::ZERO,
            orders: Vec::new(),
        }
    }

    fn acquire(&mut self, name: u8) -> Acquired {
        self.orders.clear();
        let orders = &mut self.orders;
        self.ledger.acquire(hash(name), self.now, orders)
    }

    fn release(&mut self, flight: Flight) -> &[Order] {
        self.orders.clear();
        self.ledger.release(flight, self.now, &mut self.orders);
        &self.orders
    }

    fn ended(&mut self, flight: Flight, bytes: usize) -> &[Order] {
        self.orders.clear();
        let orders = &mut self.orders;
        self.ledger.ended(flight, Ok(bytes), self.now, orders);
        &self.orders
    }

    fn failed(&mut self, flight: Flight) -> &[Order] {
        self.orders.clear();
        let (result, orders) = (Err("gone".to_owned()), &mut self.orders);
        self.ledger.ended(flight, result, self.now, orders);
        &self.orders
    }

    /// Asks for one that is not there, and has it load.
    fn load(&mut self, name: u8, bytes: usize) -> Flight {
        let Acquired::New(flight) = self.acquire(name) else {
            panic!("{name} is there or failed");
        };
        assert_eq!(self.orders, [Order::Start(flight)]);
        self.ended(flight, bytes);
        assert_eq!(self.orders.last(), Some(&Order::Ready(flight)));
        flight
    }
}

#[test]
fn all_who_ask_share_one_flight() {
    let mut book = Book::new(100);
    assert_eq!(book.acquire(1), Acquired::New(1));
    assert_eq!(book.orders, [Order::Start(1)]);
    assert_eq!(book.acquire(1), Acquired::Joined(1));
    assert_eq!(book.orders, []);
    assert_eq!(book.ended(1, 10), [Order::Ready(1)]);
    assert_eq!(book.acquire(1), Acquired::Hit(1));
    assert_eq!(book.ledger.used(), 10);
}

#[test]
fn the_last_to_leave_cancels() {
    let mut book = Book::new(100);
    book.acquire(1);
    book.acquire(1);
    assert_eq!(book.release(1), []);
    assert_eq!(book.release(1), [Order::Cancel(1)]);
    assert_eq!(book.acquire(1), Acquired::New(2), "the old one is given up");
    assert_eq!(book.ended(1, 10), [], "nobody wants it");
    assert_eq!(book.ended(2, 10), [Order::Ready(2)]);
    assert_eq!(book.ledger.used(), 10);
}

#[test]
fn no_more_than_so_many_are_on_their_way() {
    let mut book = Book::new(100);
    for name in 1..=MAX_AT_ONCE as u8 {
        book.acquire(name);
    }
    assert_eq!(book.acquire(50), Acquired::New(9));
    assert_eq!(book.acquire(51), Acquired::New(10));
    assert_eq!(book.orders, []);
    // What is cancelled has its place until it ends.
    assert_eq!(book.release(1), [Order::Cancel(1)]);
    assert_eq!(book.failed(1), [Order::Start(9)]);
    assert_eq!(book.release(10), []);
    assert_eq!(book.ended(2, 1), [Order::Ready(2)]);
    assert_eq!(book.acquire(51), Acquired::New(11));
    assert_eq!(book.orders, [Order::Start(11)]);
}

#[test]
fn the_least_used_goes_and_the_leased_stays() {
    let mut book = Book::new(30);
    let leased = book.load(1, 10);
    for (name, uses) in [(2, 3), (3, 1)] {
        let flight = book.load(name, 10);
        for _ in 1..uses {
            book.acquire(name);
        }
        for _ in 0..uses {
            book.release(flight);
        }
        book.now += ms(100);
    }
    // 3 was used last, 2 more often.
    assert_eq!(book.acquire(4), Acquired::New(4));
    assert_eq!(book.ended(4, 10), [Order::Evict(3), Order::Ready(4)]);
    assert_eq!(book.acquire(5), Acquired::New(5));
    assert_eq!(book.ended(5, 10), [Order::Evict(2), Order::Ready(5)]);
    assert_eq!(book.acquire(6), Acquired::New(6));
    assert_eq!(book.ended(6, 10), [], "all are leased");
    assert_eq!(
        book.release(leased),
        [Order::Evict(leased), Order::Ready(6)]
    );
}

#[test]
fn what_was_used_a_moment_ago_goes_after_what_was_not() {
    let mut book = Book::new(20);
    let often = book.load(1, 10);
    for _ in 0..5 {
        book.acquire(1);
    }
    for _ in 0..6 {
        book.release(often);
    }
    book.now += ms(15_000);
    let once = book.load(2, 10);
    book.release(once);
    book.acquire(3);
    assert_eq!(book.ended(3, 5), [Order::Evict(often), Order::Ready(3)]);
}

#[test]
fn one_for_which_there_is_no_room_evicts_nobody() {
    let mut book = Book::new(30);
    let leased = book.load(1, 20);
    let idle = book.load(2, 10);
    book.release(idle);
    book.acquire(3);
    assert_eq!(book.ended(3, 15), []);
    assert_eq!(book.acquire(2), Acquired::Hit(idle));
    book.release(idle);
    assert_eq!(
        book.release(leased),
        [Order::Evict(leased), Order::Ready(3)]
    );
}

#[test]
fn failures_back_off_and_are_forgiven() {
    let mut book = Book::new(100);
    let gone = || Acquired::Refused("gone".to_owned());
    let mut wait = 500;
    for flight in 1..=9 {
        assert_eq!(book.acquire(1), Acquired::New(flight));
        let failed = Order::Failed(flight, "gone".to_owned());
        assert_eq!(book.failed(flight), [failed]);
        assert_eq!(book.release(flight), [], "its leases ended with it");
        book.now += ms(wait - 1);
        assert_eq!(book.acquire(1), gone());
        book.now += ms(1);
        wait = (wait * 2).min(60_000);
    }
    assert_eq!(book.acquire(1), Acquired::New(10));
    assert_eq!(book.ended(10, 5), [Order::Ready(10)]);
    assert_eq!(book.acquire(2), Acquired::New(11), "others are not touched");
}

#[test]
fn one_larger_than_all_room_says_so() {
    let mut book = Book::new(3 << 20);
    book.acquire(1);
    let [Order::Failed(1, reason)] = book.ended(1, (3 << 20) + 1) else {
        panic!("{:?}", book.orders);
    };
    assert!(reason.contains("takes 4 MiB") && reason.contains("may take 3 (`adapter_cache_mib`)"));
}

/// Two adapters that are never without a lease, and no room for a third.
#[test]
fn adapters_in_constant_use_give_way_in_the_end() {
    let mut book = Book::new(20);
    let mut leases = [book.load(1, 10), book.load(2, 10)];
    book.acquire(3);
    assert_eq!(book.ended(3, 10), []);
    let mut others = 0;
    for turn in 0..400 {
        book.now += ms(10);
        let place = turn % 2;
        let next = book.acquire(1 + place as u8);
        let flight = match next {
            Acquired::Hit(flight) => flight,
            Acquired::New(flight) | Acquired::Joined(flight) => {
                others += 1;
                flight
            }
            Acquired::Refused(reason) => panic!("{reason}"),
        };
        let left = std::mem::replace(&mut leases[place], flight);
        if book.release(left).contains(&Order::Ready(3)) {
            assert!((99..110).contains(&turn), "after {turn} turns");
            assert!(others >= 1);
            return;
        }
    }
    panic!("it waits for ever");
}

fn random(state: &mut u64, bound: usize) -> usize {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 32) as usize % bound
}

/// What the simulation knows of a flight.
#[derive(Default)]
struct Known {
    name: u8,
    leases: usize,
    is_started: bool,
    is_ready: bool,
    is_cancelled: bool,
    bytes: usize,
    /// When it was first asked for.
    asked: usize,
}

/// Leases and flights of random length over a few adapters, larger than the room in sum.
struct Traffic {
    book: Book,
    capacity: usize,
    state: u64,
    step: usize,
    known: BTreeMap<Flight, Known>,
    /// Flights under way: when they end, and how.
    ends: Vec<(usize, Flight)>,
    /// Leases: when they are given back.
    leases: Vec<(usize, Flight)>,
    refused_until: BTreeMap<u8, (Duration, Duration)>,
    counts: [usize; 5],
}

const MAX_FLIGHT: usize = 30;
const MAX_LEASE: usize = 60;

impl Traffic {
    fn obey(&mut self) {
        for order in std::mem::take(&mut self.book.orders) {
            match order {
                Order::Start(flight) => {
                    let end = self.step + 1 + random(&mut self.state, MAX_FLIGHT);
                    self.ends.push((end, flight));
                    let flying = self.known.get_mut(&flight).expect("it was asked for");
                    flying.is_started = true;
                    let name = flying.name;
                    let mut flights = self.known.values();
                    let is_same = |other: &&Known| {
                        other.name == name
                            && other.is_started
                            && !(other.is_ready || other.is_cancelled)
                    };
                    assert_eq!(flights.by_ref().filter(is_same).count(), 1, "single flight");
                }
                Order::Cancel(flight) => {
                    let flying = self.known.get_mut(&flight).expect("it was asked for");
                    assert_eq!(flying.leases, 0);
                    flying.is_cancelled = true;
                    self.counts[0] += 1;
                }
                Order::Ready(flight) => {
                    let flying = self.known.get_mut(&flight).expect("it was asked for");
                    assert!(!flying.is_ready && flying.leases > 0);
                    flying.is_ready = true;
                    let waited = self.step - flying.asked;
                    // Those before it in the queue, each for a flight and a lease.
                    assert!(waited < 60 * (MAX_FLIGHT + MAX_LEASE), "waited {waited}");
                    self.counts[1] += 1;
                }
                Order::Failed(flight, _) => {
                    let flying = self.known.remove(&flight).expect("it was asked for");
                    assert!(flying.leases > 0 && !flying.is_ready);
                    self.leases.retain(|(_, lease)| *lease != flight);
                    let now = self.book.now;
                    let earlier = self.refused_until.get(&flying.name);
                    let wait = match earlier {
                        Some((until, wait)) if now < *until + ms(60_000) => {
                            (*wait * 2).min(ms(60_000))
                        }
                        _ => ms(500),
                    };
                    self.refused_until.insert(flying.name, (now + wait, wait));
                    self.counts[2] += 1;
                }
                Order::Evict(flight) => {
                    let flying = self.known.remove(&flight).expect("it was ready");
                    assert!(flying.is_ready);
                    assert_eq!(flying.leases, 0, "a leased one was evicted");
                    self.counts[3] += 1;
                }
            }
        }
        let ready = self.known.values().filter(|flying| flying.is_ready);
        let used: usize = ready.map(|flying| flying.bytes).sum();
        assert_eq!(used, self.book.ledger.used());
        assert!(used <= self.capacity, "{used} of {}", self.capacity);
        assert!(self.ends.len() <= MAX_AT_ONCE);
    }

    fn ask(&mut self, name: u8) {
        let may_try =
            (self.refused_until.get(&name)).is_none_or(|(until, _)| *until <= self.book.now);
        let flight = match self.book.acquire(name) {
            Acquired::Hit(flight) => {
                assert!(self.known[&flight].is_ready);
                flight
            }
            Acquired::Joined(flight) => flight,
            Acquired::New(flight) => {
                assert!(may_try, "too soon after a failure");
                let (asked, bytes) = (self.step, 1 + random(&mut self.state, self.capacity));
                let flying = Known {
                    name,
                    asked,
                    bytes,
                    ..Known::default()
                };
                self.known.insert(flight, flying);
                flight
            }
            Acquired::Refused(_) => {
                assert!(!may_try, "refused without a reason");
                self.counts[4] += 1;
                return self.obey();
            }
        };
        let flying = self.known.get_mut(&flight).expect("it is known");
        assert_eq!(flying.name, name);
        flying.leases += 1;
        let until = self.step + 1 + random(&mut self.state, MAX_LEASE);
        self.leases.push((until, flight));
        self.obey();
    }

    fn step(&mut self, asks: bool) {
        self.step += 1;
        self.book.now += ms(random(&mut self.state, 200) as u64);
        for (_, flight) in take_due(&mut self.ends, self.step) {
            let flying = self.known.get(&flight);
            let is_failing = random(&mut self.state, 6) == 0;
            // A cancelled one's size is nobody's.
            let bytes = flying.map_or(1, |flying| flying.bytes);
            match is_failing {
                true => _ = self.book.failed(flight),
                false => {
                    self.book.ended(flight, bytes);
                    let wanted = flying.filter(|flying| !flying.is_cancelled);
                    wanted.map(|flying| self.refused_until.remove(&flying.name));
                }
            }
            if (self.known.get(&flight)).is_some_and(|flying| flying.is_cancelled) {
                self.known.remove(&flight);
            }
            self.obey();
        }
        let step = self.step;
        // One that waits does not know how long it will: most hold out until they had what they wanted.
        let mut impatient = random(&mut self.state, 40) == 0;
        let mut left = Vec::new();
        for (until, flight) in std::mem::take(&mut self.leases) {
            let is_ready = self.known[&flight].is_ready;
            if until > step {
                self.leases.push((until, flight));
            } else if is_ready || std::mem::take(&mut impatient) {
                left.push(flight);
            } else {
                let until = step + 1 + random(&mut self.state, MAX_LEASE);
                self.leases.push((until, flight));
            }
        }
        for flight in left {
            let flying = self.known.get_mut(&flight).expect("it has a lease");
            flying.leases -= 1;
            let is_unborn = flying.leases == 0 && !flying.is_started;
            let orders = self.book.release(flight);
            let is_over = orders.contains(&Order::Cancel(flight));
            self.obey();
            let has_ended = !self.ends.iter().any(|(_, other)| *other == flight);
            if is_unborn || (is_over && has_ended) {
                self.known.remove(&flight);
            }
        }
        if asks && self.leases.len() < 40 {
            // A few are asked for much more often than the others.
            let bound = 1 + random(&mut self.state, 30);
            let name = random(&mut self.state, bound) as u8;
            self.ask(name);
        }
    }
}

fn take_due(all: &mut Vec<(usize, Flight)>, step: usize) -> Vec<(usize, Flight)> {
    let due = all
        .iter()
        .copied()
        .filter(|(end, _)| *end <= step)
        .collect();
    all.retain(|(end, _)| *end > step);
    due
}

#[test]
fn random_traffic_keeps_every_rule() {
    const STEPS: usize = 300_000;
    const EPISODES: usize = 30;
    let mut counts = [0; 5];
    for episode in 0..EPISODES {
        let capacity = 20 + 10 * episode;
        let mut traffic = Traffic {
            book: Book::new(capacity),
            capacity,
            state: episode as u64,
            step: 0,
            known: BTreeMap::new(),
            ends: Vec::new(),
            leases: Vec::new(),
            refused_until: BTreeMap::new(),
            counts: [0; 5],
        };
        for _ in 0..STEPS / EPISODES {
            traffic.step(true);
        }
        // Everybody who still waits gets an end.
        for _ in 0..60 * (MAX_FLIGHT + MAX_LEASE) {
            traffic.step(false);
        }
        assert!(traffic.leases.is_empty() && traffic.ends.is_empty());
        let flights: HashSet<u8> = traffic.known.values().map(|flying| flying.name).collect();
        assert_eq!(flights.len(), traffic.known.len(), "one each is kept");
        for (sum, count) in counts.iter_mut().zip(traffic.counts) {
            *sum += count;
        }
    }
    let [cancelled, ready, failed, evicted, refused] = counts;
    println!(
        "cancelled {cancelled}, ready {ready}, failed {failed}, evicted {evicted}, refused {refused}"
    );
    assert!(cancelled > 100 && ready > 1000 && failed > 1000 && evicted > 1000 && refused > 100);
}
