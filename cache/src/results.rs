//! Memoized answers with single flight.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::Digest;

/// Bytes that a value holds beyond its own size.
pub trait Weigh {
    /// Heap bytes owned by the value.
    fn heap_bytes(&self) -> usize;
}

/// What the cache knows about a key at the moment of asking.
pub enum Claim<V> {
    /// The answer is known.
    Hit(Arc<V>),
    /// Somebody is computing it: await the receiver. If it yields an error the computation was
    /// given up, and the caller claims again.
    Wait(oneshot::Receiver<Arc<V>>),
    /// The caller computes it and hands it to the [`Lead`].
    Lead(Lead<V>),
}

/// The duty to compute one key. Dropped without [`Lead::fulfil`], it releases those who wait, and
/// the first of them to ask again takes over.
pub struct Lead<V> {
    flights: Arc<Flights<V>>,
    key: Digest,
    fulfilled: bool,
}

/// Counts since the start, and the present size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResultStats {
    /// Entries held.
    pub entries: u64,
    /// Bytes held, keys and book-keeping included.
    pub bytes: u64,
    /// The most bytes it may hold.
    pub bytes_max: u64,
    /// Entries dropped to stay within `bytes_max`.
    pub evictions: u64,
}

/// Answers by digest, bounded in bytes.
pub struct ResultCache<V> {
    flights: Arc<Flights<V>>,
    bytes_max: u64,
}

struct Flights<V> {
    kept: moka::sync::Cache<Digest, Arc<V>, BuildHasherDefault<DigestHasher>>,
    waiting: Mutex<Waiting<V>>,
    evictions: Arc<AtomicU64>,
}

/// Computations under way, by key.
type Waiting<V> = HashMap<Digest, Flight<V>, BuildHasherDefault<DigestHasher>>;

/// One computation, or several of growing urgency: the first to end answers all.
struct Flight<V> {
    urgency: u8,
    waiters: Vec<oneshot::Sender<Arc<V>>>,
}

/// A digest is already uniform: its low half is the hash.
#[derive(Clone, Copy, Debug, Default)]
struct DigestHasher(u64);

impl std::hash::Hasher for DigestHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0_u8; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.0 ^= u64::from_le_bytes(word);
        }
    }
    fn write_u128(&mut self, value: u128) {
        #[expect(clippy::cast_possible_truncation, reason = "the low half is wanted")]
        let low = value as u64;
        self.0 = low;
    }
}

/// Key, `Arc`, and moka's own entry, measured as resident bytes an entry of a full cache.
const ENTRY_OVERHEAD_BYTES: usize = 192;

impl<V: Weigh + Send + Sync + 'static> ResultCache<V> {
    /// A cache of at most `bytes_max` bytes; zero keeps nothing, but single flight still works.
    #[must_use]
    pub fn new(bytes_max: u64) -> Self {
        let evictions = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&evictions);
        let kept = moka::sync::Cache::builder()
            .max_capacity(bytes_max)
            .weigher(|_, value: &Arc<V>| {
                let bytes = ENTRY_OVERHEAD_BYTES + size_of::<V>() + value.heap_bytes();
                u32::try_from(bytes).unwrap_or(u32::MAX)
            })
            .eviction_listener(move |_, _, cause| {
                if cause == moka::notification::RemovalCause::Size {
                    counted.fetch_add(1, Ordering::Relaxed);
                }
            })
            .build_with_hasher(BuildHasherDefault::default());
        let waiting = Mutex::new(HashMap::default());
        Self { flights: Arc::new(Flights { kept, waiting, evictions }), bytes_max }
    }

    /// The answer if it is known, without joining or starting a computation.
    #[must_use]
    pub fn get(&self, key: Digest) -> Option<Arc<V>> {
        self.flights.kept.get(&key)
    }

    /// Looks `key` up; on a miss the caller either waits for whoever computes it or leads. Nobody
    /// waits for somebody less urgent: 0 is the most, and then the same is computed twice.
    #[must_use]
    pub fn claim(&self, key: Digest, urgency: u8) -> Claim<V> {
        if let Some(value) = self.flights.kept.get(&key) {
            return Claim::Hit(value);
        }
        let mut waiting = self.flights.waiting.lock();
        // The leader inserts before it takes its entry out, so a look under the lock sees one of both.
        if let Some(value) = self.flights.kept.get(&key) {
            return Claim::Hit(value);
        }
        let flight = waiting.entry(key).or_insert(Flight { urgency: u8::MAX, waiters: Vec::new() });
        if flight.urgency <= urgency {
            let (tx, rx) = oneshot::channel();
            flight.waiters.push(tx);
            return Claim::Wait(rx);
        }
        flight.urgency = urgency;
        Claim::Lead(Lead { flights: Arc::clone(&self.flights), key, fulfilled: false })
    }

    /// Puts in what was known elsewhere; whoever computes the same goes on.
    pub fn insert(&self, key: Digest, value: Arc<V>) {
        self.flights.kept.insert(key, value);
    }

    /// Forgets every answer; computations in flight go on.
    pub fn clear(&self) {
        self.flights.kept.invalidate_all();
    }

    /// Size and evictions. Applies pending maintenance first, so that the figures are exact.
    #[must_use]
    pub fn stats(&self) -> ResultStats {
        self.flights.kept.run_pending_tasks();
        ResultStats {
            entries: self.flights.kept.entry_count(),
            bytes: self.flights.kept.weighted_size(),
            bytes_max: self.bytes_max,
            evictions: self.flights.evictions.load(Ordering::Relaxed),
        }
    }
}

