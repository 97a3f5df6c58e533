//! A sliding window in slices: the past is forgotten a slice at a time.

use std::ops::Range;
use std::time::{Duration, Instant};

/// What one slice of time holds.
pub(super) trait Slice: Default + std::fmt::Debug {
    /// Back to nothing, keeping its memory.
    fn clear(&mut self);
}

/// The last so many slices of time.
#[derive(Debug)]
pub(super) struct Ring<T> {
    slices: Vec<T>,
    slice_seconds: u64,
    /// Slices since `started`; its remainder is the place in the ring.
    number: u64,
    started: Instant,
    /// When the youngest slice began, and when it ends.
    youngest: Range<Instant>,
}

impl<T: Slice> Ring<T> {
    pub(super) fn new(started: Instant, slices: usize, slice: Duration) -> Self {
        let slices = (0..slices.max(1)).map(|_| T::default()).collect();
        let slice_seconds = slice.as_secs().max(1);
        let youngest = started..started + Duration::from_secs(slice_seconds);
        Self { slices, slice_seconds, number: 0, started, youngest }
    }

    /// The slice of `now`; those that have passed out of the window since are emptied.
    pub(super) fn at(&mut self, now: Instant) -> &mut T {
        // As nearly always.
        if self.youngest.contains(&now) {
            let place = self.place(self.number);
            return &mut self.slices[place];
        }
        let elapsed = now.saturating_duration_since(self.started).as_secs();
        let number = elapsed / self.slice_seconds;
        let passed = number.saturating_sub(self.number).min(self.slices.len() as u64);
        for step in 1..=passed {
            let place = self.place(number - passed + step);
            self.slices[place].clear();
        }
        self.number = self.number.max(number);
        let start = self.started + Duration::from_secs(self.number * self.slice_seconds);
        self.youngest = start..start + Duration::from_secs(self.slice_seconds);
        let place = self.place(self.number);
        &mut self.slices[place]
    }

    /// The slices of the window that ends at `now`, youngest first; `newest` of them at most.
    pub(super) fn last(&mut self, now: Instant, newest: usize) -> impl Iterator<Item = &T> {
        let _ = self.at(now);
        let (slices, youngest) = (&self.slices, self.place(self.number));
        let length = slices.len();
        (0..newest.min(length)).map(move |back| &slices[(youngest + length - back) % length])
    }

    #[expect(clippy::cast_possible_truncation, reason = "below the number of slices")]
    fn place(&self, number: u64) -> usize {
        (number % self.slices.len() as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{Ring, Slice};

    #[derive(Debug, Default)]
    struct Count(u32);
    impl Slice for Count {
        fn clear(&mut self) {
            self.0 = 0;
        }
    }

    #[test]
    fn slices_pass_one_by_one() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut ring = Ring::<Count>::new(start, 3, Duration::from_secs(10));
        let sum = |ring: &mut Ring<Count>, seconds, newest| -> u32 {
            ring.last(at(seconds), newest).map(|count| count.0).sum()
        };
        ring.at(at(0)).0 += 1;
        ring.at(at(15)).0 += 10;
        ring.at(at(25)).0 += 100;
        assert_eq!(sum(&mut ring, 29, 3), 111);
        assert_eq!(sum(&mut ring, 29, 1), 100);
        assert_eq!(sum(&mut ring, 29, 2), 110);
        assert_eq!(sum(&mut ring, 30, 3), 110, "the oldest has passed");
        assert_eq!(sum(&mut ring, 5, 3), 110, "a clock read late changes nothing");
        assert_eq!(sum(&mut ring, 1_000_000, 3), 0);
    }
}
