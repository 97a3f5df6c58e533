//! THE straight line: a request's way from mail to labels, top to bottom in [`Pipeline::classify`].

mod analyze;
mod answer;
mod cascade;
mod demand;
mod explain;
mod shadow;
mod shared;
mod skim;
mod states;
mod watch;

use std::mem::take;
use std::sync::Arc;
use std::time::{Duration, Instant};

use postsort_cache::{Claim, Digest, Lead, Lease, ResultCache, ResultStats};
use postsort_models::{Encoded, LongText, ModelFolder, TextTokenizer, aggregate};
use tokio::task::JoinSet;

use crate::catalog::{Catalog, Entry, LeasedModel, Served, Version};
use crate::config::{Config, RequestLimits};
use crate::deadline::until;
use crate::error::Error;
use crate::input::{Input, Readable};
use crate::journal::Journal;
use crate::scheduler::{DropReason, Priority, Scheduler};
use crate::telemetry::{Metrics, SloWatch};

pub use analyze::Analyzed;
use analyze::Encodings;
pub use answer::{Answer, Classified, Timings, Verdict};
pub use explain::{Explanation, Part};
pub use shared::SharedAnswers;
use skim::{Excerpt, Reading};
use states::{Ended, States};
use watch::RequestWatch;

/// Decoding and tokenising more than this many bytes is done off the network threads: it takes
/// longer than the hand-over does.
const INLINE_BYTES_MAX: usize = 32 << 10;

/// From the engine to the client: an answer is planned to be ready so long before its deadline.
const WAY_BACK: Duration = Duration::from_millis(3);

/// Everything that answers a request, without HTTP.
pub struct Pipeline {
    /// The models.
    pub catalog: Catalog,
    /// Their metrics.
    pub metrics: Arc<Metrics>,
    /// What the service is judged by.
    pub slo: SloWatch,
    /// Limits of one request.
    pub limits: RequestLimits,
    /// Writes down what was said.
    pub journal: Journal,
    /// What other processes know.
    pub shared: SharedAnswers,
    results: ResultCache<Verdict>,
    /// What encoders that several models share made of texts.
    states: ResultCache<States>,
    scheduler: Scheduler<LeasedModel>,
}

/// How to classify.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClassifyOptions {
    /// What to do with text beyond the model's limit; the manifest's way unless given.
    pub long: Option<LongText>,
    /// Refuse text beyond the model's limit instead.
    pub refuse_long: bool,
    /// Which request goes first.
    pub priority: Priority,
    /// Time limit; the server's unless given.
    pub timeout: Option<Duration>,
    /// Do not look into, or write to, the result cache.
    pub skip_cache: bool,
    /// Wait for room in the queue where there is none, rather than be refused.
    pub in_turn: bool,
    /// Find out which parts of the text moved the score, by passes without them.
    pub explain: bool,
    /// The first mail's place in what the client sent.
    pub item_first: u32,
}

impl Pipeline {
    /// Opens the models folder and starts the scheduler; loads nothing.
    ///
    /// # Errors
    /// See [`Catalog::open`].
    pub fn new(config: &Config) -> Result<Self, Error> {
        let metrics = Arc::new(Metrics::new(&config.devices.names()));
        let catalog = Catalog::open(
            config.models_dir.clone(),
            &config.load_options()?,
            // One thread packs a model's weights.
            (config.devices.clone(), config.threads),
            config.default_model.clone(),
            &metrics,
        )?;
        Ok(Self {
            catalog,
            metrics,
            slo: SloWatch::new(config.objectives),
            limits: config.limits,
            journal: Journal::default(),
            shared: SharedAnswers::default(),
            results: ResultCache::new(config.result_cache_bytes_max),
            states: ResultCache::new(config.state_cache_bytes_max),
            scheduler: Scheduler::start(config.scheduler)
                .map_err(|e| Error::setup("engine thread", e))?,
        })
    }

