//! THE straight line: a request's way from mail to labels, top to bottom in [`Pipeline::classify`].

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use postsort_cache::{Claim, Digest, Digester, Lead, Lease, ResultCache, ResultStats, Weigh};
use postsort_models::{Encoded, LongText, TextTokenizer, aggregate};
use tokio::sync::oneshot;

use crate::catalog::{Catalog, Entry, LeasedModel, Served, Shadow, Version};
use crate::config::{Config, RequestLimits};
use crate::error::Error;
use crate::input::{Input, Readable};
use crate::scheduler::plan::BatchLimits;
use crate::scheduler::{Job, JobError, Overloaded, Priority, Scheduler, SchedulerLimits};
use crate::telemetry::{Metrics, ModelNote, Outcome, RejectReason, SloWatch, Stage, note};

/// Decoding and tokenising more than this many bytes is done off the network threads: it takes
/// longer than the hand-over does.
const INLINE_BYTES_MAX: usize = 32 << 10;

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
    results: ResultCache<Verdict>,
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
}

/// A request's answer.
#[derive(Clone, Debug)]
pub struct Classified {
    /// The model.
    pub entry: Arc<Entry>,
    /// The revision of it that answered, all inputs.
    pub version: Arc<Version>,
    /// One a input, in their order.
    pub answers: Vec<Answer>,
    /// Where the time went.
    pub timings: Timings,
}

/// One mail's answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// What the model said.
    pub verdict: Arc<Verdict>,
    /// Whether it was known already.
    pub cached: bool,
}

/// What a model said of one text; what the result cache keeps.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// Logits of the labels, windows aggregated.
    pub logits: Box<[f32]>,
    /// Tokens computed, special tokens included.
    pub tokens: usize,
    /// Windows computed.
    pub windows: usize,
    /// Whether a part of the text was not read.
    pub truncated: bool,
}

impl Weigh for Verdict {
    fn heap_bytes(&self) -> usize {
        size_of_val(&*self.logits)
    }
}

/// Where a request's time went. Of a batch: the longest of each.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timings {
    /// Mail to text.
    pub decode: Duration,
    /// Looking the mails up, and waiting for whoever computes the same.
    pub cache: Duration,
    /// Waiting for the model to be loaded.
    pub load: Duration,
    /// Waiting for the engine.
    pub queue: Duration,
    /// Text to token ids.
    pub tokenize: Duration,
    /// The forward pass.
    pub infer: Duration,
    /// All of it.
    pub total: Duration,
}

