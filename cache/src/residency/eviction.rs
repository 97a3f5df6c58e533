//! Which model to drop: the one that costs least to do without.

use std::time::Duration;

/// Half of what a model was asked counts no more after this many requests for each model that there
/// is.
const HALF_LIFE_REQUESTS_A_MODEL: f64 = 8.0;

/// How often a model is asked for, counted in requests for any of them, so that it holds at any
/// rate; what is long ago counts less.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Popularity {
    requests: f64,
    counted_at: u64,
}

impl Popularity {
    /// Asked for, as the `now`-th request for any of `models`.
    pub(super) fn count(&mut self, now: u64, models: usize) {
        *self = Self { requests: self.requests(now, models) + 1.0, counted_at: now };
    }

    #[expect(clippy::cast_precision_loss, reason = "a ratio")]
    fn requests(&self, now: u64, models: usize) -> f64 {
        let half_life = HALF_LIFE_REQUESTS_A_MODEL * models.max(1) as f64;
        self.requests * (-(now.saturating_sub(self.counted_at) as f64) / half_life).exp2()
    }

    /// The load time that the model in memory saves, a byte: the one of least worth goes first.
    #[expect(clippy::cast_precision_loss, reason = "a ratio")]
    pub(super) fn worth(&self, now: u64, models: usize, bytes: u64, load: Duration) -> f64 {
        self.requests(now, models) * load.as_secs_f64() / bytes.max(1) as f64
    }
}
