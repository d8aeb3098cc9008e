//! The likeliest of a row of logits, and the logarithm of what they all weigh together.
//!
//! Whatever is not a number is left out, as if the token did not exist; minus infinity is an ordinary, last value. Among
//! equals the lower id comes first. A vocabulary is read once or twice from cache and never sorted.

use super::widened;
use crate::cpu::lanes::{LANES, Lanes, at_level};
use crate::dispatch;
use std::cmp::Ordering;
use std::f32::consts::LOG2_E;

/// Logits looked at together: most stretches of a vocabulary hold nothing that matters.
const STRETCH: usize = 4 * LANES;

/// The `k` highest logits with their ids, highest first; fewer when there are not so many numbers.
pub fn top_k(logits: &[f32], k: usize, out: &mut Vec<(u32, f32)>) {
    top_k_at(dispatch::level(), logits, k, out);
}

/// The same at a chosen level; parity tests compare levels.
pub fn top_k_at(level: crate::Level, logits: &[f32], k: usize, out: &mut Vec<(u32, f32)>) {
    out.clear();
    if k == 0 {
        return;
    }
    scan(level, logits, k, out);
    out.sort_unstable_by(before);
    out.truncate(k);
}

/// The id of the highest logit; 0 when none is a number.
pub fn argmax(logits: &[f32]) -> u32 {
    argmax_at(dispatch::level(), logits)
}

/// The same at a chosen level; parity tests compare levels.
pub fn argmax_at(level: crate::Level, logits: &[f32]) -> u32 {
    let mut top = f32::NEG_INFINITY;
    highest(level, logits, &mut top);
    let mut id = 0;
    find(level, logits, top, &mut id);
    id
}

/// ln of the sum of e^logit: a token's log-probability is its logit less this. Minus infinity when no logit is above it.
pub fn log_sum_exp(logits: &[f32]) -> f32 {
    log_sum_exp_at(dispatch::level(), logits)
}

/// The same at a chosen level; parity tests compare levels.
pub fn log_sum_exp_at(level: crate::Level, logits: &[f32]) -> f32 {
    let mut top = f32::NEG_INFINITY;
    highest(level, logits, &mut top);
    if top.is_infinite() {
        return top;
    }
    let mut sum = 0.0;
    sum_exp(level, logits, top, &mut sum);
    (f64::from(top) + sum.ln()) as f32
}

/// Higher logits first, then lower ids.
fn before(a: &(u32, f32), b: &(u32, f32)) -> Ordering {
    b.1.partial_cmp(&a.1)
        .unwrap_or(Ordering::Equal)
        .then(a.0.cmp(&b.0))
}

at_level!(scan = scan_body(logits: &[f32], k: usize, out: &mut Vec<(u32, f32)>));

/// Collects the `k` highest, and some more, in no order.
#[inline(always)]
fn scan_body<V: Lanes>(logits: &[f32], k: usize, out: &mut Vec<(u32, f32)>) {
    // Room beside the k kept, so that they are chosen anew only now and then.
    let most = k.saturating_mul(2).max(k.saturating_add(STRETCH));
    // Only what is above it can still be among the k: `None` until there are k.
    let mut threshold: Option<f32> = None;
    for (index, stretch) in logits.chunks(STRETCH).enumerate() {
        if let (Some(threshold), Some(whole)) = (threshold, stretch.as_array::<STRETCH>())
            && highest_of::<V>(whole) <= threshold
        {
            continue;
        }
        for (i, logit) in stretch.iter().enumerate() {
            if threshold.is_none_or(|threshold| *logit > threshold) && !logit.is_nan() {
                out.push(((index * STRETCH + i) as u32, *logit));
            }
        }
        if out.len() >= most {
            let (_, last, _) = out.select_nth_unstable_by(k - 1, before);
            threshold = Some(last.1);
            out.truncate(k);
        }
    }
}

#[inline(always)]
fn highest_of<V: Lanes>(stretch: &[f32; STRETCH]) -> f32 {
    let mut top = V::splat(f32::NEG_INFINITY);
    for values in stretch.as_chunks::<LANES>().0 {
        // This order: of two where one is not a number, the second is taken.
        top = V::load(values).max(top);
    }
    top.highest()
}

at_level!(highest = highest_body(logits: &[f32], top: &mut f32));

#[inline(always)]
fn highest_body<V: Lanes>(logits: &[f32], top: &mut f32) {
    let (stretches, rest) = logits.as_chunks::<STRETCH>();
    let mut tops = [V::splat(f32::NEG_INFINITY); STRETCH / LANES];
    for stretch in stretches {
        for (top, values) in tops.iter_mut().zip(stretch.as_chunks::<LANES>().0) {
            *top = V::load(values).max(*top);
        }
    }
    let rest = rest.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    *top = tops.iter().fold(rest, |top, part| top.max(part.highest()));
}

widened!(find = find_body(logits: &[f32], value: f32, id: &mut u32));

/// The first place of `value`; `id` stays when there is none.
#[inline(always)]
fn find_body<const FMA: bool>(logits: &[f32], value: f32, id: &mut u32) {
    for (index, stretch) in logits.chunks(STRETCH).enumerate() {
        if !stretch
            .iter()
            .fold(false, |any, logit| any | (*logit == value))
        {
            continue;
        }
        if let Some(i) = stretch.iter().position(|logit| *logit == value) {
            *id = (index * STRETCH + i) as u32;
            return;
        }
    }
}

at_level!(sum_exp = sum_exp_body(logits: &[f32], top: f32, sum: &mut f64));

/// The sum of e^(logit - top): sixteen running sums, carried over to f64 now and then.
#[inline(always)]
fn sum_exp_body<V: Lanes>(logits: &[f32], top: f32, sum: &mut f64) {
    for part in logits.chunks(64 * LANES) {
        let (whole, rest) = part.as_chunks::<LANES>();
        let mut last = [f32::NEG_INFINITY; LANES];
        last[..rest.len()].copy_from_slice(rest);
        let mut sums = V::splat(0.0);
        for values in whole.iter().chain([&last]) {
            let distance = V::load(values).add(V::splat(-top));
            sums = sums.add(distance.mul(V::splat(LOG2_E)).exp2());
        }
        *sum += sums.array().iter().copied().map(f64::from).sum::<f64>();
    }
}

/// The definitions: a sort, a search, a sum.
pub mod plain {
    /// Twin of [`super::top_k`].
    pub fn top_k(logits: &[f32], k: usize) -> Vec<(u32, f32)> {
        let all = logits.iter().enumerate();
        let mut all: Vec<(u32, f32)> = all
            .filter(|(_, logit)| !logit.is_nan())
            .map(|(id, logit)| (id as u32, *logit))
            .collect();
        // Stable: among equals the lower id stays first.
        all.sort_by(|a, b| b.1.partial_cmp(&a.1).expect("no number is missing"));
        all.truncate(k);
        all
    }

    /// Twin of [`super::argmax`].
    pub fn argmax(logits: &[f32]) -> u32 {
        top_k(logits, 1).first().map_or(0, |(id, _)| *id)
    }

    /// Twin of [`super::log_sum_exp`].
    pub fn log_sum_exp(logits: &[f32]) -> f32 {
        let numbers = || logits.iter().copied().filter(|logit| !logit.is_nan());
        let top = numbers().fold(f32::NEG_INFINITY, f32::max);
        if top.is_infinite() {
            return top;
        }
        let sum: f64 = numbers().map(|logit| f64::from(logit - top).exp()).sum();
        (f64::from(top) + sum.ln()) as f32
    }
}
