//! One forward pass: each thread takes its own rows through every product, and rows of others
//! that have not got to them.
//!
//! ```text
//! embed → keys, values, queries of layer 0
//! each layer: ─ wait until all keys and values are there ─
//!             attention → output, residual, norm → up, activation → down, residual, norm
//!             → keys, values, queries of the next layer
//! last layer: the same, but past keys and values only for the first token of each sequence,
//!             unless heads read the mean of all
//! ```
//! Norms come after the residuals, or before the products and then over a copy of the states.
//!
//! Rows go in blocks, so that what a block computes stays in the L2 cache.

use std::ops::Range;

use super::arena::{Own, Shared};
use super::attention::Queries;
use super::calibrate::Gauge;
use super::phases::{Phase, Watch};
use super::plan::{Layout, Plan};
use super::{Encoder, Watchers};
use crate::error::CpuError;
use crate::kernels::{Kernels, RowsArgs};
use crate::pack::{PackedLinear, Results, Rows};
use crate::pool::Alarm;
use crate::spec::{NormPlace, Pooling, TokenBatch};

/// States that threads write, each those of its sequences.
struct States(*mut f32);

// SAFETY: no two threads write the same sequence's.
unsafe impl Sync for States {}

pub(super) fn forward(
    encoder: &Encoder,
    batch: TokenBatch<'_>,
    states: &mut [f32],
    watchers: Watchers<'_>,
) -> Result<(), CpuError> {
    let mut arena = encoder.pool.arena();
    let mut plan = std::mem::take(&mut arena.plan);
    let mut own = std::mem::take(&mut arena.own);
    plan.prepare(encoder, batch.offsets);
    let layout = Layout::new(encoder, &plan);
    let provided = arena.provide(&layout, &mut own);
    let states = States(states.as_mut_ptr());
    let result = provided.and_then(|shared| {
        encoder.pool.run(&mut arena, plan.threads, &|alarm, thread| {
            let states = &states;
            let worker = Worker {
                encoder,
                k: encoder.kernels,
                plan: &plan,
                layout: &layout,
                shared: &shared,
                own: &own[thread],
                batch,
                watch: Watch::start(watchers.times),
                gauge: watchers.gauge,
            };
            // SAFETY: the arena gave memory as the layout says, each thread has its own part, and
            // the batch was checked.
            let done = unsafe { worker.run(alarm, thread, states.0) };
            // Fails only if another thread panicked, which the pool reports.
            drop(done);
        })
    });
    arena.plan = plan;
    arena.own = own;
    result
}

/// One thread's view of a pass.
pub(super) struct Worker<'a> {
    pub(super) encoder: &'a Encoder,
    pub(super) k: &'static Kernels,
    pub(super) plan: &'a Plan,
    pub(super) layout: &'a Layout,
    pub(super) shared: &'a Shared,
    pub(super) own: &'a Own,
    batch: TokenBatch<'a>,
    pub(super) watch: Watch<'a>,
    gauge: Option<&'a Gauge>,
}

