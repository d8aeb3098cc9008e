//! What a request costs: CPU of the gateway beside a bare pingora pass-through and nginx, measured
//! in one run on one machine.
//!
//! ```text
//! CPU A: this process                      CPU B: one at a time
//! generator ──────────────────────────────► nginx | pass-through | gateway ─┐
//! mock upstream ◄──────────────────────────────────────────────────────────┘
//! ```
//!
//! - `exchange`: what is asked and answered in each mode
//! - `generator`, `mock`: the two ends, closed loop over loopback
//! - `subject`: starting what is measured; `passthrough`: the bare pingora proxy
//! - `cpu`: what its threads used; `report`: medians and ratios
//!
//! Times on the wall say little on a shared machine and are not reported; CPU per request holds.

mod cpu;
mod exchange;
mod generator;
mod mock;
mod options;
mod passthrough;
mod report;
mod subject;

use std::process::ExitCode;
use std::time::Duration;

use exchange::Mode;
use options::Options;
use report::{Measured, Report};
use subject::Subject;

/// Requests before the first round of a mode: connections, caches and branch predictors.
const WARM_UP: usize = 400;
/// Longest wait for a subject to finish what it does behind its answers.
const MAX_SETTLE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.first().map(String::as_str) {
        Some("passthrough") => passthrough::run(&arguments[1..]),
        _ => Options::parse(&arguments).and_then(measure),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(options: Options) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("starting the runtime: {error}"))?;
    runtime.block_on(rounds(&options))
}

async fn rounds(options: &Options) -> Result<(), String> {
    let mock = mock::start().await?;
    let subjects = subject::start(options, mock.address).await?;
    for subject in &subjects {
        eprintln!(
            "{}: pid {}, {}",
            subject.name,
            subject.pid(),
            subject.address
        );
    }
    let mut report = Report::default();
    for round in 0..options.rounds {
        for mode in &options.modes {
            let mut line = format!("round {} {:<6}", round + 1, mode.name());
            for subject in &subjects {
                if !subject.serves(*mode) {
                    continue;
                }
                if round == 0 {
                    let warm_up = WARM_UP.min(options.requests(*mode));
                    generator::run(subject, *mode, warm_up).await?;
                    settle(subject).await?;
                }
                let measured = one(subject, *mode, options, &mock).await?;
                line.push_str(&format!("  {} {}", subject.name, measured.brief()));
                report.add(*mode, subject.name, measured);
            }
            eprintln!("{line}");
        }
    }
    for subject in &subjects {
        report.memory(subject.name, cpu::resident(subject.pid())?);
    }
    print!("{}", report.render());
    Ok(())
}

/// One round of one mode on one subject.
async fn one(
    subject: &Subject,
    mode: Mode,
    options: &Options,
    mock: &mock::Mock,
) -> Result<Measured, String> {
    let requests = options.requests(mode);
    let asked = mock.requests();
    let before = cpu::threads(subject.pid())?;
    generator::run(subject, mode, requests).await?;
    settle(subject).await?;
    let used = cpu::threads(subject.pid())?.since(&before);
    let reached = mock.requests() - asked;
    let expected = if mode == Mode::Hit { 0 } else { requests };
    if reached != expected {
        return Err(format!(
            "{} in mode {}: {reached} requests reached the upstream, {expected} should have",
            subject.name,
            mode.name()
        ));
    }
    let units = requests * mode.units();
    Ok(Measured {
        path_us: used.path_ns as f64 / 1e3 / units as f64,
        writer_us: used.writer_ns as f64 / 1e3 / units as f64,
    })
}

/// Waits until the subject rests: rows go to the store after their answers.
async fn settle(subject: &Subject) -> Result<(), String> {
    const LOOK: Duration = Duration::from_millis(400);
    const AT_REST_NS: u64 = 4_000_000;
    let mut before = cpu::threads(subject.pid())?;
    for _ in 0..MAX_SETTLE.as_millis() / LOOK.as_millis() {
        tokio::time::sleep(LOOK).await;
        let now = cpu::threads(subject.pid())?;
        let used = now.since(&before);
        if used.path_ns + used.writer_ns < AT_REST_NS {
            return Ok(());
        }
        before = now;
    }
    Err(format!(
        "{} was still busy {} s after its last answer",
        subject.name,
        MAX_SETTLE.as_secs()
    ))
}
