//! A running server, from the command line.

use std::time::Duration;

use axum::http::StatusCode;
use serde_json::Value;

use crate::error::Error;

/// Loading a large model may take a while.
const TIMEOUT: Duration = Duration::from_secs(300);

#[derive(Clone, Debug, clap::Args)]
pub(super) struct Server {
    /// A running server
    #[arg(
        long,
        env = "POSTSORT_SERVER",
        default_value = "http://127.0.0.1:8080",
        value_name = "URL"
    )]
    pub(super) server: String,
}

/// Calls a server; an error body's message becomes the error.
pub(super) fn call(server: &str, path: &str, body: Option<&Value>) -> Result<Value, Error> {
    let url = format!("{}{path}", server.trim_end_matches('/'));
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(TIMEOUT))
        .build()
        .into();
    let fails = |reason: String| Error::setup(url.clone(), reason);
    let response = match body {
        Some(body) => agent.post(&url).send_json(body),
        None => agent.get(&url).call(),
    };
    let mut response = response.map_err(|e| fails(e.to_string()))?;
    let status = response.status();
    let body: Value = response.body_mut().read_json().map_err(|e| fails(e.to_string()))?;
    if status.is_success() {
        return Ok(body);
    }
    Err(fails(refusal(status, &body)))
}

/// What a refusal's body says, or else its status.
pub(super) fn refusal(status: StatusCode, body: &Value) -> String {
    let message = body.pointer("/error/message").and_then(Value::as_str);
    message.map_or_else(|| status.to_string(), str::to_owned)
}
