//! Token ids of a text's head or tail, at a cost that follows how many are wanted, not how long
//! the text is.
//!
//! A tokenizer takes seconds and gigabytes for ten megabytes. A piece of the text is tokenised
//! instead, and a longer one while it gives too few ids. Three rules make the ids those of the
//! whole text:
//!
//! - The piece must give [`SLACK_TOKENS`] more ids than are wanted, and the ones next to the cut
//!   are dropped. What a cut changes lies within the word that it hits. A WordPiece word has at
//!   most 100 ids (longer ones are one unknown token); in one word of byte pairs or Unigram
//!   pieces that is longer still, what follows decides a few ids back, not a hundred.
//! - Cuts are made at white space where there is some near.
//! - Runs that a tokenizer gives nothing for, however long, are shortened first: see [`Runs`].
//!
//! What is left are megabytes of characters that a normaliser deletes. Beyond
//! [`TOKENIZED_BYTES_MAX`] the text counts as cut off.

use std::borrow::Cow;

use tokenizers::Tokenizer;

use crate::error::ModelError;
use crate::wordpiece::WordPiece;

/// Ids next to a cut that are not trusted.
const SLACK_TOKENS: usize = 128;
/// First guess at the bytes of an id; most mail has fewer.
const BYTES_A_TOKEN: usize = 6;
/// How far from the wanted place a cut looks for white space.
const CUT_BYTES: usize = 256;
/// No more than this goes through the tokenizer at once.
const TOKENIZED_BYTES_MAX: usize = 512 << 10;

/// Ids of one end of a text.
#[derive(Debug)]
pub(crate) struct Ids {
    /// All ids of the text, or as many of the end's as were wanted.
    pub(crate) ids: Vec<u32>,
    /// Whether the text has more.
    pub(crate) cut: bool,
}

/// A tokenizer without special tokens, truncation and padding.
#[derive(Debug)]
pub(crate) struct BoundedTokenizer {
    tokenizer: Tokenizer,
    /// The same in a tenth of the time, where the tokenizer is one of BERT's.
    fast: Option<WordPiece>,
    id_max: u32,
    unknown_id: Option<u32>,
    runs: Runs,
}

impl BoundedTokenizer {
    pub(crate) fn new(tokenizer: Tokenizer) -> Result<Self, ModelError> {
        let vocabulary = tokenizer.get_vocab(true);
        let id_max = vocabulary.values().copied().max().unwrap_or(0);
        let unknown_id =
            ["[UNK]", "<unk>"].iter().find_map(|&token| vocabulary.get(token)).copied();
        let fast = WordPiece::of(&tokenizer, &vocabulary);
        let mut this = Self { tokenizer, fast, id_max, unknown_id, runs: Runs::default() };
        this.runs = Runs::of(&this)?;
        Ok(this)
    }

    /// The largest id that it can give.
    pub(crate) fn id_max(&self) -> u32 {
        self.id_max
    }

    /// The id of what it does not know.
    pub(crate) fn unknown_id(&self) -> Option<u32> {
        self.unknown_id
    }

    pub(crate) fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// At least the first `wanted` ids, unless the text has fewer.
    pub(crate) fn head(&self, text: &str, wanted: usize) -> Result<Ids, ModelError> {
        let head = |bytes| &text[..cut_after(text, bytes)];
        let (mut ids, cut) = self.grow(text, wanted, head, capped_head)?;
        if cut {
            ids.truncate(wanted);
        }
        Ok(Ids { ids, cut })
    }

    /// At least the last `wanted` ids, unless the text has fewer.
    pub(crate) fn tail(&self, text: &str, wanted: usize) -> Result<Ids, ModelError> {
        let tail = |bytes| &text[cut_before(text, text.len().saturating_sub(bytes))..];
        let (mut ids, cut) = self.grow(text, wanted, tail, capped_tail)?;
        if cut {
            ids.drain(..ids.len().saturating_sub(wanted));
        }
        Ok(Ids { ids, cut })
    }

