//! Every query by name. A test asks both databases how they would run each: none may read a whole
//! table.

use crate::database::Dialect;

/// A query: its name in metrics and logs, and its text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Query {
    pub(crate) name: &'static str,
    pub(crate) sql: &'static str,
}

const fn query(name: &'static str, sql: &'static str) -> Query {
    Query { name, sql }
}

/// Verdicts between two ids, the newest first: bounds, then a filter, then the limit.
macro_rules! history {
    ($filter:literal, $limit:literal) => {
        concat!(
            "SELECT v.id, v.request_id, v.item, v.mail, v.model, r.revision, r.labels, v.confidence, ",
            "v.scores, v.answered_by, v.tokens, v.windows, v.flags, v.queue_us, v.infer_us, v.total_us, ",
            "f.label AS truth ",
            "FROM verdicts v JOIN revisions r ON r.id = v.revision_id ",
            "LEFT JOIN feedback f ON f.mail = v.mail AND f.model = v.model ",
            "WHERE v.id >= $1 AND v.id < $2",
            $filter,
            " ORDER BY v.id DESC LIMIT ",
            $limit
        )
    };
}

pub(crate) const HISTORY: Query = query("history", history!("", "$3"));
pub(crate) const HISTORY_MODEL: Query = query("history_model", history!(" AND v.model = $3", "$4"));
pub(crate) const HISTORY_LABEL: Query =
    query("history_label", history!(" AND v.model = $3 AND v.label = $4", "$5"));
pub(crate) const HISTORY_MAIL: Query = query("history_mail", history!(" AND v.mail = $3", "$4"));
pub(crate) const HISTORY_REQUEST: Query =
    query("history_request", history!(" AND v.request_id = $3", "$4"));

pub(crate) const HOURS: Query = query(
    "hours",
    "SELECT h.hour, r.model, r.revision, h.label, h.mails, h.cached, h.tokens, h.total_us, h.confidence \
     FROM hours h JOIN revisions r ON r.id = h.revision_id \
     WHERE h.hour >= $1 AND h.hour < $2 AND ($3 = '' OR r.model = $3) ORDER BY h.hour",
);
pub(crate) const CONFUSION: Query = query(
    "confusion",
    "SELECT r.model, c.predicted, c.truth, CAST(SUM(c.mails) AS BIGINT) AS mails \
     FROM confusion c JOIN revisions r ON r.id = c.revision_id \
     WHERE c.hour >= $1 AND c.hour < $2 AND ($3 = '' OR r.model = $3) \
     GROUP BY r.model, c.predicted, c.truth ORDER BY r.model, c.predicted, c.truth",
);
pub(crate) const OBJECTIVES: Query = query(
    "objectives",
    "SELECT minute, requests, p95_seconds, error_share, memory_share, availability \
     FROM objectives WHERE minute >= $1 AND minute < $2 ORDER BY minute LIMIT $3",
);

pub(crate) const VERDICT_BY_MAIL: Query = query(
    "verdict_by_mail",
    "SELECT id, mail, revision_id, label FROM verdicts WHERE mail = $1 AND model = $2 \
     ORDER BY id DESC LIMIT 1",
);
pub(crate) const VERDICT_BY_REQUEST: Query = query(
    "verdict_by_request",
    "SELECT id, mail, revision_id, label FROM verdicts \
     WHERE request_id = $1 AND model = $2 AND item = $3 ORDER BY id DESC LIMIT 1",
);
pub(crate) const FEEDBACK_FORMER: Query = query(
    "feedback_former",
    "SELECT label, hour, revision_id, predicted FROM feedback WHERE mail = $1 AND model = $2",
);
pub(crate) const FEEDBACK_PUT: Query = query(
    "feedback_put",
    "INSERT INTO feedback (mail, model, label, at_ms, hour, revision_id, predicted) \
     VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (mail, model) DO UPDATE SET \
     label = excluded.label, at_ms = excluded.at_ms, hour = excluded.hour, \
     revision_id = excluded.revision_id, predicted = excluded.predicted",
);
pub(crate) const CONFUSION_ADD: Query = query(
    "confusion_add",
    "INSERT INTO confusion (hour, revision_id, predicted, truth, mails) VALUES ($1, $2, $3, $4, $5) \
     ON CONFLICT (hour, revision_id, predicted, truth) DO UPDATE SET mails = confusion.mails + excluded.mails",
);

pub(crate) const ANSWERS_NEWEST: Query = query(
    "answers_newest",
    "SELECT at_ms, digest, value FROM answers WHERE space = $1 AND (at_ms, digest) < ($2, $3) \
     ORDER BY at_ms DESC, digest DESC LIMIT $4",
);
pub(crate) const ANSWERS_OLDEST: Query = query(
    "answers_oldest",
    "SELECT CAST(COUNT(*) AS BIGINT) AS row_count, CAST(COALESCE(SUM(LENGTH(value)), 0) AS BIGINT) AS byte_count \
     FROM (SELECT value FROM answers ORDER BY at_ms, digest LIMIT $1) AS oldest",
);
pub(crate) const ANSWERS_DROP: Query = query(
    "answers_drop",
    "DELETE FROM answers WHERE (space, digest) IN \
     (SELECT space, digest FROM answers ORDER BY at_ms, digest LIMIT $1)",
);