    /// Classifies `inputs` by `model`, the default model unless one is named.
    ///
    /// # Errors
    /// See [`Error`]; the first input that cannot be answered decides.
    pub async fn classify(
        self: &Arc<Self>,
        model: Option<&str>,
        inputs: Vec<Input>,
        options: ClassifyOptions,
    ) -> Result<Classified, Error> {
        let entry = self.catalog.entry(model)?;
        self.decide(entry, Mails::Sent(inputs), options).await
    }

    /// The answer of a model, or of a cheaper one that is sure enough; written down.
    async fn decide(
        self: &Arc<Self>,
        entry: Arc<Entry>,
        mails: Mails,
        options: ClassifyOptions,
    ) -> Result<Classified, Error> {
        let classified = match self.cheaper(&entry) {
            Some(cascade) => Box::pin(self.cascade(entry, cascade, mails, options)).await,
            None => self.ask(entry, mails, options, Instant::now()).await,
        }?;
        self.journal.note(&classified, options.item_first);
        Ok(classified)
    }

    /// One model's answer to a request that came at `started`.
    async fn ask(
        self: &Arc<Self>,
        entry: Arc<Entry>,
        mails: Mails,
        options: ClassifyOptions,
        started: Instant,
    ) -> Result<Classified, Error> {
        let (mails_count, priority) = (mails.len(), options.priority);
        let mut watch = RequestWatch::start(&entry, &self.slo, (mails_count, priority), started);
        let timeout = options.timeout.unwrap_or(self.limits.timeout);
        let deadline = started + timeout;
        let (pipeline, timings) = (Arc::clone(self), Timings::default());
        let encodings = mails.encodings();
        let mut request = Request {
            pipeline,
            entry: Arc::clone(&entry),
            options,
            deadline,
            timings,
            lapped: started,
            encodings,
        };
        let result = match until(|| deadline, request.answer(mails)).await {
            Some(Err(Error::Deadline { .. })) | None => Err(Error::Deadline { timeout }),
            Some(Err(Error::NotInTime { expected, retry_after, .. })) => {
                Err(Error::NotInTime { expected, timeout, retry_after })
            }
            Some(result) => result,
        };
        let mut timings = request.timings;
        timings.total = watch.end(&timings, result.as_ref().err());
        let (version, answers) = result?;
        drop(watch);
        Ok(Classified { entry, version, answers, timings })
    }

    /// Puts in answers of another time, the newest first, until there is no more room.
    ///
    /// # Errors
    /// The store is away, or slow.
    pub async fn warm(&self) -> Result<u64, Error> {
        let room = || {
            let stats = self.results.stats();
            stats.bytes < stats.bytes_max / 10 * 9
        };
        let put = |key, verdict| self.results.insert(key, Arc::new(verdict));
        self.journal.remember(put, room).await
    }

    /// Memoized results: size and evictions.
    #[must_use]
    pub fn result_stats(&self) -> ResultStats {
        self.results.stats()
    }

    /// Mails that wait or run.
    #[must_use]
    pub fn admitted_jobs(&self) -> usize {
        self.scheduler.admitted_jobs()
    }

    /// Mails that may wait or run.
    #[must_use]
    pub fn admitted_jobs_max(&self) -> usize {
        self.scheduler.admitted_jobs_max()
    }

    /// What all that waits and runs will take.
    #[must_use]
    pub fn backlog(&self) -> Duration {
        self.scheduler.backlog()
    }
}

impl std::fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipeline").field("catalog", &self.catalog).finish_non_exhaustive()
    }
}

/// One request on its way.
struct Request {
    pipeline: Arc<Pipeline>,
    entry: Arc<Entry>,
    options: ClassifyOptions,
    deadline: Instant,
    timings: Timings,
    /// When the last part of its way ended.
    lapped: Instant,
    /// What other models' requests for the same mail have tokenised, and this one has.
    encodings: Option<Arc<Encodings>>,
}

/// What is to be classified.
enum Mails {
    /// As they came.
    Sent(Vec<Input>),
    /// Decoded already, with what is shared between the models that read them.
    Read(Arc<Vec<Readable>>, Arc<Encodings>),
}

