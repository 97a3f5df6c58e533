//! Routes, and what each is called in metrics: its pattern, which a client cannot make up.

use std::sync::Arc;

use axum::Router;
use axum::routing::MethodRouter;

use super::App;

/// Routes with their patterns.
#[derive(Debug, Default)]
pub(super) struct Routes {
    pub(super) router: Router<Arc<App>>,
    patterns: Vec<&'static str>,
}

/// The pattern of a path.
#[derive(Clone, Debug, Default)]
pub(super) struct Patterns(Arc<matchit::Router<&'static str>>);

impl Routes {
    pub(super) fn route(mut self, pattern: &'static str, handler: MethodRouter<Arc<App>>) -> Self {
        self.router = self.router.route(pattern, handler);
        self.patterns.push(pattern);
        self
    }

    /// Those of a router that somebody else has made.
    pub(super) fn foreign(router: Router<Arc<App>>, patterns: &[&'static str]) -> Self {
        Self { router, patterns: patterns.to_vec() }
    }

    pub(super) fn merge(mut self, other: Self) -> Self {
        self.router = self.router.merge(other.router);
        self.patterns.extend(other.patterns);
        self
    }

    /// The same routes otherwise.
    pub(super) fn with(
        mut self,
        change: impl FnOnce(Router<Arc<App>>) -> Router<Arc<App>>,
    ) -> Self {
        self.router = change(self.router);
        self
    }

    pub(super) fn patterns(&self) -> Patterns {
        let mut known = matchit::Router::new();
        for pattern in &self.patterns {
            // The router has taken each already, by the same rules.
            let _ = known.insert(*pattern, *pattern);
        }
        Patterns(Arc::new(known))
    }
}

impl Patterns {
    /// Of a path that no route has: `unknown`.
    pub(super) fn of(&self, path: &str) -> &'static str {
        self.0.at(path).map_or("unknown", |found| *found.value)
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;

    use super::Routes;

    #[test]
    fn a_path_has_its_routes_pattern() {
        let routes = Routes::default().route("/v2/models/{model}", get(|| async {}));
        let routes = routes.merge(Routes::default().route("/v2", get(|| async {})));
        let patterns = routes.merge(super::super::openapi::routes()).patterns();
        for (path, pattern) in [
            ("/v2", "/v2"),
            ("/v2/models/spam", "/v2/models/{model}"),
            ("/v2/models/%20", "/v2/models/{model}"),
            ("/v2/models/spam/more", "unknown"),
            ("/docs/index.html", "/docs/{*rest}"),
            ("/openapi.json", "/openapi.json"),
            ("/", "unknown"),
            ("", "unknown"),
        ] {
            assert_eq!(patterns.of(path), pattern, "{path}");
        }
    }
}
