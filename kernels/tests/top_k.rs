//! The likeliest tokens against a sort, at every level.

use kernels::dispatch::levels;
use kernels::ops::top_k::{argmax_at, log_sum_exp_at, plain, top_k_at};

const INFINITY: f32 = f32::INFINITY;

fn check(logits: &[f32], what: &str) {
    for level in levels() {
        for k in [
            0,
            1,
            2,
            5,
            16,
            40,
            100,
            logits.len(),
            logits.len() + 3,
            usize::MAX,
        ] {
            let mut out = vec![(7, 7.0)];
            top_k_at(level, logits, k, &mut out);
            assert_eq!(out, plain::top_k(logits, k), "{what} {level:?} k {k}");
        }
        assert_eq!(
            argmax_at(level, logits),
            plain::argmax(logits),
            "{what} {level:?}"
        );
        let (sum, expected) = (log_sum_exp_at(level, logits), plain::log_sum_exp(logits));
        let is_close = (sum - expected).abs() <= 1e-6 * (1.0 + expected.abs());
        assert!(
            sum == expected || is_close,
            "{what} {level:?}: {sum} against {expected}"
        );
    }
}

/// Numbers between -20 and 20; few different ones where `steps` is small, hence many equals.
fn noise(count: usize, seed: u32, steps: u32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((state >> 8) % steps) as f32 / steps as f32 * 40.0 - 20.0
    };
    (0..count).map(|_| next()).collect()
}

#[test]
fn the_likeliest_are_those_of_a_sort() {
    for count in [0, 1, 15, 16, 63, 64, 65, 200, 1000, 5003] {
        for seed in 0..4 {
            check(&noise(count, seed, 1 << 20), &format!("{count} logits"));
            check(
                &noise(count, seed, 7),
                &format!("{count} logits with equals"),
            );
        }
    }
    let mut rising: Vec<f32> = (0..3000).map(|i| i as f32 * 0.01).collect();
    check(&rising, "rising");
    rising.reverse();
    check(&rising, "falling");
}

#[test]
fn what_is_no_number_does_not_exist_and_infinities_do() {
    check(&[f32::NAN; 70], "none");
    check(&[-INFINITY; 70], "all at minus infinity");
    check(&[f32::NAN, -INFINITY, f32::NAN], "one at minus infinity");
    check(&[0.0, -0.0, 0.0], "zeros");
    for special in [f32::NAN, -f32::NAN, INFINITY, -INFINITY, f32::MAX, f32::MIN] {
        for count in [3, 17, 64, 700] {
            for place in [0, 1, count / 2, count - 1] {
                let mut logits = noise(count, 9, 1 << 20);
                logits[place] = special;
                check(&logits, &format!("{special} at {place} of {count}"));
                logits[(place + 1) % count] = special;
                check(&logits, &format!("{special} twice from {place} of {count}"));
            }
        }
    }
    // Masked by a grammar: a few left.
    let mut logits = vec![-INFINITY; 5000];
    logits[4000] = 1.0;
    logits[17] = 1.0;
    check(&logits, "two left");
}
