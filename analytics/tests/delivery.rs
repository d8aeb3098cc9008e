//! From `record` to the store whatever happens in between: a store that is down, slow or cuts
//! connections; a process that is killed; rows a store refuses.

mod support;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use analytics::{ClickHouseConfig, Config};
use support::fake_clickhouse::{Cue, FakeClickHouse};
use support::{
    Opened, Random, clickhouse, clickhouse_url, event_ids, eventually, expected_ids, open,
    open_fresh, record,
};
use tempfile::TempDir;

fn faked(fake: &FakeClickHouse) -> ClickHouseConfig {
    ClickHouseConfig {
        url: fake.url(),
        insert_timeout_ms: 400,
        ..ClickHouseConfig::default()
    }
}

fn keep(opened: &Opened, numbers: std::ops::Range<u64>) {
    for number in numbers {
        opened
            .recorder
            .record(&record(number))
            .expect("the record is kept");
    }
}

fn expected_attempts(numbers: std::ops::Range<u64>) -> Vec<String> {
    let mut ids: Vec<String> = numbers
        .flat_map(|number| record(number).attempts)
        .map(|attempt| attempt.id)
        .collect();
    ids.sort();
    ids
}

#[tokio::test]
async fn each_fault_of_the_store_is_survived_without_loss_or_doubling() {
    for cue in [Cue::Unavailable, Cue::Hang, Cue::CutBefore, Cue::CutAfter] {
        let fake = FakeClickHouse::start().await;
        fake.cue([cue, cue]);
        let opened = open_fresh(|config| config.clickhouse = Some(faked(&fake))).await;
        keep(&opened, 0..20);
        opened.settled().await;
        assert_eq!(fake.rows("requests"), expected_ids(0..20), "{cue:?}");
        assert_eq!(fake.rows("attempts"), expected_attempts(0..20), "{cue:?}");
        let stats = opened.recorder.stats();
        assert_eq!(
            (stats.inserted, stats.insert_failures, stats.is_store_up),
            (20, 2, true),
            "{cue:?}"
        );
        assert_eq!(stats.last_error, None);
    }
}

#[tokio::test]
async fn a_store_that_fails_at_random_under_load_loses_and_doubles_nothing() {
    for seed in 1..=4 {
        println!("seed {seed}");
        let mut random = Random(seed);
        let fake = FakeClickHouse::start().await;
        let opened = open_fresh(|config| {
            config.clickhouse = Some(faked(&fake));
            config.max_block_rows = 25;
            config.max_block_age_ms = 1;
        })
        .await;
        for number in 0..1_000 {
            // Not in long rows: the writer's pauses grow.
            if random.chance(5) && fake.cues_left() < 2 {
                fake.cue([
                    [Cue::Unavailable, Cue::CutBefore, Cue::CutAfter][random.below(3) as usize]
                ]);
            }
            keep(&opened, number..number + 1);
            if number % 50 == 0 {
                opened.settled().await;
            }
        }
        opened.settled().await;
        assert_eq!(fake.rows("requests"), expected_ids(0..1_000), "seed {seed}");
        assert_eq!(
            fake.rows("attempts"),
            expected_attempts(0..1_000),
            "seed {seed}"
        );
    }
}

#[tokio::test]
async fn a_store_that_is_not_there_at_the_start_is_waited_for() {
    let address = FakeClickHouse::start().await.address; // gone again at once
    let config = ClickHouseConfig {
        url: format!("http://{address}"),
        ..ClickHouseConfig::default()
    };
    let opened = open_fresh(|all| all.clickhouse = Some(config)).await;
    keep(&opened, 0..10);
    eventually("the failure is counted", async || {
        !opened.recorder.stats().is_store_up
    })
    .await;
    let stats = opened.recorder.stats();
    assert_eq!(stats.pending, 10);
    assert!(stats.last_error.is_some());
    assert!(opened.store.health().await.is_err());

    let fake = FakeClickHouse::start_at(address).await;
    opened.settled().await;
    assert_eq!(fake.rows("requests"), expected_ids(0..10));
}

#[tokio::test]
async fn a_drain_sends_what_is_left_and_tidies_up() {
    let mut opened = open_fresh(|config| config.max_block_age_ms = 60_000).await;
    keep(&opened, 0..50);
    let begun = Instant::now();
    opened.drain().await;
    assert!(
        begun.elapsed() < Duration::from_secs(30),
        "a drain does not wait for a block to grow old"
    );
    assert_eq!(event_ids(&opened.store).await, expected_ids(0..50));
    assert_eq!(spool_folders(&opened.config.data_dir), 0);
    assert!(opened.recorder.record(&record(51)).is_err());
    assert_eq!(opened.recorder.stats().lost, 1);
}

