//! Rows from the queue into the database, in batches: each is one transaction, written whole or, after
//! a failure that passes, again.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use sqlx::{Any, AssertSqlSafe, Transaction};
use tokio::sync::{mpsc, oneshot};

use crate::database::Database;
use crate::id::{unix_hour, unix_ms};
use crate::queries as q;
use crate::record::{RevisionName, Row};
use crate::{AnswerRecord, Inner, ObjectivesRecord, StoreError, VerdictRecord};

/// Most rows of one transaction.
const BATCH_ROWS_MAX: usize = 2048;
/// How long a batch is waited for to fill: a transaction costs more than its rows.
const BATCH_WAIT: Duration = Duration::from_millis(100);
const BACK_OFF: Duration = Duration::from_millis(100);
const BACK_OFF_MAX: Duration = Duration::from_secs(5);

/// Rows of one transaction.
#[derive(Default)]
struct Batch {
    /// With their ids: written again, they are the same rows.
    verdicts: Vec<(i64, Box<VerdictRecord>)>,
    answers: Vec<AnswerRecord>,
    objectives: Vec<ObjectivesRecord>,
    flushed: Vec<oneshot::Sender<()>>,
}

impl Batch {
    fn rows(&self) -> usize {
        self.verdicts.len() + self.answers.len() + self.objectives.len()
    }

    fn add(&mut self, row: Row, inner: &Inner) {
        match row {
            Row::Verdict(record) => self.verdicts.push((inner.ids.next(record.at), record)),
            Row::Answer(record) => self.answers.push(record),
            Row::Objectives(record) => self.objectives.push(record),
            Row::Flushed(told) => self.flushed.push(told),
        }
    }
}

pub(crate) async fn write(inner: Arc<Inner>, mut queue: mpsc::Receiver<Row>) {
    let mut revisions = HashMap::new();
    while let Some(first) = queue.recv().await {
        let mut batch = Batch::default();
        batch.add(first, &inner);
        let full = tokio::time::Instant::now() + BATCH_WAIT;
        while batch.rows() < BATCH_ROWS_MAX && batch.flushed.is_empty() {
            match tokio::time::timeout_at(full, queue.recv()).await {
                Ok(Some(row)) => batch.add(row, &inner),
                _ => break,
            }
        }
        write_until_done(&inner, &batch, &mut revisions).await;
        inner.counts.queued.fetch_sub(batch.rows(), Ordering::Relaxed);
        for told in batch.flushed {
            let _ = told.send(());
        }
    }
}

async fn write_until_done(inner: &Inner, batch: &Batch, revisions: &mut Revisions) {
    let (rows, mut back_off) = (batch.rows() as u64, BACK_OFF);
    if rows == 0 {
        return;
    }
    loop {
        let written = match inner.database() {
            Ok(database) => write_batch(inner, &database, batch, revisions).await,
            Err(away) => Err(away),
        };
        match written {
            Ok(()) => {
                inner.told(None);
                inner.counts.written.fetch_add(rows, Ordering::Relaxed);
                return;
            }
            Err(error) => {
                // Whoever opens it knows better what is wrong.
                if !matches!(error, StoreError::Away { .. }) {
                    inner.told(Some(error.to_string()));
                }
                // Another database may be there by now, with other ids.
                revisions.clear();
                if !error.is_transient() {
                    inner.counts.lost_failed.fetch_add(rows, Ordering::Relaxed);
                    return;
                }
            }
        }
        tokio::time::sleep(back_off).await;
        back_off = (2 * back_off).min(BACK_OFF_MAX);
    }
}

/// Ids of revisions that this process has written.
type Revisions = HashMap<Arc<RevisionName>, i64>;

async fn write_batch(
    inner: &Inner,
    database: &Database,
    batch: &Batch,
    revisions: &mut Revisions,
) -> Result<(), StoreError> {
    for (_, record) in &batch.verdicts {
        if !revisions.contains_key(&record.revision) {
            let id = revision_id(database, &record.revision).await?;
            revisions.insert(Arc::clone(&record.revision), id);
        }
    }
    let mut open = database.begin().await?;
    let verdicts = put_verdicts(database, &mut open, &batch.verdicts, revisions).await?;
    // None of them is new: this batch was written, and only the answer to that was lost.
    if verdicts > 0 || batch.verdicts.is_empty() {
        put_hours(database, &mut open, &batch.verdicts, revisions).await?;
        add_size(database, &mut open, "verdicts", (signed(verdicts), 0)).await?;
        let space = &inner.settings.answers_space;
        let (rows, bytes) = put_answers(database, &mut open, &batch.answers, space).await?;
        add_size(database, &mut open, "answers", (signed(rows), signed(bytes))).await?;
        for record in &batch.objectives {
            put_objectives(database, &mut open, record, inner.ids.replica).await?;
        }
    }
    database.commit(open).await
}

type Open = Transaction<'static, Any>;

async fn revision_id(database: &Database, revision: &RevisionName) -> Result<i64, StoreError> {
    let mut connection = database.acquire().await?;
    let labels = serde_json::to_string(&revision.labels).unwrap_or_default();
    let put = sqlx::query(q::REVISION_PUT.sql)
        .bind(&revision.model)
        .bind(&revision.revision)
        .bind(labels)
        .execute(&mut *connection);
    database.run(q::REVISION_PUT.name, put).await?;
    let id = sqlx::query_scalar::<_, i64>(q::REVISION_ID.sql)
        .bind(&revision.model)
        .bind(&revision.revision)
        .fetch_one(&mut *connection);
    database.run(q::REVISION_ID.name, id).await
}

