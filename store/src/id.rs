//! Ids that grow with time, so that a range of time is a range of the primary key and a page of the
//! history begins where the last one ended.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// 2020-01-01T00:00:00Z; 41 bits of milliseconds reach to 2089.
const EPOCH: Duration = Duration::from_secs(1_577_836_800);
const REPLICA_BITS: u32 = 10;
const SEQUENCE_BITS: u32 = 12;

/// Makes ids for one process.
#[derive(Debug)]
pub(crate) struct Ids {
    /// Drawn at the start: replicas do not know of each other.
    pub(crate) replica: u16,
    sequence: AtomicU64,
}

impl Ids {
    pub(crate) fn new() -> Self {
        Self { replica: fastrand::u16(..1 << REPLICA_BITS), sequence: AtomicU64::new(0) }
    }

    /// Unique to this process unless more than 4096 are asked for in a millisecond.
    pub(crate) fn next(&self, at: SystemTime) -> i64 {
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed) & ((1 << SEQUENCE_BITS) - 1);
        #[expect(clippy::cast_possible_wrap, reason = "12 bits")]
        let sequence = sequence as i64;
        id_from(at) | (i64::from(self.replica) << SEQUENCE_BITS) | sequence
    }
}

/// The least id of a moment.
#[must_use]
pub(crate) fn id_from(at: SystemTime) -> i64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let ms = since.saturating_sub(EPOCH).as_millis().min((1 << 41) - 1);
    i64::try_from(ms).unwrap_or(i64::MAX) << (REPLICA_BITS + SEQUENCE_BITS)
}

/// The moment of an id.
#[must_use]
pub(crate) fn time_of(id: i64) -> SystemTime {
    let ms = u64::try_from(id >> (REPLICA_BITS + SEQUENCE_BITS)).unwrap_or(0);
    SystemTime::UNIX_EPOCH + EPOCH + Duration::from_millis(ms)
}

/// Milliseconds since 1970.
#[must_use]
pub(crate) fn unix_ms(at: SystemTime) -> i64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Hours since 1970.
#[must_use]
pub(crate) fn unix_hour(at: SystemTime) -> i64 {
    unix_ms(at) / 3_600_000
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::{Ids, id_from, time_of};

    #[test]
    fn ids_are_unique_and_in_order_of_time() {
        let (ids, now) = (Ids::new(), SystemTime::now());
        let made: Vec<i64> = (0..4096).map(|_| ids.next(now)).collect();
        let next = id_from(now + Duration::from_millis(1));
        assert!(made.iter().all(|&id| (id_from(now)..next).contains(&id)));
        let distinct: std::collections::HashSet<_> = made.iter().collect();
        assert_eq!(distinct.len(), made.len());
        let told = now.duration_since(time_of(made[0])).expect("not later");
        assert!(told < Duration::from_millis(1), "{told:?}");
        assert_eq!(id_from(SystemTime::UNIX_EPOCH), 0);
    }
}
