//! What people say of a verdict. The last word about a mail and a model counts.

use std::time::{Duration, SystemTime};

use sqlx::{Row, query};

use crate::history::digest;
use crate::id::{time_of, unix_hour, unix_ms};
use crate::queries as q;
use crate::record::DigestBytes;
use crate::writer::add_size;
use crate::{Store, StoreError};

/// How long rows that wait are waited for: the verdict may be among them.
const FLUSH: Duration = Duration::from_secs(2);

/// Which mail.
#[derive(Clone, Debug)]
pub enum Of {
    /// By the digest of its text.
    Mail(DigestBytes),
    /// By a request and the mail's place in it.
    Request(String, u32),
}

/// What became of feedback.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feedback {
    /// Digest of the mail's text.
    pub mail: DigestBytes,
    /// What the model had said.
    pub predicted: String,
    /// What had been said to be true before.
    pub former: Option<String>,
}

impl Store {
    /// Writes down the true label of a mail for a model, and counts it with the model's last verdict.
    ///
    /// # Errors
    /// There is no verdict of that model for that mail; the store is away, or slow.
    pub async fn feedback(
        &self,
        of: &Of,
        model: &str,
        label: &str,
    ) -> Result<Feedback, StoreError> {
        self.flush(FLUSH).await;
        let database = self.inner.database()?;
        let mut open = database.begin().await?;
        let (name, find) = match of {
            Of::Mail(mail) => {
                let find = query(q::VERDICT_BY_MAIL.sql).bind(mail.to_vec()).bind(model);
                (q::VERDICT_BY_MAIL.name, find)
            }
            Of::Request(id, item) => {
                let find =
                    query(q::VERDICT_BY_REQUEST.sql).bind(id).bind(model).bind(i64::from(*item));
                (q::VERDICT_BY_REQUEST.name, find)
            }
        };
        let found = database.run(name, find.fetch_optional(&mut *open)).await?;
        let found = found.ok_or(StoreError::UnknownVerdict)?;
        let failed = |error: sqlx::Error| StoreError::query(name, &error);
        let mail = digest(&found, "mail").map_err(failed)?;
        let hour = unix_hour(time_of(found.try_get("id").map_err(failed)?));
        let revision: i64 = found.try_get("revision_id").map_err(failed)?;
        let predicted: String = found.try_get("label").map_err(failed)?;

        let former = query(q::FEEDBACK_FORMER.sql).bind(mail.to_vec()).bind(model);
        let former =
            database.run(q::FEEDBACK_FORMER.name, former.fetch_optional(&mut *open)).await?;
        let mut said_before = None;
        if let Some(former) = &former {
            let text = |name| former.try_get::<String, _>(name).map_err(failed);
            let number = |name| former.try_get::<i64, _>(name).map_err(failed);
            let truth = text("label")?;
            let key = (number("hour")?, number("revision_id")?, text("predicted")?);
            add(&database, &mut open, (key.0, key.1, &key.2), &truth, -1).await?;
            said_before = Some(truth);
        }
        add(&database, &mut open, (hour, revision, &predicted), label, 1).await?;
        let put = query(q::FEEDBACK_PUT.sql)
            .bind(mail.to_vec())
            .bind(model)
            .bind(label)
            .bind(unix_ms(SystemTime::now()))
            .bind(hour)
            .bind(revision)
            .bind(&predicted)
            .execute(&mut *open);
        database.run(q::FEEDBACK_PUT.name, put).await?;
        add_size(&database, &mut open, "feedback", (i64::from(former.is_none()), 0)).await?;
        database.commit(open).await?;
        Ok(Feedback { mail, predicted, former: said_before })
    }
}

async fn add(
    database: &crate::database::Database,
    open: &mut sqlx::Transaction<'static, sqlx::Any>,
    (hour, revision, predicted): (i64, i64, &str),
    truth: &str,
    mails: i64,
) -> Result<(), StoreError> {
    let add = query(q::CONFUSION_ADD.sql)
        .bind(hour)
        .bind(revision)
        .bind(predicted)
        .bind(truth)
        .bind(mails)
        .execute(&mut **open);
    database.run(q::CONFUSION_ADD.name, add).await.map(drop)
}
