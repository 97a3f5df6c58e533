//! One mail, many models: decoded once, tokenised once for each tokenizer, encoded once for each
//! encoder. Each model's part goes the same way as a request to it alone.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use parking_lot::Mutex;
use postsort_cache::ResultCache;
use postsort_models::{Encoded, LongText, ModelFolder};

use super::{Classified, ClassifyOptions, Mails, Pipeline, States, decode};
use crate::catalog::Entry;
use crate::error::Error;
use crate::input::Input;

/// What the models say of one mail.
#[derive(Debug)]
pub struct Analyzed {
    /// Each model with its answer, or with what went wrong with it alone.
    pub results: Vec<(Arc<Entry>, Result<Classified, Error>)>,
    /// Mail to text, for all of them.
    pub decode: Duration,
    /// All of it.
    pub total: Duration,
}

impl Pipeline {
    /// What `models` say of a mail; all models, unless they are named.
    ///
    /// # Errors
    /// [`Error::UnknownModel`], and those of decoding. What goes wrong with one model alone is its
    /// result.
    pub async fn analyze(
        self: &Arc<Self>,
        models: Option<&[String]>,
        input: Input,
        options: ClassifyOptions,
    ) -> Result<Analyzed, Error> {
        let started = Instant::now();
        let entries = match models {
            Some(names) => {
                let entry = |name: &String| self.catalog.entry(Some(name));
                names.iter().map(entry).collect::<Result<Vec<_>, _>>()?
            }
            None => self.catalog.entries(),
        };
        let texts = Arc::new(decode(vec![input], self.limits).await?);
        let decode = started.elapsed();
        let encodings = Arc::new(Encodings::default());
        let timeout = options.timeout.unwrap_or(self.limits.timeout);
        let options = ClassifyOptions { timeout: Some(timeout.saturating_sub(decode)), ..options };
        let results = join_all(entries.into_iter().map(async |entry| {
            let mails = Mails::Read(Arc::clone(&texts), Arc::clone(&encodings));
            let answer = self.decide(Arc::clone(&entry), mails, options).await;
            (entry, answer)
        }))
        .await;
        Ok(Analyzed { results, decode, total: started.elapsed() })
    }
}

/// What a request has made of its texts, for whichever model reads them next.
#[derive(Default)]
pub(super) struct Encodings {
    sequences: Mutex<Vec<(Key, Kept)>>,
    /// In the place of the server's, where those are passed by.
    states: OnceLock<ResultCache<States>>,
}

/// The tokenizer with its limit, the text's place in the request, the way with long text.
type Key = ([u8; 32], usize, LongText);
type Kept = Arc<OnceLock<Encoded>>;

/// Room for the states of one request's texts.
const STATES_BYTES_MAX: u64 = 1 << 20;

impl Encodings {
    pub(super) fn states(&self) -> &ResultCache<States> {
        self.states.get_or_init(|| ResultCache::new(STATES_BYTES_MAX))
    }

    /// What was made of a text, or is made now.
    pub(super) fn get(
        &self,
        folder: &ModelFolder,
        (at, long): (usize, LongText),
        encode: impl FnOnce() -> Result<Encoded, Error>,
    ) -> Result<Encoded, Error> {
        let key = (*folder.tokenization(), at, long);
        let kept = {
            let mut known = self.sequences.lock();
            match known.iter().find(|(other, _)| *other == key) {
                Some((_, kept)) => Arc::clone(kept),
                None => {
                    known.push((key, Arc::default()));
                    known.last().map(|(_, kept)| Arc::clone(kept)).unwrap_or_default()
                }
            }
        };
        if let Some(encoded) = kept.get() {
            return Ok(encoded.clone());
        }
        let encoded = encode()?;
        Ok(kept.get_or_init(|| encoded).clone())
    }
}
