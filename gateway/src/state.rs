//! What the process was told at run time and must remember: gateway tokens, and which fine-tunes there are.
//!
//! One SQLite file in the data directory, readable by its owner only. Requests never touch it; they
//! use sets held in memory. Several processes may have it open (the command line beside the server);
//! a write by one is seen by the others through the file's data version.

use std::fs::{self, DirBuilder, OpenOptions, Permissions as FileMode};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, Row, params};
use ulid::Ulid;

use crate::auth::api_key::{Permissions, Token, TokenHash, generate};
use crate::config::Secret;

const FILE_NAME: &str = "state.sqlite";

/// How long a write waits for another process's write.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Steps that bring an older file up to date; `user_version` counts those taken. Append only.
const MIGRATIONS: [&str; 2] = [
    "
    CREATE TABLE tokens (
        id            TEXT PRIMARY KEY,
        hash          BLOB NOT NULL UNIQUE,
        label         TEXT NOT NULL,
        account       TEXT NOT NULL,
        gateway       TEXT,
        permissions   TEXT NOT NULL,
        created_at_us INTEGER NOT NULL
    ) STRICT;
",
    "
    CREATE TABLE finetunes (
        id             TEXT PRIMARY KEY,
        account        TEXT NOT NULL,
        name           TEXT NOT NULL,
        model          TEXT NOT NULL,
        description    TEXT NOT NULL,
        is_public      INTEGER NOT NULL,
        created_at_us  INTEGER NOT NULL,
        modified_at_us INTEGER NOT NULL,
        config_hash    BLOB,
        config_bytes   INTEGER,
        weights_hash   BLOB,
        weights_bytes  INTEGER,
        rank           INTEGER,
        UNIQUE (account, name)
    ) STRICT;
",
];

#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("cannot make `{}`: {source}", path.display())]
    Folder {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("state file: {0}")]
    Sqlite(#[from] rusqlite::Error),
    #[error(
        "the state file was written by a newer version (format {found}, this one knows {known})"
    )]
    TooNew { found: u32, known: u32 },
    #[error("token `{id}` in the state file has the unknown permission `{word}`")]
    Permission { id: String, word: String },
}

pub struct State {
    connection: Mutex<Connection>,
}

/// A token to be made.
#[derive(Debug, Clone)]
pub struct NewToken {
    pub label: String,
    /// An account's name or `*`.
    pub account: String,
    pub gateway: Option<String>,
    pub permissions: Permissions,
}

impl State {
    /// Opens the state of this data directory, making both when they are not there.
    pub fn open(data_dir: &Path) -> Result<State, StateError> {
        let failed = |source| StateError::Folder {
            path: data_dir.to_owned(),
            source,
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(data_dir)
            .map_err(failed)?;
        let path = data_dir.join(FILE_NAME);
        make_private(&path).map_err(|source| StateError::Folder {
            path: path.clone(),
            source,
        })?;
        let mut connection = Connection::open(&path)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        // A token that was shown must survive a power cut.
        connection.pragma_update(None, "synchronous", "FULL")?;
        migrate(&mut connection)?;
        Ok(State {
            connection: Mutex::new(connection),
        })
    }

    /// Makes a token. Its text is in the answer and nowhere else.
    pub fn create_token(&self, new: &NewToken) -> Result<(Token, Secret), StateError> {
        let text = generate();
        let token = Token {
            id: Ulid::generate().to_string().to_ascii_lowercase().into(),
            label: new.label.as_str().into(),
            account: new.account.as_str().into(),
            gateway: new.gateway.as_deref().map(Into::into),
            permissions: new.permissions,
            created_at_us: now_us(),
            hash: TokenHash::of(text.expose()),
        };
        self.connection().execute(
            "INSERT INTO tokens (id, hash, label, account, gateway, permissions, created_at_us)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            params![
                &*token.id,
                token.hash.0,
                &*token.label,
                &*token.account,
                token.gateway.as_deref(),
                token.permissions.to_string(),
                token.created_at_us,
            ],
        )?;
        Ok((token, text))
    }

    /// Every token, oldest first.
    pub fn tokens(&self) -> Result<Vec<Token>, StateError> {
        let connection = self.connection();
        let mut statement = connection.prepare_cached(
            "SELECT id, hash, label, account, gateway, permissions, created_at_us
             FROM tokens ORDER BY created_at_us, id",
        )?;
        let rows = statement.query_map([], read_token)?;
        rows.map(|row| row?).collect()
    }

    /// Returns whether there was such a token.
    pub fn revoke_token(&self, id: &str) -> Result<bool, StateError> {
        let id = id.to_ascii_lowercase();
        let removed = self
            .connection()
            .execute("DELETE FROM tokens WHERE id = ?1", [id])?;
        Ok(removed > 0)
    }

