//! Every metric name, in one place. Labels are bounded: provider slugs and codes from tables of
//! ours, never anything a caller writes.

use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder,
};

use crate::trace::{Attempt, Decision};

pub struct Metrics {
    registry: Registry,
    /// By decision and class of status.
    pub requests: IntCounterVec,
    /// By provider and outcome.
    pub attempts: IntCounterVec,
    pub in_flight: IntGauge,
    pub request_seconds: Histogram,
    pub attempt_first_byte_seconds: Histogram,
    pub malformed_events: IntCounter,
    pub callers_left: IntCounter,
    pub records_lost: IntCounter,
}

const SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
];

impl Metrics {
    pub fn new() -> Metrics {
        let registry = Registry::new();
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let counters = IntCounterVec::new(Opts::new(name, help), labels)
                .expect("names in this file are valid");
            registry
                .register(Box::new(counters.clone()))
                .expect("names in this file are unique");
            counters
        };
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help).expect("names in this file are valid");
            registry
                .register(Box::new(counter.clone()))
                .expect("names in this file are unique");
            counter
        };
        let histogram = |name: &str, help: &str| {
            let opts = HistogramOpts::new(name, help).buckets(SECONDS.to_vec());
            let histogram = Histogram::with_opts(opts).expect("names in this file are valid");
            registry
                .register(Box::new(histogram.clone()))
                .expect("names in this file are unique");
            histogram
        };
        let in_flight = IntGauge::new("gateway_requests_in_flight", "Requests being answered")
            .expect("valid name");
        registry
            .register(Box::new(in_flight.clone()))
            .expect("names in this file are unique");
        Metrics {
            requests: counters(
                "gateway_requests_total",
                "Requests by decision and status class",
                &["decision", "status"],
            ),
            attempts: counters(
                "gateway_attempts_total",
                "Tries on a provider by outcome",
                &["provider", "outcome"],
            ),
            in_flight,
            request_seconds: histogram(
                "gateway_request_seconds",
                "From the request's head to the answer's last byte",
            ),
            attempt_first_byte_seconds: histogram(
                "gateway_attempt_first_byte_seconds",
                "From the start of a try to the first byte of its answer",
            ),
            malformed_events: counter(
                "gateway_malformed_events_total",
                "Stream events that could not be read and were passed on unchanged",
            ),
            callers_left: counter(
                "gateway_callers_left_total",
                "Callers seen to leave before their answer was complete",
            ),
            records_lost: counter(
                "gateway_records_lost_total",
                "Records the spool did not take",
            ),
            registry,
        }
    }

    pub fn request_ended(&self, decision: Decision, status: u16, seconds: f64) {
        let class = match status {
            0 => "none",
            100..=199 => "1xx",
            200..=299 => "2xx",
            300..=399 => "3xx",
            400..=499 => "4xx",
            _ => "5xx",
        };
        self.requests
            .with_label_values(&[decision.as_str(), class])
            .inc();
        self.request_seconds.observe(seconds);
    }

    pub fn attempt_ended(&self, attempt: &Attempt) {
        let outcome = attempt.error.map_or(
            match attempt.status {
                200..=299 => "ok",
                429 => "rate_limited",
                400..=499 => "client_error",
                _ => "server_error",
            },
            |kind| kind.slug(),
        );
        // A custom provider's name is the operator's own, so its number is bounded by the config.
        self.attempts
            .with_label_values(&[&attempt.provider, outcome])
            .inc();
        if let Some(first) = attempt.first_byte {
            let wait = first.saturating_duration_since(attempt.started);
            self.attempt_first_byte_seconds.observe(wait.as_secs_f64());
        }
        if let Some(reading) = &attempt.reading {
            self.malformed_events.inc_by(reading.malformed_events);
        }
    }

    /// Prometheus text format.
    pub fn render(&self) -> String {
        TextEncoder::new()
            .encode_to_string(&self.registry.gather())
            .unwrap_or_default()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics::new()
    }
}
