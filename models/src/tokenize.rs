//! Text to token ids: what `transformers` gives with `truncation=True`, and windows over long text.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokenizers::Tokenizer;

use crate::bounded::{BoundedTokenizer, Ids};
use crate::error::ModelError;
use crate::folder::ModelFolder;
use crate::manifest::{LongText, WINDOWS_MAX};
use crate::template::Template;

/// Token ids with special tokens, without padding.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoding {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Token types, one an id.
    pub type_ids: Vec<u32>,
}

/// A text as sequences that the model takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// One sequence, or several for a long text read in windows.
    pub windows: Vec<Encoding>,
    /// Tokens of all windows, special tokens included.
    pub tokens: usize,
    /// Whether a part of the text is in no window.
    pub truncated: bool,
}

impl Encoded {
    /// Of a text that is read in more than `count` windows so many, spread evenly over it, and whether
    /// there are others.
    #[must_use]
    pub fn skimmed(self, count: usize) -> (Self, bool) {
        let truncated = self.truncated;
        let (read, left) = self.divided(count);
        let more = !left.is_empty();
        (encoded(read, truncated || more), more)
    }

    /// The windows that [`Self::skimmed`] leaves out.
    #[must_use]
    pub fn rest(self, count: usize) -> Self {
        let truncated = self.truncated;
        encoded(self.divided(count).1, truncated)
    }

    fn divided(self, count: usize) -> (Vec<Encoding>, Vec<Encoding>) {
        let places = spread(self.windows.len(), count);
        let (mut read, mut left) = (Vec::with_capacity(places.len()), Vec::new());
        for (at, window) in self.windows.into_iter().enumerate() {
            if places.contains(&at) { read.push(window) } else { left.push(window) }
        }
        (read, left)
    }
}

/// Places of `count` of so many windows, the first and the last among them; of all where there are no more.
fn spread(windows: usize, count: usize) -> Vec<usize> {
    match (windows.saturating_sub(1), count.saturating_sub(1)) {
        (last, gaps) if last <= gaps => (0..windows).collect(),
        (_, 0) => vec![0],
        (last, gaps) => (0..=gaps).map(|at| (2 * at * last + gaps) / (2 * gaps)).collect(),
    }
}

/// A model's tokenizer with its limit.
#[derive(Debug)]
pub struct TextTokenizer {
    bounded: Arc<BoundedTokenizer>,
    single: Template,
    pair: Template,
    tokens_max: usize,
    /// The end of a text that is kept where it must be cut.
    truncation: TruncationSide,
}

/// `truncation_side` of `tokenizer_config.json`: where a text that is too long loses its tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum TruncationSide {
    /// At its end.
    #[default]
    Right,
    /// At its beginning.
    Left,
}

/// Tokens of the subject that each window repeats.
const SUBJECT_TOKENS_MAX: usize = 32;
/// A pair's texts are told apart by length up to this many times what fits.
const PAIR_LENGTHS: usize = 16;

/// The tokenizer of a file; models with equal files have it in memory once.
fn shared(path: &Path) -> Result<Arc<BoundedTokenizer>, ModelError> {
    static OPEN: Mutex<BTreeMap<[u8; 32], Weak<BoundedTokenizer>>> = Mutex::new(BTreeMap::new());
    let wrong = |error: tokenizers::Error| ModelError::bad_file(path, error);
    let bytes = std::fs::read(path).map_err(|error| ModelError::io(path, error))?;
    let digest = *blake3::hash(&bytes).as_bytes();
    let open = || OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = open().get(&digest).and_then(Weak::upgrade) {
        return Ok(known);
    }
    let mut tokenizer = Tokenizer::from_bytes(&bytes).map_err(wrong)?;
    tokenizer.with_padding(None);
    tokenizer.with_truncation(None).map_err(wrong)?;
    let bounded = Arc::new(BoundedTokenizer::new(tokenizer)?);
    let mut open = open();
    open.retain(|_, tokenizer| tokenizer.strong_count() > 0);
    open.insert(digest, Arc::downgrade(&bounded));
    Ok(bounded)
}

impl TextTokenizer {
    /// Reads `tokenizer.json`. Its own truncation and padding are not used.
    pub(crate) fn open(folder: &ModelFolder) -> Result<Self, ModelError> {
        let path = folder.path().join("tokenizer.json");
        let bounded = shared(&path)?;
        let (single, pair) = Template::of(bounded.tokenizer())?;
        let tokens_max = folder.tokens_max();
        if tokens_max <= pair.added() {
            let reason = format!("{tokens_max} leaves no room beside the special tokens");
            return Err(ModelError::bad_config("max_position_embeddings", reason));
        }
        Ok(Self { bounded, single, pair, tokens_max, truncation: folder.truncation_side() })
    }

    /// Most tokens of a sequence, special tokens included.
    #[must_use]
    pub fn tokens_max(&self) -> usize {
        self.tokens_max
    }

    /// The largest id that it can give.
    pub(crate) fn id_max(&self) -> u32 {
        self.bounded.id_max()
    }

    /// The id of what it does not know; byte-level tokenizers know everything.
    #[must_use]
    pub fn unknown_id(&self) -> Option<u32> {
        self.bounded.unknown_id()
    }

