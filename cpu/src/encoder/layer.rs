//! A layer's products over a block of rows, and what is between them.

use std::ops::Range;

use super::Layer;
use super::norm::PackedNorm;
use super::pass::Worker;
use super::phases::Phase;
use super::rotation::Rotation;
use crate::kernels::{HeadScale, PairArgs, RotateArgs, RowScale};
use crate::pack::{PackedLinear, Results, Rows};
use crate::spec::Precision;

impl Worker<'_> {
    /// Keys and values of a block, into their panels, and its queries if they are wanted.
    ///
    /// # Safety
    /// `block` is of this thread's rows.
    pub(super) unsafe fn keys_values_queries(&self, at: usize, block: Range<usize>, queries: bool) {
        let layer = &self.encoder.layers[at];
        // SAFETY: `wide` has room for a block's rows.
        unsafe {
            let (x, stride) = (self.x(block.start), self.layout.x_stride);
            let norm = layer.attention_pre_norm.as_ref();
            let (x, stride) = self.pre_normed(norm, x, stride, block.len());
            // All three take the same codes.
            let a = self.coded(&layer.key, x, stride, block.len());
            self.watch.mark(Phase::Code);
            layer.key.apply(self.k, a, self.wide(), None);
            self.watch.mark(Phase::KeysValues);
            if let Some(rotation) = &layer.rotation {
                self.rotate(rotation, self.own.wide, self.layout.wide_stride, block.clone());
            }
            self.pack_keys(at, block.clone());
            self.watch.mark(Phase::Pack);
            layer.value.apply(self.k, a, self.wide(), None);
            self.watch.mark(Phase::KeysValues);
            self.pack_values(at, block.clone());
            self.watch.mark(Phase::Pack);
            if queries {
                self.queries(layer, a, block, layer.rotation.as_ref());
                self.watch.mark(Phase::Queries);
            }
        }
    }

    /// Queries of coded states `a`, into rows `to` of all queries; rotated if those are the rows of
    /// the same tokens.
    ///
    /// # Safety
    /// Rows `to` are this thread's to write and at most a block.
    pub(super) unsafe fn queries(
        &self,
        layer: &Layer,
        a: Rows,
        to: Range<usize>,
        rotation: Option<&Rotation>,
    ) {
        // SAFETY: `q_bytes` has room for all rows, `wide` for a block's.
        unsafe {
            let q = self.shared.q.add(to.start * self.layout.q_stride);
            if self.encoder.sizes.keys == Precision::F32 {
                let (c, stride) = (q.cast::<f32>(), self.layout.q_stride / 4);
                layer.query.apply(self.k, a, Results { c, stride, add: false }, None);
                if let Some(rotation) = rotation {
                    self.rotate(rotation, c, stride, to);
                }
                return;
            }
            layer.query.apply(self.k, a, self.wide(), None);
            if let Some(rotation) = rotation {
                self.rotate(rotation, self.own.wide, self.layout.wide_stride, to.clone());
            }
            self.code_for_scores(to.len(), (q, self.layout.q_stride), false);
            if self.encoder.sizes.keys == Precision::Int8 {
                self.keep_query_scales(to);
            }
        }
    }

    /// Puts what coded queries stand for, a row of heads each, beside that of other rows.
    ///
    /// # Safety
    /// Rows `to` are this thread's to write and were just coded.
    unsafe fn keep_query_scales(&self, to: Range<usize>) {
        let (heads, tokens) = (self.encoder.sizes.heads, self.plan.tokens());
        for (at, row) in to.enumerate() {
            for head in 0..heads {
                // SAFETY: `q_scales` has room for all rows' heads.
                unsafe {
                    let HeadScale { scale, .. } = *self.own.head_scales.add(at * heads + head);
                    // Codes are counted from the middle.
                    *self.shared.q_scales.add(head * tokens + row) =
                        RowScale { scale, low: -128.0 * scale };
                }
            }
        }
    }

    /// From attention's results in `context` to the layer's, in place of its states `x`.
    ///
    /// # Safety
    /// `x` has `rows` rows that are this thread's, at most a block.
    pub(super) unsafe fn dense(&self, layer: &Layer, x: *mut f32, stride: usize, rows: usize) {
        let (k, wide_stride) = (self.k, self.layout.wide_stride);
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
            if let Some(norm) = &layer.attention_norm {
                norm.apply(k, x, stride, rows);
            }
            let norm = layer.output_pre_norm.as_ref();
            let (input, input_stride) = self.pre_normed(norm, x, stride, rows);
            self.watch.mark(Phase::Norm);
            let a = self.coded(&layer.up, input, input_stride, rows);
            self.watch.mark(Phase::Code);
            layer.up.apply(k, a, self.wide(), Some(self.encoder.function));
            if let Some(gate) = &layer.gate {
                self.multiply_by_gate(gate, a);
            }
            self.watch.mark(Phase::Up);
            let a = self.coded(&layer.down, self.own.wide, wide_stride, rows);
            self.watch.mark(Phase::Code);
            layer.down.apply(k, a, add, None);
            self.watch.mark(Phase::Down);
            if let Some(norm) = &layer.output_norm {
                norm.apply(k, x, stride, rows);
            }
            self.watch.mark(Phase::Norm);
        }
    }

    /// Multiplies what is in `wide` by the gates of coded states `a`.
    ///
    /// # Safety
    /// `a` has at most a block's rows.
    unsafe fn multiply_by_gate(&self, gate: &PackedLinear, a: Rows) {
        let (sizes, stride) = (self.encoder.sizes, self.layout.wide_stride);
        // SAFETY: a row of `wide` has room for both.
        unsafe {
            let gates = self.own.wide.add(sizes.gates);
            gate.apply(self.k, a, Results { c: gates, stride, add: false }, None);
            (self.k.multiply_rows)(&PairArgs {
                x: self.own.wide,
                y: gates,
                stride,
                rows: a.rows,
                n: sizes.intermediate,
            });
        }
    }

    /// States as a product takes them: normed, in `normed`, where there is a norm before it.
    ///
    /// # Safety
    /// `x` has `rows` rows of states, at most a block.
    pub(super) unsafe fn pre_normed(
        &self,
        norm: Option<&PackedNorm>,
        x: *const f32,
        stride: usize,
        rows: usize,
    ) -> (*const f32, usize) {
        let Some(norm) = norm else { return (x, stride) };
        let (to, to_stride) = (self.own.normed, self.layout.normed_stride);
        // SAFETY: `normed` has room for a block's rows.
        unsafe {
            for row in 0..rows {
                let from = x.add(row * stride);
                to.add(row * to_stride).copy_from_nonoverlapping(from, self.encoder.sizes.hidden);
            }
            norm.apply(self.k, to, to_stride, rows);
        }
        (to, to_stride)
    }

    /// Turns a block's queries or keys by their positions.
    ///
    /// # Safety
    /// `x` has the block's rows.
    unsafe fn rotate(&self, rotation: &Rotation, x: *mut f32, stride: usize, block: Range<usize>) {
        let sizes = self.encoder.sizes;
        for (sequence, part) in self.plan.segments(block.clone()) {
            // SAFETY: sequences are no longer than the table.
            unsafe {
                (self.k.rotate_rows)(&RotateArgs {
                    x: x.add((part.start - block.start) * stride),
                    x_stride: stride,
                    rows: part.len(),
                    heads: sizes.heads,
                    head_size: sizes.head_size,
                    angles: rotation.at(part.start - self.plan.offsets[sequence]),
                });
            }
        }
    }
}
