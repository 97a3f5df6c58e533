//! `POST /v1/feedback`: the true label of a mail that was classified.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use postsort_cache::Digest;
use postsort_store::{Of, StoreError};
use serde::{Deserialize, Serialize};

use super::App;
use super::body::OptionalJson;
use super::history::digest;
use crate::error::Error;

/// Which mail, and what is true of it.
#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct FeedbackRequest {
    /// The request that classified it: `x-request-id` of its answer.
    request_id: Option<String>,
    /// The mail's place in that request.
    item: u32,
    /// In the place of the request: digest of the mail's text, as `/v1/history` tells it.
    mail: Option<String>,
    /// The model that was asked; the default model unless given.
    model: Option<String>,
    /// The label that is true: one of the model's.
    label: String,
}

/// What became of it.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct FeedbackResponse {
    /// Digest of the mail's text.
    mail: String,
    /// The model.
    model: String,
    /// What it had said.
    predicted: String,
    /// What is true.
    label: String,
    /// Whether these are the same.
    agrees: bool,
    /// What had been said to be true before: the last word counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    former: Option<String>,
}

/// Tell the true label of a mail
///
/// It is counted with the model's last verdict of that mail: `/v1/stats` tells how often they agree.
#[utoipa::path(
    post, path = "/v1/feedback", tag = "history", request_body = FeedbackRequest,
    responses((status = 200, body = FeedbackResponse), (status = 400, description = "malformed"),
        (status = 404, description = "unknown model, or no verdict of it for that mail"),
        (status = 501, description = "no store"), (status = 503, description = "store unavailable"))
)]
pub(super) async fn feedback(
    State(app): State<Arc<App>>,
    OptionalJson(call): OptionalJson<FeedbackRequest>,
) -> Result<Json<FeedbackResponse>, Error> {
    let store = app.pipeline.journal.store()?;
    let entry = app.pipeline.catalog.entry(call.model.as_deref())?;
    let version = entry.current()?;
    let labels = version.folder.labels().names();
    if !labels.contains(&call.label) {
        return Err(Error::malformed("label", format!("one of {}", labels.join(", "))));
    }
    let of = match (call.mail, call.request_id) {
        (Some(mail), None) => Of::Mail(digest("mail", &mail)?),
        (None, Some(request_id)) => Of::Request(request_id, call.item),
        _ => return Err(Error::malformed("body", "either mail or request_id")),
    };
    let said =
        store.feedback(&of, &entry.name, &call.label).await.map_err(|error| match error {
            StoreError::UnknownVerdict => Error::UnknownVerdict { model: entry.name.clone() },
            away => away.into(),
        })?;
    let agrees = said.predicted == call.label;
    entry.metrics.feedback(agrees);
    Ok(Json(FeedbackResponse {
        mail: Digest::from_bytes(said.mail).to_string(),
        model: entry.name.clone(),
        agrees,
        predicted: said.predicted,
        label: call.label,
        former: said.former,
    }))
}
