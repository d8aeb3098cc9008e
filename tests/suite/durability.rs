//! Nothing recorded is lost, nothing twice, and no caller hears of it: log stores that die under
//! load, and a gateway killed with SIGKILL.

use rusqlite::Connection as SqliteConnection;
use serde_json::json;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tests::database::{ClickHouse, Database, Sqlite};
use tests::logs::logs_path;
use tests::outage::{BreakableWire, Wire};
use tests::shapes::{CHAT, UNIVERSAL, chat, chat_answer, step};
use tests::sse::chat_stream;
use tests::{
    Answer, Config, Connection, Ending, Reply, Request, ScriptedUpstream, TestGateway, eventually,
    within_patience,
};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How many seconds a log store stays dead under load; 10 unless told.
const OUTAGE_SECONDS: &str = "AI_GATEWAY_TEST_OUTAGE_SECONDS";
const CALLERS: usize = 6;

fn outage() -> Duration {
    let seconds = std::env::var(OUTAGE_SECONDS).ok();
    let seconds = seconds.map(|text| text.parse().expect("a number of seconds"));
    Duration::from_secs(seconds.unwrap_or(10))
}

/// A provider that takes its time, so that callers in a closed loop leave the machine some.
async fn upstream() -> ScriptedUpstream {
    let upstream = ScriptedUpstream::start().await;
    let time = Duration::from_millis(20);
    upstream.always(
        "/v1/chat",
        Reply::from_call(move |call| {
            if call.json()["stream"] == json!(true) {
                Reply::sse(chat_stream(&["one", " two", " three"])).after(time)
            } else {
                Reply::json(200, &chat_answer("gpt-4o-mini", "hello", 11, 3)).after(time)
            }
        }),
    );
    upstream.always(
        "/down",
        Reply::json(503, &json!({"error": {"message": "no"}})),
    );
    upstream
}

fn config(upstream: &ScriptedUpstream) -> Config {
    Config::new()
        .provider("openai", &upstream.url("/v1"))
        .provider("groq", &upstream.url("/down"))
}

/// The three kinds of request the load is made of, and the attempt rows each must leave.
fn request(number: usize, event_id: &str) -> (Request, u64) {
    let (request, attempts) = match number % 3 {
        0 => (Request::post(CHAT, &chat("gpt-4o-mini", false)), 1),
        1 => (Request::post(CHAT, &chat("gpt-4o-mini", true)), 1),
        _ => {
            let query = chat("gpt-4o-mini", false);
            let steps = json!([
                step("groq", "chat/completions", query.clone(), 1),
                step("openai", "chat/completions", query, 1),
            ]);
            (Request::post(UNIVERSAL, &steps), 2)
        }
    };
    (request.header("cf-aig-event-id", event_id), attempts)
}

/// What callers saw.
#[derive(Default)]
struct Seen {
    /// Event ids of answers that arrived whole, with the attempt rows each must have.
    released: HashMap<String, u64>,
    times: Vec<Duration>,
}

impl Seen {
    fn worst(&self) -> Duration {
        self.times.iter().copied().max().unwrap_or_default()
    }
}

/// Callers that ask again as soon as they are answered, until they are told to stop or the gateway
/// is killed.
struct Load {
    callers: JoinSet<Seen>,
    is_over: Arc<AtomicBool>,
}

impl Load {
    fn start(gateway: &TestGateway, name: &str) -> Load {
        let is_over = Arc::new(AtomicBool::new(false));
        let mut callers = JoinSet::new();
        for caller in 0..CALLERS {
            let (server, is_over) = (gateway.server, is_over.clone());
            let name = format!("{name}-{caller}");
            callers.spawn(async move {
                let mut connection = Connection::open(server).await;
                let mut seen = Seen::default();
                for number in caller.. {
                    if is_over.load(Ordering::Acquire) {
                        break;
                    }
                    let event_id = format!("{name}-{number}");
                    let (request, attempts) = request(number, &event_id);
                    match ask(&mut connection, &request).await {
                        Some(answer) => {
                            assert_eq!(answer.status, 200, "{event_id}: {}", answer.text());
                            seen.times.push(answer.ended_at - answer.sent_at);
                            seen.released.insert(event_id, attempts);
                        }
                        None => {
                            assert!(is_over.load(Ordering::Acquire), "{event_id} got no answer");
                            break;
                        }
                    }
                }
                seen
            });
        }
        Load { callers, is_over }
    }

