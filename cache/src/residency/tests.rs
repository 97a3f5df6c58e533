use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use std::sync::Arc;

use super::eviction::Popularity;
use super::{Backoff, Budget, ModelState, Needs, Residency, ResidencyError, Source, Spec};

/// Models whose name is their size in bytes, as `10-a`, or that and what they share, as `10+50x-a`
/// and `10+50x-b`; `bad` fails, `panic` panics.
#[derive(Default)]
struct Sizes {
    loads: AtomicU32,
    pause: Duration,
}

impl Spec for String {
    fn key(&self) -> &str {
        self
    }
}

fn spec(name: &str) -> Arc<String> {
    Arc::new(name.to_owned())
}

impl Source for Sizes {
    type Spec = String;
    type Model = String;
    type Error = String;

    fn estimate(&self, name: &String) -> Result<Needs, String> {
        let sizes = name.split('-').next().unwrap_or_default();
        let (own, part) =
            sizes.split_once('+').map_or((sizes, None), |(own, part)| (own, Some(part)));
        let shared = part.map(|part| {
            let size = part.trim_end_matches(char::is_alphabetic);
            (part.to_owned(), size.parse().expect("a size"))
        });
        let own_bytes = own.parse().map_err(|_| "no size".to_owned())?;
        Ok(Needs { device: 0, own_bytes, shared })
    }
    fn load(&self, name: &Arc<String>, _: usize) -> Result<(String, Needs), String> {
        self.loads.fetch_add(1, Ordering::SeqCst);
        std::thread::sleep(self.pause);
        assert!(!name.ends_with("panic"), "told to");
        if name.ends_with("bad") {
            return Err("bad file".to_owned());
        }
        let mut needs = self.estimate(name)?;
        if name.ends_with("grown") {
            needs.own_bytes *= 2;
        }
        if name.ends_with("unforeseen") {
            // Found only while loading.
            needs = Needs { device: 0, own_bytes: 1, shared: Some(("50x".to_owned(), 50)) };
        }
        Ok((name.to_string(), needs))
    }
    fn is_out_of_memory(&self, _: &String) -> bool {
        false
    }
    fn ran_out_of_memory(&self, _: usize, _: usize) {}
    fn panicked(&self, _: &String) -> String {
        "panicked".to_owned()
    }
    fn outgrew(&self, _: &String, bytes: u64) -> String {
        format!("takes {bytes}")
    }
}

fn residency(budget_bytes: u64) -> Residency<Sizes> {
    let backoff = Backoff { first: Duration::from_millis(40), max: Duration::from_secs(1) };
    Residency::new(
        Sizes { pause: Duration::from_millis(5), ..Sizes::default() },
        vec![Budget { device: "cpu".to_owned(), bytes: budget_bytes }],
        1,
        backoff,
    )
}

fn used(models: &Residency<Sizes>) -> u64 {
    models.usage()[0].0
}

#[tokio::test]
async fn first_requests_share_one_load() {
    let models = residency(100);
    let name = spec("10-a");
    let leases = tokio::join!(models.acquire(&name), models.acquire(&name), models.acquire(&name));
    assert_eq!(leases.0.expect("loads").as_str(), "10-a");
    assert!(leases.1.is_ok() && leases.2.is_ok());
    assert_eq!(models.source().loads.load(Ordering::SeqCst), 1);
    assert_eq!(used(&models), 10);
}

#[tokio::test]
async fn the_model_that_is_asked_for_least_makes_room() {
    let models = residency(30);
    for name in ["10-a", "10-b", "10-c"] {
        models.acquire(&spec(name)).await.expect("fits");
    }
    for _ in 0..3 {
        assert!(models.lease("10-a").is_some() && models.lease("10-c").is_some());
    }
    models.acquire(&spec("10-d")).await.expect("evicts b");
    let state = |name: &str| models.stats(name).state;
    assert_eq!(state("10-b"), ModelState::Unloaded);
    assert_eq!([state("10-a"), state("10-c"), state("10-d")], [ModelState::Ready; 3]);
    assert_eq!(models.stats("10-b").evictions, [1, 0, 0]);
    assert_eq!(used(&models), 30);
}