/// How many were not there yet.
async fn put_verdicts(
    database: &Database,
    open: &mut Open,
    verdicts: &[(i64, Box<VerdictRecord>)],
    revisions: &Revisions,
) -> Result<u64, StoreError> {
    let mut added = 0;
    for rows in verdicts.chunks(q::ROWS_A_STATEMENT) {
        let sql =
            q::insert_many(database.dialect, q::VERDICTS_PUT, q::VERDICTS_COLUMNS, rows.len());
        // Full statements are prepared once; those of a rest vary, and would crowd out others.
        let mut insert =
            sqlx::query(AssertSqlSafe(sql)).persistent(rows.len() == q::ROWS_A_STATEMENT);
        for (id, record) in rows {
            insert = insert
                .bind(*id)
                .bind(&*record.request_id)
                .bind(i64::from(record.item))
                .bind(record.mail.to_vec())
                .bind(&record.revision.model)
                .bind(revisions.get(&record.revision).copied().unwrap_or_default())
                .bind(record.label_name())
                .bind(f64::from(record.confidence))
                .bind(record.scores_bytes())
                .bind(record.answered_by.as_deref())
                .bind(i64::from(record.tokens))
                .bind(i64::from(record.windows))
                .bind(record.flags())
                .bind(micros(record.queue))
                .bind(micros(record.infer))
                .bind(micros(record.total));
        }
        added += database.run("verdicts_put", insert.execute(&mut **open)).await?.rows_affected();
    }
    Ok(added)
}

async fn put_hours(
    database: &Database,
    open: &mut Open,
    verdicts: &[(i64, Box<VerdictRecord>)],
    revisions: &Revisions,
) -> Result<(), StoreError> {
    // In one order, so that replicas do not wait for each other in a ring.
    let mut sums = BTreeMap::<_, ([i64; 4], f64)>::new();
    for (_, record) in verdicts {
        let revision = revisions.get(&record.revision).copied().unwrap_or_default();
        let key = (unix_hour(record.at), revision, record.label_name());
        let (counts, confidence) = sums.entry(key).or_default();
        let added = [1, i64::from(record.cached), i64::from(record.tokens), micros(record.total)];
        counts.iter_mut().zip(added).for_each(|(sum, added)| *sum += added);
        *confidence += f64::from(record.confidence);
    }
    for ((hour, revision, label), ([mails, cached, tokens, total_us], confidence)) in sums {
        let add = sqlx::query(q::HOURS_ADD.sql)
            .bind(hour)
            .bind(revision)
            .bind(label)
            .bind(mails)
            .bind(cached)
            .bind(tokens)
            .bind(total_us)
            .bind(confidence)
            .execute(&mut **open);
        database.run(q::HOURS_ADD.name, add).await?;
    }
    Ok(())
}

/// Rows and bytes that were not there yet.
async fn put_answers(
    database: &Database,
    open: &mut Open,
    answers: &[AnswerRecord],
    space: &str,
) -> Result<(u64, u64), StoreError> {
    let (mut added, mut bytes) = (0, 0);
    for rows in answers.chunks(q::ROWS_A_STATEMENT) {
        let sql = q::insert_many(database.dialect, q::ANSWERS_PUT, q::ANSWERS_COLUMNS, rows.len());
        let mut insert =
            sqlx::query(AssertSqlSafe(sql)).persistent(rows.len() == q::ROWS_A_STATEMENT);
        for record in rows {
            insert = insert
                .bind(record.digest.to_vec())
                .bind(space)
                .bind(unix_ms(SystemTime::now()))
                .bind(record.value.to_vec());
        }
        let new = database.run("answers_put", insert.execute(&mut **open)).await?.rows_affected();
        added += new;
        // All of them are new, or nearly so: which ones a database does not tell.
        let sent: usize = rows.iter().map(|record| record.value.len()).sum();
        bytes += sent as u64 * new / rows.len() as u64;
    }
    Ok((added, bytes))
}

async fn put_objectives(
    database: &Database,
    open: &mut Open,
    record: &ObjectivesRecord,
    replica: u16,
) -> Result<(), StoreError> {
    let put = sqlx::query(q::OBJECTIVES_PUT.sql)
        .bind(record.minute)
        .bind(i64::from(replica))
        .bind(i64::try_from(record.requests).unwrap_or(i64::MAX))
        .bind(record.p95_seconds)
        .bind(record.error_share)
        .bind(record.memory_share)
        .bind(record.availability)
        .execute(&mut **open);
    database.run(q::OBJECTIVES_PUT.name, put).await.map(drop)
}

/// Keeps the book of a table's rows and bytes: what came, or went.
pub(crate) async fn add_size(
    database: &Database,
    open: &mut Open,
    table: &'static str,
    (rows, bytes): (i64, i64),
) -> Result<(), StoreError> {
    if (rows, bytes) == (0, 0) {
        return Ok(());
    }
    let add = sqlx::query(q::SIZES_ADD.sql).bind(table).bind(rows).bind(bytes).execute(&mut **open);
    database.run(q::SIZES_ADD.name, add).await.map(drop)
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

pub(crate) fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
