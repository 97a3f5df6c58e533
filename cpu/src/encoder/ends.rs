//! What heads read of each sequence: its first token's state or the mean of all.

use std::ops::Range;

use super::Layer;
use super::attention::Queries;
use super::pass::Worker;
use crate::kernels::MeanArgs;

impl Worker<'_> {
    /// The last layer's attention and dense part, for first tokens only.
    ///
    /// # Safety
    /// Other threads' rows are finished; `sequences` are this thread's and at most a block; `states`
    /// has room for the batch's.
    pub(super) unsafe fn first_tokens(
        &self,
        layer: &Layer,
        at: usize,
        sequences: Range<usize>,
        states: *mut f32,
    ) {
        let (count, stride) = (sequences.len(), self.layout.compact_stride);
        let hidden = self.encoder.sizes.hidden;
        // SAFETY: rows of others are only read; compact has room for a block.
        unsafe {
            for (to, sequence) in sequences.clone().enumerate() {
                let from = self.x(self.plan.offsets[sequence]).cast_const();
                let to = self.own.compact.add(to * stride);
                to.copy_from_nonoverlapping(from, hidden);
            }
            // Queries of first tokens take the first rows of all queries, which nobody needs now.
            let norm = layer.attention_pre_norm.as_ref();
            let (x, x_stride) = self.pre_normed(norm, self.own.compact, stride, count);
            let a = self.coded(&layer.query, x, x_stride, count);
            // At position 0, where a rotation would change nothing.
            self.queries(layer, a, sequences.clone(), None);
            for (to, sequence) in sequences.clone().enumerate() {
                let queries = Queries { sequence, row: sequence, place: 0, rows: 1 };
                self.attend(at, queries, self.context(to));
            }
            self.dense(layer, self.own.compact, stride, count);
            if let Some(norm) = &self.encoder.final_norm {
                norm.apply(self.k, self.own.compact, stride, count);
            }
            for (at, sequence) in sequences.enumerate() {
                let from = self.own.compact.add(at * stride).cast_const();
                states.add(sequence * hidden).copy_from_nonoverlapping(from, hidden);
            }
        }
    }

    /// Means of what the last layer gave for all tokens.
    ///
    /// # Safety
    /// As [`Self::first_tokens`].
    pub(super) unsafe fn means(&self, sequences: Range<usize>, states: *mut f32) {
        let hidden = self.encoder.sizes.hidden;
        for sequence in sequences {
            let tokens = self.plan.offsets[sequence]..self.plan.offsets[sequence + 1];
            // SAFETY: a sequence has a token at least, and room in `states`.
            unsafe {
                (self.k.mean_rows)(&MeanArgs {
                    x: self.x(tokens.start),
                    x_stride: self.layout.x_stride,
                    rows: tokens.len(),
                    n: hidden,
                    out: states.add(sequence * hidden),
                });
            }
        }
    }
}
