//! What a forward pass will take: measured when a model is loaded, refined with every pass.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use postsort_models::PassTime;

/// Seconds of a pass: its own, and each sequence's, which grow with the tokens and, in attention,
/// with their square; all of them times what passes took lately over what was expected of them.
///
/// One thread writes, any may read; a reader that sees half of an update predicts one job a little
/// differently.
#[derive(Debug, Default)]
pub struct CostModel {
    terms: [Number; TERMS],
    scale: Number,
    /// Bytes of text that make a token.
    token_bytes: Number,
}

/// A pass, a token, a token squared.
const TERMS: usize = 3;
/// A pass is never cheaper: handing jobs over and answering them is part of it.
const PASS_SECONDS_MIN: f64 = 20e-6;
/// Weight of the newest pass in what is refined.
const NEWEST: f64 = 1.0 / 16.0;
/// One pass that was interrupted says little: it counts as so many times the expected, or its part.
const SURPRISE: f64 = 4.0;
/// English mail, until texts were seen.
const TOKEN_BYTES: f64 = 4.5;

impl CostModel {
    /// Takes what was measured as the truth; keeps what it knows if that is nothing.
    pub fn fit(&self, measured: &[PassTime]) {
        if measured.is_empty() {
            return;
        }
        for (term, value) in self.terms.iter().zip(fit(measured)) {
            term.set(value);
        }
        self.terms[0].set(self.terms[0].get().max(PASS_SECONDS_MIN));
        self.scale.set(1.0);
    }

    /// Whether anything was measured. Until then all costs are zero.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.scale.get() > 0.0
    }

    /// What a pass takes beside its sequences.
    #[must_use]
    pub fn pass(&self) -> Duration {
        seconds(self.terms[0].get() * self.scale.get())
    }

    /// What a sequence adds to a pass.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "tokens are few")]
    pub fn sequence(&self, tokens: usize) -> Duration {
        let tokens = tokens as f64;
        let [_, token, square] = self.terms.each_ref().map(Number::get);
        seconds((token * tokens + square * tokens * tokens) * self.scale.get())
    }

    /// Learns from a pass.
    pub fn refine(&self, expected: Duration, took: Duration) {
        if !self.is_known() || expected.is_zero() {
            return;
        }
        let ratio = took.as_secs_f64() / expected.as_secs_f64();
        let ratio = ratio.clamp(SURPRISE.recip(), SURPRISE);
        self.scale.set(self.scale.get() * (1.0 + NEWEST * (ratio - 1.0)));
    }

    /// Learns how long tokens are.
    #[expect(clippy::cast_precision_loss, reason = "texts are short")]
    pub fn learn_text(&self, bytes: usize, tokens: usize) {
        let (known, seen) = (self.token_bytes(), bytes as f64 / tokens.max(1) as f64);
        self.token_bytes.set(known + NEWEST * (seen - known));
    }

    /// Tokens of a text before it is tokenised, by what texts were like so far.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "texts are short")]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative")]
    pub fn guess_tokens(&self, bytes: usize) -> usize {
        (bytes as f64 / self.token_bytes()).ceil() as usize
    }

    /// What passes took lately over what was measured first.
    #[must_use]
    pub fn scale(&self) -> f64 {
        self.scale.get()
    }

    fn token_bytes(&self) -> f64 {
        let known = self.token_bytes.get();
        if known > 0.0 { known } else { TOKEN_BYTES }
    }
}

/// A float that threads share.
#[derive(Debug, Default)]
struct Number(AtomicU64);

impl Number {
    fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }
    fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Ordering::Relaxed);
    }
}

fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

/// Non-negative least squares of the relative error. With three terms all sets of them can be
/// tried: the best solution without a negative one is the answer.
fn fit(measured: &[PassTime]) -> [f64; TERMS] {
    let rows: Vec<([f64; TERMS], f64)> = measured.iter().map(row).collect();
    let error = |solution: &[f64; TERMS]| -> f64 {
        let miss = |(x, y): &([f64; TERMS], f64)| dot(x, solution) / y - 1.0;
        rows.iter().map(|row| miss(row).powi(2)).sum()
    };
    let solutions = (1_u8..1 << TERMS).filter_map(|set| solve(&rows, set));
    let valid = solutions.filter(|solution| solution.iter().all(|&term| term >= 0.0));
    valid.min_by(|a, b| error(a).total_cmp(&error(b))).unwrap_or_default()
}

/// What a measured pass has of each term, and what it took.
#[expect(clippy::cast_precision_loss, reason = "tokens are few")]
fn row(pass: &PassTime) -> ([f64; TERMS], f64) {
    let (sequences, tokens) = (pass.sequences as f64, pass.sequence_tokens as f64);
    ([1.0, sequences * tokens, sequences * tokens * tokens], pass.took.as_secs_f64().max(1e-9))
}

