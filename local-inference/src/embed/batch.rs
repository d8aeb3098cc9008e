//! Which texts are encoded together.

/// Splits texts into batches, as lists of their numbers. Texts of like length go together, since equal lengths share an
/// attention product; a batch holds at most `budget` tokens, except that a longer text has one to itself.
pub(super) fn plan(lengths: &[usize], budget: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|text| lengths[*text]);
    let mut batches: Vec<Vec<usize>> = Vec::new();
    let mut room = 0;
    for text in order {
        if lengths[text] > room || batches.is_empty() {
            batches.push(Vec::new());
            room = budget;
        }
        room = room.saturating_sub(lengths[text]);
        let last = batches.len() - 1;
        batches[last].push(text);
    }
    batches
}

/// Neighbours of equal length: the length and how many there are.
pub(super) fn runs(lengths: &[usize]) -> Vec<(usize, usize)> {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for length in lengths {
        match runs.last_mut() {
            Some((same, count)) if same == length => *count += 1,
            _ => runs.push((*length, 1)),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_hold_every_text_once_and_keep_to_the_budget() {
        for (lengths, budget, expected) in [
            (vec![], 10, vec![]),
            (vec![3], 10, vec![vec![0]]),
            (vec![6, 3, 4, 3], 10, vec![vec![1, 3, 2], vec![0]]),
            (vec![50, 5, 60], 10, vec![vec![1], vec![0], vec![2]]),
            (vec![5, 5, 1], 10, vec![vec![2, 0], vec![1]]),
        ] {
            assert_eq!(plan(&lengths, budget), expected, "{lengths:?}");
        }
    }

    #[test]
    fn runs_are_of_equal_neighbours() {
        assert_eq!(runs(&[3, 3, 4, 3]), [(3, 2), (4, 1), (3, 1)]);
        assert_eq!(runs(&[]), []);
    }
}
