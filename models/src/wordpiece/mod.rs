//! WordPiece as BERT's tokenizers have it, id for id what the `tokenizers` crate gives, without its
//! bookkeeping of offsets: that costs more than a short forward pass.
//!
//! Text is read in chunks between blanks. A chunk of printable ASCII is classified, lower-cased and
//! looked up byte by byte; any other goes through the normaliser's steps as the library does them,
//! with the library's own Unicode tables. No step reaches over a blank: a blank is a starter of its
//! own in canonical ordering, and lower-casing goes by characters.

mod normalize;
mod vocabulary;

use std::borrow::Cow;
use std::collections::HashMap;

use normalize::{is_punctuation, normalized};
use tokenizers::models::ModelWrapper;
use tokenizers::normalizers::{BertNormalizer, NormalizerWrapper};
use tokenizers::{
    Model, NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizerWrapper,
    Tokenizer,
};
use vocabulary::Vocabulary;

/// A tokenizer of one file.
#[derive(Debug)]
pub(crate) struct WordPiece {
    normalizer: BertNormalizer,
    classes: [Class; 256],
    /// ASCII as the normaliser leaves it.
    folded: [u8; 256],
    /// Ids of words of one byte; of use for punctuation.
    bytes: [u32; 256],
    words: Vocabulary,
    continuations: Vocabulary,
    word_chars_max: usize,
    unknown: u32,
    added: Vec<String>,
    /// First byte of each added token, if there are so few.
    added_starts: Vec<u8>,
}

/// What a byte is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Word,
    Punctuation,
    Blank,
    /// A control character, or a part of what is not ASCII.
    Other,
}

/// Words, accents, ideographs, punctuation and what is in no vocabulary.
const SAMPLE: &str = "Re: Größe of naïve 中文, don't — 12% off\u{301} qzxqzx \u{1f600}";
/// Each is looked at when a tokenizer is opened.
const ADDED_MAX: usize = 256;
/// A longer limit than this is nobody's.
const WORD_CHARS_MAX: usize = 256;
/// Of a word that is read: more than it has, so that its end is read like its beginning.
const WORD_BYTES: usize = WORD_CHARS_MAX + 16;

impl WordPiece {
    /// Of a tokenizer all of whose parts are known here; `None` otherwise. `vocabulary` has all of
    /// its tokens, added ones included.
    pub(crate) fn of(tokenizer: &Tokenizer, vocabulary: &HashMap<String, u32>) -> Option<Self> {
        let Some(&NormalizerWrapper::BertNormalizer(normalizer)) = tokenizer.get_normalizer()
        else {
            return None;
        };
        let (Some(PreTokenizerWrapper::BertPreTokenizer(_)), ModelWrapper::WordPiece(model)) =
            (tokenizer.get_pre_tokenizer(), tokenizer.get_model())
        else {
            return None;
        };
        // One that is looked for in the normalised text could be there without being in the text.
        let added = tokenizer.get_added_tokens_decoder();
        // Two with one id are listed once.
        let listed = added.len() == tokenizer.get_added_vocabulary().get_vocab().len();
        if !listed || added.len() > ADDED_MAX || added.values().any(|token| token.normalized) {
            return None;
        }
        let added: Vec<String> = added.into_values().map(|token| token.content).collect();
        if added.iter().any(|token| is_normalized(tokenizer, &normalized(normalizer, token))) {
            return None;
        }
        let mut added_starts: Vec<u8> =
            added.iter().filter_map(|token| token.bytes().next()).collect();
        added_starts.sort_unstable();
        added_starts.dedup();

        let unknown = model.token_to_id(&model.unk_token)?;
        let prefix = model.continuing_subword_prefix.as_str();
        let foreign: Vec<&String> =
            added.iter().filter(|token| model.token_to_id(token).is_none()).collect();
        let pairs = || {
            let pieces = vocabulary.iter().filter(|(text, _)| !foreign.contains(text));
            pieces.map(|(text, &id)| (text.as_str(), id))
        };
        let words = Vocabulary::new(pairs())?;
        let continuations = Vocabulary::new(
            pairs().filter_map(|(text, id)| Some((text.strip_prefix(prefix)?, id))),
        )?;
        let word_chars_max = model.max_input_chars_per_word;
        // Of none even punctuation would be unknown.
        if !(1..=WORD_CHARS_MAX).contains(&word_chars_max) {
            return None;
        }
        let byte = |byte: usize| u8::try_from(byte).unwrap_or(u8::MAX);
        let folded = std::array::from_fn(|at| {
            if normalizer.lowercase { byte(at).to_ascii_lowercase() } else { byte(at) }
        });
        let known = |at: usize| words.find(&[byte(at)]).unwrap_or(unknown);
        let this = Self {
            normalizer,
            classes: std::array::from_fn(|at| Class::of(byte(at))),
            folded,
            bytes: std::array::from_fn(known),
            words,
            continuations,
            word_chars_max,
            unknown,
            added,
            added_starts,
        };
        this.agrees_with(tokenizer).then_some(this)
    }

    /// Whether a few texts have the library's ids: what a file may say beside all that is known
    /// here, as a post-processor that repeats a text, shows in them.
    fn agrees_with(&self, tokenizer: &Tokenizer) -> bool {
        let added = self.added.iter().map(|token| normalized(self.normalizer, token));
        added.chain([Cow::Borrowed(SAMPLE)]).all(|text| {
            let expected = tokenizer.encode_fast(&*text, false);
            let ours = self.ids(&text);
            ours.is_none_or(|ids| expected.is_ok_and(|expected| expected.get_ids() == ids))
        })
    }