    /// Ids of a piece that gives enough of them, and whether it is only a piece.
    fn grow<'t>(
        &self,
        text: &'t str,
        wanted: usize,
        piece: impl Fn(usize) -> &'t str,
        cap: fn(&str) -> &str,
    ) -> Result<(Vec<u32>, bool), ModelError> {
        let enough = wanted.saturating_add(SLACK_TOKENS);
        let mut bytes = enough.saturating_mul(BYTES_A_TOKEN);
        loop {
            let raw = if bytes < text.len() { piece(bytes) } else { text };
            let short = self.runs.shorten(raw);
            let capped = short.len() > TOKENIZED_BYTES_MAX;
            let ids = self.ids(if capped { cap(&short) } else { &short })?;
            let whole = raw.len() == text.len() && !capped;
            if whole || capped || ids.len() >= enough {
                return Ok((ids, !whole));
            }
            bytes = bytes.saturating_mul(2);
        }
    }

    fn ids(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        if let Some(ids) = self.fast.as_ref().and_then(|fast| fast.ids(text)) {
            return Ok(ids);
        }
        let wrong = |error: tokenizers::Error| ModelError::Tokenize { reason: error.to_string() };
        Ok(self.tokenizer.encode_fast(text, false).map_err(wrong)?.get_ids().to_vec())
    }
}

fn capped_head(piece: &str) -> &str {
    &piece[..piece.floor_char_boundary(TOKENIZED_BYTES_MAX)]
}

fn capped_tail(piece: &str) -> &str {
    &piece[piece.ceil_char_boundary(piece.len().saturating_sub(TOKENIZED_BYTES_MAX))..]
}

/// The first white space from `from` on, if it is near; else `from`.
fn cut_after(text: &str, from: usize) -> usize {
    let from = text.ceil_char_boundary(from);
    let near = &text.as_bytes()[from..text.len().min(from + CUT_BYTES)];
    near.iter().position(u8::is_ascii_whitespace).map_or(from, |at| from + at)
}

/// The last white space before `from`, if it is near; else `from`.
fn cut_before(text: &str, from: usize) -> usize {
    let from = text.floor_char_boundary(from);
    let start = from.saturating_sub(CUT_BYTES);
    let near = &text.as_bytes()[start..from];
    near.iter().rposition(u8::is_ascii_whitespace).map_or(from, |at| start + at)
}

/// Which runs may be shortened without changing an id. The tokenizer is asked, once.
#[derive(Clone, Copy, Debug, Default)]
struct Runs {
    /// White space beyond [`Self::BLANKS`] in a row changes nothing.
    blanks: bool,
    /// ASCII letters and digits beyond [`Self::LETTERS`] in a row change nothing: one unknown word.
    letters: bool,
}

impl Runs {
    const BLANKS: usize = 64;
    const LETTERS: usize = 256;
    /// Below this nothing is gained.
    const BYTES_MIN: usize = 8 << 10;

    fn of(tokenizer: &BoundedTokenizer) -> Result<Self, ModelError> {
        let between = |run: String| tokenizer.ids(&format!("a {run} b"));
        let same = |pattern: &str, length: usize| -> Result<bool, ModelError> {
            let run = |length: usize| between(pattern.chars().cycle().take(length).collect());
            Ok(run(length)? == run(length * 2)?)
        };
        let all = |patterns: &[&str], length| -> Result<bool, ModelError> {
            patterns.iter().try_fold(true, |all, pattern| Ok(all && same(pattern, length)?))
        };
        Ok(Self {
            blanks: all(&[" ", "\n", "\t", "\r\n", " \n"], Self::BLANKS)?,
            letters: all(&["x", "7", "Ab", "x1"], Self::LETTERS)?,
        })
    }

    /// Length of the run that `bytes` begin with, and how much of it must stay; 1 and 1 where they
    /// begin with none.
    fn run(self, bytes: &[u8]) -> (usize, usize) {
        let length = |alike: fn(u8) -> bool| bytes.iter().take_while(|&&byte| alike(byte)).count();
        let blanks = if self.blanks { length(is_blank) } else { 0 };
        let letters = if self.letters { length(|byte| byte.is_ascii_alphanumeric()) } else { 0 };
        match (blanks, letters) {
            (0, 0) => (1, 1),
            (0, letters) => (letters, letters.min(Self::LETTERS)),
            (blanks, _) => (blanks, blanks.min(Self::BLANKS)),
        }
    }

    fn shorten(self, text: &str) -> Cow<'_, str> {
        if text.len() < Self::BYTES_MIN || !(self.blanks || self.letters) {
            return Cow::Borrowed(text);
        }
        let bytes = text.as_bytes();
        let (mut short, mut copied, mut at) = (String::new(), 0, 0);
        while at < bytes.len() {
            let (length, kept) = self.run(&bytes[at..]);
            if kept < length {
                // Runs are ASCII, so both places are borders of characters.
                short.push_str(&text[copied..at + kept]);
                copied = at + length;
            }
            at += length;
        }
        if copied == 0 {
            return Cow::Borrowed(text);
        }
        short.push_str(&text[copied..]);
        Cow::Owned(short)
    }
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\n' | b'\t' | b'\r')
}

#[cfg(test)]
#[path = "bounded_tests.rs"]
mod tests;