    /// From now on a broken answer is no fault.
    fn may_break(&self) {
        self.is_over.store(true, Ordering::Release);
    }

    async fn seen(self) -> Seen {
        self.may_break();
        let mut all = Seen::default();
        for seen in within_patience("the callers to end", self.callers.join_all()).await {
            all.released.extend(seen.released);
            all.times.extend(seen.times);
        }
        all
    }
}

/// One whole answer, or `None` when the connection broke first.
async fn ask(connection: &mut Connection, request: &Request) -> Option<Answer> {
    connection.send(request).await;
    let arriving = connection.try_head(&request.method).await.ok()?;
    let answer = connection.rest(arriving).await;
    (answer.ending == Ending::Whole).then_some(answer)
}

/// The count beside each event id of a table, when the store answers.
async fn counts(database: &impl Database, table: &str) -> HashMap<String, u64> {
    let sql = format!("SELECT event_id, count(*) AS n FROM {table} GROUP BY event_id");
    let rows = database.select(&sql).await;
    let pair = |row: &tests::database::Columns| {
        let id = row["event_id"].as_str().expect("a text");
        (id.to_owned(), row["n"].as_u64().expect("a count"))
    };
    rows.iter().map(pair).collect()
}

/// Waits until the spool is empty and every released answer has its rows; then none may stand twice,
/// and only answers that were on their way when the gateway died may be there beside them.
async fn check_rows(gateway: &TestGateway, database: &impl Database, seen: &Seen) -> usize {
    let requests = eventually("the rows of all released answers", async || {
        if gateway.metric("analytics_records_pending ").await > 0.0 {
            return None;
        }
        let requests = counts(database, "requests").await;
        let is_there = |id: &String| requests.contains_key(id);
        seen.released.keys().all(is_there).then_some(requests)
    })
    .await;
    let attempts = counts(database, "attempts").await;
    for (event_id, count) in &requests {
        assert_eq!(*count, 1, "request rows of {event_id}");
        let found = attempts.get(event_id).copied();
        match seen.released.get(event_id) {
            Some(wanted) => assert_eq!(found, Some(*wanted), "attempt rows of {event_id}"),
            None => assert!(found.is_none_or(|count| count <= 2), "rows of {event_id}"),
        }
    }
    let ids: HashSet<&String> = requests.keys().collect();
    let stray = attempts.keys().filter(|id| !ids.contains(id)).count();
    assert_eq!(stray, 0, "attempt rows without a request row");
    let in_flight = requests.len() - seen.released.len();
    assert!(
        in_flight <= CALLERS,
        "{in_flight} rows of unreleased answers"
    );
    in_flight
}

fn report(store: &str, outage: Duration, seen: &Seen, in_flight: usize) {
    println!(
        "{store} dead for {outage:?} under load, then SIGKILL: {} answers released, all with their \
         rows, none twice; {in_flight} rows of answers that were on their way; slowest answer {:?}",
        seen.released.len(),
        seen.worst()
    );
}

/// Nobody can write to the file until the returned connection is dropped.
fn lock_for_writing(gateway: &TestGateway) -> SqliteConnection {
    let connection = Sqlite(gateway).connect();
    let lock = || connection.execute_batch("BEGIN EXCLUSIVE");
    connection
        .busy_timeout(tests::PATIENCE)
        .expect("a fresh connection takes options");
    lock().expect("the gateway lets others write in between");
    connection
}