    /// Ids of a text; `None` for one with an added token in it (`[SEP]`), which is the library's.
    pub(crate) fn ids(&self, text: &str) -> Option<Vec<u32>> {
        if self.has_added_token(text) {
            return None;
        }
        // Most mail has more bytes a token, none but punctuation has fewer than two.
        let mut ids = Vec::with_capacity(text.len() / 3 + 8);
        let bytes = text.as_bytes();
        let (mut word, mut length) = ([0_u8; WORD_BYTES], 0);
        let (mut chunk_start, mut chunk_ids, mut at) = (0, 0, 0);
        while let Some(&byte) = bytes.get(at) {
            match self.classes[usize::from(byte)] {
                Class::Word => {
                    // What does not fit is longer than any word may be: that it is counts.
                    if let Some(place) = word.get_mut(length) {
                        *place = self.folded[usize::from(byte)];
                    }
                    length += 1;
                    at += 1;
                }
                Class::Punctuation => {
                    self.ascii_word(&word, &mut length, &mut ids);
                    ids.push(self.bytes[usize::from(byte)]);
                    at += 1;
                }
                Class::Blank => {
                    self.ascii_word(&word, &mut length, &mut ids);
                    at += 1;
                    (chunk_start, chunk_ids) = (at, ids.len());
                }
                Class::Other => {
                    // The chunk once more, from its start.
                    ids.truncate(chunk_ids);
                    length = 0;
                    let blank = |&byte: &u8| self.classes[usize::from(byte)] == Class::Blank;
                    at += bytes[at..].iter().position(blank).unwrap_or(bytes.len() - at);
                    self.chunk(&text[chunk_start..at], &mut ids);
                    (chunk_start, chunk_ids) = (at, ids.len());
                }
            }
        }
        self.ascii_word(&word, &mut length, &mut ids);
        Some(ids)
    }

    /// The word that ends here, if one does.
    fn ascii_word(&self, word: &[u8; WORD_BYTES], length: &mut usize, ids: &mut Vec<u32>) {
        match std::mem::take(length) {
            0 => {}
            length if length > self.word_chars_max => ids.push(self.unknown),
            length => self.pieces(word, length, ids),
        }
    }

    /// Longest pieces first; one unknown token for a word that has a part without any. The word is
    /// the first `length` bytes.
    fn pieces(&self, mut word: &[u8], mut length: usize, ids: &mut Vec<u32>) {
        let (start, mut pieces) = (ids.len(), &self.words);
        while length > 0 {
            let Some((bytes, id)) = pieces.longest(word, length) else {
                ids.truncate(start);
                return ids.push(self.unknown);
            };
            ids.push(id);
            (word, length) = (&word[bytes..], length - bytes);
            pieces = &self.continuations;
        }
    }

    /// Text without a blank, of any characters.
    fn chunk(&self, chunk: &str, ids: &mut Vec<u32>) {
        let text = normalized(self.normalizer, chunk);
        let mut start = 0;
        for (at, c) in text.char_indices() {
            let (blank, punctuation) = (c.is_whitespace(), is_punctuation(c));
            if blank || punctuation {
                self.word(&text[start..at], ids);
                start = at + c.len_utf8();
                if punctuation && !blank {
                    self.word(&text[at..start], ids);
                }
            }
        }
        self.word(&text[start..], ids);
    }

    fn word(&self, word: &str, ids: &mut Vec<u32>) {
        if word.len() > self.word_chars_max && word.chars().count() > self.word_chars_max {
            ids.push(self.unknown);
        } else if !word.is_empty() {
            self.pieces(word.as_bytes(), word.len(), ids);
        }
    }

    fn has_added_token(&self, text: &str) -> bool {
        let begins = |at: usize| self.added.iter().any(|token| text[at..].starts_with(token));
        self.added_starts.iter().any(|&start| {
            // A byte that begins a token begins a character.
            memchr::memchr_iter(start, text.as_bytes()).any(begins)
        })
    }
}

/// Leaves of a text its one character, and what is given.
struct Append<'t>(&'t str);

impl Normalizer for Append<'_> {
    fn normalize(&self, text: &mut NormalizedString) -> tokenizers::Result<()> {
        text.append(self.0);
        Ok(())
    }
}

/// Whether the library finds an added token in this normalised text. A file may say of a token twice
/// how it is looked for: the library lists the last, but does both.
fn is_normalized(tokenizer: &Tokenizer, normalized: &str) -> bool {
    let vocabulary = tokenizer.get_added_vocabulary();
    let text = vocabulary.extract_and_normalize(Some(&Append(normalized)), "\u{1}");
    let pieces = text.get_splits(OffsetReferential::Normalized, OffsetType::Byte);
    pieces.iter().any(|(_, _, tokens)| tokens.is_some())
}

impl Class {
    fn of(byte: u8) -> Self {
        match byte {
            b' ' | b'\t' | b'\n' | b'\r' => Self::Blank,
            _ if byte.is_ascii_punctuation() => Self::Punctuation,
            _ if byte.is_ascii_graphic() => Self::Word,
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests;