impl Mails {
    fn len(&self) -> usize {
        match self {
            Self::Sent(inputs) => inputs.len(),
            Self::Read(texts, _) => texts.len(),
        }
    }

    fn encodings(&self) -> Option<Arc<Encodings>> {
        match self {
            Self::Sent(_) => None,
            Self::Read(_, encodings) => Some(Arc::clone(encodings)),
        }
    }
}

/// An input that this request has to compute, and its duty to those who wait for the same.
type Ours = (usize, Option<Lead<Verdict>>);

impl Request {
    async fn answer(&mut self, mails: Mails) -> Result<(Arc<Version>, Vec<Answer>), Error> {
        // mail → text
        let texts = match mails {
            Mails::Sent(inputs) => {
                let texts = decode(inputs, self.pipeline.limits).await;
                self.timings.decode = self.lap();
                Arc::new(texts?)
            }
            Mails::Read(texts, _) => {
                // Another request has read them, in its own time.
                self.lap();
                texts
            }
        };
        loop {
            // → the revision that answers all of it
            let version = self.entry.current()?;
            match self.answer_by(&version, &texts).await {
                // Another one took its place before this request had a lease on it.
                Err(Error::Superseded { .. }) => {
                    tokio::task::yield_now().await;
                    self.lap();
                }
                Ok(mut answers) => {
                    if self.options.explain {
                        Box::pin(self.explain(&version, &texts, &mut answers)).await;
                    }
                    return Ok((version, answers));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The time since the last part of the way ended; the next one begins.
    fn lap(&mut self) -> Duration {
        let now = Instant::now();
        now.saturating_duration_since(std::mem::replace(&mut self.lapped, now))
    }

    async fn answer_by(
        &mut self,
        version: &Arc<Version>,
        texts: &Arc<Vec<Readable>>,
    ) -> Result<Vec<Answer>, Error> {
        let folder = &version.folder;
        let long = self.options.long.unwrap_or(folder.manifest().long);

        // → known already, being computed for somebody else, or ours to compute
        let mails: Vec<Digest> = texts.iter().map(Readable::digest).collect();
        let key = |at: usize| digest(folder.revision(), mails[at], long);
        let urgency = self.options.priority as u8;
        let mut answers: Vec<Option<Answer>> = vec![None; texts.len()];
        let mut shared_hits = 0;
        let mut open: Vec<usize> = (0..texts.len()).collect();
        while !open.is_empty() {
            let (mut ours, mut theirs) = (Vec::<Ours>::new(), Vec::new());
            for at in open.drain(..) {
                if self.options.skip_cache {
                    ours.push((at, None));
                    continue;
                }
                match self.pipeline.results.claim(key(at), urgency) {
                    Claim::Hit(verdict) => {
                        answers[at] = Some(Answer::new(mails[at], verdict, true));
                    }
                    Claim::Wait(verdict) => theirs.push((at, verdict)),
                    Claim::Lead(lead) => ours.push((at, Some(lead))),
                }
            }
            // → known to another process
            let (known, ours) = self.pipeline.shared.get(folder, ours, key).await;
            shared_hits += known.len();
            for (at, verdict) in known {
                answers[at] = Some(Answer::new(mails[at], verdict, true));
            }
            let looked = self.lap();
            self.timings.cache += looked;
            if !ours.is_empty() {
                // In a box, like all that a known mail does without: a request's future is moved several
                // times on its way down, and takes as long as it is large.
                for (at, verdict) in Box::pin(self.compute(version, texts, long, ours)).await? {
                    self.try_shadow(version, texts, at, &verdict);
                    if !self.options.skip_cache {
                        self.pipeline.journal.keep(key(at), &verdict);
                        self.pipeline.shared.put(key(at), &verdict);
                    }
                    answers[at] = Some(Answer::new(mails[at], verdict, false));
                }
            }
            if !theirs.is_empty() {
                self.lap();
                for (at, verdict) in theirs {
                    match verdict.await {
                        Ok(verdict) => answers[at] = Some(Answer::new(mails[at], verdict, true)),
                        // Whoever computed it gave up: ask again.
                        Err(_) => open.push(at),
                    }
                }
                let looked = self.lap();
                self.timings.cache += looked;
            }
        }

        // → answer
        let answers: Vec<Answer> =
            answers.into_iter().collect::<Option<_>>().ok_or(Error::Internal)?;
        self.entry.metrics.mails(answers.len());
        self.entry.drift.observe_at(self.lapped, answers.iter().map(|answer| &*answer.verdict));
        if !self.options.skip_cache {
            let hits = answers.iter().filter(|answer| answer.cached).count();
            self.entry.metrics.cache([hits - shared_hits, shared_hits], answers.len() - hits);
        }
        Ok(answers)
    }

    async fn compute(
        &mut self,
        version: &Arc<Version>,
        texts: &Arc<Vec<Readable>>,
        long: LongText,
        ours: Vec<Ours>,
    ) -> Result<Vec<(usize, Arc<Verdict>)>, Error> {
        // → admission
        let wanted: Vec<usize> = ours.iter().map(|(at, _)| *at).collect();
        let mut admission = self.admit(version, texts, &wanted, long).await?;

        // → lease on the model, loading it if need be
        let clock = Instant::now();
        let mut model = self.pipeline.catalog.acquire(&self.entry, version).await?;
        self.timings.load += clock.elapsed();

        // → states of its encoder: known from another model's request, or tokenise → scheduler →
        //   engine
        let excerpt = Excerpt::first(long, version.folder.manifest());
        let mut open: Vec<_> = ours.into_iter().map(|ours| Reading::new(ours, excerpt)).collect();
        let mut verdicts = Vec::with_capacity(open.len());
        while !open.is_empty() {
            // One round after another: of one the longest counts, of several their sum.
            let before = (take(&mut self.timings.queue), take(&mut self.timings.infer));
            let wanted = open.iter().map(|reading| (reading.at, reading.excerpt)).collect();
            let begun = self.begin_states(&model, &mut admission, texts, wanted, long).await?;
            let (mut again, mut no_memory) = (Vec::new(), false);
            for (mut reading, begun) in open.into_iter().zip(begun) {
                match self.end_states(begun).await? {
                    Ended::Known(states) => {
                        // → head → logits
                        reading.logits.extend(self.logits(&model, &states)?);
                        reading.states.push(states);
                    }
                    ended => {
                        no_memory |= matches!(ended, Ended::OutOfMemory);
                        again.push(reading);
                        continue;
                    }
                }
                // → aggregated
                let verdict = verdict(&model, &reading);
                // → in doubt of a text that was skimmed: what is left of it
                if reading.goes_on(&version.folder, &verdict) {
                    again.push(reading);
                    continue;
                }
                // → kept
                if let Some(whole) = reading.skimmed() {
                    self.entry.metrics.skimmed(whole);
                }
                let verdict = Arc::new(verdict);
                if let Some(lead) = reading.lead {
                    lead.fulfil(&verdict);
                }
                verdicts.push((reading.at, verdict));
            }
            if no_memory {
                // → the same on the CPU, whatever else is there
                let clock = Instant::now();
                model = self.pipeline.catalog.fall_back(&self.entry, &model).await?;
                self.timings.load += clock.elapsed();
            }
            self.timings.queue += before.0;
            self.timings.infer += before.1;
            open = again;
        }
        Ok(verdicts)
    }

    /// `[windows][labels]`
    fn logits(&self, model: &Lease<Served>, states: &States) -> Result<Vec<Vec<f32>>, Error> {
        model.model.engine().logits(&states.windows).map_err(|error| Error::Inference {
            model: self.entry.name.clone(),
            reason: error.to_string(),
        })
    }

    async fn tokenize(
        &mut self,
        model: &Lease<Served>,
        texts: &Arc<Vec<Readable>>,
        wanted: Vec<usize>,
        long: LongText,
    ) -> Result<Vec<Encoded>, Error> {
        let clock = Instant::now();
        let known = self.encodings.clone();
        let bytes: usize = wanted.iter().map(|&at| texts[at].bytes()).sum();
        let (model, texts) = (model.clone(), Arc::clone(texts));
        let (refuse_long, deadline) = (self.options.refuse_long, self.deadline);
        let encoded = off_the_network_if(bytes > INLINE_BYTES_MAX, move || {
            if Instant::now() >= deadline {
                let dropped = |_| model.version.metrics.dropped(DropReason::Expired);
                wanted.iter().for_each(dropped);
                return Err(Error::Deadline { timeout: Duration::ZERO });
            }
            let encode = |at: usize| {
                let encoded = || encode(model.model.tokenizer(), &texts[at], at, long, refuse_long);
                let encoded = match &known {
                    None => encoded()?,
                    Some(known) => known.get(model.model.folder(), (at, long), encoded)?,
                };
                if encoded.windows.len() == 1 && !encoded.truncated {
                    model.version.cost.learn_text(texts[at].bytes(), encoded.tokens);
                }
                Ok(encoded)
            };
            wanted.into_iter().map(encode).collect()
        })
        .await?;
        self.timings.tokenize += clock.elapsed();
        encoded
    }
}

/// What the model says of what is read of a text.
fn verdict(model: &Lease<Served>, reading: &Reading) -> Verdict {
    let (folder, read) = (model.model.folder(), &reading.states);
    let aggregation = folder.manifest().aggregation;
    let logits: Box<[f32]> = aggregate(&reading.logits, folder.labels(), aggregation).into();
    let (first, confidence) = best(folder, &logits);
    Verdict {
        logits,
        tokens: read.iter().map(|states| states.tokens).sum(),
        windows: reading.logits.len(),
        truncated: read.last().is_some_and(|states| states.truncated),
        first,
        confidence,
        unknown_tokens: read.iter().map(|states| states.unknown_tokens).sum(),
    }
}

/// Position and score of the best label, after temperature.
fn best(folder: &ModelFolder, logits: &[f32]) -> (usize, f32) {
    let (labels, temperature) = (folder.labels(), folder.manifest().temperature);
    let scores = labels.scores(logits, labels.default_function(), temperature);
    scores.first().map_or((0, 0.0), |best| (best.index, best.score))
}

async fn decode(inputs: Vec<Input>, limits: RequestLimits) -> Result<Vec<Readable>, Error> {
    let bytes: usize = inputs.iter().map(Input::bytes).sum();
    off_the_network_if(bytes > INLINE_BYTES_MAX, move || {
        inputs.into_iter().enumerate().map(|(at, input)| input.read(at, &limits)).collect()
    })
    .await?
}

fn encode(
    tokenizer: &TextTokenizer,
    text: &Readable,
    at: usize,
    long: LongText,
    refuse_long: bool,
) -> Result<Encoded, Error> {
    let encoded = match text {
        Readable::One(text) => tokenizer.encode(&text.text, text.subject_bytes, long),
        Readable::Pair(first, second) => tokenizer.encode_pair(first, second),
    };
    let encoded =
        encoded.map_err(|error| Error::Unusable { index: at, reason: error.to_string() })?;
    if refuse_long && encoded.truncated {
        let size_max = tokenizer.tokens_max();
        let what = format!("inputs[{at}]");
        return Err(Error::TooLarge { what, size: size_max + 1, size_max, unit: "tokens" });
    }
    Ok(encoded)
}

/// Runs short work where it is, long work on a thread that may block; there it is not begun if the
/// request has been given up meanwhile.
async fn off_the_network_if<T: Send + 'static>(
    long: bool,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    if long {
        let mut set = JoinSet::new();
        set.spawn_blocking(work);
        set.join_next().await.and_then(Result::ok).ok_or(Error::Internal)
    } else {
        Ok(work())
    }
}

/// All that an answer depends on. Scores are derived from the logits, so what only changes the
/// scores (function, `top_k`) is not part of it.
fn digest(revision: &str, mail: Digest, long: LongText) -> Digest {
    Digest::of(&[revision.as_bytes(), &[long as u8], &mail.to_bytes()])
}
