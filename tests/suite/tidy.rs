//! What the house guide asks of the tree itself: which crate may import which, how long a file may
//! be, where `unsafe` may stand, and that what the documents name is there.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The only arrows between our crates.
const ARROWS: &[(&str, &[&str])] = &[
    ("gateway", &["providers", "local-inference", "analytics"]),
    ("local-inference", &["kernels"]),
    ("providers", &[]),
    ("analytics", &[]),
    ("kernels", &[]),
    (
        "tests",
        &[
            "gateway",
            "providers",
            "local-inference",
            "analytics",
            "kernels",
        ],
    ),
];

/// Dependencies that belong to one crate alone.
const OWNERS: &[(&str, &str)] = &[("pingora", "gateway"), ("clickhouse", "analytics")];

/// Rooms where `unsafe` may stand: kernels, and where the spool is mapped into memory.
const UNSAFE_ROOMS: &[&str] = &["kernels/", "analytics/src/spool/"];

/// What else may be: weights are mapped.
const MAPPED_WEIGHTS: (&str, &str) = ("local-inference/src/", "Mmap::map(");

const MAX_LINES: usize = 500;

/// Flat tables, read by search.
const TABLES: &[&str] = &[
    "providers/src/registry.rs",
    "providers/src/registry/table.rs",
    "analytics/src/schema.rs",
];

/// Written apart, so that this file holds none of them.
const FOREIGN: &[&str] = &[
    concat!("crates", ".io/"),
    concat!("static.crates", ".io"),
    concat!("registry.", "npmjs"),
    concat!("pypi", ".org"),
    concat!("python", "hosted"),
    concat!("deb.", "debian"),
    concat!("/wo", "rk/"),
    concat!("/ro", "ot/"),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("this crate stands in the workspace")
        .to_owned()
}

/// Paths of all files git knows or would know, relative to the root.
fn files() -> Vec<String> {
    let list = ["ls-files", "--cached", "--others", "--exclude-standard"];
    let output = Command::new("git")
        .args(list)
        .current_dir(root())
        .output()
        .expect("git");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).expect("paths are UTF-8");
    text.lines()
        .filter(|path| root().join(path).is_file())
        .map(str::to_owned)
        .collect()
}

fn rust_files() -> Vec<String> {
    files()
        .into_iter()
        .filter(|path| path.ends_with(".rs"))
        .collect()
}

fn read(path: &str) -> String {
    String::from_utf8_lossy(&std::fs::read(root().join(path)).expect("a readable file"))
        .into_owned()
}