impl Timings {
    /// In the order in which they take place.
    #[must_use]
    pub const fn stages(&self) -> [(&'static str, Duration); 6] {
        [
            ("decode", self.decode),
            ("cache", self.cache),
            ("load", self.load),
            ("tokenize", self.tokenize),
            ("queue", self.queue),
            ("infer", self.infer),
        ]
    }
}

impl Pipeline {
    /// Opens the models folder and starts the scheduler; loads nothing.
    ///
    /// # Errors
    /// See [`Catalog::open`].
    pub fn new(config: &Config) -> Result<Self, Error> {
        let metrics = Arc::new(Metrics::new()?);
        let catalog = Catalog::open(
            config.models_dir.clone(),
            config.load_options()?,
            // One thread packs a model's weights.
            (config.memory_bytes_max, config.threads),
            config.default_model.clone(),
            &metrics,
        )?;
        let batch = BatchLimits {
            tokens_max: config.batch_tokens_max,
            jobs_max: config.batch_tokens_max.div_ceil(8),
        };
        let limits = SchedulerLimits { jobs_max: config.queued_jobs_max, batch };
        Ok(Self {
            catalog,
            metrics,
            slo: SloWatch::new(config.objectives),
            limits: config.limits,
            results: ResultCache::new(config.result_cache_bytes_max),
            scheduler: Scheduler::start(limits).map_err(|e| Error::setup("engine thread", e))?,
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
        let mut watch = RequestWatch::start(&entry, &self.slo, inputs.len());
        let timeout = options.timeout.unwrap_or(self.limits.timeout);
        let deadline = watch.started + timeout;
        let (pipeline, timings) = (Arc::clone(self), Timings::default());
        let mut request =
            Request { pipeline, entry: Arc::clone(&entry), options, deadline, timings };
        let result = match tokio::time::timeout(timeout, request.answer(inputs)).await {
            Ok(Err(Error::Deadline { .. })) | Err(_) => Err(Error::Deadline { timeout }),
            Ok(result) => result,
        };
        let mut timings = request.timings;
        timings.total = watch.end(&timings, result.as_ref().err());
        let (version, answers) = result?;
        drop(watch);
        Ok(Classified { entry, version, answers, timings })
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
}

/// An input that this request has to compute, and its duty to those who wait for the same.
type Ours = (usize, Option<Lead<Verdict>>);

impl Request {
    async fn answer(&mut self, inputs: Vec<Input>) -> Result<(Arc<Version>, Vec<Answer>), Error> {
        // mail → text
        let texts = Arc::new(self.decode(inputs).await?);
        loop {
            // → the revision that answers all of it
            let version = self.entry.current()?;
            match self.answer_by(&version, &texts).await {
                // Another one took its place before this request had a lease on it.
                Err(Error::Superseded { .. }) => tokio::task::yield_now().await,
                answers => return answers.map(|answers| (version, answers)),
            }
        }
    }

    async fn answer_by(
        &mut self,
        version: &Arc<Version>,
        texts: &Arc<Vec<Readable>>,
    ) -> Result<Vec<Answer>, Error> {
        let folder = &version.folder;
        let long = self.options.long.unwrap_or(folder.manifest().long);

        // → known already, being computed for somebody else, or ours to compute
        let key = |at: usize| digest(folder.revision(), &texts[at], long);
        let mut answers: Vec<Option<Answer>> = vec![None; texts.len()];
        let mut open: Vec<usize> = (0..texts.len()).collect();
        while !open.is_empty() {
            let (mut ours, mut theirs) = (Vec::<Ours>::new(), Vec::new());
            let clock = Instant::now();
            for at in open.drain(..) {
                if self.options.skip_cache {
                    ours.push((at, None));
                    continue;
                }
                match self.pipeline.results.claim(key(at)) {
                    Claim::Hit(verdict) => answers[at] = Some(Answer { verdict, cached: true }),
                    Claim::Wait(verdict) => theirs.push((at, verdict)),
                    Claim::Lead(lead) => ours.push((at, Some(lead))),
                }
            }
            self.timings.cache += clock.elapsed();
            if !ours.is_empty() {
                for (at, verdict) in self.compute(version, texts, long, ours).await? {
                    self.try_shadow(version, texts, at, &verdict);
                    answers[at] = Some(Answer { verdict, cached: false });
                }
            }
            let clock = Instant::now();
            for (at, verdict) in theirs {
                match verdict.await {
                    Ok(verdict) => answers[at] = Some(Answer { verdict, cached: true }),
                    // Whoever computed it gave up: ask again.
                    Err(_) => open.push(at),
                }
            }
            self.timings.cache += clock.elapsed();
        }

        // → answer
        let answers: Vec<Answer> =
            answers.into_iter().collect::<Option<_>>().ok_or(Error::Internal)?;
        self.entry.metrics.mails(answers.len());
        if !self.options.skip_cache {
            let hits = answers.iter().filter(|answer| answer.cached).count();
            self.entry.metrics.cache(hits, answers.len() - hits);
        }
        Ok(answers)
    }

    async fn decode(&mut self, inputs: Vec<Input>) -> Result<Vec<Readable>, Error> {
        let clock = Instant::now();
        let limits = self.pipeline.limits;
        let bytes: usize = inputs.iter().map(Input::bytes).sum();
        let texts = off_the_network_if(bytes > INLINE_BYTES_MAX, move || {
            inputs.into_iter().enumerate().map(|(at, input)| input.read(at, &limits)).collect()
        })
        .await?;
        self.timings.decode = clock.elapsed();
        texts
    }

    async fn compute(
        &mut self,
        version: &Arc<Version>,
        texts: &Arc<Vec<Readable>>,
        long: LongText,
        ours: Vec<Ours>,
    ) -> Result<Vec<(usize, Arc<Verdict>)>, Error> {
        // → admission
        let _admission = self.pipeline.scheduler.admit(ours.len()).map_err(overloaded)?;

        // → lease on the model, loading it if need be
        let clock = Instant::now();
        let model = self.pipeline.catalog.acquire(&self.entry, version).await?;
        self.timings.load += clock.elapsed();

        // → tokenise
        let wanted: Vec<usize> = ours.iter().map(|(at, _)| *at).collect();
        let encoded = self.tokenize(&model, texts, wanted, long).await?;

        // → scheduler → engine
        let (mut waiting, mut jobs) =
            (Vec::with_capacity(ours.len()), Vec::with_capacity(ours.len()));
        let queued_at = Instant::now();
        for ((at, lead), Encoded { windows, tokens, truncated }) in ours.into_iter().zip(encoded) {
            let (reply, answer) = oneshot::channel();
            waiting.push((at, lead, answer, tokens, windows.len(), truncated));
            let (model, priority) = (LeasedModel(model.clone()), self.options.priority);
            jobs.push(Job {
                model,
                windows,
                tokens,
                priority,
                deadline: self.deadline,
                queued_at,
                reply,
            });
        }
        self.pipeline.scheduler.submit(jobs);

        // → logits, aggregated and kept
        let mut verdicts = Vec::with_capacity(waiting.len());
        for (at, lead, answer, tokens, windows, truncated) in waiting {
            let done = match answer.await {
                Ok(Ok(done)) => done,
                Ok(Err(JobError::Expired)) => {
                    return Err(Error::Deadline { timeout: Duration::ZERO });
                }
                Ok(Err(JobError::Engine(reason))) => {
                    return Err(Error::Inference { model: self.entry.name.clone(), reason });
                }
                Err(_) => return Err(Error::Draining),
            };
            self.timings.queue = self.timings.queue.max(done.queue_wait);
            self.timings.infer = self.timings.infer.max(done.infer);
            let aggregation = model.model.folder().manifest().aggregation;
            let logits = aggregate(&done.logits, model.model.labels(), aggregation).into();
            let verdict = Arc::new(Verdict { logits, tokens, windows, truncated });
            if let Some(lead) = lead {
                lead.fulfil(&verdict);
            }
            verdicts.push((at, verdict));
        }
        Ok(verdicts)
    }

    /// Lets the revision on trial read the mail too, behind everybody else, if it is drawn.
    fn try_shadow(
        &self,
        version: &Arc<Version>,
        texts: &Arc<Vec<Readable>>,
        at: usize,
        verdict: &Arc<Verdict>,
    ) {
        let Some(shadow) = self.entry.shadow().filter(|shadow| shadow.draw()) else { return };
        let (pipeline, entry, deadline) =
            (Arc::clone(&self.pipeline), Arc::clone(&self.entry), self.deadline);
        let options = ClassifyOptions { priority: Priority::Bulk, ..self.options };
        let timings = Timings::default();
        let request = Self { pipeline, entry, options, deadline, timings };
        let (version, texts, verdict) =
            (Arc::clone(version), Arc::clone(texts), Arc::clone(verdict));
        tokio::spawn(request.read_by_shadow(shadow, version, texts, at, verdict));
    }

    async fn read_by_shadow(
        mut self,
        shadow: Arc<Shadow>,
        version: Arc<Version>,
        texts: Arc<Vec<Readable>>,
        at: usize,
        verdict: Arc<Verdict>,
    ) {
        let tried = Arc::clone(&shadow.version);
        let long = self.options.long.unwrap_or(tried.folder.manifest().long);
        let read = self.compute(&tried, &texts, long, vec![(at, None)]).await;
        let Some((_, theirs)) = read.ok().and_then(|mut read| read.pop()) else {
            return shadow.given_up();
        };
        let agreed = version.folder.labels().first(&verdict.logits)
            == tried.folder.labels().first(&theirs.logits);
        shadow.compared(agreed);
        self.entry.metrics.shadowed(agreed);
    }

    async fn tokenize(
        &mut self,
        model: &Lease<Served>,
        texts: &Arc<Vec<Readable>>,
        wanted: Vec<usize>,
        long: LongText,
    ) -> Result<Vec<Encoded>, Error> {
        let clock = Instant::now();
        let bytes: usize = wanted.iter().map(|&at| texts[at].bytes()).sum();
        let (model, texts) = (model.clone(), Arc::clone(texts));
        let refuse_long = self.options.refuse_long;
        let encoded = off_the_network_if(bytes > INLINE_BYTES_MAX, move || {
            let encode = |at| encode(model.model.tokenizer(), &texts[at], at, long, refuse_long);
            wanted.into_iter().map(encode).collect()
        })
        .await?;
        self.timings.tokenize += clock.elapsed();
        encoded
    }
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

/// Runs short work where it is, long work on a thread that may block.
async fn off_the_network_if<T: Send + 'static>(
    long: bool,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    if long {
        tokio::task::spawn_blocking(work).await.map_err(|_| Error::Internal)
    } else {
        Ok(work())
    }
}

/// All that an answer depends on. Scores are derived from the logits, so what only changes the
/// scores (function, `top_k`) is not part of it.
fn digest(revision: &str, text: &Readable, long: LongText) -> Digest {
    let digester = Digester::new().field(revision.as_bytes());
    match text {
        Readable::One(text) => digester
            .field(&[long as u8])
            .field(&text.subject_bytes.to_le_bytes())
            .field(text.text.as_bytes()),
        Readable::Pair(first, second) => {
            digester.field(b"pair").field(first.as_bytes()).field(second.as_bytes())
        }
    }
    .finish()
}

fn overloaded(full: Overloaded) -> Error {
    Error::Overloaded {
        queued_jobs: full.jobs,
        queued_jobs_max: full.jobs_max,
        retry_after: full.retry_after,
    }
}

/// Records how a request ended; dropped before its end, the client has gone away.
struct RequestWatch<'a> {
    entry: &'a Entry,
    slo: &'a SloWatch,
    mails: usize,
    started: Instant,
    ended: bool,
}

impl<'a> RequestWatch<'a> {
    fn start(entry: &'a Entry, slo: &'a SloWatch, mails: usize) -> Self {
        Self { entry, slo, mails, started: Instant::now(), ended: false }
    }

    fn end(&mut self, timings: &Timings, error: Option<&Error>) -> Duration {
        self.ended = true;
        let total = self.started.elapsed();
        let metrics = &self.entry.metrics;
        let outcome = error.map_or(Outcome::Ok, Outcome::from);
        metrics.outcome(outcome);
        self.slo.record(outcome, total);
        note(|| ModelNote {
            model: self.entry.name.as_str().into(),
            outcome,
            mails: self.mails,
            started: SystemTime::now() - total,
            total,
            stages: timings.stages(),
        });
        match error {
            Some(error) => {
                if let Some(reason) = RejectReason::of(error) {
                    metrics.rejected(reason);
                }
            }
            None => {
                metrics.stage(Stage::Decode, timings.decode);
                metrics.stage(Stage::Total, total);
                // Answered from memory: no stage of the engine took place.
                if !timings.infer.is_zero() {
                    metrics.stage(Stage::Queue, timings.queue);
                    metrics.stage(Stage::Tokenize, timings.tokenize);
                    metrics.stage(Stage::Infer, timings.infer);
                }
            }
        }
        // What the client did wrong says nothing about the model's health, nor does what was
        // refused in microseconds.
        if !matches!(outcome, Outcome::Invalid | Outcome::Rejected) {
            self.entry.latency.record(total, outcome != Outcome::Ok);
        }
        total
    }
}

impl Drop for RequestWatch<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.entry.metrics.outcome(Outcome::Cancelled);
        }
    }
}
