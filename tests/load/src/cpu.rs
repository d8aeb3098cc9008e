//! CPU time and memory of another process, from `/proc`. The scheduler's own accounting is in
//! nanoseconds, where `utime` and `stime` of `stat` count in hundredths of a second.

use std::collections::HashMap;
use std::fs;

/// Threads of the gateway that work behind the answers, by how their names begin.
const WRITERS: &str = "analytics-";

/// CPU time of each thread.
#[derive(Debug)]
pub struct Threads(HashMap<u32, Thread>);

#[derive(Debug)]
struct Thread {
    ns: u64,
    is_writer: bool,
}

/// CPU time between two looks.
#[derive(Debug, Clone, Copy, Default)]
pub struct Used {
    pub path_ns: u64,
    pub writer_ns: u64,
}

/// All threads of a process now.
pub fn threads(pid: u32) -> Result<Threads, String> {
    let folder = format!("/proc/{pid}/task");
    let tasks = fs::read_dir(&folder).map_err(|error| format!("{folder}: {error}"))?;
    let mut threads = HashMap::new();
    for task in tasks {
        let path = task.map_err(|error| format!("{folder}: {error}"))?.path();
        // A thread may end between the listing and the look.
        let (Ok(name), Ok(schedule)) = (
            fs::read_to_string(path.join("comm")),
            fs::read_to_string(path.join("schedstat")),
        ) else {
            continue;
        };
        let id = path
            .file_name()
            .and_then(|name| name.to_str()?.parse().ok());
        let ns = schedule
            .split(' ')
            .next()
            .and_then(|text| text.parse().ok());
        let (Some(id), Some(ns)) = (id, ns) else {
            return Err(format!("{}: not understood", path.display()));
        };
        let is_writer = name.starts_with(WRITERS);
        threads.insert(id, Thread { ns, is_writer });
    }
    if threads.is_empty() {
        return Err(format!("{folder}: the kernel gives no schedstat"));
    }
    Ok(Threads(threads))
}

impl Threads {
    pub fn since(&self, before: &Threads) -> Used {
        let mut used = Used::default();
        for (id, thread) in &self.0 {
            let earlier = before.0.get(id).map_or(0, |thread| thread.ns);
            let ns = thread.ns.saturating_sub(earlier);
            match thread.is_writer {
                true => used.writer_ns += ns,
                false => used.path_ns += ns,
            }
        }
        used
    }
}

/// Resident memory now and at its highest, MB.
pub fn resident(pid: u32) -> Result<(u64, u64), String> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kb: Option<u64> = line.and_then(|text| text.split_whitespace().next()?.parse().ok());
        kb.unwrap_or(0) / 1024
    };
    Ok((field("VmRSS:"), field("VmHWM:")))
}