fn manifest(path: &str) -> toml::Table {
    read(path)
        .parse()
        .unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Names of all dependencies of a crate, of whatever kind.
fn dependencies(krate: &str) -> Vec<String> {
    let manifest = manifest(&format!("{krate}/Cargo.toml"));
    let kinds = ["dependencies", "dev-dependencies", "build-dependencies"];
    let mut tables: Vec<&toml::Table> = kinds
        .iter()
        .filter_map(|kind| manifest.get(*kind)?.as_table())
        .collect();
    if let Some(targets) = manifest
        .get("target")
        .and_then(|targets| targets.as_table())
    {
        let targets = targets.values().filter_map(|target| target.as_table());
        tables.extend(targets.flat_map(|target| {
            kinds
                .iter()
                .filter_map(|kind| target.get(*kind)?.as_table())
        }));
    }
    tables
        .into_iter()
        .flat_map(|table| table.keys().cloned())
        .collect()
}

/// Fails with all of `faults`, one a line.
#[track_caller]
fn assert_none(faults: Vec<String>, what: &str) {
    assert!(faults.is_empty(), "{what}:\n{}", faults.join("\n"));
}

#[test]
fn crates_import_only_along_the_arrows() {
    let workspace = manifest("Cargo.toml");
    let members = workspace["workspace"]["members"]
        .as_array()
        .expect("members");
    let mut members: Vec<&str> = members
        .iter()
        .filter_map(|member| member.as_str())
        .collect();
    members.sort_unstable();
    let mut known: Vec<&str> = ARROWS.iter().map(|(krate, _)| *krate).collect();
    known.sort_unstable();
    assert_eq!(members, known);
    let mut faults = Vec::new();
    for (krate, allowed) in ARROWS {
        for dependency in dependencies(krate) {
            let is_ours = known.contains(&dependency.as_str());
            if is_ours && !allowed.contains(&dependency.as_str()) {
                faults.push(format!("{krate} -> {dependency}"));
            }
        }
    }
    assert_none(faults, "arrows that turned round");
}

#[test]
fn a_dependency_with_an_owner_is_nobody_elses() {
    let mut faults = Vec::new();
    for (dependency, owner) in OWNERS {
        for (krate, _) in ARROWS.iter().filter(|(krate, _)| krate != owner) {
            let names = dependencies(krate);
            if names
                .iter()
                .any(|name| name == dependency || name.starts_with(&format!("{dependency}-")))
            {
                faults.push(format!(
                    "{krate} uses {dependency}, which belongs to {owner}"
                ));
            }
        }
    }
    assert_none(faults, "dependencies in the wrong room");
}

#[test]
fn nobody_but_tests_imports_the_gateway() {
    let users = ARROWS
        .iter()
        .map(|(krate, _)| *krate)
        .filter(|krate| dependencies(krate).contains(&"gateway".into()));
    assert!(users.into_iter().all(|krate| krate == "tests"));
}

#[test]
fn unsafe_stands_only_where_the_guide_lets_it() {
    let word = concat!("un", "safe");
    let mut faults = Vec::new();
    for path in rust_files() {
        if UNSAFE_ROOMS.iter().any(|room| path.starts_with(room)) {
            continue;
        }
        for (number, line) in read(&path).lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let starts = [
                format!("{word} {{"),
                format!("{word} fn"),
                format!("{word} impl"),
                format!("{word} extern"),
            ];
            let is_mapping = path.starts_with(MAPPED_WEIGHTS.0) && code.contains(MAPPED_WEIGHTS.1);
            if !is_mapping && starts.iter().any(|start| code.contains(start)) {
                faults.push(format!("{path}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    assert_none(faults, &format!("`{word}` outside {UNSAFE_ROOMS:?}"));
}

#[test]
fn every_unsafe_block_says_why_it_is_sound() {
    let block = concat!("un", "safe {");
    let mut faults = Vec::new();
    for path in rust_files() {
        let text = read(&path);
        let lines: Vec<&str> = text.lines().collect();
        for (number, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let before = &lines[number.saturating_sub(8)..=number];
            if code.contains(block)
                && !code.contains('"')
                && !before.iter().any(|line| line.contains("SAFETY:"))
            {
                faults.push(format!("{path}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    assert_none(faults, "blocks without a `SAFETY:` sentence");
}

#[test]
fn files_are_no_longer_than_one_idea() {
    let faults = rust_files()
        .into_iter()
        .filter(|path| !TABLES.contains(&path.as_str()))
        // A list of cases is read by search, like a table.
        .filter(|path| !path.ends_with("/tests.rs"))
        .map(|path| (read(&path).lines().count(), path))
        .filter(|(lines, _)| *lines > MAX_LINES)
        .map(|(lines, path)| format!("{path}: {lines} lines"))
        .collect();
    assert_none(
        faults,
        "files past 500 lines (look for the second idea inside)",
    );
}

#[test]
fn no_stub_and_no_silent_skip_is_left() {
    let words = [
        concat!("to", "do!("),
        concat!("un", "implemented!("),
        concat!("#[ig", "nore"),
        concat!("db", "g!("),
    ];
    let mut faults = Vec::new();
    for path in rust_files() {
        for (number, line) in read(&path).lines().enumerate() {
            if words.iter().any(|word| line.contains(word)) {
                faults.push(format!("{path}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    assert_none(faults, "stubs and skips");
}

#[test]
fn no_file_names_a_registry_host_or_a_path_of_one_machine() {
    let mut faults = Vec::new();
    for path in files() {
        if path.ends_with("Cargo.lock") || path.ends_with("package-lock.json") {
            continue;
        }
        for (number, line) in read(&path).lines().enumerate() {
            if let Some(word) = FOREIGN.iter().find(|word| line.contains(**word)) {
                faults.push(format!("{path}:{}: {word}", number + 1));
            }
        }
    }
    assert_none(faults, "hosts and paths that belong to one place");
}

#[test]
fn scripts_are_strict_and_can_be_run() {
    use std::os::unix::fs::PermissionsExt;
    let mut faults = Vec::new();
    for path in files()
        .iter()
        .filter(|path| path.starts_with("scripts/") || path.starts_with(".ci/"))
    {
        let text = read(path);
        let Some(first) = text.lines().next().filter(|line| line.starts_with("#!")) else {
            continue;
        };
        let mode = std::fs::metadata(root().join(path))
            .expect("a file")
            .permissions()
            .mode();
        if mode & 0o111 == 0 {
            faults.push(format!("{path} cannot be run"));
        }
        if first.contains("bash") && !text.contains("set -euo pipefail") {
            faults.push(format!("{path} lacks `set -euo pipefail`"));
        }
    }
    assert_none(faults, "scripts");
}

#[test]
fn what_the_readme_tells_people_to_run_is_there() {
    let readme = read("README.md");
    let mut in_code = false;
    let mut faults = Vec::new();
    let help = Command::new(tests::gateway::program())
        .arg("--help")
        .output()
        .expect("the program runs");
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    for line in readme.lines() {
        if line.starts_with("```") {
            in_code = !in_code;
            continue;
        }
        let words: Vec<&str> = line
            .split_whitespace()
            .map(|word| word.trim_matches(['`', ',', '.', ';']))
            .collect();
        for (index, word) in words.iter().enumerate() {
            let path = word.trim_start_matches("./");
            if (path.starts_with("scripts/") || path == ".ci/run") && !root().join(path).exists() {
                faults.push(format!("{word} does not exist"));
            }
            let Some(command) = words
                .get(index + 1)
                .filter(|_| in_code && path.ends_with("ai-gateway"))
            else {
                continue;
            };
            let is_command = command
                .chars()
                .all(|letter| letter.is_ascii_lowercase() || letter == '-');
            let is_listed = help
                .lines()
                .any(|line| line.split_whitespace().next() == Some(command));
            if is_command && !command.starts_with('-') && !is_listed {
                faults.push(format!("`ai-gateway {command}` is no command"));
            }
        }
    }
    assert_none(faults, "README");
}
