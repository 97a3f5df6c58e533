//! What is too old or too much is dropped, a little at a time, in the background.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use sqlx::{Any, AnyConnection, Row, Transaction, query};

use crate::database::{Database, Dialect};
use crate::id::{id_from, unix_hour, unix_ms};
use crate::queries as q;
use crate::writer::{add_size, signed};
use crate::{Inner, StoreError};

/// Rows that one transaction drops: the writer waits no longer than this takes.
const ROWS_A_TURN: i64 = 1000;
/// Between two turns: upkeep has the least priority.
const REST: Duration = Duration::from_millis(50);
/// How often to look whether the database is open.
const LOOK: Duration = Duration::from_millis(100);
/// Freed pages that one turn gives back to the file system.
const PAGES_A_TURN: u32 = 256;

pub(crate) async fn tend(inner: Arc<Inner>) {
    loop {
        let Ok(database) = inner.database() else {
            tokio::time::sleep(LOOK).await;
            continue;
        };
        // What fails is tried again at the next time.
        let _ = tend_once(&inner, &database).await;
        tokio::time::sleep(inner.settings.upkeep_period).await;
    }
}

/// Drops what is beyond the bounds, and reads the sizes.
pub(crate) async fn tend_once(inner: &Inner, database: &Database) -> Result<(), StoreError> {
    let (settings, now) = (&inner.settings, SystemTime::now());
    let ago = |age: Duration| now.checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH);
    let sums_from = ago(settings.sums_age_max);

    let (verdicts, feedback) = (("verdicts", q::VERDICTS_DROP), ("feedback", q::FEEDBACK_DROP));
    let oldest = id_from(ago(settings.verdicts_age_max));
    job(inner, "verdicts_age", drop_oldest(database, verdicts, oldest, 0)).await?;
    let excess = drop_oldest(database, verdicts, i64::MAX, settings.verdicts_max);
    job(inner, "verdicts_rows", excess).await?;
    job(inner, "feedback_age", drop_oldest(database, feedback, unix_ms(sums_from), 0)).await?;
    job(inner, "sums_age", drop_sums(database, sums_from)).await?;
    job(inner, "answers_bytes", drop_answers(database, settings.answers_bytes_max)).await?;
    if database.dialect == Dialect::Sqlite {
        job(inner, "vacuum", vacuum(database)).await?;
    }

    let rows = sizes(database).await?.into_iter().map(|(name, rows, _)| (name, rows)).collect();
    inner.state.write().rows = rows;
    inner.counts.bytes.store(database_bytes(database).await?, Ordering::Relaxed);
    Ok(())
}

async fn job(
    inner: &Inner,
    name: &'static str,
    work: impl Future<Output = Result<u64, StoreError>>,
) -> Result<(), StoreError> {
    let clock = Instant::now();
    let dropped = work.await?;
    inner.observer.job(name, clock.elapsed(), dropped);
    Ok(())
}