pub(crate) const REVISION_ID: Query =
    query("revision_id", "SELECT id FROM revisions WHERE model = $1 AND revision = $2");
pub(crate) const REVISION_PUT: Query = query(
    "revision_put",
    "INSERT INTO revisions (model, revision, labels) VALUES ($1, $2, $3) \
     ON CONFLICT (model, revision) DO NOTHING",
);
pub(crate) const HOURS_ADD: Query = query(
    "hours_add",
    "INSERT INTO hours (hour, revision_id, label, mails, cached, tokens, total_us, confidence) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (hour, revision_id, label) DO UPDATE SET \
     mails = hours.mails + excluded.mails, cached = hours.cached + excluded.cached, \
     tokens = hours.tokens + excluded.tokens, total_us = hours.total_us + excluded.total_us, \
     confidence = hours.confidence + excluded.confidence",
);
pub(crate) const OBJECTIVES_PUT: Query = query(
    "objectives_put",
    "INSERT INTO objectives (minute, replica, requests, p95_seconds, error_share, memory_share, availability) \
     VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (minute, replica) DO NOTHING",
);
pub(crate) const SIZES: Query =
    query("sizes", "SELECT name, row_count, byte_count FROM sizes ORDER BY name");
pub(crate) const SIZES_ADD: Query = query(
    "sizes_add",
    "UPDATE sizes SET row_count = row_count + $2, byte_count = byte_count + $3 WHERE name = $1",
);

pub(crate) const VERDICTS_DROP: Query = query(
    "verdicts_drop",
    "DELETE FROM verdicts WHERE id IN (SELECT id FROM verdicts WHERE id < $1 ORDER BY id LIMIT $2)",
);
pub(crate) const FEEDBACK_DROP: Query = query(
    "feedback_drop",
    "DELETE FROM feedback WHERE (mail, model) IN \
     (SELECT mail, model FROM feedback WHERE at_ms < $1 ORDER BY at_ms LIMIT $2)",
);
pub(crate) const HOURS_DROP: Query = query("hours_drop", "DELETE FROM hours WHERE hour < $1");
pub(crate) const CONFUSION_DROP: Query =
    query("confusion_drop", "DELETE FROM confusion WHERE hour < $1");
pub(crate) const OBJECTIVES_DROP: Query =
    query("objectives_drop", "DELETE FROM objectives WHERE minute < $1");

/// Rows of one statement that inserts many.
pub(crate) const ROWS_A_STATEMENT: usize = 64;

/// `INSERT` of `rows` rows of so many columns, leaving those alone that are there.
pub(crate) fn insert_many(dialect: Dialect, head: &str, columns: usize, rows: usize) -> String {
    let mut sql = String::from(head);
    for row in 0..rows {
        sql.push_str(if row == 0 { " VALUES (" } else { ", (" });
        for column in 0..columns {
            let comma = if column == 0 { "" } else { ", " };
            sql.push_str(comma);
            match dialect {
                // It looks named parameters up one by one, among all that there are.
                Dialect::Sqlite => sql.push('?'),
                Dialect::Postgres => sql.push_str(&format!("${}", row * columns + column + 1)),
            }
        }
        sql.push(')');
    }
    sql.push_str(" ON CONFLICT DO NOTHING");
    sql
}

pub(crate) const VERDICTS_PUT: &str = "INSERT INTO verdicts (id, request_id, item, mail, model, \
     revision_id, label, confidence, scores, answered_by, tokens, windows, flags, queue_us, infer_us, \
     total_us)";
pub(crate) const VERDICTS_COLUMNS: usize = 16;
pub(crate) const ANSWERS_PUT: &str = "INSERT INTO answers (digest, space, at_ms, value)";
pub(crate) const ANSWERS_COLUMNS: usize = 4;

#[cfg(test)]
pub(crate) const ALL: &[Query] = &[
    HISTORY,
    HISTORY_MODEL,
    HISTORY_LABEL,
    HISTORY_MAIL,
    HISTORY_REQUEST,
    HOURS,
    CONFUSION,
    OBJECTIVES,
    VERDICT_BY_MAIL,
    VERDICT_BY_REQUEST,
    FEEDBACK_FORMER,
    FEEDBACK_PUT,
    CONFUSION_ADD,
    ANSWERS_NEWEST,
    ANSWERS_OLDEST,
    ANSWERS_DROP,
    REVISION_ID,
    REVISION_PUT,
    HOURS_ADD,
    OBJECTIVES_PUT,
    SIZES,
    SIZES_ADD,
    VERDICTS_DROP,
    FEEDBACK_DROP,
    HOURS_DROP,
    CONFUSION_DROP,
    OBJECTIVES_DROP,
];
