//! Text to token ids: what `transformers` gives with `truncation=True`, and windows over long text.

use std::path::Path;

use serde_json::Value;
use tokenizers::Tokenizer;
use tokenizers::utils::truncation::{
    TruncationDirection, TruncationParams, TruncationStrategy, truncate_encodings,
};

use crate::error::ModelError;
use crate::manifest::LongText;
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

/// A model's tokenizer with its limit.
#[derive(Debug)]
pub struct TextTokenizer {
    tokenizer: Tokenizer,
    single: Template,
    pair: Template,
    tokens_max: usize,
    /// Whether a text may be cut before white space without changing the tokens before the cut.
    splits_on_space: bool,
}

/// Windows of one text.
const WINDOWS_MAX: usize = 8;
/// Tokens of the subject that each window repeats.
const SUBJECT_TOKENS_MAX: usize = 32;
/// First guess at the text that gives enough tokens; doubled while it does not.
const BYTES_A_TOKEN: usize = 8;

impl TextTokenizer {
    /// Reads `tokenizer.json`. Its own truncation and padding are not used.
    pub(crate) fn open(folder: &Path, tokens_max: usize) -> Result<Self, ModelError> {
        let path = folder.join("tokenizer.json");
        let bytes = std::fs::read(&path).map_err(|error| ModelError::io(&path, error))?;
        let mut tokenizer =
            Tokenizer::from_bytes(&bytes).map_err(|error| ModelError::bad_file(&path, error))?;
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|error| ModelError::bad_file(&path, error))?;
        let json: Value =
            serde_json::from_slice(&bytes).map_err(|error| ModelError::bad_file(&path, error))?;
        let splits_on_space = json.get("pre_tokenizer").is_some_and(splits_on_space);
        let (single, pair) = Template::of(&tokenizer)?;
        if tokens_max <= pair.added() {
            let reason = format!("{tokens_max} leaves no room beside the special tokens");
            return Err(ModelError::bad_config("max_position_embeddings", reason));
        }
        Ok(Self { tokenizer, single, pair, tokens_max, splits_on_space })
    }

    /// Most tokens of a sequence, special tokens included.
    #[must_use]
    pub fn tokens_max(&self) -> usize {
        self.tokens_max
    }

    /// The largest id that it can give.
    pub(crate) fn id_max(&self) -> u32 {
        self.tokenizer.get_vocab(true).into_values().max().unwrap_or(0)
    }

    /// Encodes a text whose first `subject_bytes` are its subject.
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
        match long {
            LongText::Truncate => {
                let (ids, rest) = self.head(text, room)?;
                let kept = &ids[..ids.len().min(room)];
                Ok(encoded(vec![self.single.wrap(&[kept], &[])], rest || ids.len() > room))
            }
            LongText::HeadTail => {
                let ids = self.ids(text)?;
                if ids.len() <= room {
                    return Ok(encoded(vec![self.single.wrap(&[&ids], &[])], false));
                }
                let (head, tail) = (&ids[..room - room / 2], &ids[ids.len() - room / 2..]);
                Ok(encoded(vec![self.single.wrap(&[head, tail], &[])], true))
            }
            LongText::Window => {
                let (ids, rest) = self.head(text, room * WINDOWS_MAX)?;
                if ids.len() <= room && !rest {
                    return Ok(encoded(vec![self.single.wrap(&[&ids], &[])], false));
                }
                let subject = text.get(..subject_bytes).unwrap_or_default();
                let mut subject = self.ids(subject)?;
                subject.truncate(SUBJECT_TOKENS_MAX.min(room / 4));
                Ok(self.windows(&ids, &subject, room, rest))
            }
        }
    }

    fn windows(&self, ids: &[u32], subject: &[u32], room: usize, rest: bool) -> Encoded {
        let mut windows = vec![self.single.wrap(&[&ids[..ids.len().min(room)]], &[])];
        let width = room - subject.len();
        let overlap = width / 4;
        let mut end = ids.len().min(room);
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
        let wrong =
            |error: &dyn std::fmt::Display| ModelError::Tokenize { reason: error.to_string() };
        let raw =
            |text: &str| self.tokenizer.encode_fast(text, false).map_err(|error| wrong(&error));
        let (first, second) = (raw(first)?, raw(second)?);
        let room = self.tokens_max - self.pair.added();
        let truncated = first.len() + second.len() > room;
        let params = TruncationParams {
            direction: TruncationDirection::Right,
            max_length: room,
            strategy: TruncationStrategy::LongestFirst,
            stride: 0,
        };
        let (first, second) =
            truncate_encodings(first, Some(second), &params).map_err(|error| wrong(&error))?;
        let second = second.as_ref().map_or(&[][..], |second| second.get_ids());
        Ok(encoded(vec![self.pair.wrap(&[first.get_ids()], &[second])], truncated))
    }

    /// Exactly `tokens` tokens, for measuring: special tokens around ordinary ones.
    #[must_use]
    pub fn encode_exact(&self, tokens: usize) -> Encoding {
        let ids_max = u32::try_from(self.tokenizer.get_vocab_size(false)).unwrap_or(u32::MAX);
        let inner = tokens.saturating_sub(self.single.added());
        // Spread over the vocabulary, so that embedding rows are not all in cache.
        let ids: Vec<u32> =
            (0..inner as u32).map(|at| (at * 7919 + 1000) % ids_max.max(1)).collect();
        self.single.wrap(&[&ids], &[])
    }

    fn ids(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        let encoding = self.tokenizer.encode_fast(text, false);
        let encoding =
            encoding.map_err(|error| ModelError::Tokenize { reason: error.to_string() })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// At least the first `wanted` ids of the text, and whether there is text beyond those given.
    ///
    /// A mail of a megabyte is not tokenised for the sake of its first 512 tokens: a prefix is,
    /// cut in front of white space, where every pre-tokenizer in use splits anyway.
    fn head(&self, text: &str, wanted: usize) -> Result<(Vec<u32>, bool), ModelError> {
        let mut bytes = wanted.saturating_mul(BYTES_A_TOKEN);
        while self.splits_on_space && bytes < text.len() {
            let Some(cut) = cut_before_space(text, bytes) else { break };
            let ids = self.ids(&text[..cut])?;
            if ids.len() >= wanted {
                let rest = text[cut..].chars().any(|c| !c.is_whitespace());
                return Ok((ids, rest));
            }
            bytes = bytes.saturating_mul(2);
        }
        Ok((self.ids(text)?, false))
    }
}

