//! What a pass will do: which rows are whose, and how much memory it needs.

use std::ops::Range;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::{AcqRel, Relaxed};

use super::{Encoder, Sizes};
use crate::cache_sizes::second_level_cache_bytes;
use crate::error::CpuError;
use crate::kernels::{HeadScale, Kernels, RowScale};
use crate::pack::PackedLinear;
use crate::pool::Alarm;
use crate::slab::ALIGN;
use crate::spec::Precision;

/// Estimated cycles, to share rows out evenly.
#[derive(Clone, Copy, Debug)]
pub(super) struct Costs {
    /// Of a row's dense products, all layers.
    pub(super) row: f64,
    /// Of a row's attention to one key, all layers.
    pub(super) key: f64,
}

/// Pieces of work, thread by thread.
#[derive(Debug, Default)]
struct Tasks {
    pieces: Vec<Range<usize>>,
    /// Where each thread's pieces end.
    thread_ends: Vec<usize>,
}

impl Tasks {
    fn clear(&mut self) {
        self.pieces.clear();
        self.thread_ends.clear();
    }

    fn end_thread(&mut self) {
        self.thread_ends.push(self.pieces.len());
    }

    fn of(&self, thread: usize) -> &[Range<usize>] {
        let start = if thread == 0 { 0 } else { self.thread_ends[thread - 1] };
        &self.pieces[start..self.thread_ends[thread]]
    }
}

/// Below this many cycles a pass is done sooner by one thread.
const CYCLES_PER_THREAD: f64 = 60_000.0;

/// Who does what. Vectors keep their memory between passes.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(super) threads: usize,
    /// Where sequences begin, and the end.
    pub(super) offsets: Vec<usize>,
    /// Where each sequence's keys begin, in keys padded to whole vectors, and the end.
    pub(super) key_starts: Vec<usize>,
    /// Where each sequence's values begin, in tokens padded to pairs, and the end.
    pub(super) value_starts: Vec<usize>,
    /// Rows of thread `t` are `cuts[t]..cuts[t + 1]`.
    cuts: Vec<usize>,
    /// Rows that are computed together, thread by thread.
    blocks: Tasks,
    /// Sequences whose last layer is computed together, thread by thread.
    ends: Tasks,
    /// For each phase: pieces finished, and of each thread's pieces those taken.
    counters: Vec<AtomicUsize>,
}

impl Plan {
    pub(super) fn prepare(&mut self, encoder: &Encoder, offsets: &[u32]) {
        self.share_out(encoder, offsets);
        self.cut_blocks(block_rows(encoder.sizes));
        self.counters.clear();
        self.counters.resize_with(encoder.phases() * (1 + self.threads), AtomicUsize::default);
    }

