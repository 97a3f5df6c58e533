//! A long text, skimmed: some of its windows first, the others only where those leave doubt.

use std::sync::Arc;

use postsort_cache::Lead;
use postsort_models::{Encoded, LongText, Manifest, ModelFolder};

use super::{Ours, States, Verdict};

/// Which of a text's windows one pass reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Excerpt {
    Whole,
    /// So many, spread over a text that has more.
    First(usize),
    /// The others of a text of which so many are read.
    Rest(usize),
}

/// A text on its way to a verdict.
pub(super) struct Reading {
    pub(super) at: usize,
    /// The duty to those who wait for the same.
    pub(super) lead: Option<Lead<Verdict>>,
    /// What is read next.
    pub(super) excerpt: Excerpt,
    /// What is read.
    pub(super) states: Vec<Arc<States>>,
    /// What the head makes of that, `[windows][labels]`.
    pub(super) logits: Vec<Vec<f32>>,
}

impl Excerpt {
    /// What is read first of a text.
    pub(super) fn first(long: LongText, manifest: &Manifest) -> Self {
        match long {
            LongText::Skim => Self::First(manifest.skim.windows),
            LongText::Truncate | LongText::HeadTail | LongText::Window => Self::Whole,
        }
    }

    /// Its windows, and whether there are others to be read after them.
    pub(super) fn of(self, encoded: Encoded) -> (Encoded, bool) {
        match self {
            Self::Whole => (encoded, false),
            Self::First(windows) => encoded.skimmed(windows),
            Self::Rest(windows) => (encoded.rest(windows), false),
        }
    }

    /// Tells it from other excerpts of the same text.
    pub(super) fn mark(self) -> [u8; 2] {
        let few = |windows: usize| u8::try_from(windows).unwrap_or(u8::MAX);
        match self {
            Self::Whole => [0, 0],
            Self::First(windows) => [1, few(windows)],
            Self::Rest(windows) => [2, few(windows)],
        }
    }
}

impl Reading {
    pub(super) fn new((at, lead): Ours, excerpt: Excerpt) -> Self {
        Self { at, lead, excerpt, states: Vec::new(), logits: Vec::new() }
    }

    /// Whether all of it was read in the end, if it was skimmed.
    pub(super) fn skimmed(&self) -> Option<bool> {
        let more = self.states.last().is_some_and(|states| states.more);
        match self.excerpt {
            Excerpt::Rest(_) => Some(true),
            Excerpt::First(_) if more => Some(false),
            Excerpt::First(_) | Excerpt::Whole => None,
        }
    }

    /// Goes on to the windows that are left, if there are any and these leave doubt.
    pub(super) fn goes_on(&mut self, folder: &ModelFolder, verdict: &Verdict) -> bool {
        let (Excerpt::First(windows), Some(false)) = (self.excerpt, self.skimmed()) else {
            return false;
        };
        let (manifest, labels) = (folder.manifest(), folder.labels());
        let sure = labels.sure(&verdict.logits, manifest.temperature, manifest.skim.confidence_min);
        if !sure {
            self.excerpt = Excerpt::Rest(windows);
        }
        !sure
    }
}
