//! A server's life: bind, preload, serve, drain.

use std::future::{Future, IntoFuture};
use std::sync::Arc;
use std::time::Duration;

use axum::serve::ListenerExt;
use postsort_cache::SharedCache;
use postsort_store::Store;
use tokio::net::TcpListener;
use tower::make::Shared;

use crate::config::Config;
use crate::error::Error;
use crate::http::{App, router};
use crate::memory::MemoryReading;
use crate::pipeline::Pipeline;
use crate::telemetry::{SharedMetrics, StoreMetrics};
use crate::unix_socket;

/// How often the objectives' figures are written down.
const OBJECTIVES_PERIOD: Duration = Duration::from_secs(60);
/// How long what waits may take to be written when the server ends.
const STORE_CLOSE: Duration = Duration::from_secs(5);

/// Serves on `listener`, and on the socket of the settings, until `shutdown` ends; then lets requests finish, for as long as the
/// settings say.
///
/// # Errors
/// The settings cannot be met: a models folder that cannot be read, an unknown default model.
pub async fn run(
    listener: TcpListener,
    config: &Config,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Error> {
    let unix = config.listen_unix.as_deref().map(unix_socket::listen).transpose()?;
    let pipeline = Arc::new(Pipeline::new(config)?);
    let observer = Arc::new(StoreMetrics::new(Arc::clone(&pipeline.metrics)));
    if let Some(store) = Store::start(config.store.clone(), observer) {
        pipeline.journal.open(store);
    }
    if let Some(settings) = config.shared_cache.clone() {
        let observer = Arc::new(SharedMetrics::new(&pipeline.metrics));
        pipeline.shared.open(SharedCache::start(settings, observer));
    }
    let app = App::new(Arc::clone(&pipeline), config)?;
    let keeping = tokio::spawn(keep(Arc::clone(&pipeline)));
    let preload = tokio::spawn(preload(Arc::clone(&app), config.preload.clone()));
    let models = tokio::spawn(tend_models(Arc::clone(&pipeline), config.watch, config.idle_unload));

    let (draining, drained) = (Arc::clone(&app.life), config.drain_timeout);
    let (signal, signalled) = tokio::sync::watch::channel(false);
    let shutdown = async move {
        shutdown.await;
        draining.set_draining();
        tracing::info!("draining");
        let _ = signal.send(true);
    };
    let told = move || {
        let mut signalled = signalled.clone();
        async move { drop(signalled.wait_for(|&draining| draining).await) }
    };
    // Small answers must not wait for more to come (Nagle's algorithm).
    let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
    let service = Shared::new(router(app));
    let tcp = axum::serve(listener, service.clone()).with_graceful_shutdown(told());
    let unix = async {
        let Some((listener, _file)) = unix else { return Ok(()) };
        axum::serve(listener, service).with_graceful_shutdown(told()).await
    };
    let serving = async { tokio::try_join!(tcp.into_future(), unix) };
    let overdue = async {
        shutdown.await;
        tokio::time::sleep(drained).await;
    };
    tokio::select! {
        served = serving => drop(served.map_err(|e| Error::setup("serving", e))?),
        () = overdue => tracing::warn!("requests were cut off: the drain timeout passed"),
    }
    preload.abort();
    models.abort();
    keeping.abort();
    if let Ok(store) = pipeline.journal.store() {
        store.close(STORE_CLOSE).await;
    }
    Ok(())
}

/// Takes answers of the last run into memory, then writes down the objectives' figures.
async fn keep(pipeline: Arc<Pipeline>) {
    let Ok(store) = pipeline.journal.store() else { return };
    store.opened().await;
    match pipeline.warm().await {
        Ok(answers) => tracing::info!(answers, "answers of the last run are in memory"),
        Err(error) => tracing::warn!(%error, "answers of the last run could not be read"),
    }
    let mut ticks = tokio::time::interval(OBJECTIVES_PERIOD);
    loop {
        ticks.tick().await;
        let memory = MemoryReading::take();
        pipeline.journal.objectives(&pipeline.slo.verdicts(memory.process_share()));
    }
}

/// Looks at the models folder, and drops models that nobody asks for.
async fn tend_models(pipeline: Arc<Pipeline>, watch: Option<Duration>, idle: Option<Duration>) {
    let watching = async {
        while let Some(period) = watch {
            tokio::time::sleep(period).await;
            pipeline.catalog.look().await;
        }
    };
    let unloading = async {
        while let Some(idle) = idle {
            // It goes a tenth of its time late at most.
            tokio::time::sleep(idle / 10).await;
            pipeline.catalog.evict_unused(idle);
        }
    };
    tokio::join!(watching, unloading);
}

/// Those that the settings name and those that manifests pin. A model that fails to load is logged
/// and shown by `/health`; the others are served.
async fn preload(app: Arc<App>, mut names: Vec<String>) {
    let catalog = &app.pipeline.catalog;
    names.extend(catalog.pinned_by_manifest());
    for name in names {
        let loaded = match catalog.entry(Some(&name)) {
            Ok(entry) => catalog.load(&entry).await.map(drop),
            Err(error) => Err(error),
        };
        if let Err(error) = loaded {
            tracing::error!(model = name, %error, "preload failed");
        }
    }
    app.life.set_preloaded();
}