#[tokio::test]
async fn leased_and_pinned_models_stay() {
    let models = residency(20);
    let held = models.acquire(&spec("10-a")).await.expect("fits");
    models.acquire(&spec("10-b")).await.expect("fits");
    models.set_pinned("10-b", true);
    let error = models.acquire(&spec("15-c")).await.expect_err("no room");
    assert!(
        matches!(error, ResidencyError::NoRoom { needed_bytes: 15, free_bytes: 10 }),
        "{error:?}"
    );
    assert_eq!(used(&models), 20, "nothing was evicted in vain");
    drop(held);
    models.acquire(&spec("10-c")).await.expect("a is idle now");
    assert_eq!(models.stats("10-b").state, ModelState::Ready);
}

#[tokio::test]
async fn what_models_share_is_charged_once() {
    let models = residency(100);
    let first = models.acquire(&spec("10+50x-a")).await.expect("fits");
    assert_eq!(used(&models), 60);
    models.acquire(&spec("10+50x-b")).await.expect("only its own 10");
    assert_eq!(used(&models), 70);
    assert_eq!(models.stats("10+50x-a").resident_bytes, 35, "half of what two share");
    assert_eq!(models.stats("10+50x-b").shared_bytes, 25);
    assert!(models.unload("10+50x-b"));
    assert_eq!(used(&models), 60, "the other one has it still");
    assert!(models.unload("10+50x-a"));
    assert_eq!(used(&models), 60, "in use");
    // Its user has it still, so another may join in.
    models.acquire(&spec("10+50x-c")).await.expect("fits");
    assert_eq!(used(&models), 70);
    drop(first);
    assert_eq!(used(&models), 60);
    assert!(models.unload("10+50x-c"));
    assert_eq!(used(&models), 0);
}

#[tokio::test]
async fn what_models_share_is_free_when_the_last_goes() {
    let models = residency(100);
    for name in ["10+50x-a", "10+50x-b", "10+20y-c"] {
        models.acquire(&spec(name)).await.expect("fits");
    }
    assert_eq!(used(&models), 100);
    for _ in 0..9 {
        assert!(models.lease("10+20y-c").is_some(), "worth more than the others");
    }
    // Room for it is there only without both a and b.
    models.acquire(&spec("60-d")).await.expect("fits");
    let state = |name: &str| models.stats(name).state;
    assert_eq!([state("10+50x-a"), state("10+50x-b")], [ModelState::Unloaded; 2]);
    assert_eq!([state("10+20y-c"), state("60-d")], [ModelState::Ready; 2]);
    assert_eq!(used(&models), 90);
}

#[tokio::test]
async fn what_is_shared_with_the_pinned_needs_no_room() {
    let models = residency(70);
    models.acquire(&spec("10+50x-a")).await.expect("fits");
    models.set_pinned("10+50x-a", true);
    models.acquire(&spec("10+50x-b")).await.expect("its head fits");
    let error = models.acquire(&spec("11+50x-c")).await.expect_err("one too many");
    assert!(matches!(error, ResidencyError::NoRoom { .. }), "{error:?}");
    let error = models.acquire(&spec("20-d")).await.expect_err("no room");
    assert!(matches!(error, ResidencyError::NoRoom { free_bytes: 10, .. }), "{error:?}");
    assert_eq!(used(&models), 70);
}

#[tokio::test]
async fn a_part_found_while_loading_is_shared_too() {
    let models = residency(130);
    models.acquire(&spec("10+50x-a")).await.expect("fits");
    // Reserves 51, for it does not know yet.
    models.acquire(&spec("51-unforeseen")).await.expect("fits");
    assert_eq!(used(&models), 61);
    assert_eq!(models.stats("51-unforeseen").resident_bytes, 26);
}

#[tokio::test]
async fn larger_than_the_budget_evicts_nothing() {
    let models = residency(20);
    models.acquire(&spec("10-a")).await.expect("fits");
    let error = models.acquire(&spec("21-b")).await.expect_err("too large");
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
        let error = models.acquire(&spec("10-bad")).await.expect_err("bad");
        assert!(matches!(error, ResidencyError::Failed { .. }));
    }
    assert_eq!(models.source().loads.load(Ordering::SeqCst), 1, "answered from memory");
    assert_eq!(models.stats("10-bad").state, ModelState::Failed);
    assert_eq!(models.stats("10-bad").last_error.as_deref(), Some("bad file"));
    assert_eq!(used(&models), 0);
    tokio::time::sleep(Duration::from_millis(60)).await;
    assert!(models.acquire(&spec("10-bad")).await.is_err());
    assert_eq!(models.source().loads.load(Ordering::SeqCst), 2, "tried again after the back-off");
    assert!(models.acquire(&spec("10-a")).await.is_ok(), "others are untouched");
}