impl<V: Send + Sync + 'static> Lead<V> {
    /// Publishes the answer: to the cache and to all who wait for it.
    pub fn fulfil(mut self, value: &Arc<V>) {
        self.fulfilled = true;
        self.flights.kept.insert(self.key, Arc::clone(value));
        let flight = self.flights.waiting.lock().remove(&self.key);
        for waiter in flight.into_iter().flat_map(|flight| flight.waiters) {
            // A waiter that has gone away needs no answer.
            let _ = waiter.send(Arc::clone(value));
        }
    }
}

impl<V> Drop for Lead<V> {
    fn drop(&mut self) {
        if !self.fulfilled {
            // Dropping the senders wakes the waiters with an error.
            self.flights.waiting.lock().remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Claim, ENTRY_OVERHEAD_BYTES, ResultCache, Weigh};
    use crate::Digest;

    #[derive(Debug)]
    struct Blob(Vec<u8>);
    impl Weigh for Blob {
        fn heap_bytes(&self) -> usize {
            self.0.len()
        }
    }

    fn key(n: u32) -> Digest {
        Digest::of(&[&n.to_le_bytes()])
    }

    fn lead(cache: &ResultCache<Blob>, n: u32) -> super::Lead<Blob> {
        match cache.claim(key(n), 1) {
            Claim::Lead(lead) => lead,
            _ => panic!("expected to lead"),
        }
    }

    #[test]
    fn bytes_stay_bounded() {
        let bytes_max = 100_000;
        let cache = ResultCache::new(bytes_max);
        for n in 0..1_000 {
            lead(&cache, n).fulfil(&Arc::new(Blob(vec![0; 1_000])));
        }
        let stats = cache.stats();
        assert!(stats.bytes <= bytes_max, "{stats:?}");
        assert!(stats.entries <= bytes_max / (1_000 + ENTRY_OVERHEAD_BYTES as u64), "{stats:?}");
        assert!(stats.entries > 0 && stats.evictions > 0, "{stats:?}");
    }

    #[tokio::test]
    async fn identical_questions_share_one_computation() {
        let cache = ResultCache::new(10_000);
        let leader = lead(&cache, 7);
        let Claim::Wait(first) = cache.claim(key(7), 1) else { panic!("second must wait") };
        let Claim::Wait(second) = cache.claim(key(7), 1) else { panic!("third must wait") };
        leader.fulfil(&Arc::new(Blob(vec![42])));
        assert_eq!(first.await.expect("answered").0, [42]);
        assert_eq!(second.await.expect("answered").0, [42]);
        assert!(matches!(cache.claim(key(7), 1), Claim::Hit(value) if value.0 == [42]));
    }

    #[tokio::test]
    async fn a_leader_that_gives_up_hands_over() {
        let cache = ResultCache::new(10_000);
        let leader = lead(&cache, 1);
        let Claim::Wait(waiter) = cache.claim(key(1), 1) else { panic!("must wait") };
        drop(leader);
        assert!(waiter.await.is_err());
        lead(&cache, 1).fulfil(&Arc::new(Blob(vec![])));
        assert!(cache.get(key(1)).is_some());
    }

    #[tokio::test]
    async fn nobody_waits_for_the_less_urgent() {
        let cache = ResultCache::new(10_000);
        let Claim::Lead(slow) = cache.claim(key(1), 2) else { panic!("must lead") };
        let Claim::Wait(patient) = cache.claim(key(1), 2) else { panic!("must wait") };
        let Claim::Lead(quick) = cache.claim(key(1), 0) else { panic!("must lead") };
        let Claim::Wait(urgent) = cache.claim(key(1), 0) else { panic!("must wait") };
        quick.fulfil(&Arc::new(Blob(vec![5])));
        assert_eq!(urgent.await.expect("answered").0, [5]);
        assert_eq!(patient.await.expect("answered").0, [5]);
        slow.fulfil(&Arc::new(Blob(vec![5])));
        assert!(matches!(cache.claim(key(1), 1), Claim::Hit(value) if value.0 == [5]));
    }

    #[tokio::test]
    async fn what_was_known_elsewhere_is_a_hit() {
        let cache = ResultCache::new(10_000);
        cache.insert(key(3), Arc::new(Blob(vec![9])));
        assert!(matches!(cache.claim(key(3), 1), Claim::Hit(value) if value.0 == [9]));
    }

    #[tokio::test]
    async fn a_cache_of_no_bytes_still_has_single_flight() {
        let cache = ResultCache::new(0);
        let leader = lead(&cache, 1);
        let Claim::Wait(waiter) = cache.claim(key(1), 1) else { panic!("must wait") };
        leader.fulfil(&Arc::new(Blob(vec![1])));
        assert_eq!(waiter.await.expect("answered").0, [1]);
        assert_eq!(cache.stats().entries, 0);
        drop(lead(&cache, 1));
    }
}
