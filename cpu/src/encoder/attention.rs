//! Attention of a tile of queries, one head at a time, scores staying in the L1 cache.
//!
//! Keys lie in panels `[panels][head_size/group][keys of the panel][group]`, values in panels
//! `[panels][keys/group][columns of the panel][group]`, both per sequence and head; groups are of
//! four 8-bit codes, two bf16 or one f32. Coded keys have a scale each, as coded queries do. Softmax
//! reads a row's scores twice rather than keeping a running maximum: they are few and hot.

use std::ops::Range;

use super::Layer;
use super::pass::Worker;
use crate::kernels::{
    Ahead, Coding, Epilogue, HeadScale, HeadsArgs, Outliers, RowsArgs, Shares, SoftmaxArgs, Tile,
    WindowArgs,
};
use crate::pack::{for_tiles, place};
use crate::spec::Precision;

/// Vectors of a full panel of values.
const VALUE_VECTORS: usize = 2;
/// Scores have none: at least as many zeros as a panel has columns.
static NO_BIAS: [f32; 64] = [0.0; 64];

/// Queries of one sequence, one beside the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Queries {
    pub(super) sequence: usize,
    /// Where they lie among all queries.
    pub(super) row: usize,
    /// The first one's place in its sequence.
    pub(super) place: usize,
    pub(super) rows: usize,
}