fn encoded(windows: Vec<Encoding>, truncated: bool) -> Encoded {
    let tokens = windows.iter().map(|window| window.ids.len()).sum();
    Encoded { windows, tokens, truncated }
}

/// The first place from `from` on where a single blank or line feed follows a letter or digit and
/// precedes one. Punctuation and runs of white space are avoided: some pre-tokenizers look ahead.
fn cut_before_space(text: &str, from: usize) -> Option<usize> {
    let bytes = text.as_bytes();
    let plain = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_alphanumeric);
    (from.max(1)..bytes.len().saturating_sub(1))
        .find(|&at| bytes[at] == b' ' && plain(at - 1) && plain(at + 1))
}

/// The pre-tokenizers that split at every blank between two words.
fn splits_on_space(pre_tokenizer: &Value) -> bool {
    match pre_tokenizer.get("type").and_then(Value::as_str) {
        Some("BertPreTokenizer" | "Whitespace" | "WhitespaceSplit") => true,
        Some("ByteLevel") => {
            pre_tokenizer.get("use_regex").and_then(Value::as_bool).unwrap_or(true)
        }
        Some("Metaspace") => pre_tokenizer.get("split").and_then(Value::as_bool).unwrap_or(true),
        Some("Sequence") => pre_tokenizer
            .get("pretokenizers")
            .and_then(Value::as_array)
            .is_some_and(|all| all.iter().any(splits_on_space)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{LongText, TextTokenizer};

    fn fixture(name: &str) -> TextTokenizer {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
        TextTokenizer::open(&folder, 48).expect("opens")
    }

    /// Texts of all scripts, spaces and signs, from a fixed seed.
    fn texts() -> impl Iterator<Item = String> {
        const PIECES: [&str; 24] = [
            "lunch",
            "Thursday",
            "naïve",
            "Grüße",
            "привет",
            "会议",
            "ミーティング",
            "🎉",
            "👩\u{200d}👩",
            "e\u{301}",
            "it's",
            "don't",
            "1,204.50",
            "$5",
            "?!",
            "--",
            "  ",
            "\n",
            "\t",
            "\u{a0}",
            "\u{2003}",
            "<s>",
            "x_y",
            "٣",
        ];
        let mut state = 7_u64;
        let mut random = move |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as usize % below
        };
        (0..60).map(move |_| {
            let words = 20 + random(1_500);
            (0..words).map(|_| PIECES[random(24)].to_owned() + ["", " ", " "][random(3)]).collect()
        })
    }

    #[test]
    fn a_prefix_gives_the_ids_of_the_whole_text() {
        for name in ["bert", "roberta-multi-label", "xlm-roberta", "deberta-v3", "modernbert-cls"] {
            let tokenizer = fixture(name);
            assert!(tokenizer.splits_on_space, "{name}");
            for text in texts() {
                let whole = tokenizer.ids(&text).expect("encodes");
                for wanted in [1, 20, 46, 300] {
                    let (ids, _) = tokenizer.head(&text, wanted).expect("encodes");
                    let kept = wanted.min(whole.len());
                    assert!(ids.len() >= kept, "{name}: too few of {}", whole.len());
                    assert_eq!(ids[..kept], whole[..kept], "{name}");
                }
            }
        }
    }

    #[test]
    fn windows_cover_the_text_and_repeat_the_subject() {
        let tokenizer = fixture("bert");
        let body = (0..150).map(|n| format!(" word{n}")).collect::<String>();
        let text = format!("lunch on thursday\n{body}");
        let subject = tokenizer.ids("lunch on thursday").expect("encodes");
        let encoded = tokenizer.encode(&text, 17, LongText::Window).expect("encodes");
        assert!(encoded.windows.len() > 1);
        for window in &encoded.windows {
            assert!(window.ids.len() <= 48);
            assert_eq!(window.ids.len(), window.type_ids.len());
            let repeated = subject.len().min(11);
            assert_eq!(window.ids[1..=repeated], subject[..repeated]);
        }
        let sum: usize = encoded.windows.iter().map(|window| window.ids.len()).sum();
        assert_eq!(encoded.tokens, sum);
    }
}
