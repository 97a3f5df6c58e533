//! The API described: `/openapi.json`, and a page to try it at `/docs`.

use axum::Router;
use utoipa::OpenApi;
use utoipa_swagger_ui::SwaggerUi;

use super::routes::Routes;
use super::{
    analyze, classify, feedback, health, history, metrics, models, oip, stats, stream, tei,
};

#[derive(OpenApi)]
#[openapi(
    info(title = "Postsort", description = "Inference server for the small models that read e-mail"),
    paths(
        analyze::analyze, classify::classify, stream::classify_stream, models::list, models::show, models::load, models::unload, models::pin,
        models::unpin, models::rescan, models::reload, models::promote, models::rollback,
        tei::predict, tei::predict_by, tei::info, oip::server, oip::metadata, oip::infer,
        oip::index, health::livez, health::readyz, health::health, metrics::metrics,
        metrics::summary, feedback::feedback, history::history, stats::stats,
    ),
    tags(
        (name = "classify", description = "Mail to labels"),
        (name = "models", description = "What there is and what is in memory"),
        (name = "history", description = "What was said, and whether it was right"),
        (name = "health", description = "For probes and scrapers"),
        (name = "compatible", description = "Text Embeddings Inference and Open Inference Protocol v2"),
    )
)]
struct Api;

pub(super) fn routes() -> Routes {
    let pages = SwaggerUi::new("/docs").url("/openapi.json", Api::openapi());
    let patterns = ["/docs", "/docs/", "/docs/{*rest}", "/openapi.json"];
    Routes::foreign(Router::new().merge(pages), &patterns)
}