impl Worker<'_> {
    /// # Safety
    /// Memory is as the layout says; no other thread has this one's number; `states` has room for
    /// the batch's.
    unsafe fn run(
        &self,
        alarm: Alarm<'_>,
        thread: usize,
        states: *mut f32,
    ) -> Result<(), CpuError> {
        let (layers, whole) = (&self.encoder.layers, self.encoder.whole_layers());
        let phase = |phase: usize, piece: &dyn Fn(Range<usize>)| {
            let done = self.plan.each(alarm, phase, thread, piece);
            self.watch.mark(Phase::Wait);
            done
        };
        // SAFETY: a block is given to one thread at a time. Keys and values are read in the phase
        // after the one that writes them, which then writes to the other half.
        phase(0, &|block| unsafe {
            self.embed(block.clone());
            self.keys_values_queries(0, block, whole > 0);
        })?;
        for (at, layer) in layers.iter().enumerate().take(whole) {
            // SAFETY: as above.
            phase(at + 1, &|block| unsafe {
                for (sequence, part) in self.plan.segments(block.clone()) {
                    let context = self.context(part.start - block.start);
                    let (row, place) = (part.start, part.start - self.plan.offsets[sequence]);
                    self.attend(at, Queries { sequence, row, place, rows: part.len() }, context);
                }
                self.watch.mark(Phase::Attention);
                let (x, stride) = (self.x(block.start), self.layout.x_stride);
                self.dense(layer, x, stride, block.len());
                if at + 1 < layers.len() {
                    self.keys_values_queries(at + 1, block, at + 1 < whole);
                } else if let Some(norm) = &self.encoder.final_norm {
                    norm.apply(self.k, x, stride, block.len());
                }
            })?;
        }
        // SAFETY: as above; a sequence is given to one thread.
        phase(whole + 1, &|sequences| unsafe {
            match (self.encoder.pooling, layers.last()) {
                (Pooling::FirstToken, Some(last)) => {
                    self.first_tokens(last, whole, sequences, states);
                }
                _ => self.means(sequences, states),
            }
            self.watch.mark(Phase::FirstTokens);
        })
    }

    /// # Safety
    /// `row` is below the batch's tokens.
    pub(super) unsafe fn x(&self, row: usize) -> *mut f32 {
        // SAFETY: `x_bytes` has room for all rows.
        unsafe { self.shared.x.add(row * self.layout.x_stride) }
    }

    /// # Safety
    /// `row` is within a block.
    pub(super) unsafe fn context(&self, row: usize) -> *mut f32 {
        // SAFETY: `context_bytes` has room for a block's rows.
        unsafe { self.own.context.add(row * self.layout.context_stride) }
    }

    /// # Safety
    /// `block` is of this thread's rows.
    unsafe fn embed(&self, block: Range<usize>) {
        let embeddings = &self.encoder.embeddings;
        // With a projection the tables' rows have their own width and are not the states yet.
        // SAFETY: room for a block's rows either way.
        unsafe {
            let (to, stride) = match embeddings.projection {
                Some(_) => (self.own.wide, self.layout.wide_stride),
                None => (self.x(block.start), self.layout.x_stride),
            };
            for (sequence, part) in self.plan.segments(block.clone()) {
                let to = to.add((part.start - block.start) * stride);
                let to = std::slice::from_raw_parts_mut(to, part.len() * stride);
                embeddings.look_up(self.batch, self.plan.offsets[sequence], part, to, stride);
            }
            if embeddings.norm_place == NormPlace::BeforeProjection {
                embeddings.norm.apply(self.k, to, stride, block.len());
            }
            let (x, x_stride) = (self.x(block.start), self.layout.x_stride);
            if let Some(projection) = &embeddings.projection {
                let a = self.coded(projection, to, stride, block.len());
                projection.apply(self.k, a, Results { c: x, stride: x_stride, add: false }, None);
            }
            if embeddings.norm_place == NormPlace::AfterProjection {
                embeddings.norm.apply(self.k, x, x_stride, block.len());
            }
            self.watch.mark(Phase::Embed);
        }
    }

    pub(super) fn wide(&self) -> Results {
        Results { c: self.own.wide, stride: self.layout.wide_stride, add: false }
    }

    /// Rows as `linear` multiplies them; in `coded` unless it takes f32.
    ///
    /// # Safety
    /// `x` has `rows` rows of its inputs, at most a block.
    pub(super) unsafe fn coded(
        &self,
        linear: &PackedLinear,
        x: *const f32,
        x_stride: usize,
        rows: usize,
    ) -> Rows {
        if let Some(gauge) = self.gauge {
            // SAFETY: granted by the caller.
            unsafe { gauge.read(self.encoder, linear, x, x_stride, rows) };
        }
        let Some(coding) = linear.coding else {
            let scales = std::ptr::null();
            return Rows { a: x.cast(), stride: x_stride * 4, rows, scales, x, x_stride };
        };
        let (out, out_stride, scales) = (self.own.coded, self.layout.coded_stride, self.own.scales);
        // SAFETY: `coded` has room for a block's rows of the widest product.
        unsafe {
            (self.k.code_rows)(&RowsArgs {
                x,
                x_stride,
                rows,
                n: linear.inputs,
                coding,
                factors: linear.factors,
                out,
                out_stride,
                scales,
            });
        }
        Rows { a: out, stride: out_stride, rows, scales, x, x_stride }
    }
}