    /// Shares rows out between threads.
    fn share_out(&mut self, encoder: &Encoder, offsets: &[u32]) {
        let costs = encoder.costs;
        let lanes = encoder.kernels.lanes;
        for list in
            [&mut self.offsets, &mut self.key_starts, &mut self.value_starts, &mut self.cuts]
        {
            list.clear();
        }
        self.offsets.extend(offsets.iter().map(|&offset| offset as usize));
        let (mut keys, mut values, mut cycles) = (0, 0, 0.0);
        for pair in self.offsets.windows(2) {
            let tokens = pair[1] - pair[0];
            self.key_starts.push(keys);
            self.value_starts.push(values);
            keys += tokens.next_multiple_of(lanes);
            values += tokens.next_multiple_of(2);
            cycles += sequence_cycles(costs, tokens);
        }
        self.key_starts.push(keys);
        self.value_starts.push(values);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a few threads"
        )]
        let useful = (cycles / CYCLES_PER_THREAD) as usize;
        self.threads = useful.clamp(1, encoder.pool.threads());

        // Cuts where equal shares of the cycles end, at even places of a sequence: values are
        // stored in pairs of tokens.
        self.cuts.push(0);
        let (mut sequence, mut before) = (0, 0.0);
        for thread in 1..self.threads {
            #[expect(clippy::cast_precision_loss, reason = "a few threads")]
            let target = cycles * thread as f64 / self.threads as f64;
            let tokens = |sequence: usize| self.offsets[sequence + 1] - self.offsets[sequence];
            while sequence + 1 < self.sequences()
                && before + sequence_cycles(costs, tokens(sequence)) <= target
            {
                before += sequence_cycles(costs, tokens(sequence));
                sequence += 1;
            }
            #[expect(clippy::cast_precision_loss, reason = "a sequence's tokens")]
            let a_row = costs.row + costs.key * tokens(sequence) as f64;
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
            let rows =
                (((target - before) / a_row / 2.0).round() as usize * 2).min(tokens(sequence));
            let cut = (self.offsets[sequence] + rows).max(self.cuts[thread - 1]);
            self.cuts.push(cut);
        }
        self.cuts.push(self.tokens());
    }

    pub(super) fn sequences(&self) -> usize {
        self.offsets.len() - 1
    }

    pub(super) fn tokens(&self) -> usize {
        self.offsets.last().copied().unwrap_or(0)
    }

    /// Cuts threads' rows, and their sequences, into blocks of at most about `most`.
    fn cut_blocks(&mut self, most: usize) {
        self.blocks.clear();
        self.ends.clear();
        for thread in 0..self.threads {
            let (start, end) = (self.cuts[thread], self.cuts[thread + 1]);
            let count = (end - start).div_ceil(most).max(1);
            let mut from = start;
            for block in 1..=count {
                let row = start + (end - start) * block / count;
                // Values are stored in pairs of tokens.
                let odd =
                    if row == end { 0 } else { (row - self.offsets[self.sequence_at(row)]) % 2 };
                if row - odd > from {
                    self.blocks.pieces.push(from..row - odd);
                    from = row - odd;
                }
            }
            self.blocks.end_thread();
            let share = |thread: usize| self.sequences() * thread / self.threads;
            let sequences = share(thread)..share(thread + 1);
            for from in sequences.clone().step_by(most) {
                self.ends.pieces.push(from..sequences.end.min(from + most));
            }
            self.ends.end_thread();
        }
    }

    /// Does `phase`'s pieces, own ones first, then what other threads have not begun, and waits
    /// until all are done. The last phase is that of ends.
    pub(super) fn each(
        &self,
        alarm: Alarm<'_>,
        phase: usize,
        thread: usize,
        mut piece: impl FnMut(Range<usize>),
    ) -> Result<(), CpuError> {
        let counters = &self.counters[phase * (1 + self.threads)..][..1 + self.threads];
        let last = (phase + 1) * (1 + self.threads) == self.counters.len();
        let tasks = if last { &self.ends } else { &self.blocks };
        for offset in 0..self.threads {
            let owner = (thread + offset) % self.threads;
            let pieces = tasks.of(owner);
            while let Some(range) = pieces.get(counters[1 + owner].fetch_add(1, Relaxed)) {
                piece(range.clone());
                counters[0].fetch_add(1, AcqRel);
            }
        }
        alarm.wait(&counters[0], tasks.pieces.len())
    }

    /// The sequence that a row is in.
    fn sequence_at(&self, row: usize) -> usize {
        self.offsets.partition_point(|&offset| offset <= row) - 1
    }

    /// The parts of sequences in `rows`: sequence and rows.
    pub(super) fn segments(
        &self,
        rows: Range<usize>,
    ) -> impl Iterator<Item = (usize, Range<usize>)> {
        let first = if rows.is_empty() { self.sequences() } else { self.sequence_at(rows.start) };
        (first..self.sequences())
            .map(move |sequence| {
                let start = self.offsets[sequence].max(rows.start);
                (sequence, start..self.offsets[sequence + 1].min(rows.end))
            })
            .take_while(|(_, part)| !part.is_empty())
    }
}

fn sequence_cycles(costs: Costs, tokens: usize) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a sequence's tokens")]
    let tokens = tokens as f64;
    tokens * (costs.row + costs.key * tokens)
}

/// Strides and bytes of a pass's memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub(super) threads: usize,
    /// Elements from row to row.
    pub(super) x_stride: usize,
    /// Bytes from row to row.
    pub(super) q_stride: usize,
    pub(super) wide_stride: usize,
    pub(super) context_stride: usize,
    pub(super) compact_stride: usize,
    pub(super) normed_stride: usize,
    /// Bytes from row to row.
    pub(super) coded_stride: usize,
    pub(super) score_stride: usize,
    pub(super) distance_stride: usize,
    pub(super) x_bytes: usize,
    pub(super) q_bytes: usize,
    pub(super) k_bytes: usize,
    pub(super) q_scales_bytes: usize,
    pub(super) key_scales_bytes: usize,
    pub(super) key_rows_bytes: usize,
    pub(super) v_bytes: usize,
    pub(super) wide_bytes: usize,
    pub(super) context_bytes: usize,
    pub(super) compact_bytes: usize,
    pub(super) normed_bytes: usize,
    pub(super) coded_bytes: usize,
    pub(super) scales_bytes: usize,
    pub(super) head_scales_bytes: usize,
    pub(super) scores_bytes: usize,
    pub(super) distances_bytes: usize,
    pub(super) positions_bytes: usize,
}

