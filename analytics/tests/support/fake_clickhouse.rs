//! A stand-in for a ClickHouse server that fails on cue. It understands what our writer sends
//! (inserts in RowBinary, LZ4 blocks, deduplication tokens) and keeps the rows, so that a test can
//! tell what came through and how often. Questions are not its business.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use analytics::schema::{self, Kind};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// What happens to one insert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cue {
    Unavailable,
    /// Never answers; the rows are not in.
    Hang,
    /// Closes before the rows are in.
    CutBefore,
    /// Closes after the rows are in: the client cannot know.
    CutAfter,
}

#[derive(Default)]
struct State {
    cues: VecDeque<Cue>,
    /// Event ids or attempt ids, by table, in the order they came.
    rows: HashMap<String, Vec<String>>,
    tokens: HashSet<(String, String)>,
    inserts: usize,
    /// Inserts with this event id are refused with code 117.
    poison: Option<String>,
}

pub struct FakeClickHouse {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for FakeClickHouse {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl FakeClickHouse {
    pub async fn start() -> FakeClickHouse {
        Self::start_at("127.0.0.1:0".parse().expect("an address")).await
    }

    pub async fn start_at(address: SocketAddr) -> FakeClickHouse {
        let listener = TcpListener::bind(address)
            .await
            .expect("the address is free");
        let address = listener
            .local_addr()
            .expect("a bound socket has an address");
        let state = Arc::new(Mutex::new(State::default()));
        let task_state = state.clone();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new(); // ended with the task
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, task_state.clone()));
            }
        });
        FakeClickHouse {
            address,
            state,
            task,
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The next inserts go like this; those behind them succeed.
    pub fn cue(&self, cues: impl IntoIterator<Item = Cue>) {
        self.state().cues.extend(cues);
    }

    pub fn poison(&self, event_id: &str) {
        self.state().poison = Some(event_id.to_string());
    }

    pub fn cues_left(&self) -> usize {
        self.state().cues.len()
    }

    pub fn inserts(&self) -> usize {
        self.state().inserts
    }

    /// The first text column of every row of `table`, sorted.
    pub fn rows(&self, table: &str) -> Vec<String> {
        let mut rows = self.state().rows.get(table).cloned().unwrap_or_default();
        rows.sort();
        rows
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no test panics under this lock")
    }
}

struct Request {
    statement: String,
    token: String,
    body: Vec<u8>,
}

async fn serve(stream: TcpStream, state: Arc<Mutex<State>>) {
    let mut stream = BufReader::new(stream);
    while let Some(request) = read_request(&mut stream).await {
        let insert = request
            .statement
            .strip_prefix("INSERT INTO `")
            .and_then(|rest| rest.split('`').next());
        let answer = match insert {
            Some(table) => {
                let cue = {
                    let mut state = state.lock().expect("no test panics under this lock");
                    state.inserts += 1;
                    state.cues.pop_front()
                };
                match cue {
                    Some(Cue::Unavailable) => response(503, "try later"),
                    Some(Cue::Hang) => std::future::pending().await,
                    Some(Cue::CutBefore) => return,
                    Some(Cue::CutAfter) => {
                        take_rows(&state, table, &request);
                        return;
                    }
                    None => take_rows(&state, table, &request),
                }
            }
            None => answer(&request.statement),
        };
        if stream.get_mut().write_all(&answer).await.is_err() {
            return;
        }
    }
}

/// Enough for the migration to find everything done.
fn answer(statement: &str) -> Vec<u8> {
    let body: Vec<u8> = if statement.contains("FROM system.databases") {
        1_u64.to_le_bytes().to_vec()
    } else if statement.contains("FROM migrations") {
        2_u32.to_le_bytes().to_vec()
    } else if statement.contains("FROM system.tables") {
        vec![0] // an empty text
    } else {
        Vec::new()
    };
    response(200, body)
}

