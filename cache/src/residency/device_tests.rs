//! Two devices: the first is sound, the second runs out of memory on cue.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::{Backoff, Budget, ModelState, Needs, Residency, ResidencyError, Source, Spec};

/// A device and bytes there.
#[derive(Debug)]
struct Sized {
    name: &'static str,
    device: usize,
    bytes: u64,
}

impl Spec for Sized {
    fn key(&self) -> &str {
        self.name
    }
}

/// Of the second device's memory somebody else has a part, which no budget knows.
#[derive(Default)]
struct Shared {
    taken_bytes: Mutex<u64>,
    loaded: Arc<Mutex<u64>>,
    told: Mutex<Vec<(usize, usize)>>,
}

const MEMORY_BYTES: u64 = 100;
/// Of every model.
const LOAD: Duration = Duration::from_millis(5);

/// Takes memory for as long as it lives.
#[derive(Debug)]
struct Loaded(u64, Arc<Mutex<u64>>);

impl Drop for Loaded {
    fn drop(&mut self) {
        *self.1.lock() -= self.0;
    }
}

impl Source for Shared {
    type Spec = Sized;
    type Model = Option<Loaded>;
    type Error = &'static str;

    fn estimate(&self, model: &Sized) -> Result<Needs, Self::Error> {
        Ok(Needs { device: model.device, own_bytes: model.bytes, shared: None })
    }
    fn load(&self, model: &Arc<Sized>, device: usize) -> Result<(Self::Model, Needs), Self::Error> {
        // What a model is worth follows how long its load took, which must not be chance.
        std::thread::sleep(LOAD);
        let needs = self.estimate(model)?;
        if device == 0 {
            return Ok((None, needs));
        }
        let mut loaded = self.loaded.lock();
        if *loaded + *self.taken_bytes.lock() + model.bytes > MEMORY_BYTES {
            return Err("out of memory");
        }
        *loaded += model.bytes;
        Ok((Some(Loaded(model.bytes, Arc::clone(&self.loaded))), needs))
    }
    fn is_out_of_memory(&self, error: &Self::Error) -> bool {
        *error == "out of memory"
    }
    fn ran_out_of_memory(&self, device: usize, evicted: usize) {
        self.told.lock().push((device, evicted));
    }
    fn panicked(&self, _: &Sized) -> Self::Error {
        "panicked"
    }
    fn outgrew(&self, _: &Sized, _: u64) -> Self::Error {
        "outgrew"
    }
}

fn residency() -> Residency<Shared> {
    let budget = |device: &str| Budget { device: device.to_owned(), bytes: MEMORY_BYTES };
    let budgets = vec![budget("cpu"), budget("gpu")];
    Residency::new(Shared::default(), budgets, 1, Backoff::default())
}

fn model(name: &'static str, device: usize, bytes: u64) -> Arc<Sized> {
    Arc::new(Sized { name, device, bytes })
}

fn used(models: &Residency<Shared>) -> [u64; 2] {
    let usage = models.usage();
    [usage[0].0, usage[1].0]
}

#[tokio::test]
async fn budgets_are_kept_apart() {
    let models = residency();
    for (name, device) in [("a", 0), ("b", 0), ("c", 1), ("d", 1)] {
        models.acquire(&model(name, device, 50)).await.expect("fits");
    }
    assert_eq!(used(&models), [100, 100]);
    models.acquire(&model("e", 1, 60)).await.expect("evicts c and d");
    let state = |name: &str| models.stats(name).state;
    assert_eq!([state("a"), state("b"), state("e")], [ModelState::Ready; 3]);
    assert_eq!([state("c"), state("d")], [ModelState::Unloaded; 2]);
    assert_eq!((used(&models), models.stats("e").device), ([100, 60], Some(1)));
    models.set_pinned("e", true);
    let error = models.acquire(&model("f", 1, 50)).await.expect_err("the pinned one is in the way");
    assert!(matches!(error, ResidencyError::NoRoom { free_bytes: 40, .. }), "{error:?}");
    models.acquire(&model("g", 0, 100)).await.expect("what is pinned elsewhere is not in the way");
    assert_eq!(used(&models), [100, 60]);
    assert_eq!(models.source().told.lock().as_slice(), [], "budgets held");
}

#[tokio::test]
async fn a_load_without_memory_evicts_the_idle_that_are_worth_least_and_is_tried_again() {
    let models = residency();
    for (name, device) in [("a", 0), ("b", 1), ("c", 1), ("d", 1)] {
        models.acquire(&model(name, device, 20)).await.expect("fits");
    }
    for _ in 0..3 {
        assert!(models.lease("b").is_some() && models.lease("d").is_some(), "worth more than c");
    }
    *models.source().taken_bytes.lock() = 40;
    models.acquire(&model("e", 1, 15)).await.expect("loads when c is gone");
    let state = |name: &str| models.stats(name).state;
    assert_eq!([state("a"), state("b"), state("d")], [ModelState::Ready; 3], "the others stay");
    assert_eq!(models.stats("c").evictions, [0, 0, 1]);
    assert_eq!((used(&models), *models.source().loaded.lock()), ([20, 55], 55));
    assert_eq!(models.source().told.lock().as_slice(), [(1, 1)]);
}

#[tokio::test]
async fn a_load_without_memory_fails_when_nothing_idle_is_left() {
    let models = residency();
    let held = models.acquire(&model("held", 1, 20)).await.expect("fits");
    models.acquire(&model("idle", 1, 20)).await.expect("fits");
    models.acquire(&model("elsewhere", 0, 20)).await.expect("fits");
    *models.source().taken_bytes.lock() = 70;
    let error = models.acquire(&model("late", 1, 20)).await.expect_err("no memory");
    assert!(
        matches!(error, ResidencyError::Failed { source_error: "out of memory", .. }),
        "{error:?}"
    );
    assert_eq!(models.source().told.lock().as_slice(), [(1, 1), (1, 0)]);
    assert_eq!(used(&models), [20, 20], "what it had reserved is free");
    let state = |name: &str| models.stats(name).state;
    assert_eq!([state("held"), state("elsewhere")], [ModelState::Ready; 2]);
    assert_eq!([state("idle"), state("late")], [ModelState::Unloaded, ModelState::Failed]);
    drop(held);
}

#[tokio::test]
async fn a_computation_without_memory_evicts_one_idle_model_at_a_time() {
    let models = residency();
    let held = models.acquire(&model("held", 1, 20)).await.expect("fits");
    for name in ["a", "b"] {
        models.acquire(&model(name, 1, 20)).await.expect("fits");
    }
    models.set_pinned("b", true);
    models.acquire(&model("elsewhere", 0, 20)).await.expect("fits");
    assert!(models.evict_least_worth(1), "a");
    assert!(!models.evict_least_worth(1), "one is in use, one pinned, one elsewhere");
    assert_eq!((used(&models), *models.source().loaded.lock()), ([20, 40], 40));
    assert!(models.evict_least_worth(0));
    drop(held);
}
