//! Log output: for a person on a terminal, JSON lines elsewhere.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Logs to standard error, filtered by `POSTSORT_LOG` (`info` unless set). `POSTSORT_LOG_FORMAT`
/// is `json` or `pretty`; unless set, a terminal gets the latter. A second call does nothing.
pub fn init_logs() {
    let filter = EnvFilter::try_from_env("POSTSORT_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let pretty = match std::env::var("POSTSORT_LOG_FORMAT").as_deref() {
        Ok("pretty") => true,
        Ok("json") => false,
        _ => std::io::stderr().is_terminal(),
    };
    // An error means that a subscriber is there already, which is as good.
    let _ = if pretty {
        logs.with_target(false).try_init()
    } else {
        logs.json().flatten_event(true).try_init()
    };
}