    /// Changes whenever another connection, of this process or another, has written to the file, and
    /// when this one has.
    pub fn data_version(&self) -> Result<i64, StateError> {
        let connection = self.connection();
        let others: i64 = connection.pragma_query_value(None, "data_version", |row| row.get(0))?;
        // `data_version` does not count this connection's own writes; `total_changes` does.
        Ok((others << 32) | (connection.total_changes() as i64 & 0xffff_ffff))
    }

    pub(crate) fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

type Fallible = Result<Token, StateError>;

fn read_token(row: &Row<'_>) -> rusqlite::Result<Fallible> {
    let id: String = row.get(0)?;
    let permissions: String = row.get(5)?;
    let permissions = match Permissions::parse(&permissions) {
        Ok(permissions) => permissions,
        Err(word) => return Ok(Err(StateError::Permission { id, word })),
    };
    Ok(Ok(Token {
        id: id.into(),
        hash: TokenHash(row.get(1)?),
        label: row.get::<_, String>(2)?.into(),
        account: row.get::<_, String>(3)?.into(),
        gateway: row.get::<_, Option<String>>(4)?.map(Into::into),
        permissions,
        created_at_us: row.get(6)?,
    }))
}

/// SQLite gives its side files (`-wal`, `-shm`) the mode of the main one.
fn make_private(path: &Path) -> std::io::Result<()> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)?;
    let mode = fs::metadata(path)?.permissions().mode();
    if mode & 0o077 != 0 {
        fs::set_permissions(path, FileMode::from_mode(0o600))?;
    }
    Ok(())
}

fn migrate(connection: &mut Connection) -> Result<(), StateError> {
    let transaction =
        connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let known = MIGRATIONS.len() as u32;
    let done: u32 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if done > known {
        return Err(StateError::TooNew { found: done, known });
    }
    if done < known {
        for step in &MIGRATIONS[done as usize..] {
            transaction.execute_batch(step)?;
        }
        transaction.pragma_update(None, "user_version", known)?;
    }
    Ok(transaction.commit()?)
}

pub(crate) fn now_us() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_micros() as i64
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::auth::{LiveTokens, Permission};

    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Folder {
            Folder(std::env::temp_dir().join(format!("state-{}", Ulid::generate())))
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn new_token(label: &str) -> NewToken {
        NewToken {
            label: label.into(),
            account: "acct".into(),
            gateway: Some("gw".into()),
            permissions: [Permission::GatewayRun].into_iter().collect(),
        }
    }

    #[test]
    fn tokens_survive_and_their_text_does_not() {
        let folder = Folder::new();
        let (token, text) = State::open(&folder.0)
            .unwrap()
            .create_token(&new_token("ci"))
            .unwrap();
        let state = State::open(&folder.0).unwrap();
        assert_eq!(state.tokens().unwrap(), std::slice::from_ref(&token));
        for entry in fs::read_dir(&folder.0).unwrap() {
            let content = fs::read(entry.unwrap().path()).unwrap();
            let needle = text.expose().as_bytes();
            assert!(!content.windows(needle.len()).any(|window| window == needle));
        }
        assert!(state.revoke_token(&token.id).unwrap());
        assert!(!state.revoke_token(&token.id).unwrap());
        assert!(state.tokens().unwrap().is_empty());
    }

    #[test]
    fn files_are_private() {
        let folder = Folder::new();
        let state = State::open(&folder.0).unwrap();
        state.create_token(&new_token("ci")).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&folder.0), 0o700);
        for entry in fs::read_dir(&folder.0).unwrap() {
            let path = entry.unwrap().path();
            assert_eq!(mode(&path), 0o600, "{}", path.display());
        }
    }

    #[test]
    fn another_process_s_token_is_seen() {
        let folder = Folder::new();
        let server = Arc::new(State::open(&folder.0).unwrap());
        let live = LiveTokens::open(server.clone()).unwrap();
        assert!(live.load().is_empty());
        assert!(!live.refresh().unwrap());

        let command_line = State::open(&folder.0).unwrap();
        let (token, text) = command_line.create_token(&new_token("ci")).unwrap();
        assert!(live.refresh().unwrap());
        assert!(live.load().find(text.expose()).is_some());
        assert!(!live.refresh().unwrap());

        assert!(server.revoke_token(&token.id).unwrap());
        assert!(live.refresh().unwrap(), "our own write counts too");
        assert!(live.load().is_empty());
    }

    #[test]
    fn a_newer_file_is_refused() {
        let folder = Folder::new();
        let state = State::open(&folder.0).unwrap();
        state
            .connection()
            .pragma_update(None, "user_version", 99)
            .unwrap();
        assert!(matches!(
            State::open(&folder.0),
            Err(StateError::TooNew { found: 99, .. })
        ));
    }
}
