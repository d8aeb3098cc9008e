//! The emulation finds what it is there to find: each kernel of faults.cu has one mistake.

use crate::emulation::{Device, Library, SEEDS, library};

fn faults() -> Option<&'static Library> {
    library(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cuda/faults.cu"))
}

fn results(library: &Library, kernel: &str) -> Vec<Vec<i32>> {
    let run = |seed| {
        let out = Device::new(&[0i32; 64]);
        library.launch(kernel, [1, 1, 1], 64, seed, &[out.arg()]);
        out.to_vec()
    };
    SEEDS.map(run).to_vec()
}

#[test]
fn a_race_shows_as_results_that_depend_on_the_order_of_fibers() {
    let Some(library) = faults() else { return };
    let racing = results(library, "race");
    assert!(racing.iter().any(|result| *result != racing[0]));
    let right: Vec<i32> = (0..64).map(|i| (i + 1) % 64).collect();
    assert!(
        results(library, "no_race")
            .iter()
            .all(|result| *result == right)
    );
}

#[test]
fn a_barrier_that_not_all_threads_reach_is_a_fault() {
    let Some(library) = faults() else { return };
    let check = |kernel: &str, wanted: &str| {
        for seed in SEEDS {
            let out = Device::new(&[0i32; 64]);
            let message = library
                .try_launch(kernel, [1, 1, 1], 64, seed, &[out.arg()])
                .expect_err(kernel);
            assert!(message.contains(wanted), "{kernel}: {message}");
        }
    };
    check("half_a_block_at_a_barrier", "32 threads of a block left");
    check("two_barriers", "wait at lines");
    check("half_a_warp_shuffles", "16 threads of a warp left");
    check("past_shared_memory", "shared index 64 of 64");
    check("unknown", "no kernel unknown");
    // A fault leaves nothing behind.
    assert_eq!(results(library, "no_race").len(), SEEDS.len());
}

#[test]
fn shared_memory_that_was_never_written_is_not_a_number_in_every_block() {
    let Some(library) = faults() else { return };
    let out = Device::new(&[0f32; 192]);
    library.launch("never_written", [3, 1, 1], 64, 0, &[out.arg()]);
    assert!(out.iter().all(|value| value.is_nan()));
}

#[test]
fn sums_over_a_block_reach_every_thread() {
    let Some(library) = faults() else { return };
    for seed in SEEDS {
        let out = Device::new(&[0f32; 64]);
        library.launch("sums", [1, 1, 1], 64, seed, &[out.arg()]);
        assert!(out.iter().all(|sum| *sum == 2016.0));
    }
}