/// Bytes of a block's widest f32 rows: they and what else is hot share the L2 cache. Of one larger
/// than usual a block takes a larger part: each block reads all weights of a layer, which for larger
/// models come from beyond it.
fn block_bytes() -> usize {
    let cache = second_level_cache_bytes();
    if cache > 1 << 20 { (cache * 2 / 5).min(1 << 20) } else { 320 << 10 }
}

/// Rows of a block.
fn block_rows(sizes: Sizes) -> usize {
    (block_bytes() / (sizes.widest * 4)).clamp(16, 96) / 8 * 8
}

impl Layout {
    pub(super) fn new(encoder: &Encoder, plan: &Plan) -> Self {
        let (k, sizes): (&Kernels, Sizes) = (encoder.kernels, encoder.sizes);
        // A row more than whole vectors, so that rows do not all fall into one set of the cache.
        let padded = |width: usize| width.next_multiple_of(16) + 16;
        let block_rows = block_rows(sizes);
        // Cutting at even places may lengthen a block by one.
        let block_room = block_rows + 2;
        let x_stride = padded(sizes.hidden.max(sizes.embedding));
        let q_stride = padded(sizes.hidden) * sizes.query_bytes;
        let wide_stride = padded(sizes.widest);
        let context_stride = padded(sizes.hidden) + k.lanes;
        let compact_stride = padded(sizes.widest);
        let normed_stride = padded(sizes.hidden);
        let coded_stride = PackedLinear::coded_row_bytes(k, encoder.precision, sizes.widest);
        let keys_max = plan.offsets.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0);
        let score_stride = keys_max.next_multiple_of(16) + 16;
        let distance_stride = encoder
            .distances
            .as_ref()
            .map_or(0, |distances| distances.row_room(k, keys_max.max(block_room)));
        let coded_heads = if sizes.keys == Precision::Int8 { sizes.heads } else { 0 };
        let keeps_keys = usize::from(encoder.keeps_keys());
        let keys = plan.key_starts.last().copied().unwrap_or(0);
        let values = plan.value_starts.last().copied().unwrap_or(0);
        Self {
            threads: plan.threads,
            x_stride,
            q_stride,
            wide_stride,
            context_stride,
            compact_stride,
            normed_stride,
            coded_stride,
            score_stride,
            distance_stride,
            x_bytes: plan.tokens() * x_stride * 4,
            q_bytes: plan.tokens() * q_stride,
            k_bytes: keys * sizes.hidden * 4 / sizes.key_group(),
            q_scales_bytes: plan.tokens() * coded_heads * size_of::<RowScale>(),
            key_scales_bytes: keys * coded_heads * 2 * 4,
            key_rows_bytes: plan.tokens() * q_stride * keeps_keys,
            v_bytes: values * sizes.heads * sizes.head_size.next_multiple_of(k.lanes) * 4
                / sizes.value_group(),
            wide_bytes: block_room * wide_stride * 4,
            context_bytes: block_room * context_stride * 4,
            compact_bytes: block_room * compact_stride * 4,
            normed_bytes: if encoder.has_pre_norms() { block_room * normed_stride * 4 } else { 0 },
            coded_bytes: block_room * coded_stride,
            scales_bytes: block_room * size_of::<RowScale>(),
            head_scales_bytes: block_room * coded_heads * size_of::<HeadScale>(),
            scores_bytes: 8 * score_stride * 4,
            distances_bytes: 8 * distance_stride * 4,
            positions_bytes: block_room * score_stride * 4 * keeps_keys,
        }
    }

    /// All of it.
    pub(super) fn bytes(&self) -> usize {
        let own = [
            self.wide_bytes,
            self.context_bytes,
            self.compact_bytes,
            self.normed_bytes,
            self.coded_bytes,
            self.scales_bytes,
            self.head_scales_bytes,
            self.scores_bytes,
            self.distances_bytes,
            self.positions_bytes,
            64,
        ];
        let pairs = [self.k_bytes, self.key_scales_bytes, self.key_rows_bytes, self.v_bytes];
        let shared =
            [self.x_bytes, self.q_bytes, self.q_scales_bytes, pairs.iter().sum::<usize>() * 2];
        shared.iter().sum::<usize>()
            + own.iter().sum::<usize>() * self.threads
            + 16 * ALIGN * (self.threads + 1)
    }
}
