//! One forward pass: each thread takes its own rows through every product, and rows of others
//! that have not got to them.
//!
//! ```text
//! embed → keys, values, queries of layer 0
//! each layer: ─ wait until all keys and values are there ─
//!             attention → output, residual, norm → up, activation → down, residual, norm
//!             → keys, values, queries of the next layer
//! last layer: the same, but past keys and values only for the first token of each sequence
//! ```
//!
//! Rows go in blocks, so that what a block computes stays in the L2 cache.

use std::ops::Range;

use super::arena::{Own, Shared};
use super::calibrate::Gauge;
use super::phases::{Phase, Watch};
use super::plan::{Layout, Plan};
use super::{Encoder, Layer, PackedNorm, Watchers};
use crate::error::CpuError;
use crate::kernels::{Coding, Kernels, NormArgs, RowsArgs};
use crate::pack::{PackedLinear, Results, Rows};
use crate::pool::Alarm;
use crate::spec::TokenBatch;

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
    watch: Watch<'a>,
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
        let layers = &self.encoder.layers;
        let last = layers.len() - 1;
        let phase = |phase: usize, piece: &dyn Fn(Range<usize>)| {
            let done = self.plan.each(alarm, phase, thread, piece);
            self.watch.mark(Phase::Wait);
            done
        };
        // SAFETY: a block is given to one thread at a time. Keys and values are read in the phase
        // after the one that writes them, which then writes to the other half.
        phase(0, &|block| unsafe {
            self.embed(block.clone());
            self.keys_values_queries(0, block, last > 0);
        })?;
        for (at, layer) in layers.iter().enumerate().take(last) {
            // SAFETY: as above.
            phase(at + 1, &|block| unsafe {
                for (sequence, part) in self.plan.segments(block.clone()) {
                    let context = self.context(part.start - block.start);
                    self.attend(at, sequence, part.start, part.len(), context);
                }
                self.watch.mark(Phase::Attention);
                let x = self.x(block.start);
                self.dense(layer, x, self.layout.x_stride, block.len());
                self.keys_values_queries(at + 1, block, at + 1 < last);
            })?;
        }
        // SAFETY: as above; a sequence is given to one thread.
        phase(last + 1, &|sequences| unsafe {
            self.first_tokens(&layers[last], last, sequences, states);
            self.watch.mark(Phase::FirstTokens);
        })
    }

    /// # Safety
    /// `row` is below the batch's tokens.
    unsafe fn x(&self, row: usize) -> *mut f32 {
        // SAFETY: `x_bytes` has room for all rows.
        unsafe { self.shared.x.add(row * self.layout.x_stride) }
    }

    /// # Safety
    /// `row` is within a block.
    unsafe fn context(&self, row: usize) -> *mut f32 {
        // SAFETY: `context_bytes` has room for a block's rows.
        unsafe { self.own.context.add(row * self.layout.context_stride) }
    }

    /// The last layer's attention and dense part, for first tokens only.
    ///
    /// # Safety
    /// As [`Self::run`]; `sequences` are this thread's and at most a block.
    unsafe fn first_tokens(
        &self,
        layer: &Layer,
        at: usize,
        sequences: Range<usize>,
        states: *mut f32,
    ) {
        let (count, stride) = (sequences.len(), self.layout.compact_stride);
        // SAFETY: other threads' rows are finished behind the barrier and only read here; compact
        // has room for a block.
        unsafe {
            for (to, sequence) in sequences.clone().enumerate() {
                let from = self.x(self.plan.offsets[sequence]).cast_const();
                let to = self.own.compact.add(to * stride);
                to.copy_from_nonoverlapping(from, self.encoder.sizes.hidden);
            }
            // Queries of first tokens take the first rows of all queries, which nobody needs now.
            let a = self.coded(&layer.query, self.own.compact, stride, count);
            self.queries(layer, a, sequences.clone());
            for (to, sequence) in sequences.clone().enumerate() {
                self.attend(at, sequence, sequence, 1, self.context(to));
            }
            self.dense(layer, self.own.compact, stride, count);
            let hidden = self.encoder.sizes.hidden;
            for (at, sequence) in sequences.enumerate() {
                let from = self.own.compact.add(at * stride).cast_const();
                states.add(sequence * hidden).copy_from_nonoverlapping(from, hidden);
            }
        }
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
            self.norm(&embeddings.norm, to, stride, block.len(), self.encoder.sizes.embedding);
            if let Some(projection) = &embeddings.projection {
                let a = self.coded(projection, to, stride, block.len());
                let c =
                    Results { c: self.x(block.start), stride: self.layout.x_stride, add: false };
                projection.apply(self.k, a, c, None);
            }
            self.watch.mark(Phase::Embed);
        }
    }

    /// Keys and values of a block, into their panels, and its queries if they are wanted.
    ///
    /// # Safety
    /// `block` is of this thread's rows.
    unsafe fn keys_values_queries(&self, at: usize, block: Range<usize>, queries: bool) {
        let layer = &self.encoder.layers[at];
        // SAFETY: `wide` has room for a block's rows.
        unsafe {
            // All three take the same codes.
            let a = self.coded(&layer.key, self.x(block.start), self.layout.x_stride, block.len());
            self.watch.mark(Phase::Code);
            layer.key.apply(self.k, a, self.wide(), None);
            self.watch.mark(Phase::KeysValues);
            self.pack_keys(at, block.clone());
            self.watch.mark(Phase::Pack);
            layer.value.apply(self.k, a, self.wide(), None);
            self.watch.mark(Phase::KeysValues);
            self.pack_values(at, block.clone());
            self.watch.mark(Phase::Pack);
            if queries {
                self.queries(layer, a, block);
                self.watch.mark(Phase::Queries);
            }
        }
    }

    /// Queries of coded states `a`, into rows `to` of all queries.
    ///
    /// # Safety
    /// Rows `to` are this thread's to write and at most a block.
    unsafe fn queries(&self, layer: &Layer, a: Rows, to: Range<usize>) {
        // SAFETY: `q_bytes` has room for all rows, `wide` for a block's.
        unsafe {
            let q = self.shared.q.add(to.start * self.layout.q_stride);
            if !self.encoder.sizes.bf16_attention {
                let c = Results { c: q.cast(), stride: self.layout.q_stride / 4, add: false };
                return layer.query.apply(self.k, a, c, None);
            }
            layer.query.apply(self.k, a, self.wide(), None);
            (self.k.code_rows)(&RowsArgs {
                x: self.own.wide,
                x_stride: self.layout.wide_stride,
                rows: to.len(),
                n: self.encoder.sizes.hidden,
                coding: Coding::Bf16,
                factors: std::ptr::null(),
                out: q,
                out_stride: self.layout.q_stride,
                scales: std::ptr::null_mut(),
            });
        }
    }

    /// From attention's results in `context` to the layer's, in place of its states `x`.
    ///
    /// # Safety
    /// `x` has `rows` rows that are this thread's, at most a block.
    unsafe fn dense(&self, layer: &Layer, x: *mut f32, stride: usize, rows: usize) {
        let hidden = self.encoder.sizes.hidden;
        let add = Results { c: x, stride, add: true };
        // SAFETY: room for a block's rows everywhere.
        unsafe {
            let a = self.coded(
                &layer.attention_output,
                self.own.context,
                self.layout.context_stride,
                rows,
            );
            self.watch.mark(Phase::Code);
            layer.attention_output.apply(self.k, a, add, None);
            self.watch.mark(Phase::Output);
            self.norm(&layer.attention_norm, x, stride, rows, hidden);
            self.watch.mark(Phase::Norm);
            let a = self.coded(&layer.up, x, stride, rows);
            self.watch.mark(Phase::Code);
            layer.up.apply(self.k, a, self.wide(), Some(self.encoder.function));
            self.watch.mark(Phase::Up);
            let a = self.coded(&layer.down, self.own.wide, self.layout.wide_stride, rows);
            self.watch.mark(Phase::Code);
            layer.down.apply(self.k, a, add, None);
            self.watch.mark(Phase::Down);
            self.norm(&layer.output_norm, x, stride, rows, hidden);
            self.watch.mark(Phase::Norm);
        }
    }

    fn wide(&self) -> Results {
        Results { c: self.own.wide, stride: self.layout.wide_stride, add: false }
    }

    /// Rows as `linear` multiplies them; in `coded` unless it takes f32.
    ///
    /// # Safety
    /// `x` has `rows` rows of its inputs, at most a block.
    unsafe fn coded(
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

    /// # Safety
    /// `x` has `rows` rows of `width`.
    unsafe fn norm(
        &self,
        norm: &PackedNorm,
        x: *mut f32,
        x_stride: usize,
        rows: usize,
        width: usize,
    ) {
        // SAFETY: the norm's weights are padded to whole vectors.
        unsafe {
            (self.k.norm_rows)(&NormArgs {
                x,
                x_stride,
                rows,
                n: width,
                weight: norm.weight.as_ptr(),
                bias: norm.bias.as_ptr(),
                eps: norm.eps,
            });
        }
    }
}