#[tokio::test]
async fn a_panic_while_loading_is_a_failed_load() {
    let models = residency(100);
    let error = models.acquire(&spec("10-panic")).await.expect_err("panics");
    assert!(
        matches!(error, ResidencyError::Failed { source_error, .. } if source_error == "panicked")
    );
    assert_eq!(used(&models), 0);
}

#[tokio::test]
async fn unload_waits_for_nobody_and_keeps_leases_valid() {
    let models = residency(100);
    let lease = models.acquire(&spec("10-a")).await.expect("fits");
    assert!(models.unload("10-a"));
    assert_eq!(models.stats("10-a").state, ModelState::Draining);
    assert_eq!(lease.as_str(), "10-a", "still usable");
    assert!(!models.unload("10-a"));
    assert_eq!(used(&models), 10, "its memory is not free yet");
    drop(lease);
    assert_eq!(used(&models), 0);
    models.acquire(&spec("10-a")).await.expect("loads again");
    assert_eq!(models.stats("10-a").loads, 2);
}

#[tokio::test]
async fn a_cancelled_request_does_not_stop_the_load() {
    let models = residency(100);
    let waited =
        tokio::time::timeout(Duration::from_millis(1), models.acquire(&spec("10-a"))).await;
    assert!(waited.is_err(), "cancelled");
    let lease = models.acquire(&spec("10-a")).await.expect("loaded");
    assert_eq!(lease.as_str(), "10-a");
    assert_eq!(models.source().loads.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_load_waits_until_a_model_in_use_falls_idle() {
    let models = residency(20);
    let held = models.acquire(&spec("20-a")).await.expect("fits");
    let (first, second) = (spec("10-b"), spec("10-c"));
    let waiting = async { tokio::join!(models.acquire(&first), models.acquire(&second)) };
    tokio::pin!(waiting);
    let early = tokio::time::timeout(Duration::from_millis(30), &mut waiting).await;
    assert!(early.is_err(), "nothing is taken from a request that runs");
    assert_eq!(models.stats("10-b").state, ModelState::Loading);
    assert_eq!(used(&models), 20, "who waits has reserved nothing");
    drop(held);
    let (first, second) = waiting.await;
    assert!(first.is_ok() && second.is_ok());
    assert_eq!(models.stats("20-a").evictions, [1, 0, 0]);
}

#[tokio::test]
async fn the_room_of_an_unloaded_model_is_there_when_its_last_request_ends() {
    let models = Arc::new(residency(20));
    for _ in 0..200 {
        let held = models.acquire(&spec("20-a")).await.expect("fits");
        models.unload("20-a");
        let waiting = Arc::clone(&models);
        let waiting = tokio::spawn(async move { waiting.acquire(&spec("20-b")).await.is_ok() });
        tokio::task::yield_now().await;
        std::thread::spawn(move || drop(held));
        let done = tokio::time::timeout(Duration::from_secs(5), waiting).await;
        assert!(done.expect("not forgotten").expect("runs"));
        models.unload("20-b");
    }
}

#[tokio::test]
async fn what_comes_out_larger_than_its_estimate_never_breaks_the_budget() {
    let models = residency(30);
    models.acquire(&spec("10-a")).await.expect("fits");
    models.acquire(&spec("15-grown")).await.expect("evicts a for what it takes more");
    assert_eq!((used(&models), models.stats("10-a").state), (30, ModelState::Unloaded));
    let error = models.acquire(&spec("20-grown")).await.expect_err("40 of 30 bytes");
    assert!(
        matches!(&error, ResidencyError::Failed { source_error, .. } if source_error == "takes 40"),
        "{error:?}"
    );
    assert!(used(&models) <= 30);
}

#[tokio::test]
async fn a_retired_model_is_drained_and_never_leased_again() {
    let models = residency(100);
    let lease = models.acquire(&spec("10-a")).await.expect("fits");
    models.set_pinned("10-a", true);
    assert!(models.retire("10-a").pinned, "it was pinned");
    let stats = models.stats("10-a");
    assert_eq!((stats.state, stats.leases), (ModelState::Draining, 1));
    let error = models.acquire(&spec("10-a")).await.expect_err("retired");
    assert!(matches!(error, ResidencyError::Retired));
    assert_eq!(lease.as_str(), "10-a", "requests that began finish on it");
    drop(lease);
    assert_eq!((models.stats("10-a").state, used(&models)), (ModelState::Unloaded, 0));

    let (slow, patience) = (spec("10-b"), Duration::from_millis(1));
    assert!(tokio::time::timeout(patience, models.acquire(&slow)).await.is_err());
    models.retire("10-b");
    assert!(models.acquire(&slow).await.is_err(), "retired while it was loading");
    tokio::time::sleep(Duration::from_millis(40)).await;
    assert_eq!(used(&models), 0, "what was loaded in vain is gone");
    models.revive("10-b");
    assert!(models.acquire(&slow).await.is_ok(), "taken back");
}

#[tokio::test]
async fn idle_models_go_after_their_time_and_pinned_or_used_ones_stay() {
    let models = residency(100);
    for name in ["10-a", "10-b", "10-c"] {
        models.acquire(&spec(name)).await.expect("fits");
    }
    models.set_pinned("10-b", true);
    let _held = models.lease("10-c");
    models.evict_unused(Duration::from_secs(60));
    assert_eq!(used(&models), 30, "none is that old");
    tokio::time::sleep(Duration::from_millis(20)).await;
    models.evict_unused(Duration::from_millis(10));
    assert_eq!(used(&models), 20);
    assert_eq!(models.stats("10-a").evictions, [0, 1, 0]);
}

/// Requests by Zipf's law over models of mixed sizes, those asked for changing half-way: seconds
/// that loads take under each way of choosing what to evict.
fn replayed(seed: u64, exponent: f64, by_worth: bool) -> f64 {
    const MODELS: usize = 50;
    // From a BERT-tiny to a RoBERTa-base; loading takes a part that is the same for all.
    let bytes = |model: usize| [5_u64, 25, 25, 25, 70, 130][model % 6] << 20;
    let load = |model: usize| Duration::from_millis(60 + 8 * (bytes(model) >> 20));
    let budget = 8 * (25 << 20);
    let mut random = seed;
    let mut next = move || {
        random =
            random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 11) as f64 / (1_u64 << 53) as f64
    };
    let weights: Vec<f64> = (1..=MODELS).map(|rank| (rank as f64).powf(-exponent)).collect();
    let total: f64 = weights.iter().sum();
    let mut resident: Vec<(usize, u64)> = Vec::new();
    let (mut popularity, mut seconds) = ([Popularity::default(); MODELS], 0.0);
    for now in 0..20_000_u64 {
        let (mut at, mut left) = (0, next() * total);
        while at + 1 < MODELS && left > weights[at] {
            left -= weights[at];
            at += 1;
        }
        // Ranks have nothing to do with sizes, and change.
        let model = (at * 17 + if now < 10_000 { 0 } else { 23 }) % MODELS;
        popularity[model].count(now, MODELS);
        if let Some(known) = resident.iter_mut().find(|(known, _)| *known == model) {
            known.1 = now;
            continue;
        }
        seconds += load(model).as_secs_f64();
        while resident.iter().map(|(model, _)| bytes(*model)).sum::<u64>() + bytes(model) > budget {
            let worth =
                |model: usize| popularity[model].worth(now, MODELS, bytes(model), load(model));
            let least = |a: &&(usize, u64), b: &&(usize, u64)| {
                if by_worth { worth(a.0).total_cmp(&worth(b.0)) } else { a.1.cmp(&b.1) }
            };
            let (victim, _) = *resident.iter().min_by(least).expect("something is resident");
            resident.retain(|(model, _)| *model != victim);
        }
        resident.push((model, now));
    }
    seconds
}

#[test]
fn eviction_by_worth_loads_less_than_least_recently_used() {
    for (exponent, at_most) in [(0.7, 0.98), (1.0, 0.95), (1.3, 0.92)] {
        let (mut worth, mut recent) = (0.0, 0.0);
        for seed in 1..=5 {
            worth += replayed(seed, exponent, true);
            recent += replayed(seed, exponent, false);
        }
        println!("Zipf {exponent}: {worth:.0} s by worth, {recent:.0} s by recency");
        assert!(worth < at_most * recent, "Zipf {exponent}: {worth:.0} s, {recent:.0} s");
    }
}

/// Each load needs the room of the one before it: none may be evicted before it was of use.
#[tokio::test]
async fn what_was_loaded_reaches_those_who_waited_for_it() {
    let models = Arc::new(residency(10));
    let tasks: Vec<_> = (0..12)
        .map(|n| {
            let models = Arc::clone(&models);
            tokio::spawn(async move { models.acquire(&spec(&format!("10-{n}"))).await.is_ok() })
        })
        .collect();
    for task in tasks {
        assert!(task.await.expect("runs"));
    }
    assert_eq!(models.source().loads.load(Ordering::SeqCst), 12, "once each");
}
