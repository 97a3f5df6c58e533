//! `postsort serve`.

use std::net::SocketAddr;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::{Settings, runtime};
use crate::error::Error;
use crate::telemetry::init_logs;

#[derive(Debug, Default, clap::Args)]
pub(super) struct Serve {
    #[command(flatten)]
    settings: Settings,
}

impl Serve {
    pub(super) fn run(self) -> Result<(), Error> {
        init_logs();
        let config = self.settings.resolve()?;
        runtime()?.block_on(async {
            let listener = TcpListener::bind(config.listen)
                .await
                .map_err(|e| Error::setup(format!("listening on {}", config.listen), e))?;
            let address = listener.local_addr().map_err(|e| Error::setup("listening", e))?;
            greet(address, &config.models_dir.display().to_string());
            crate::serve::run(listener, &config, interrupted()?).await
        })
    }
}

/// Ends at SIGTERM or SIGINT.
fn interrupted() -> Result<impl Future<Output = ()>, Error> {
    let listen = |kind| signal(kind).map_err(|e| Error::setup("signal handler", e));
    let (mut terminate, mut interrupt) =
        (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

fn greet(address: SocketAddr, models_dir: &str) {
    eprintln!(
        "postsort {} serves {models_dir} on http://{address}\n\n\
         Try:  curl -s http://{address}/v1/classify -H 'content-type: application/json' \\\n        \
         -d '{{\"inputs\": \"are we still on for lunch on Thursday?\"}}'\n\
         Then: http://{address}/docs   /v1/models   /health   /metrics\n",
        env!("CARGO_PKG_VERSION"),
    );
}
