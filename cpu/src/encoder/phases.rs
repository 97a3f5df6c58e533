//! Where a pass's time goes.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Parts of a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Looking up embeddings, their norm and projection.
    Embed,
    /// Coding rows for the next product.
    Code,
    /// Keys and values.
    KeysValues,
    /// Putting keys and values into their panels.
    Pack,
    /// Queries.
    Queries,
    /// Scores, softmax and the mix of values.
    Attention,
    /// The product after attention, with its residual.
    Output,
    /// Layer norms.
    Norm,
    /// The first feed-forward product, with its activation.
    Up,
    /// The second feed-forward product, with its residual.
    Down,
    /// Everything of the last layer past keys and values, and the head.
    FirstTokens,
    /// Waiting for other threads.
    Wait,
}

impl Phase {
    /// All, in order.
    pub const ALL: [Self; 12] = [
        Self::Embed,
        Self::Code,
        Self::KeysValues,
        Self::Pack,
        Self::Queries,
        Self::Attention,
        Self::Output,
        Self::Norm,
        Self::Up,
        Self::Down,
        Self::FirstTokens,
        Self::Wait,
    ];
}

/// Time of each phase, summed over layers and threads.
#[derive(Debug, Default)]
pub struct PhaseTimes {
    nanoseconds: [AtomicU64; Phase::ALL.len()],
}

impl PhaseTimes {
    /// All phases with their times so far.
    pub fn iter(&self) -> impl Iterator<Item = (Phase, Duration)> {
        let times =
            self.nanoseconds.iter().map(|time| Duration::from_nanos(time.load(Ordering::Relaxed)));
        Phase::ALL.into_iter().zip(times)
    }
}

/// One thread's watch; does nothing without times to add to.
#[derive(Debug)]
pub(super) struct Watch<'a> {
    times: Option<&'a PhaseTimes>,
    last: Cell<Option<Instant>>,
}

impl<'a> Watch<'a> {
    pub(super) fn start(times: Option<&'a PhaseTimes>) -> Self {
        Self { times, last: Cell::new(times.map(|_| Instant::now())) }
    }

    /// The time since the last mark was `phase`.
    #[inline]
    pub(super) fn mark(&self, phase: Phase) {
        if let (Some(times), Some(last)) = (self.times, self.last.get()) {
            let now = Instant::now();
            let nanoseconds = u64::try_from((now - last).as_nanos()).unwrap_or(u64::MAX);
            times.nanoseconds[phase as usize].fetch_add(nanoseconds, Ordering::Relaxed);
            self.last.set(Some(now));
        }
    }
}
