//! What an encoder makes of a text. Models that differ in their heads alone share it: whichever asks
//! first has it computed, the others find it, be it in the same request or minutes later.

use std::sync::Arc;
use std::time::{Duration, Instant};

use postsort_cache::{Claim, Digest, Lead, Lease, Weigh};
use postsort_models::{Encoded, LongText, SharedEncoder};
use tokio::sync::oneshot;

use super::{Excerpt, Request, WAY_BACK, demand};
use crate::catalog::{LeasedModel, Served};
use crate::error::Error;
use crate::input::Readable;
use crate::scheduler::{Admission, Job, JobDone, JobError};

/// What the encoder made of one text; heads make logits of it.
#[derive(Debug)]
pub(super) struct States {
    /// `[windows][numbers]`.
    pub(super) windows: Vec<Vec<f32>>,
    /// Tokens computed, special tokens included.
    pub(super) tokens: usize,
    /// Whether a part of the text was not read.
    pub(super) truncated: bool,
    /// Whether there are windows to be read after these, if need be.
    pub(super) more: bool,
    /// Tokens that the tokenizer does not know.
    pub(super) unknown_tokens: usize,
}

impl Weigh for States {
    fn heap_bytes(&self) -> usize {
        self.windows.iter().map(|row| size_of_val(row) + size_of_val(row.as_slice())).sum()
    }
}

/// States on their way.
pub(super) enum Begun {
    Known(Arc<States>),
    /// Another request computes them.
    Theirs(oneshot::Receiver<Arc<States>>),
    Ours(Running),
}

/// How states on their way came out.
pub(super) enum Ended {
    Known(Arc<States>),
    /// Whoever computed them gave up.
    GivenUp,
    /// The model's device has no memory for them.
    OutOfMemory,
}

/// A job in the queue, and the duty to those who wait for the same states.
pub(super) struct Running {
    lead: Option<Lead<States>>,
    done: oneshot::Receiver<Result<JobDone, JobError>>,
    tokens: usize,
    truncated: bool,
    more: bool,
    unknown_tokens: usize,
}

impl Request {
    /// Looks up, or has computed, what the model's encoder makes of a part of each of the `wanted` texts;
    /// in their order.
    pub(super) async fn begin_states(
        &mut self,
        model: &Lease<Served>,
        admission: &mut Admission<LeasedModel>,
        texts: &Arc<Vec<Readable>>,
        wanted: Vec<(usize, Excerpt)>,
        long: LongText,
    ) -> Result<Vec<Begun>, Error> {
        // One model alone would only keep its answers twice.
        let shared = model.model.encoder().filter(|encoder| encoder.models() > 1);
        let own = self.encodings.clone();
        let cache = match &own {
            _ if !self.options.skip_cache => Some(&self.pipeline.states),
            own => own.as_ref().map(|own| own.states()),
        };
        let shared = shared.zip(cache);
        let (mut begun, mut ours, mut leads) = (Vec::with_capacity(wanted.len()), vec![], vec![]);
        for (at, excerpt) in wanted {
            let claim = shared.map(|(encoder, cache)| {
                let tokenization = model.model.folder().tokenization();
                let key = key(encoder, tokenization, &texts[at], (long, excerpt));
                cache.claim(key, self.options.priority as u8)
            });
            let lead = match claim {
                Some(Claim::Hit(states)) => {
                    begun.push(Some(Begun::Known(states)));
                    continue;
                }
                Some(Claim::Wait(states)) => {
                    begun.push(Some(Begun::Theirs(states)));
                    continue;
                }
                Some(Claim::Lead(lead)) => Some(lead),
                None => None,
            };
            begun.push(None);
            ours.push(at);
            leads.push((lead, excerpt));
        }
        if shared.is_some() {
            self.entry.metrics.states(begun.len() - ours.len(), ours.len());
        }
        if ours.is_empty() {
            return Ok(begun.into_iter().flatten().collect());
        }

        // → tokenise, while those wake that will compute
        if self.pipeline.scheduler.is_idle() {
            model.model.engine().rouse();
        }
        let encoded = self.tokenize(model, texts, ours, long).await?;

        // → scheduler → engine
        let (mut running, mut jobs) = (Vec::with_capacity(leads.len()), Vec::new());
        let (queued_at, unknown) = (Instant::now(), model.model.tokenizer().unknown_id());
        for ((lead, excerpt), encoded) in leads.into_iter().zip(encoded) {
            let (Encoded { windows, tokens, truncated }, more) = excerpt.of(encoded);
            let (reply, done) = oneshot::channel();
            let ids = windows.iter().flat_map(|window| &window.ids);
            let unknown_tokens = ids.filter(|&&id| Some(id) == unknown).count();
            let ours = Running { lead, done, tokens, truncated, more, unknown_tokens };
            running.push(Begun::Ours(ours));
            let (model, priority) = (self.pipeline.catalog.leased(model), self.options.priority);
            let deadline = self.deadline - WAY_BACK;
            jobs.push(Job { model, windows, priority, deadline, queued_at, reply });
        }
        self.pipeline.scheduler.submit(admission, jobs).map_err(demand::refused)?;
        let mut running = running.into_iter();
        Ok(begun.into_iter().filter_map(|begun| begun.or_else(|| running.next())).collect())
    }

    /// Waits for the states.
    pub(super) async fn end_states(&mut self, begun: Begun) -> Result<Ended, Error> {
        let Running { lead, done, tokens, truncated, more, unknown_tokens } = match begun {
            Begun::Known(states) => return Ok(Ended::Known(states)),
            Begun::Theirs(states) => {
                let clock = Instant::now();
                let states = states.await.ok();
                self.timings.cache += clock.elapsed();
                return Ok(states.map_or(Ended::GivenUp, Ended::Known));
            }
            Begun::Ours(running) => running,
        };
        let done = match done.await {
            Ok(Ok(done)) => done,
            Ok(Err(JobError::Expired)) => {
                return Err(Error::Deadline { timeout: Duration::ZERO });
            }
            Ok(Err(JobError::Engine(reason))) => {
                return Err(Error::Inference { model: self.entry.name.clone(), reason });
            }
            Ok(Err(JobError::OutOfMemory)) => return Ok(Ended::OutOfMemory),
            Err(_) => return Err(Error::Draining),
        };
        self.timings.queue = self.timings.queue.max(done.queue_wait);
        self.timings.infer = self.timings.infer.max(done.infer);
        let windows = done.states;
        let states = Arc::new(States { windows, tokens, truncated, more, unknown_tokens });
        if let Some(lead) = lead {
            lead.fulfil(&states);
        }
        Ok(Ended::Known(states))
    }
}

/// All that states depend on.
fn key(
    encoder: &SharedEncoder,
    tokenization: &[u8; 32],
    text: &Readable,
    (long, excerpt): (LongText, Excerpt),
) -> Digest {
    let text = text.digest().to_bytes();
    Digest::of(&[encoder.key().as_bytes(), tokenization, &[long as u8], &excerpt.mark(), &text])
}
