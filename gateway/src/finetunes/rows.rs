//! Fine-tunes as rows of the state file.

use rusqlite::{Row, TransactionBehavior, params};

use super::{Asset, FileHash, Finetune, FinetuneError};
use crate::state::{State, StateError};

const COLUMNS: &str =
    "id, account, name, model, description, is_public, created_at_us, modified_at_us,
    config_hash, config_bytes, weights_hash, weights_bytes, rank";

impl State {
    /// Every fine-tune, oldest first.
    pub(super) fn finetunes(&self) -> Result<Vec<Finetune>, StateError> {
        let connection = self.connection();
        let query = format!("SELECT {COLUMNS} FROM finetunes ORDER BY created_at_us, id");
        let mut statement = connection.prepare_cached(&query)?;
        let rows = statement.query_map([], read)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Fails when its account has `max` already, or one of that name.
    pub(super) fn insert_finetune(&self, new: &Finetune, max: u64) -> Result<(), FinetuneError> {
        let mut connection = self.connection();
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let (count, is_taken): (u64, bool) = transaction.query_row(
            "SELECT count(*), coalesce(max(name = ?2), 0) FROM finetunes WHERE account = ?1",
            params![&*new.account, &*new.name],
            |row| Ok((row.get::<_, i64>(0)?.unsigned_abs(), row.get(1)?)),
        )?;
        if is_taken {
            return Err(FinetuneError::Taken(new.name.to_string()));
        }
        if count >= max {
            return Err(FinetuneError::Full { count, max });
        }
        transaction.execute(
            "INSERT INTO finetunes (id, account, name, model, description, is_public, created_at_us, modified_at_us)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            params![
                &*new.id,
                &*new.account,
                &*new.name,
                &*new.model,
                &*new.description,
                new.is_public,
                new.created_at_us,
                new.modified_at_us,
            ],
        )?;
        Ok(transaction.commit()?)
    }

    /// Sets the files of `now`, if the row still has those of `was`.
    pub(super) fn replace_assets(
        &self,
        was: &Finetune,
        now: &Finetune,
    ) -> Result<(), FinetuneError> {
        let connection = self.connection();
        let changed = connection.execute(
            "UPDATE finetunes
             SET config_hash = ?2, config_bytes = ?3, weights_hash = ?4, weights_bytes = ?5, rank = ?6, modified_at_us = ?7
             WHERE id = ?1 AND config_hash IS ?8 AND weights_hash IS ?9",
            params![
                &*was.id,
                now.config.map(|asset| asset.hash),
                now.config.map(|asset| asset.bytes.cast_signed()),
                now.weights.map(|asset| asset.hash),
                now.weights.map(|asset| asset.bytes.cast_signed()),
                now.rank,
                now.modified_at_us,
                was.config.map(|asset| asset.hash),
                was.weights.map(|asset| asset.hash),
            ],
        )?;
        match changed {
            0 => Err(FinetuneError::Changed),
            _ => Ok(()),
        }
    }

    /// Returns whether there was such a fine-tune.
    pub(super) fn delete_finetune(&self, id: &str) -> Result<bool, StateError> {
        let connection = self.connection();
        Ok(connection.execute("DELETE FROM finetunes WHERE id = ?1", [id])? > 0)
    }
}

fn read(row: &Row<'_>) -> rusqlite::Result<Finetune> {
    let text = |index| row.get::<_, String>(index).map(Into::into);
    let asset = |index| -> rusqlite::Result<Option<Asset>> {
        let hash: Option<FileHash> = row.get(index)?;
        let bytes: Option<i64> = row.get(index + 1)?;
        Ok(hash.zip(bytes).map(|(hash, bytes)| Asset {
            hash,
            bytes: bytes.unsigned_abs(),
        }))
    };
    Ok(Finetune {
        id: text(0)?,
        account: text(1)?,
        name: text(2)?,
        model: text(3)?,
        description: text(4)?,
        is_public: row.get(5)?,
        created_at_us: row.get(6)?,
        modified_at_us: row.get(7)?,
        config: asset(8)?,
        weights: asset(10)?,
        rank: row.get(12)?,
    })
}
