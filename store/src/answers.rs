//! Memoized answers of the last run, the newest first.

use sqlx::{Row, query};

use crate::history::digest;
use crate::queries as q;
use crate::{AnswerRecord, Store, StoreError};

/// Answers of one page: small enough that other queries have their turn between two.
const PAGE: i64 = 4096;

impl Store {
    /// Hands over the answers of this store's space, the newest first, until `enough` says so; tells
    /// how many they were.
    ///
    /// # Errors
    /// The store is away, or slow.
    pub async fn newest_answers(
        &self,
        mut take: impl FnMut(AnswerRecord) -> bool,
    ) -> Result<u64, StoreError> {
        let database = self.inner.database()?;
        let (mut before, mut taken) = ((i64::MAX, vec![0xff; 16]), 0);
        loop {
            let mut connection = database.acquire().await?;
            let select = query(q::ANSWERS_NEWEST.sql)
                .bind(&self.inner.settings.answers_space)
                .bind(before.0)
                .bind(before.1.clone())
                .bind(PAGE)
                .fetch_all(&mut *connection);
            let rows = database.run(q::ANSWERS_NEWEST.name, select).await?;
            drop(connection);
            for row in &rows {
                let failed = |error: sqlx::Error| StoreError::query(q::ANSWERS_NEWEST.name, &error);
                let digest = digest(row, "digest").map_err(failed)?;
                let value: Vec<u8> = row.try_get("value").map_err(failed)?;
                before = (row.try_get("at_ms").map_err(failed)?, digest.to_vec());
                if !take(AnswerRecord { digest, value: value.into() }) {
                    return Ok(taken);
                }
                taken += 1;
            }
            if rows.is_empty() {
                return Ok(taken);
            }
        }
    }

    /// Waits until the database is open.
    pub async fn opened(&self) {
        while self.inner.database().is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
}