#[tokio::test]
async fn sqlite_dead_under_load_and_the_gateway_killed_lose_and_double_nothing() {
    let upstream = upstream().await;
    let mut gateway = TestGateway::start(config(&upstream)).await;
    let load = Load::start(&gateway, "sqlite");
    gateway.rows("default", "default", 20).await;
    let lock = lock_for_writing(&gateway);
    let outage = outage();
    tokio::time::sleep(outage).await;
    assert!(gateway.metric("analytics_records_pending ").await > 0.0);
    load.may_break();
    gateway.kill().await;
    drop(lock);
    let gateway = gateway.kill_and_restart().await;
    let seen = load.seen().await;
    let in_flight = check_rows(&gateway, &Sqlite(&gateway), &seen).await;
    report("SQLite", outage, &seen, in_flight);
}

#[tokio::test]
async fn clickhouse_dead_under_load_and_the_gateway_killed_lose_and_double_nothing() {
    let name = "clickhouse_dead_under_load_and_the_gateway_killed_lose_and_double_nothing";
    let Some(store) = ClickHouse::of(name) else {
        return;
    };
    let upstream = upstream().await;
    let wire = BreakableWire::start(Some(store.address), Wire::Whole).await;
    let config = store.in_config(config(&upstream), &wire.url());
    let gateway = TestGateway::start(config).await;
    let load = Load::start(&gateway, "clickhouse");
    gateway.rows("default", "default", 20).await;
    // The last insert before it is gone is in, and the gateway cannot know.
    wire.becomes(Wire::AnswersLost).await;
    eventually("an insert whose answer is lost", async || {
        (wire.lost_inserts() > 0).then_some(())
    })
    .await;
    wire.becomes(Wire::Refused).await;
    let outage = outage();
    tokio::time::sleep(outage).await;
    assert!(gateway.metric("analytics_records_pending ").await > 0.0);
    load.may_break();
    let gateway = gateway.kill_and_restart().await;
    let seen = load.seen().await;
    wire.becomes(Wire::Whole).await;
    let in_flight = check_rows(&gateway, &store, &seen).await;
    report("ClickHouse", outage, &seen, in_flight);
    store.forget().await;
}

#[tokio::test]
async fn a_gateway_killed_among_streams_keeps_the_rows_of_those_that_ended() {
    const STREAMS: usize = 50;
    let upstream = ScriptedUpstream::start().await;
    // Each stream is as long as its `max_tokens` says, so that they end one after the other.
    upstream.always(
        "/",
        Reply::from_call(|call| {
            let words = call.json()["max_tokens"].as_u64().expect("a length") as usize;
            Reply::sse(chat_stream(&vec!["word "; words])).paced(Duration::from_millis(10))
        }),
    );
    let gateway = TestGateway::start(config(&upstream)).await;
    let is_over = Arc::new(AtomicBool::new(false));
    let (ended, mut endings) = tokio::sync::mpsc::unbounded_channel();
    let mut callers = JoinSet::new();
    for number in 0..STREAMS {
        let (server, ended, is_over) = (gateway.server, ended.clone(), is_over.clone());
        callers.spawn(async move {
            let mut body = chat("gpt-4o-mini", true);
            body["max_tokens"] = json!(20 + 3 * number);
            let event_id = format!("stream-{number}");
            let request = Request::post(CHAT, &body).header("cf-aig-event-id", &event_id);
            let mut connection = Connection::open(server).await;
            let answer = ask(&mut connection, &request).await;
            assert!(
                answer.is_some() || is_over.load(Ordering::Acquire),
                "{event_id} broke"
            );
            let released = answer.map(|_| event_id);
            // The test may have heard enough.
            let _ = ended.send(());
            released
        });
    }
    for _ in 0..STREAMS / 2 {
        within_patience("half of the streams to end", endings.recv()).await;
    }
    is_over.store(true, Ordering::Release);
    let gateway = gateway.kill_and_restart().await;
    let ends = within_patience("the callers to end", callers.join_all()).await;
    let released: HashSet<String> = ends.into_iter().flatten().collect();
    assert!((STREAMS / 2..STREAMS).contains(&released.len()));
    let rows = eventually("the rows of the streams that ended", async || {
        let rows = gateway.rows_now("default", "default").await;
        let there: HashSet<&str> = rows.iter().map(|row| row.text("event_id")).collect();
        let all = released.iter().all(|id| there.contains(id.as_str()));
        all.then_some(rows)
    })
    .await;
    let mut times: HashMap<&str, usize> = HashMap::new();
    for row in &rows {
        *times.entry(row.text("event_id")).or_default() += 1;
        if released.contains(row.text("event_id")) {
            assert!(row.is("success"), "{:#}", row.0);
        }
    }
    assert!(times.values().all(|count| *count == 1), "{times:?}");
    println!(
        "SIGKILL among {STREAMS} streams: {} had ended, all with one row; {} rows of others",
        released.len(),
        rows.len() - released.len()
    );
}