#[tokio::test]
async fn a_drain_past_its_deadline_leaves_the_rest_to_the_next_start() {
    let fake = FakeClickHouse::start().await;
    fake.cue([Cue::Hang; 100]);
    let mut opened = open_fresh(|config| {
        config.clickhouse = Some(ClickHouseConfig {
            insert_timeout_ms: 60_000,
            ..faked(&fake)
        });
    })
    .await;
    keep(&opened, 0..50);
    opened
        .writer
        .take()
        .unwrap()
        .drain(Duration::from_millis(50))
        .await;
    assert_eq!(fake.rows("requests"), Vec::<String>::new());

    let fake = FakeClickHouse::start().await;
    let config = Config {
        clickhouse: Some(faked(&fake)),
        ..opened.config.clone()
    };
    let dir = opened.dir.take();
    drop(opened);
    let again = open(config).await;
    eventually("the rest arrives", async || {
        fake.rows("requests") == expected_ids(0..50)
    })
    .await;
    assert_eq!(fake.rows("attempts"), expected_attempts(0..50));
    drop((again, dir));
}

#[tokio::test]
async fn a_row_the_store_refuses_is_a_dead_letter_and_holds_up_nothing() {
    let fake = FakeClickHouse::start().await;
    fake.poison("event-13");
    let opened = open_fresh(|config| config.clickhouse = Some(faked(&fake))).await;
    keep(&opened, 0..40);
    opened.settled().await;
    assert_eq!(
        fake.rows("requests"),
        expected_ids((0..40).filter(|number| *number != 13))
    );
    check_dead_letter(&opened, "event-13", "INCORRECT_DATA", 39);
}

#[tokio::test]
async fn sqlite_refuses_an_id_that_is_there_and_takes_the_rest() {
    let opened = open_fresh(|_| {}).await;
    keep(&opened, 0..1);
    opened.settled().await;
    let mut twice = record(13);
    twice.attempts[0].id = record(0).attempts[0].id.clone();
    keep(&opened, 1..13);
    opened.recorder.record(&twice).unwrap();
    keep(&opened, 14..40);
    opened.settled().await;
    assert_eq!(
        event_ids(&opened.store).await,
        expected_ids((0..40).filter(|number| *number != 13))
    );
    check_dead_letter(&opened, "event-13", "UNIQUE", 39);
}

fn check_dead_letter(opened: &Opened, event_id: &str, reason: &str, inserted: u64) {
    let stats = opened.recorder.stats();
    assert_eq!(
        (stats.inserted, stats.dead_letters, stats.pending),
        (inserted, 1, 0)
    );
    let letters =
        std::fs::read_to_string(opened.config.data_dir.join("dead_letters.jsonl")).unwrap();
    assert_eq!(letters.lines().count(), 1);
    let letter: serde_json::Value = serde_json::from_str(&letters).unwrap();
    assert_eq!(letter["request"]["event_id"], event_id);
    assert!(
        letter["error"].as_str().unwrap().contains(reason),
        "{letter}"
    );
}

#[tokio::test]
async fn rows_are_visible_within_a_second_in_sqlite() {
    check_visible_within(Duration::from_secs(1), None).await;
}

#[tokio::test]
async fn rows_are_visible_within_two_seconds_in_clickhouse() {
    if let Some(url) = clickhouse_url("rows_are_visible_within_two_seconds_in_clickhouse") {
        check_visible_within(Duration::from_secs(2), Some(clickhouse(&url))).await;
    }
}

/// With the settings of a fresh installation. The best of five, for the machine's sake.
async fn check_visible_within(bound: Duration, server: Option<ClickHouseConfig>) {
    let opened = open_fresh(|config| {
        let data_dir = config.data_dir.clone();
        *config = Config {
            data_dir,
            clickhouse: server,
            retention_days: 0,
            body_retention_days: 0,
            ..Config::default()
        };
    })
    .await;
    let mut best = Duration::MAX;
    for number in 0..5 {
        let begun = Instant::now();
        keep(&opened, number..number + 1);
        let id = record(number).attempts[0].id.clone();
        eventually("the row is there", async || {
            opened
                .store
                .get("acct", "gw", &id)
                .await
                .is_ok_and(|row| row.is_some())
        })
        .await;
        best = best.min(begun.elapsed());
    }
    assert!(best < bound, "the best of five took {best:?}");
}

/// The process that `killed_processes_lose_nothing` kills: records for ever, and says each number
/// once it is kept.
#[tokio::test]
async fn crash_child() {
    let Ok(dir) = std::env::var("CRASH_CHILD_DIR") else {
        return;
    };
    let first: u64 = std::env::var("CRASH_CHILD_FIRST")
        .expect("set with the folder")
        .parse()
        .expect("a number");
    let mut config = support::config(Path::new(&dir));
    config.segment_bytes = 64 << 10; // several segments come and go
    config.max_block_age_ms = 5;
    config.clickhouse = std::env::var("CRASH_CHILD_URL")
        .ok()
        .map(|url| ClickHouseConfig {
            url,
            database: std::env::var("CRASH_CHILD_DATABASE").expect("set with the URL"),
            ..ClickHouseConfig::default()
        });
    let opened = open(config).await;
    let mut output = std::io::stdout();
    for number in first.. {
        opened
            .recorder
            .record(&record(number))
            .expect("the record is kept");
        writeln!(output, "kept {number}").expect("the parent reads");
    }
}

