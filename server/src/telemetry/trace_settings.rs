//! What can be set about traces and request logs.

use std::time::Duration;

use serde::Deserialize;

use crate::error::Error;

/// Settings of traces.
#[derive(Clone, Debug, Default, Deserialize, clap::Args)]
#[serde(default, deny_unknown_fields)]
pub struct TraceOptions {
    /// Collector of traces, OTLP over HTTP as JSON, such as http://127.0.0.1:4318 [default: none]
    #[arg(long = "otlp-endpoint", env = "POSTSORT_OTLP_ENDPOINT", value_name = "URL")]
    pub endpoint: Option<String>,
    /// Share of requests that are traced, 0–1; slow, failed and callers' sampled ones always are [default: 0.01]
    #[arg(long = "trace-share", env = "POSTSORT_TRACE_SHARE", value_name = "SHARE")]
    pub share: Option<f64>,
    /// Requests that take this long are logged with their stages, in milliseconds [default: 1000]
    #[arg(long = "slow-request-ms", env = "POSTSORT_SLOW_REQUEST_MS", value_name = "MS")]
    pub slow_request_ms: Option<u64>,
}

/// Validated settings of traces.
#[derive(Clone, Debug)]
pub struct TraceSettings {
    /// The collector.
    pub endpoint: Option<String>,
    /// Share of requests that are traced.
    pub share: f64,
    /// From when on a request is slow.
    pub slow_request: Duration,
}

impl TraceOptions {
    /// What is given here, else what is given there.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            endpoint: self.endpoint.or(other.endpoint),
            share: self.share.or(other.share),
            slow_request_ms: self.slow_request_ms.or(other.slow_request_ms),
        }
    }

    /// Validates and fills in the defaults.
    ///
    /// # Errors
    /// Names the setting that makes no sense.
    pub fn resolve(self) -> Result<TraceSettings, Error> {
        let wrong =
            |name: &str, reason: &str| Error::setup(format!("setting traces.{name}"), reason);
        if self.endpoint.as_ref().is_some_and(|url| !url.starts_with("http://")) {
            return Err(wrong("endpoint", "must begin with http://"));
        }
        let share = self.share.unwrap_or(0.01);
        if !(0.0..=1.0).contains(&share) {
            return Err(wrong("share", "must be a share, 0 to 1"));
        }
        let slow_request = Duration::from_millis(self.slow_request_ms.unwrap_or(1_000));
        Ok(TraceSettings { endpoint: self.endpoint, share, slow_request })
    }
}

#[cfg(test)]
mod tests {
    use super::TraceOptions;

    #[test]
    fn settings_are_checked() {
        let default = TraceOptions::default().resolve().expect("valid");
        assert!(default.endpoint.is_none());
        let options =
            TraceOptions { endpoint: Some("https://x".into()), ..TraceOptions::default() };
        assert!(options.resolve().is_err());
        assert!(TraceOptions { share: Some(2.0), ..TraceOptions::default() }.resolve().is_err());
    }
}
