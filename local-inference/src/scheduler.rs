//! Which sequences get how many tokens in the next step. Pure: it sees counts and gives counts.

/// Tokens a step may hold. Larger steps do not raise the rate any more, and cancels and newcomers wait for their end.
const MAX_STEP_TOKENS: usize = 256;
/// Prompt tokens beside running decodes: what a token may be late because someone else's prompt is read.
const MAX_PROMPT_TOKENS_BESIDE_DECODES: usize = 64;

/// What the scheduler knows of a running sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct View {
    /// Tokens not yet seen by the model: 1 while decoding, more while its prompt is read.
    pub unseen: usize,
    /// Its reader has room for what a step may bring. A sequence that is not ready keeps its place and costs nothing.
    pub is_ready: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PlannedRun {
    pub sequence: usize,
    pub tokens: usize,
}

/// Every ready decode gets its token; prompts share what is left evenly, short ones first, so that a long prompt holds up
/// neither decodes nor a short prompt behind it.
pub(crate) fn plan(views: &[View]) -> Vec<PlannedRun> {
    let ready = |view: &View| view.is_ready && view.unseen > 0;
    let of_kind = |is_decode: bool| {
        let chosen =
            move |(_, view): &(usize, &View)| ready(view) && (view.unseen == 1) == is_decode;
        views.iter().enumerate().filter(chosen)
    };
    let mut runs: Vec<PlannedRun> = of_kind(true)
        .map(|(sequence, _)| PlannedRun {
            sequence,
            tokens: 1,
        })
        .collect();
    let mut prompts: Vec<(usize, usize)> = of_kind(false)
        .map(|(sequence, view)| (view.unseen, sequence))
        .collect();
    prompts.sort_unstable();
    let mut left = match runs.len() {
        0 => MAX_STEP_TOKENS,
        decodes => MAX_PROMPT_TOKENS_BESIDE_DECODES.min(MAX_STEP_TOKENS.saturating_sub(decodes)),
    };
    let count = prompts.len();
    for (index, (unseen, sequence)) in prompts.into_iter().enumerate() {
        let tokens = unseen.min(left.div_ceil(count - index));
        if tokens > 0 {
            runs.push(PlannedRun { sequence, tokens });
            left -= tokens;
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(views: &[(usize, bool)], expected: &[(usize, usize)]) {
        let views: Vec<View> = views
            .iter()
            .map(|(unseen, is_ready)| View {
                unseen: *unseen,
                is_ready: *is_ready,
            })
            .collect();
        let runs: Vec<(usize, usize)> = plan(&views)
            .iter()
            .map(|run| (run.sequence, run.tokens))
            .collect();
        assert_eq!(runs, expected);
    }

    #[test]
    fn decodes_go_first_and_prompts_share_the_rest() {
        check(&[], &[]);
        check(&[(1, true), (1, true)], &[(0, 1), (1, 1)]);
        check(&[(1000, true)], &[(0, 256)]);
        check(&[(1000, true), (1, true)], &[(1, 1), (0, 64)]);
        check(
            &[(1000, true), (10, true), (1, true)],
            &[(2, 1), (1, 10), (0, 54)],
        );
        check(&[(1000, true), (900, true)], &[(1, 128), (0, 128)]);
        check(&[(5, false), (1, false), (3, true)], &[(2, 3)]);
    }

    #[test]
    fn every_ready_sequence_ends_after_finitely_many_steps_whatever_the_mix() {
        let mut state = 11u64;
        let mut next = move |bound: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) % bound
        };
        for _ in 0..500 {
            let mut views: Vec<View> = (0..1 + next(20))
                .map(|_| View {
                    unseen: 1 + next(3000) as usize,
                    is_ready: next(4) > 0,
                })
                .collect();
            let work: usize = views
                .iter()
                .filter(|view| view.is_ready)
                .map(|view| view.unseen)
                .sum();
            let mut steps = 0;
            while views.iter().any(|view| view.is_ready && view.unseen > 0) {
                let runs = plan(&views);
                assert!(
                    runs.iter().map(|run| run.tokens).sum::<usize>()
                        <= MAX_STEP_TOKENS + views.len()
                );
                assert!(!runs.is_empty());
                for run in runs {
                    assert!(views[run.sequence].is_ready && run.tokens > 0);
                    views[run.sequence].unseen -= run.tokens;
                }
                steps += 1;
                assert!(steps <= work);
            }
        }
    }
}
