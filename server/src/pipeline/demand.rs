//! What a request asks of the engine, guessed before anything of it is tokenised.

use std::time::Duration;

use postsort_models::LongText;

use super::{Excerpt, Request};
use crate::catalog::{LeasedModel, Version};
use crate::error::Error;
use crate::input::Readable;
use crate::scheduler::{Admission, Demand, Refused};

/// A window after the first reads so much new text of what it could: it overlaps the one before
/// it, and repeats the subject.
const NEW_TEXT: f64 = 0.7;

impl Request {
    pub(super) async fn admit(
        &self,
        version: &Version,
        texts: &[Readable],
        wanted: &[usize],
        long: LongText,
    ) -> Result<Admission<LeasedModel>, Error> {
        // What takes the place of the revision takes its own time.
        let version = self.pipeline.catalog.stand_in(version).map_or(version, |copy| copy.as_ref());
        let (mut tokens, mut cost) = (0, version.cost.pass());
        for &at in wanted {
            let sequences = guess(version, texts[at].bytes(), long);
            tokens += sequences.0 * sequences.1;
            cost += version.cost.sequence(sequences.1).saturating_mul(sequences.0 as u32);
        }
        let demand = Demand {
            owner: version.owner(),
            jobs: wanted.len(),
            tokens,
            cost,
            priority: self.options.priority,
            deadline: self.deadline,
        };
        let scheduler = &self.pipeline.scheduler;
        let admitted = if self.options.in_turn {
            scheduler.admit_in_turn(demand).await
        } else {
            scheduler.admit(demand)
        };
        admitted.map_err(refused)
    }
}

/// What the client is told.
pub(super) fn refused(refused: Refused) -> Error {
    match refused {
        Refused::Full { queued, queued_max, unit, retry_after } => {
            Error::Overloaded { queued, queued_max, unit, retry_after }
        }
        // The caller knows the time limit.
        Refused::Late { expected, retry_after } => {
            Error::NotInTime { expected, timeout: Duration::ZERO, retry_after }
        }
    }
}

/// Sequences that a text of so many bytes will be, and tokens of each.
#[expect(clippy::cast_precision_loss, reason = "tokens are few")]
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative")]
fn guess(version: &Version, bytes: usize, long: LongText) -> (usize, usize) {
    let (tokens, tokens_max) = (version.cost.guess_tokens(bytes), version.folder.tokens_max());
    let Some(rest) = tokens.checked_sub(tokens_max) else { return (1, tokens) };
    let more = (rest as f64 / (NEW_TEXT * tokens_max as f64)).ceil() as usize;
    // Of a text that is skimmed what is read in any case: the rest asks anew.
    let windows_max = match Excerpt::first(long, version.folder.manifest()) {
        Excerpt::First(windows) => windows,
        Excerpt::Whole | Excerpt::Rest(_) => long.windows_max(),
    };
    ((1 + more).min(windows_max), tokens_max)
}