/// Times of `count` requests on one connection, sorted. All must be answered 200.
async fn times(gateway: &TestGateway, count: usize) -> Vec<Duration> {
    let mut connection = Connection::open(gateway.server).await;
    let mut times = Vec::new();
    for number in 0..count {
        let (request, _) = request(number, &format!("timed-{number}"));
        let answer = ask(&mut connection, &request).await.expect("an answer");
        let answer = answer.expect_status(200);
        times.push(answer.ended_at - answer.sent_at);
    }
    times.sort();
    times
}

#[tokio::test]
async fn a_log_store_that_hangs_neither_fails_nor_slows_a_request() {
    const REQUESTS: usize = 200;
    let upstream = upstream().await;
    let wire = BreakableWire::start(None, Wire::Silent).await;
    let hung = config(&upstream)
        .set("clickhouse", &format!("url = {:?}", wire.url()))
        .set("clickhouse", "query_timeout_ms = 300");
    let (hung, well) = (
        TestGateway::start(hung).await,
        TestGateway::start(config(&upstream)).await,
    );
    // In turns, so that whatever else the machine does meets both.
    let (mut with_hung, mut with_well) = (Vec::new(), Vec::new());
    for _ in 0..REQUESTS / 50 {
        with_hung.extend(times(&hung, 50).await);
        with_well.extend(times(&well, 50).await);
    }
    with_hung.sort();
    with_well.sort();
    let figures = |times: &[Duration]| (times[times.len() / 2], times[times.len() - 1]);
    let ((hung_median, hung_worst), (well_median, well_worst)) =
        (figures(&with_hung), figures(&with_well));
    println!(
        "{REQUESTS} requests, all 200: median {hung_median:?}, worst {hung_worst:?} while ClickHouse \
         hangs; {well_median:?}, {well_worst:?} on SQLite"
    );
    assert!(hung_median < well_median * 2 + Duration::from_millis(10));
    assert!(hung_worst < Duration::from_secs(2), "{hung_worst:?}");
    let pending = hung.metric("analytics_records_pending ").await;
    assert_eq!(pending, REQUESTS as f64);
    // Who asks for rows is told in time; the gateway is ready all the while.
    let begun = Instant::now();
    let logs = Request::get(&logs_path("default", "default"));
    hung.send(&logs).await.expect_status(500);
    let waited = begun.elapsed();
    assert!(waited < Duration::from_secs(3), "{waited:?}");
    let ready = hung.admin("/readyz").await.expect_status(200).json();
    assert_eq!(ready["ready"], true, "{ready}");
    assert!(ready["log_store_error"].is_string(), "{ready}");
}

#[tokio::test]
async fn a_gateway_starts_while_its_sqlite_file_is_locked() {
    let upstream = upstream().await;
    let gateway = TestGateway::start(config(&upstream)).await;
    let lock = lock_for_writing(&gateway);
    let gateway = gateway.kill_and_restart().await;
    let load = Load::start(&gateway, "locked");
    eventually("records to wait", async || {
        (gateway.metric("analytics_records_pending ").await > 20.0).then_some(())
    })
    .await;
    let seen = load.seen().await;
    drop(lock);
    check_rows(&gateway, &Sqlite(&gateway), &seen).await;
}