    /// Encodes a text whose first `subject_bytes` are its subject. Its cost grows with
    /// [`tokens_max`](Self::tokens_max), not with the text.
    ///
    /// # Errors
    /// The tokenizer cannot read it.
    pub fn encode(
        &self,
        text: &str,
        subject_bytes: usize,
        long: LongText,
    ) -> Result<Encoded, ModelError> {
        let room = self.tokens_max - self.single.added();
        let one =
            |pieces: &[&[u32]], truncated| encoded(vec![self.single.wrap(pieces, &[])], truncated);
        match long {
            LongText::Truncate => {
                let Ids { ids, cut } = self.kept(text, room)?;
                Ok(one(&[self.keep(&ids, room)], cut || ids.len() > room))
            }
            LongText::HeadTail => {
                let Ids { ids, cut } = self.bounded.head(text, room)?;
                if ids.len() <= room && !cut {
                    return Ok(one(&[&ids], false));
                }
                let tail = if cut { self.bounded.tail(text, room / 2)?.ids } else { ids.clone() };
                let tail = &tail[tail.len().saturating_sub(room / 2)..];
                Ok(one(&[&ids[..ids.len().min(room - room / 2)], tail], true))
            }
            LongText::Window | LongText::Skim => {
                let Ids { ids, cut } = self.bounded.head(text, room * WINDOWS_MAX)?;
                if ids.len() <= room && !cut {
                    return Ok(one(&[&ids], false));
                }
                let subject_max = SUBJECT_TOKENS_MAX.min(room / 4);
                let subject = text.get(..subject_bytes).unwrap_or_default();
                let mut subject = self.bounded.head(subject, subject_max)?.ids;
                subject.truncate(subject_max);
                Ok(self.windows(&ids, &subject, room, cut))
            }
        }
    }

    fn windows(&self, ids: &[u32], subject: &[u32], room: usize, rest: bool) -> Encoded {
        let mut end = ids.len().min(room);
        let mut windows = vec![self.single.wrap(&[&ids[..end]], &[])];
        let width = room - subject.len();
        let overlap = width / 4;
        while end < ids.len() && windows.len() < WINDOWS_MAX {
            let start = end - overlap;
            end = ids.len().min(start + width);
            windows.push(self.single.wrap(&[subject, &ids[start..end]], &[]));
        }
        encoded(windows, rest || end < ids.len())
    }

    /// Encodes a pair of texts; the longer one is cut first, as `transformers` does.
    ///
    /// # Errors
    /// The tokenizer cannot read them.
    pub fn encode_pair(&self, first: &str, second: &str) -> Result<Encoded, ModelError> {
        let room = self.tokens_max - self.pair.added();
        let first = self.kept(first, room * PAIR_LENGTHS)?;
        let second = self.kept(second, room * PAIR_LENGTHS)?;
        let (keep_first, keep_second) = longest_first(first.ids.len(), second.ids.len(), room);
        let truncated = first.cut
            || second.cut
            || (keep_first, keep_second) != (first.ids.len(), second.ids.len());
        let (first, second) =
            (self.keep(&first.ids, keep_first), self.keep(&second.ids, keep_second));
        Ok(encoded(vec![self.pair.wrap(&[first], &[second])], truncated))
    }

    /// Exactly `tokens` tokens, for measuring: special tokens around ordinary ones.
    #[must_use]
    pub fn encode_exact(&self, tokens: usize) -> Encoding {
        let vocabulary = self.bounded.tokenizer().get_vocab_size(false).max(1);
        let inner = tokens.saturating_sub(self.single.added());
        // Spread over the vocabulary, so that embedding rows are not all in cache.
        let id = |at: usize| u32::try_from(at.wrapping_mul(7919).wrapping_add(1000) % vocabulary);
        let ids: Vec<u32> = (0..inner).map(|at| id(at).unwrap_or(0)).collect();
        let mut encoding = self.single.wrap(&[&ids], &[]);
        encoding.ids.truncate(tokens);
        encoding.type_ids.truncate(tokens);
        encoding
    }

    /// Ids of the end of a text that is kept.
    fn kept(&self, text: &str, wanted: usize) -> Result<Ids, ModelError> {
        match self.truncation {
            TruncationSide::Right => self.bounded.head(text, wanted),
            TruncationSide::Left => self.bounded.tail(text, wanted),
        }
    }

    /// At most `count` ids of the end that is kept.
    fn keep<'a>(&self, ids: &'a [u32], count: usize) -> &'a [u32] {
        match self.truncation {
            TruncationSide::Right => &ids[..ids.len().min(count)],
            TruncationSide::Left => &ids[ids.len().saturating_sub(count)..],
        }
    }
}

/// How many of two texts' tokens are kept: the longer text loses first, then both share the room
/// and the longer one has the odd token. The rule of the `tokenizers` library.
fn longest_first(first: usize, second: usize, room: usize) -> (usize, usize) {
    if first + second <= room {
        return (first, second);
    }
    let short = first.min(second);
    let (short, long) =
        if short > room / 2 { (room / 2, room / 2 + room % 2) } else { (short, room - short) };
    if first > second { (long, short) } else { (short, long) }
}

fn encoded(windows: Vec<Encoding>, truncated: bool) -> Encoded {
    let tokens = windows.iter().map(|window| window.ids.len()).sum();
    Encoded { windows, tokens, truncated }
}