impl Worker<'_> {
    fn keys_of(&self, layer: usize, sequence: usize, head: usize) -> *mut u8 {
        let sizes = self.encoder.sizes;
        let starts = &self.plan.key_starts;
        let (start, keys) = (starts[sequence], starts[sequence + 1] - starts[sequence]);
        let before = (start * sizes.heads + head * keys) * sizes.head_size;
        // SAFETY: within the layout's `k_bytes`.
        unsafe { self.shared.k[layer % 2].add(before * 4 / sizes.key_group()) }
    }

    /// Scales of a head's coded keys, and behind them the sums of what the codes stand for; of other
    /// keys there are none, and the addresses are not used.
    fn key_scales_of(&self, layer: usize, sequence: usize, head: usize) -> (*mut f32, *mut f32) {
        let starts = &self.plan.key_starts;
        let (start, keys) = (starts[sequence], starts[sequence + 1] - starts[sequence]);
        let before = start * self.encoder.sizes.heads + head * keys;
        let scales = self.shared.key_scales[layer % 2].wrapping_add(before * 2);
        (scales, scales.wrapping_add(keys))
    }

    fn values_of(&self, layer: usize, sequence: usize, head: usize) -> *mut u8 {
        let sizes = self.encoder.sizes;
        let starts = &self.plan.value_starts;
        let (start, values) = (starts[sequence], starts[sequence + 1] - starts[sequence]);
        let width = sizes.head_size.next_multiple_of(self.k.lanes);
        let before = (start * sizes.heads + head * values) * width;
        // SAFETY: within the layout's `v_bytes`.
        unsafe { self.shared.v[layer % 2].add(before * 4 / sizes.value_group()) }
    }

    /// A layer's keys in rows, from `row` on; none but where positions attend to them.
    ///
    /// # Safety
    /// `row` is one of the batch's.
    pub(super) unsafe fn key_rows(&self, layer: usize, row: usize) -> *mut u8 {
        // SAFETY: within the layout's `key_rows_bytes`.
        unsafe { self.shared.key_rows[layer % 2].add(row * self.layout.q_stride) }
    }

    /// Puts keys, f32 rows in `wide`, into their panels, and where positions attend to them also
    /// into their rows.
    ///
    /// # Safety
    /// `rows` are this thread's and as many as `wide` holds.
    pub(super) unsafe fn pack_keys(&self, layer: usize, rows: Range<usize>) {
        let (sizes, k) = (self.encoder.sizes, self.k);
        // SAFETY: the rows are this thread's.
        let kept = self.encoder.layers[layer]
            .position_query
            .is_some()
            .then(|| unsafe { self.key_rows(layer, rows.start) });
        let (source, stride) = if sizes.keys != Precision::F32 {
            let spare = (self.own.context.cast(), self.layout.context_stride * 4);
            let (out, out_stride) = kept.map_or(spare, |kept| (kept, self.layout.q_stride));
            // SAFETY: `context` is free now and has room for the block's rows, twice over.
            unsafe { self.code_for_scores(rows.len(), (out, out_stride), true) };
            (out.cast_const(), out_stride)
        } else {
            if let Some(kept) = kept {
                for row in 0..rows.len() {
                    // SAFETY: both have room for the block's rows.
                    unsafe {
                        let from = self.own.wide.add(row * self.layout.wide_stride);
                        let to = kept.add(row * self.layout.q_stride).cast::<f32>();
                        to.copy_from_nonoverlapping(from, sizes.hidden);
                    }
                }
            }
            (self.own.wide.cast::<u8>().cast_const(), self.layout.wide_stride * 4)
        };
        let width = k.nv * k.lanes;
        let steps = sizes.head_size / sizes.key_group();
        // Codes of keys are signed.
        let coded = sizes.keys == Precision::Int8;
        let sign = if coded { 0x8080_8080 } else { 0 };
        let parts = k.parts(sizes.keys);
        for (sequence, part) in self.plan.segments(rows.clone()) {
            let first = self.plan.offsets[sequence];
            let padded = self.plan.key_starts[sequence + 1] - self.plan.key_starts[sequence];
            for head in 0..sizes.heads {
                let keys = self.keys_of(layer, sequence, head);
                for row in part.clone() {
                    let key = row - first;
                    let panel = key / width * width;
                    let panel_width = width.min(padded - panel);
                    // SAFETY: a row's `steps` groups of this head, and their places in the panel.
                    unsafe {
                        let from = source
                            .add((row - rows.start) * stride)
                            .add(head * sizes.head_size * sizes.query_bytes);
                        let to = keys.add(panel * steps * 4);
                        for step in 0..steps {
                            let number = if parts == 1 {
                                from.add(step * 4).cast::<u32>().read_unaligned()
                            } else {
                                // Codes are the low bytes of words.
                                let words = from.add(step * 8).cast::<[[u8; 2]; 4]>().read();
                                u32::from_ne_bytes(words.map(|[code, _]| code))
                            };
                            let group = (number ^ sign).to_ne_bytes();
                            let to = to.add(step * panel_width * 4);
                            place(to, (key - panel, panel_width), group, parts);
                        }
                    }
                }
                if coded {
                    let (scales, sums) = self.key_scales_of(layer, sequence, head);
                    for row in part.clone() {
                        // SAFETY: `code_for_scores` wrote those of the block's rows.
                        unsafe {
                            let at = (row - rows.start) * sizes.heads + head;
                            let HeadScale { scale, sum } = *self.own.head_scales.add(at);
                            *scales.add(row - first) = scale;
                            *sums.add(row - first) = sum;
                        }
                    }
                }
            }
        }
    }

    /// Codes queries or keys, f32 rows in `wide`, as attention multiplies them: bf16, or 8 bits with
    /// what a head's codes stand for, of keys its sum too, in `head_scales`.
    ///
    /// # Safety
    /// `wide` and `out` have `rows` rows, at most a block.
    pub(super) unsafe fn code_for_scores(
        &self,
        rows: usize,
        (out, out_stride): (*mut u8, usize),
        sums: bool,
    ) {
        let (sizes, k) = (self.encoder.sizes, self.k);
        let (x, x_stride) = (self.own.wide.cast_const(), self.layout.wide_stride);
        // SAFETY: granted by the caller; `head_scales` has room for a block's.
        unsafe {
            if sizes.keys == Precision::Int8 {
                (k.code_heads)(&HeadsArgs {
                    x,
                    x_stride,
                    rows,
                    heads: sizes.heads,
                    head_size: sizes.head_size,
                    out,
                    out_stride,
                    scales: self.own.head_scales,
                    sums,
                });
                return;
            }
            (k.code_rows)(&RowsArgs {
                x,
                x_stride,
                rows,
                n: sizes.hidden,
                coding: Coding::Bf16,
                factors: std::ptr::null(),
                out,
                out_stride,
                scales: std::ptr::null_mut(),
            });
        }
    }

    /// Puts values, f32 rows in `wide`, into their panels.
    ///
    /// # Safety
    /// `rows` are this thread's and as many as `wide` holds, cut at even places of sequences.
    pub(super) unsafe fn pack_values(&self, layer: usize, rows: Range<usize>) {
        let (sizes, k, group) = (self.encoder.sizes, self.k, self.encoder.sizes.value_group());
        let padded = sizes.head_size.next_multiple_of(k.lanes);
        let width = VALUE_VECTORS * k.lanes;
        let stride = self.layout.wide_stride;
        for (sequence, part) in self.plan.segments(rows.clone()) {
            let first = self.plan.offsets[sequence];
            let starts = &self.plan.value_starts;
            let steps = (starts[sequence + 1] - starts[sequence]).div_ceil(group);
            for head in 0..sizes.heads {
                let values = self.values_of(layer, sequence, head);
                for row in part.clone().step_by(group) {
                    let step = (row - first) / group;
                    // SAFETY: whole vectors of a row may be read: `wide` is padded; `panel_width`
                    // columns of a step may be written.
                    unsafe {
                        let from =
                            self.own.wide.add((row - rows.start) * stride + head * sizes.head_size);
                        let mut column = 0;
                        while column < padded {
                            let panel_width = width.min(padded - column);
                            let to = values.add((column * steps + step * panel_width) * 4);
                            let from = from.add(column);
                            if group == 2 {
                                let next = if row + 1 < part.end {
                                    from.add(stride)
                                } else {
                                    std::ptr::null()
                                };
                                (k.pair_rows)(from, next, to.cast(), panel_width);
                            } else {
                                to.cast::<f32>().copy_from_nonoverlapping(from, panel_width);
                            }
                            column += panel_width;
                        }
                    }
                }
            }
        }
    }

    /// Attention of `queries` into `context`.
    ///
    /// # Safety
    /// `context` has room for the rows; the sequence's keys and values are packed and seen.
    pub(super) unsafe fn attend(&self, layer: usize, queries: Queries, context: *mut f32) {
        let Queries { sequence, row: query, place, rows } = queries;
        let (sizes, k, group) = (self.encoder.sizes, self.k, self.encoder.sizes.value_group());
        let ((key_tiles, key_rows), (tiles, mr)) = (k.tiles(sizes.keys), k.tiles(sizes.values));
        let mr = mr.min(key_rows);
        let tokens = self.plan.offsets[sequence + 1] - self.plan.offsets[sequence];
        let keys_padded = tokens.next_multiple_of(k.lanes);
        // Rows of values are padded to pairs, those of one f32 as well.
        let value_room = (self.plan.value_starts[sequence + 1] - self.plan.value_starts[sequence])
            .div_ceil(group);
        let (key_width, value_width) = (k.nv * k.lanes, VALUE_VECTORS * k.lanes);
        let head_padded = sizes.head_size.next_multiple_of(k.lanes);
        let key_steps = sizes.head_size / sizes.key_group();
        let (scores, stride) = (self.own.scores, self.layout.score_stride);
        let shares = match (sizes.values, sizes.keys) {
            (Precision::Bf16, _) => Shares::Bf16,
            (_, Precision::Int8) => Shares::Coarse,
            _ => Shares::Exact,
        };
        // A window that all tokens are in is none.
        let window = self.encoder.layers[layer].window.filter(|window| tokens > window + 1);
        let Layer { position_key, position_query, .. } = &self.encoder.layers[layer];
        let distances = self.encoder.distances.as_ref();
        let (position_key, position_query) =
            (distances.zip(position_key.as_ref()), distances.zip(position_query.as_ref()));
        for head in 0..sizes.heads {
            // Of queries that are not coded there are none, and the address is not used.
            let q_scales = self.shared.q_scales.wrapping_add(head * self.plan.tokens() + query);
            let keys = self.keys_of(layer, sequence, head);
            let values = self.values_of(layer, sequence, head);
            let key_scales = self.key_scales_of(layer, sequence, head);
            if let Some(packed) = position_query {
                // SAFETY: granted by the caller.
                unsafe { self.keys_of_positions(packed, layer, head, queries) };
            }
            for_tiles(rows, mr, |row, rows| {
                let seen = seen(window, place + row..place + row + rows, tokens, key_width);
                // SAFETY: panels lie as `pack_keys` and `pack_values` put them; scores have room
                // for a tile's rows of the longest sequence; a context row has room for the last
                // head's whole vectors, and what is stored beyond a head is overwritten by the
                // next one's.
                unsafe {
                    let q = self
                        .shared
                        .q
                        .add((query + row) * self.layout.q_stride)
                        .add(head * sizes.head_size * sizes.query_bytes);
                    let mut key = seen.start;
                    while key < seen.end {
                        let width = key_width.min(keys_padded - key);
                        let epilogue = match sizes.keys {
                            Precision::Int8 => Epilogue::Int8 {
                                columns: key_scales.0.add(key),
                                sums: key_scales.1.add(key),
                                rows: q_scales.add(row),
                                bias: NO_BIAS.as_ptr(),
                                outliers: Outliers::none(),
                                add: false,
                            },
                            _ => Epilogue::Plain,
                        };
                        key_tiles[rows - 1][width / k.lanes - 1](&Tile {
                            a: q,
                            a_stride: self.layout.q_stride,
                            b: keys.add(key * key_steps * 4),
                            steps: key_steps,
                            ahead: Ahead::nothing(q),
                            c: scores.add(key - seen.start),
                            c_stride: stride,
                            epilogue,
                        });
                        key += width;
                    }
                    if let Some(packed) = position_key {
                        let tile = (q.cast_const(), place + row..place + row + rows);
                        self.add_queries_of_positions(packed, head, tile, tokens);
                    }
                    if position_query.is_some() {
                        self.add_keys_of_positions(row, rows, tokens);
                    }
                    let n = seen.len();
                    let inverse = self.own.inverse;
                    match window {
                        Some(window) => (k.softmax_window_rows)(&WindowArgs {
                            scores,
                            stride,
                            rows,
                            n,
                            own: place + row - seen.start,
                            window,
                            shares,
                            inverse,
                        }),
                        None => (k.softmax_rows)(&SoftmaxArgs {
                            scores,
                            stride,
                            rows,
                            n,
                            shares,
                            inverse,
                        }),
                    }
                    let mut column = 0;
                    while column < head_padded {
                        let width = value_width.min(head_padded - column);
                        let at = row * self.layout.context_stride + head * sizes.head_size + column;
                        let values = values.add(column * value_room * 4);
                        tiles[rows - 1][width / k.lanes - 1](&Tile {
                            a: scores.cast(),
                            a_stride: stride * 4,
                            b: values.add(seen.start / group * width * 4),
                            steps: n.div_ceil(group),
                            ahead: Ahead::nothing(scores.cast()),
                            c: context.add(at),
                            c_stride: self.layout.context_stride,
                            epilogue: Epilogue::RowScale(inverse),
                        });
                        column += width;
                    }
                }
            });
        }
    }
}

/// Keys that any of `places` sees, from the beginning of a panel of `panel` keys, which is even.
fn seen(window: Option<usize>, places: Range<usize>, tokens: usize, panel: usize) -> Range<usize> {
    let Some(window) = window else { return 0..tokens };
    places.start.saturating_sub(window) / panel * panel..(places.end + window).min(tokens)
}