#[tokio::test]
async fn killed_processes_lose_and_double_nothing_in_sqlite() {
    check_kills(None).await;
}

#[tokio::test]
async fn killed_processes_lose_and_double_nothing_in_clickhouse() {
    if let Some(url) = clickhouse_url("killed_processes_lose_and_double_nothing_in_clickhouse") {
        check_kills(Some(clickhouse(&url))).await;
    }
}

#[tokio::test]
async fn killed_processes_lose_nothing_that_waits_for_a_dead_store() {
    let fake = FakeClickHouse::start().await;
    let config = faked(&fake);
    fake.cue([
        Cue::CutAfter,
        Cue::Unavailable,
        Cue::Unavailable,
        Cue::CutBefore,
        Cue::CutAfter,
    ]);
    let dir = TempDir::new().unwrap();
    let kept = run_and_kill(dir.path(), Some(&config), 0, 200).await;
    let after = open(Config {
        clickhouse: Some(config),
        ..support::config(dir.path())
    })
    .await;
    let last = kept.end;
    eventually("what was kept has arrived", async || {
        fake.rows("requests").len() as u64 >= last
    })
    .await;
    after.settled().await;
    let rows = fake.rows("requests");
    // The last record may have been kept without its line having been written.
    assert!(rows == expected_ids(kept.clone()) || rows == expected_ids(0..last + 1));
}

async fn check_kills(server: Option<ClickHouseConfig>) {
    let dir = TempDir::new().unwrap();
    let mut numbers = Vec::new();
    let mut first = 0;
    for round in 0..4 {
        let kept = run_and_kill(dir.path(), server.as_ref(), first, 40 + round * 150).await;
        first = kept.end + 1_000; // a record kept without its line is told from the next ones
        numbers.push(kept);
    }
    let config = Config {
        clickhouse: server,
        retention_days: 0,
        ..support::config(dir.path())
    };
    let after = open(config).await;
    let is_kept = |id: &String| {
        numbers
            .iter()
            .flat_map(Clone::clone)
            .any(|number| *id == format!("event-{number}"))
    };
    let expected = expected_ids(numbers.iter().flat_map(Clone::clone));
    eventually("what was kept has arrived", async || {
        let found = event_ids(&after.store).await;
        found.iter().filter(|id| is_kept(id)).count() >= expected.len()
    })
    .await;
    after.settled().await;
    let found = event_ids(&after.store).await;
    let mut once = found.clone();
    once.dedup();
    assert_eq!(found, once, "nothing is there twice");
    assert_eq!(
        found
            .iter()
            .filter(|id| is_kept(id))
            .cloned()
            .collect::<Vec<_>>(),
        expected
    );
    assert!(
        found.len() <= expected.len() + numbers.len(),
        "at most the record in flight is there besides"
    );
}

/// Starts a recording process and kills it after `lines` records; the numbers it said were kept.
async fn run_and_kill(
    dir: &Path,
    server: Option<&ClickHouseConfig>,
    first: u64,
    lines: usize,
) -> std::ops::Range<u64> {
    let mut command = Command::new(std::env::current_exe().expect("the test binary has a path"));
    command
        .args(["--exact", "crash_child", "--nocapture"])
        .env("CRASH_CHILD_DIR", dir)
        .env("CRASH_CHILD_FIRST", first.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    if let Some(server) = server {
        command
            .env("CRASH_CHILD_URL", &server.url)
            .env("CRASH_CHILD_DATABASE", &server.database);
    }
    let mut child = command.spawn().expect("the test binary starts");
    let output = child.stdout.take().expect("a pipe was asked for");
    // Reading blocks; the fake server of the test needs its thread.
    let kept = tokio::task::spawn_blocking(move || {
        let mut end = first;
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            let Some(number) = line
                .rsplit("kept ")
                .next()
                .and_then(|number| number.parse::<u64>().ok())
            else {
                continue; // the test runner's own lines
            };
            end = number + 1;
            if (end - first) as usize == lines {
                child.kill().expect("the child runs"); // SIGKILL; what it wrote before is still read
            }
        }
        child.wait().expect("the child ends");
        first..end
    });
    let kept = kept.await.expect("the reader does not panic");
    assert!(
        (kept.end - kept.start) as usize >= lines,
        "the child recorded {kept:?}"
    );
    kept
}

fn spool_folders(data_dir: &Path) -> usize {
    let entries = std::fs::read_dir(data_dir.join("spool")).expect("the spool is there");
    entries
        .flatten()
        .filter(|entry| entry.path().is_dir())
        .count()
}