fn dot(a: &[f64; TERMS], b: &[f64; TERMS]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Normal equations of the terms in `set`, the others being zero, by Gauss-Jordan elimination.
fn solve(rows: &[([f64; TERMS], f64)], set: u8) -> Option<[f64; TERMS]> {
    let used = |term: usize| set >> term & 1 == 1;
    let mut matrix = [[0.0; TERMS + 1]; TERMS];
    for (i, line) in matrix.iter_mut().enumerate() {
        if !used(i) {
            line[i] = 1.0;
            continue;
        }
        for (x, y) in rows {
            let weighted = x[i] / (y * y);
            for j in (0..TERMS).filter(|&j| used(j)) {
                line[j] += weighted * x[j];
            }
            line[TERMS] += weighted * y;
        }
    }
    for i in 0..TERMS {
        let pivot = matrix[i];
        // Terms differ by many orders of magnitude, so what counts is what elimination left of one.
        let whole: f64 = rows.iter().map(|(x, y)| (x[i] / y).powi(2)).sum();
        if used(i) && pivot[i] <= whole * 1e-9 {
            return None;
        }
        for (j, line) in matrix.iter_mut().enumerate() {
            let factor = if i == j { 0.0 } else { line[i] / pivot[i] };
            line.iter_mut().zip(pivot).for_each(|(value, pivot)| *value -= factor * pivot);
        }
    }
    Some([0, 1, 2].map(|i| matrix[i][TERMS] / matrix[i][i]))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use postsort_models::PassTime;

    use super::CostModel;

    fn measured(sequences: usize, sequence_tokens: usize, micros: u64) -> PassTime {
        PassTime { sequences, sequence_tokens, took: Duration::from_micros(micros) }
    }

    fn close(value: Duration, micros: f64) -> bool {
        (value.as_secs_f64() * 1e6 - micros).abs() <= 0.01 * micros.max(1.0)
    }

    #[test]
    fn finds_the_law_behind_the_measurements() {
        let law = |sequences: usize, tokens: usize| {
            let micros = 300 + 30 * sequences * tokens + sequences * tokens * tokens / 50;
            measured(sequences, tokens, micros as u64)
        };
        let cost = CostModel::default();
        assert!(!cost.is_known() && cost.pass().is_zero() && cost.sequence(100).is_zero());
        cost.fit(&[law(1, 16), law(1, 128), law(1, 512), law(4, 32)]);
        assert!(cost.is_known());
        assert!(close(cost.pass(), 300.0), "{cost:?}");
        assert!(close(cost.sequence(128), 30.0 * 128.0 + 128.0 * 128.0 / 50.0), "{cost:?}");
    }

    #[test]
    fn no_term_is_negative_however_odd_the_measurements() {
        // Less than in proportion, then more: the line through them would start below zero.
        for odd in [
            vec![measured(1, 16, 100), measured(1, 128, 5000), measured(1, 256, 9000)],
            vec![measured(1, 16, 5000), measured(1, 128, 100)],
            vec![measured(1, 128, 4000)],
            vec![measured(1, 128, 0)],
        ] {
            let cost = CostModel::default();
            cost.fit(&odd);
            let [pass, token, square] = cost.terms.each_ref().map(super::Number::get);
            assert!(pass >= super::PASS_SECONDS_MIN && token >= 0.0 && square >= 0.0, "{odd:?}");
            assert!([pass, token, square].iter().all(|term| term.is_finite()), "{odd:?}");
        }
        let one = CostModel::default();
        one.fit(&[measured(1, 128, 4000)]);
        assert!(close(one.pass() + one.sequence(128), 4000.0) || one.pass().as_micros() == 20);
    }

    #[test]
    fn follows_a_machine_that_becomes_slower_but_not_one_interruption() {
        let cost = CostModel::default();
        cost.fit(&[measured(1, 16, 1000), measured(1, 128, 8000), measured(4, 32, 8000)]);
        let before = cost.sequence(128);
        cost.refine(before, before * 1000);
        assert!(cost.sequence(128) < before.mul_f64(1.2));
        for _ in 0..100 {
            let expected = cost.sequence(128);
            cost.refine(expected, before * 2);
        }
        assert!(close(cost.sequence(128), 2e6 * before.as_secs_f64()));
    }

    #[test]
    fn guesses_tokens_by_the_texts_it_saw() {
        let cost = CostModel::default();
        assert_eq!(cost.guess_tokens(450), 100);
        (0..200).for_each(|_| cost.learn_text(200, 100));
        assert_eq!(cost.guess_tokens(450), 225);
        cost.learn_text(7, 0);
    }
}
