//! Every kernel compiled for two GPUs when NVIDIA's compiler is there: registers below a ceiling, nothing spilled.
//!
//! `AI_GATEWAY_TEST_CUDA` names the folder that holds bin/nvcc; scripts/test installs one and sets it.

use crate::emulation::sources;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A, and H: the architectures the engine is meant for.
const ARCHITECTURES: [u32; 2] = [80, 90];

/// Four blocks of 128 threads share 65,536 registers: more a thread would leave an SM half idle.
const MOST_REGISTERS: u32 = 128;

/// What a block may have without asking for more.
const MOST_SHARED: u32 = 48 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Usage {
    registers: u32,
    shared: u32,
    stack: u32,
    spilled: u32,
}

/// What ptxas says with `-v`: a line that names a kernel, then its stack and spills, then its registers.
fn usages(report: &str) -> BTreeMap<(String, u32), Usage> {
    let number = |line: &str, unit: &str| -> u32 {
        let before = line
            .split(unit)
            .next()
            .filter(|before| before.len() < line.len());
        let word = before.and_then(|before| before.split_whitespace().last());
        word.and_then(|word| word.parse().ok()).unwrap_or(0)
    };
    let mut found = BTreeMap::new();
    let mut key = None;
    for line in report.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '")
            && let Some((name, rest)) = rest.split_once('\'')
        {
            let architecture = rest
                .split("sm_")
                .nth(1)
                .map(|rest| rest.trim_end_matches('\''));
            let architecture = architecture.and_then(|digits| digits.parse().ok());
            key = Some((name.to_owned(), architecture.expect("an architecture")));
            continue;
        }
        let Some(key) = &key else { continue };
        let usage: &mut Usage = found.entry(key.clone()).or_default();
        if line.contains("bytes stack frame") {
            usage.stack = number(line, " bytes stack frame");
            usage.spilled =
                number(line, " bytes spill stores") + number(line, " bytes spill loads");
        } else if line.contains("Used ") {
            usage.registers = number(line, " registers");
            usage.shared = number(line, " bytes smem");
        }
    }
    found
}

/// All `.cu` files, in order.
fn files() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(sources()).expect("the sources");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let mut files: Vec<PathBuf> = paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "cu"))
        .collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

fn compile(nvcc: &Path, source: &Path) -> BTreeMap<(String, u32), Usage> {
    let name = source.file_stem().expect("a file").to_string_lossy();
    let out = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join(format!("compiled-{name}-{}.fatbin", std::process::id()));
    let mut command = Command::new(nvcc);
    command.args([
        "-std=c++17",
        "-fatbin",
        "-Werror",
        "all-warnings",
        "-Xptxas",
        "-v",
    ]);
    for architecture in ARCHITECTURES {
        command.arg(format!("-gencode=arch=compute_80,code=sm_{architecture}"));
    }
    let output = command
        .arg("-o")
        .arg(&out)
        .arg(source)
        .output()
        .expect("nvcc runs");
    let report = String::from_utf8_lossy(&output.stderr).into_owned()
        + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}:\n{report}", source.display());
    std::fs::remove_file(&out).expect("what nvcc wrote");
    usages(&report)
}

#[test]
fn every_kernel_compiles_for_both_architectures_without_spills() {
    let Some(folder) = std::env::var_os("AI_GATEWAY_TEST_CUDA") else {
        println!(
            "SKIPPED: CUDA kernels compiled for sm_80 and sm_90, as AI_GATEWAY_TEST_CUDA names no toolkit (scripts/test installs one)"
        );
        return;
    };
    let nvcc = Path::new(&folder).join("bin/nvcc");
    if !Command::new(&nvcc)
        .arg("--version")
        .output()
        .is_ok_and(|output| output.status.success())
    {
        println!(
            "SKIPPED: CUDA kernels compiled for sm_80 and sm_90, as {} does not run",
            nvcc.display()
        );
        return;
    }
    let compiled = std::thread::scope(|scope| {
        let files = files();
        let halves = [0, 1].map(|half| {
            let own: Vec<PathBuf> = files.iter().skip(half).step_by(2).cloned().collect();
            let nvcc = &nvcc;
            scope.spawn(move || {
                own.iter()
                    .map(|file| (file.clone(), compile(nvcc, file)))
                    .collect::<Vec<_>>()
            })
        });
        let mut compiled: Vec<_> = halves
            .into_iter()
            .flat_map(|half| half.join().expect("compiled"))
            .collect();
        compiled.sort_by(|a, b| a.0.cmp(&b.0));
        compiled
    });
    println!(
        "compiled {:<34} {:>6} {:>6} {:>8}",
        "kernel", "sm_80", "sm_90", "shared"
    );
    let mut faults = Vec::new();
    for (file, usages) in &compiled {
        let names: Vec<&String> = usages
            .keys()
            .filter(|key| key.1 == ARCHITECTURES[0])
            .map(|key| &key.0)
            .collect();
        assert!(!names.is_empty(), "no kernel in {}", file.display());
        for name in names {
            let each = ARCHITECTURES.map(|architecture| usages[&(name.clone(), architecture)]);
            println!(
                "compiled {name:<34} {:>6} {:>6} {:>8}",
                each[0].registers, each[1].registers, each[0].shared
            );
            for usage in each {
                if usage.registers == 0
                    || usage.registers > MOST_REGISTERS
                    || usage.shared > MOST_SHARED
                    || usage.stack + usage.spilled > 0
                {
                    faults.push(format!("{name}: {usage:?}"));
                }
            }
        }
    }
    assert!(faults.is_empty(), "past the bounds:\n{}", faults.join("\n"));
}

#[test]
fn the_report_of_ptxas_is_read_as_it_is_written() {
    let report = "ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'sum_f32' for 'sm_90'
ptxas info    : Function properties for sum_f32
    16 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads
ptxas info    : Used 38 registers, used 1 barriers, 16 bytes cumulative stack size, 256 bytes smem
ptxas info    : Compile time = 3.9 ms
";
    let wanted = Usage {
        registers: 38,
        shared: 256,
        stack: 16,
        spilled: 12,
    };
    assert_eq!(
        usages(report),
        BTreeMap::from([(("sum_f32".to_owned(), 90), wanted)])
    );
}
