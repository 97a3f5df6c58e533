use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::{Backoff, ModelState, Residency, ResidencyError, Source};

/// Models whose name is their size in bytes; `bad` fails, `panic` panics.
#[derive(Default)]
struct Sizes {
    loads: AtomicU32,
    pause: Duration,
}

impl Source for Sizes {
    type Model = String;
    type Error = String;

    fn estimate_bytes(&self, name: &str) -> Result<u64, String> {
        name.split('-')
            .next()
            .and_then(|size| size.parse().ok())
            .ok_or_else(|| "no size".to_owned())
    }
    fn load(&self, name: &str) -> Result<(String, u64), String> {
        self.loads.fetch_add(1, Ordering::SeqCst);
        std::thread::sleep(self.pause);
        assert!(!name.ends_with("panic"), "told to");
        if name.ends_with("bad") {
            return Err("bad file".to_owned());
        }
        Ok((name.to_owned(), self.estimate_bytes(name)?))
    }
    fn panicked(&self, _: &str) -> String {
        "panicked".to_owned()
    }
}

fn residency(budget_bytes: u64) -> Residency<Sizes> {
    let backoff = Backoff { first: Duration::from_millis(40), max: Duration::from_secs(1) };
    Residency::new(
        Sizes { pause: Duration::from_millis(5), ..Sizes::default() },
        budget_bytes,
        backoff,
    )
}

#[tokio::test]
async fn first_requests_share_one_load() {
    let models = residency(100);
    let leases =
        tokio::join!(models.acquire("10-a"), models.acquire("10-a"), models.acquire("10-a"));
    assert_eq!(leases.0.expect("loads").as_str(), "10-a");
    assert!(leases.1.is_ok() && leases.2.is_ok());
    assert_eq!(models.source().loads.load(Ordering::SeqCst), 1);
    assert_eq!(models.used_bytes(), 10);
}

#[tokio::test]
async fn the_least_recently_used_idle_model_makes_room() {
    let models = residency(30);
    for name in ["10-a", "10-b", "10-c"] {
        models.acquire(name).await.expect("fits");
    }
    assert!(models.lease("10-a").is_some(), "touch a, so b is the oldest");
    models.acquire("10-d").await.expect("evicts b");
    let state = |name: &str| models.stats(name).state;
    assert_eq!(state("10-b"), ModelState::Unloaded);
    assert_eq!([state("10-a"), state("10-c"), state("10-d")], [ModelState::Ready; 3]);
    assert_eq!(models.stats("10-b").evictions, 1);
    assert_eq!(models.used_bytes(), 30);
}

#[tokio::test]
async fn leased_and_pinned_models_stay() {
    let models = residency(20);
    let held = models.acquire("10-a").await.expect("fits");
    models.acquire("10-b").await.expect("fits");
    models.set_pinned("10-b", true);
    let error = models.acquire("15-c").await.expect_err("no room");
    assert!(
        matches!(error, ResidencyError::NoRoom { needed_bytes: 15, free_bytes: 0 }),
        "{error:?}"
    );
    assert_eq!(models.used_bytes(), 20, "nothing was evicted in vain");
    drop(held);
    models.acquire("10-c").await.expect("a is idle now");
    assert_eq!(models.stats("10-b").state, ModelState::Ready);
}

#[tokio::test]
async fn larger_than_the_budget_evicts_nothing() {
    let models = residency(20);
    models.acquire("10-a").await.expect("fits");
    let error = models.acquire("21-b").await.expect_err("too large");
    assert!(
        matches!(error, ResidencyError::LargerThanBudget { needed_bytes: 21, budget_bytes: 20 }),
        "{error:?}"
    );
    assert_eq!(models.stats("10-a").state, ModelState::Ready);
}

#[tokio::test]
async fn a_failure_is_remembered_and_frees_its_reservation() {
    let models = residency(100);
    for _ in 0..3 {
        let error = models.acquire("10-bad").await.expect_err("bad");
        assert!(matches!(error, ResidencyError::Failed { .. }));
    }
    assert_eq!(models.source().loads.load(Ordering::SeqCst), 1, "answered from memory");
    assert_eq!(models.stats("10-bad").state, ModelState::Failed);
    assert_eq!(models.stats("10-bad").last_error.as_deref(), Some("bad file"));
    assert_eq!(models.used_bytes(), 0);
    tokio::time::sleep(Duration::from_millis(60)).await;
    assert!(models.acquire("10-bad").await.is_err());
    assert_eq!(models.source().loads.load(Ordering::SeqCst), 2, "tried again after the back-off");
    assert!(models.acquire("10-a").await.is_ok(), "others are untouched");
}

#[tokio::test]
async fn a_panic_while_loading_is_a_failed_load() {
    let models = residency(100);
    let error = models.acquire("10-panic").await.expect_err("panics");
    assert!(
        matches!(error, ResidencyError::Failed { source_error, .. } if source_error == "panicked")
    );
    assert_eq!(models.used_bytes(), 0);
}

#[tokio::test]
async fn unload_waits_for_nobody_and_keeps_leases_valid() {
    let models = residency(100);
    let lease = models.acquire("10-a").await.expect("fits");
    assert!(models.unload("10-a"));
    assert_eq!(models.stats("10-a").state, ModelState::Unloaded);
    assert_eq!(lease.as_str(), "10-a", "still usable");
    assert!(!models.unload("10-a"));
    assert_eq!(models.used_bytes(), 10, "its memory is not free yet");
    drop(lease);
    assert_eq!(models.used_bytes(), 0);
    models.acquire("10-a").await.expect("loads again");
    assert_eq!(models.stats("10-a").loads, 2);
}

#[tokio::test]
async fn a_cancelled_request_does_not_stop_the_load() {
    let models = residency(100);
    let waited = tokio::time::timeout(Duration::from_millis(1), models.acquire("10-a")).await;
    assert!(waited.is_err(), "cancelled");
    let lease = models.acquire("10-a").await.expect("loaded");
    assert_eq!(lease.as_str(), "10-a");
    assert_eq!(models.source().loads.load(Ordering::SeqCst), 1);
}