fn response(status: u16, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let mut response = format!(
        "HTTP/1.1 {status} Status\r\ncontent-length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    response.extend(body);
    response
}

fn take_rows(state: &Mutex<State>, table: &str, request: &Request) -> Vec<u8> {
    let rows = decode_rows(table, &lz4_blocks(&request.body));
    let mut state = state.lock().expect("no test panics under this lock");
    if state
        .poison
        .as_ref()
        .is_some_and(|poison| rows.contains(poison))
    {
        return response(
            500,
            "Code: 117. DB::Exception: a poisoned row (INCORRECT_DATA)",
        );
    }
    assert!(
        !request.token.is_empty(),
        "an insert without a token could be doubled"
    );
    if state
        .tokens
        .insert((table.to_string(), request.token.clone()))
    {
        state
            .rows
            .entry(table.to_string())
            .or_default()
            .extend(rows);
    }
    response(200, "")
}

async fn read_request(stream: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        if line == "\r\n" {
            break;
        }
        head.push(line.trim_end().to_string());
    }
    let target = head.first()?.split(' ').nth(1)?.to_string();
    let header = |name: &str| {
        head.iter().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found
                .eq_ignore_ascii_case(name)
                .then(|| value.trim().to_string())
        })
    };
    let mut body = Vec::new();
    if header("transfer-encoding").is_some() {
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).await.ok()?;
            let size = usize::from_str_radix(line.trim(), 16).ok()?;
            let mut chunk = vec![0; size + 2];
            stream.read_exact(&mut chunk).await.ok()?;
            if size == 0 {
                break;
            }
            body.extend(&chunk[..size]);
        }
    } else {
        body = vec![0; header("content-length").map_or(0, |size| size.parse().expect("a length"))];
        stream.read_exact(&mut body).await.ok()?;
    }
    let parameters: HashMap<String, String> = target
        .split(['?', '&'])
        .skip(1)
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (unescape(name), unescape(value)))
        .collect();
    let parameter = |name: &str| parameters.get(name).cloned().unwrap_or_default();
    let statement = match parameter("query") {
        in_body if in_body.is_empty() => String::from_utf8_lossy(&body).into_owned(),
        query => query,
    };
    Some(Request {
        statement,
        token: parameter("insert_deduplication_token"),
        body,
    })
}

fn unescape(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => {
                let mut digit = || {
                    rest.next()
                        .and_then(|byte| (byte as char).to_digit(16))
                        .expect("an escape")
                };
                bytes.push((digit() * 16 + digit()) as u8);
            }
            other => bytes.push(other),
        }
    }
    String::from_utf8(bytes).expect("our own client escapes UTF-8")
}

/// Undoes ClickHouse's block compression (see tests/tools/chserver.py).
fn lz4_blocks(mut data: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    while !data.is_empty() {
        let size = u32::from_le_bytes(data[17..21].try_into().expect("four bytes")) as usize;
        let whole_size = u32::from_le_bytes(data[21..25].try_into().expect("four bytes")) as usize;
        assert_eq!(data[16], 0x82, "blocks are LZ4");
        whole.extend(
            lz4_flex::block::decompress(&data[25..16 + size], whole_size).expect("a whole block"),
        );
        data = &data[16 + size..];
    }
    whole
}

/// The first column of each row, which is its id.
fn decode_rows(table: &str, mut data: &[u8]) -> Vec<String> {
    let tables = schema::tables();
    let table = tables
        .iter()
        .find(|known| known.name == table)
        .expect("a table of the list");
    let mut rows = Vec::new();
    while !data.is_empty() {
        for (index, column) in table.columns.iter().enumerate() {
            if column.kind.is_nullable() && take(&mut data, 1)[0] == 1 {
                continue;
            }
            let bytes = match column.kind {
                Kind::Text | Kind::Word | Kind::MaybeText | Kind::Bytes => {
                    let length = take_length(&mut data);
                    take(&mut data, length)
                }
                Kind::Flag => take(&mut data, 1),
                Kind::Small => take(&mut data, 2),
                Kind::Medium => take(&mut data, 4),
                Kind::Time | Kind::Number | Kind::MaybeNumber | Kind::MaybeReal => {
                    take(&mut data, 8)
                }
            };
            if index == 0 {
                rows.push(String::from_utf8(bytes.to_vec()).expect("ids are text"));
            }
        }
    }
    rows
}

fn take<'a>(data: &mut &'a [u8], length: usize) -> &'a [u8] {
    let (taken, rest) = data.split_at(length);
    *data = rest;
    taken
}

fn take_length(data: &mut &[u8]) -> usize {
    let mut length = 0;
    for shift in (0..).step_by(7) {
        let byte = take(data, 1)[0];
        length |= usize::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            break;
        }
    }
    length
}