/// Drops a table's oldest rows below a bound, an id or a time, until so many are left.
async fn drop_oldest(
    database: &Database,
    (table, which): (&'static str, q::Query),
    below: i64,
    left: u64,
) -> Result<u64, StoreError> {
    let mut dropped = 0;
    loop {
        let mut open = database.begin().await?;
        let (rows, _) = locked_size(database, &mut open, table).await?;
        let turn = ROWS_A_TURN.min(signed(rows.saturating_sub(left)));
        let drop = query(which.sql).bind(below).bind(turn).execute(&mut *open);
        let rows = database.run(which.name, drop).await?.rows_affected();
        add_size(database, &mut open, table, (-signed(rows), 0)).await?;
        database.commit(open).await?;
        dropped += rows;
        if signed(rows) < ROWS_A_TURN {
            return Ok(dropped);
        }
        tokio::time::sleep(REST).await;
    }
}

async fn drop_sums(database: &Database, before: SystemTime) -> Result<u64, StoreError> {
    let mut connection = database.acquire().await?;
    let mut dropped = 0;
    for (which, bound) in [
        (q::HOURS_DROP, unix_hour(before)),
        (q::CONFUSION_DROP, unix_hour(before)),
        (q::OBJECTIVES_DROP, unix_ms(before) / 60_000),
    ] {
        let drop = query(which.sql).bind(bound).execute(&mut *connection);
        dropped += database.run(which.name, drop).await?.rows_affected();
    }
    Ok(dropped)
}

async fn drop_answers(database: &Database, bytes_max: u64) -> Result<u64, StoreError> {
    let mut dropped = 0;
    loop {
        let mut open = database.begin().await?;
        let (rows, bytes) = locked_size(database, &mut open, "answers").await?;
        if bytes <= bytes_max {
            break;
        }
        // They are of like size: so many of them are too much.
        let excess = (bytes - bytes_max) * rows.max(1) / bytes + 1;
        let turn = ROWS_A_TURN.min(signed(excess));
        let oldest = query(q::ANSWERS_OLDEST.sql).bind(turn).fetch_one(&mut *open);
        let oldest = database.run(q::ANSWERS_OLDEST.name, oldest).await?;
        let failed = |error: sqlx::Error| StoreError::query(q::ANSWERS_OLDEST.name, &error);
        let bytes: i64 = oldest.try_get("byte_count").map_err(failed)?;
        let drop = query(q::ANSWERS_DROP.sql).bind(turn).execute(&mut *open);
        let rows = database.run(q::ANSWERS_DROP.name, drop).await?.rows_affected();
        add_size(database, &mut open, "answers", (-signed(rows), -bytes)).await?;
        database.commit(open).await?;
        dropped += rows;
        if rows == 0 {
            break;
        }
        tokio::time::sleep(REST).await;
    }
    Ok(dropped)
}

async fn vacuum(database: &Database) -> Result<u64, StoreError> {
    let mut connection = database.acquire().await?;
    let sql = sqlx::AssertSqlSafe(format!("PRAGMA incremental_vacuum({PAGES_A_TURN})"));
    database.run("vacuum", query(sql).execute(&mut *connection)).await?;
    Ok(0)
}

async fn sizes(database: &Database) -> Result<Vec<(String, u64, u64)>, StoreError> {
    let mut connection = database.acquire().await?;
    read_sizes(database, &mut connection).await
}

async fn read_sizes(
    database: &Database,
    connection: &mut AnyConnection,
) -> Result<Vec<(String, u64, u64)>, StoreError> {
    let rows = query(q::SIZES.sql).fetch_all(connection);
    let rows = database.run(q::SIZES.name, rows).await?;
    let read = |row: &sqlx::any::AnyRow| -> Result<_, sqlx::Error> {
        let count = |name| row.try_get::<i64, _>(name).map(|count| count.try_into().unwrap_or(0));
        Ok((row.try_get("name")?, count("row_count")?, count("byte_count")?))
    };
    rows.iter()
        .map(|row| read(row).map_err(|error| StoreError::query(q::SIZES.name, &error)))
        .collect()
}

/// A table's rows and bytes, which nobody else changes before the transaction ends: several replicas
/// must not each drop the same excess.
async fn locked_size(
    database: &Database,
    open: &mut Transaction<'static, Any>,
    table: &'static str,
) -> Result<(u64, u64), StoreError> {
    let lock = query(q::SIZES_ADD.sql).bind(table).bind(0_i64).bind(0_i64).execute(&mut **open);
    database.run(q::SIZES_ADD.name, lock).await?;
    let all = read_sizes(database, open).await?;
    let of = all.into_iter().find(|(name, ..)| name == table);
    Ok(of.map_or((0, 0), |(_, rows, bytes)| (rows, bytes)))
}

async fn database_bytes(database: &Database) -> Result<u64, StoreError> {
    let sql = match database.dialect {
        Dialect::Sqlite => {
            "SELECT page_count * page_size AS bytes FROM pragma_page_count(), pragma_page_size()"
        }
        Dialect::Postgres => "SELECT pg_database_size(current_database()) AS bytes",
    };
    let mut connection = database.acquire().await?;
    let bytes = sqlx::query_scalar::<_, i64>(sql).fetch_one(&mut *connection);
    Ok(database.run("database_bytes", bytes).await?.try_into().unwrap_or(0))
}
