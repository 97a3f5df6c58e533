//! Attention to relative positions: of queries to where keys are, of keys to where they are seen
//! from (DeBERTa, He et al. 2020).
//!
//! Relative positions as keys and as queries do not depend on the text: they are projected once.
//! They lie in panels as keys do, in the order in which a query sees keys from the first to the
//! last, so that what a query has of near ones lies beside each other like its scores. Panels are
//! of one vector: of a wider one less would be seen of a tile.

use std::ops::Range;

use super::attention::Queries;
use super::norm::PackedNorm;
use super::pass::Worker;
use super::{Sizes, build::bad};
use crate::error::CpuError;
use crate::kernels::{Ahead, Epilogue, Kernels, PairArgs, PlaceArgs, Tile};
use crate::pack::{Input, PackedLinear, Results, Rows, for_tiles, packed_bytes};
use crate::slab::{ALIGN, Slab};
use crate::spec::{Linear, Precision, RelativePositions};

/// Where each relative position lies among the panels' columns.
#[derive(Debug)]
pub(super) struct Distances {
    /// Place of each distance from query to key, from the farthest key before to the farthest one
    /// behind; ascending.
    places: Vec<u32>,
    /// Of distance 0.
    middle: usize,
    /// Distances up to this one have places one beside another.
    near: usize,
    /// Places, padded to whole vectors.
    padded: usize,
}

impl Distances {
    pub(super) fn new(
        k: &Kernels,
        spec: &RelativePositions,
        tokens_max: usize,
    ) -> Result<Self, CpuError> {
        let rows = spec.table.shape.first().copied().unwrap_or(0);
        if spec.rows.len() + 1 != 2 * tokens_max {
            return Err(bad(format!("{} distances for {tokens_max} tokens", spec.rows.len())));
        }
        if !spec.rows.is_sorted() || spec.rows.last().is_none_or(|&last| last as usize >= rows) {
            return Err(bad(format!("distances do not ascend within {rows} relative positions")));
        }
        // A row counts how far the query is behind the key, a place how far the key is behind it.
        let last = u32::try_from(rows - 1).unwrap_or(u32::MAX);
        let places: Vec<u32> = spec.rows.iter().rev().map(|row| last - row).collect();
        let middle = tokens_max - 1;
        let is_near = |distance: usize| {
            places[middle + distance] as usize == places[middle] as usize + distance
                && places[middle - distance] as usize + distance == places[middle] as usize
        };
        let near = (0..=middle).take_while(|&distance| is_near(distance)).count() - 1;
        Ok(Self { places, middle, near, padded: rows.next_multiple_of(k.lanes) })
    }

    /// Places of keys, as the query at `query` sees them.
    fn seen_from(&self, query: usize) -> &[u32] {
        &self.places[self.middle - query..]
    }

    /// Places of any of `keys` as any of `queries` sees them; neither is empty.
    fn range(&self, queries: Range<usize>, keys: Range<usize>) -> Range<usize> {
        let place = |query: usize, key: usize| self.seen_from(query)[key] as usize;
        place(queries.end - 1, keys.start)..place(queries.start, keys.end - 1) + 1
    }

    /// Elements of a row of products of `tokens` keys and a tile's queries, or the other way.
    pub(super) fn row_room(&self, k: &Kernels, tokens: usize) -> usize {
        // A tile's rows see as many more places; panels are begun and ended whole.
        (tokens + 8 + 2 * k.lanes).min(self.padded).next_multiple_of(16) + 16
    }
}

/// A layer's relative positions as keys or queries: `[heads][panels][head_size/group][places of
/// the panel][group]`.
#[derive(Debug)]
pub(super) struct PackedPositions(*const u8);

// SAFETY: what the pointer leads to is written while packing and only read after.
unsafe impl Send for PackedPositions {}
// SAFETY: as above.
unsafe impl Sync for PackedPositions {}

/// Relative positions before they are projected, `[rows, hidden]`.
pub(super) struct RelativeTable {
    values: Vec<f32>,
    rows: usize,
}

/// Bytes that [`RelativeTable::pack`] takes from the slab.
pub(super) fn positions_bytes(k: &Kernels, rows: usize, sizes: Sizes) -> usize {
    rows.next_multiple_of(k.lanes) * sizes.hidden * 4 / sizes.key_group() + ALIGN
}

impl RelativeTable {
    pub(super) fn new(
        k: &Kernels,
        spec: &RelativePositions,
        hidden: usize,
    ) -> Result<Self, CpuError> {
        let rows = spec.table.shape.first().copied().unwrap_or(0);
        let name = "relative positions";
        // Room for whole vectors of the last row.
        let mut values = vec![0.0; rows * hidden + 16];
        spec.table.read(name, &[rows, hidden], &mut values[..rows * hidden])?;
        if let Some(norm) = &spec.norm {
            let norm = PackedNorm::new(k, name, norm, hidden)?;
            // SAFETY: as many rows as there are; a norm writes no further than a row.
            unsafe { norm.apply(k, values.as_mut_ptr(), hidden, rows) };
        }
        Ok(Self { values, rows })
    }

    /// Projects the positions by `linear`, times `factor`, in f32, and packs them.
    pub(super) fn pack(
        &self,
        k: &Kernels,
        slab: &mut Slab,
        (name, linear): (&str, &Linear),
        sizes: Sizes,
        factor: f32,
    ) -> Result<PackedPositions, CpuError> {
        let (hidden, size, rows) = (sizes.hidden, sizes.head_size, self.rows);
        let stride = hidden.next_multiple_of(k.lanes);
        let mut room = Slab::new(packed_bytes(k, Precision::F32, hidden, hidden))?;
        let input = (Input::default(), factor);
        let shape = [hidden, hidden];
        let linear = PackedLinear::new(k, &mut room, (name, linear), shape, Precision::F32, input)?;
        let mut projected = vec![0.0_f32; rows * stride];
        let x = self.values.as_ptr();
        let scales = std::ptr::null();
        let a = Rows { a: x.cast(), stride: hidden * 4, rows, scales, x, x_stride: hidden };
        let c = Results { c: projected.as_mut_ptr(), stride, add: false };
        // SAFETY: rows as many as there are, results padded to whole vectors.
        unsafe { linear.apply(k, a, c, None) };
        let padded = rows.next_multiple_of(k.lanes);
        let group = sizes.key_group();
        let (steps, width) = (size / group, k.lanes);
        let panels = slab.take(sizes.heads * padded * steps * 4)?;
        for (row, projected) in projected.chunks_exact(stride).enumerate() {
            let place = rows - 1 - row;
            let panel = place / width * width;
            for (head, numbers) in projected[..hidden].chunks_exact(size).enumerate() {
                for (step, numbers) in numbers.chunks_exact(group).enumerate() {
                    let bytes = match numbers {
                        [a, b] => {
                            let [a, b] = [a, b].map(|x| half::bf16::from_f32(*x).to_bits());
                            (u32::from(a) | u32::from(b) << 16).to_ne_bytes()
                        }
                        _ => numbers[0].to_ne_bytes(),
                    };
                    let at = (head * padded + panel) * steps + step * width + place - panel;
                    // SAFETY: below heads · padded · steps, for which `take` gave room.
                    unsafe { panels.add(at * 4).cast::<[u8; 4]>().write(bytes) };
                }
            }
        }
        Ok(PackedPositions(panels))
    }
}

impl Worker<'_> {
    /// Products of rows of queries or keys with the positions at `places`, into `distances`. The
    /// place that the rows there begin with.
    ///
    /// # Safety
    /// `a` has `rows` rows of the head, at most a tile; `places` are at most a row's room.
    unsafe fn position_products(
        &self,
        (distances, positions): (&Distances, &PackedPositions),
        head: usize,
        (a, rows): (*const u8, usize),
        places: Range<usize>,
    ) -> usize {
        let (sizes, k) = (self.encoder.sizes, self.k);
        let (tiles, _) = k.tiles(sizes.keys);
        let (steps, width) = (sizes.head_size / sizes.key_group(), k.lanes);
        let first = places.start / width * width;
        let mut place = first;
        while place < places.end {
            // SAFETY: panels lie one after another; `distances` has room for a tile's rows.
            unsafe {
                tiles[rows - 1][0](&Tile {
                    a,
                    a_stride: self.layout.q_stride,
                    b: positions.0.add((head * distances.padded + place) * steps * 4),
                    steps,
                    ahead: Ahead::nothing(a),
                    c: self.own.distances.add(place - first),
                    c_stride: self.layout.distance_stride,
                    epilogue: Epilogue::Plain,
                });
            }
            place += width;
        }
        first
    }

    /// What keys have of the positions that `queries` see them from, into `positions`: a row a
    /// query.
    ///
    /// # Safety
    /// The sequence's keys are there; the queries are at most a block.
    pub(super) unsafe fn keys_of_positions(
        &self,
        (distances, positions): (&Distances, &PackedPositions),
        layer: usize,
        head: usize,
        queries: Queries,
    ) {
        let Queries { sequence, place, rows, .. } = queries;
        let (k, sizes) = (self.k, self.encoder.sizes);
        let (_, mr) = k.tiles(sizes.keys);
        let tokens = self.plan.offsets[sequence]..self.plan.offsets[sequence + 1];
        let (to_stride, from_stride) = (self.layout.score_stride, self.layout.distance_stride);
        for_tiles(tokens.len(), mr, |key, keys| {
            let places = distances.range(place..place + rows, key..key + keys);
            // SAFETY: keys lie in rows as queries do; a row of `positions` has room for the longest
            // sequence's keys.
            unsafe {
                let a = self.key_rows(layer, tokens.start + key);
                let a = a.add(head * sizes.head_size / sizes.key_group() * 4);
                let packed = (distances, positions);
                let first = self.position_products(packed, head, (a, keys), places);
                for row in 0..rows {
                    let to = self.own.positions.add(row * to_stride + key);
                    let places = &distances.seen_from(place + row)[key..key + keys];
                    for (at, &place) in places.iter().enumerate() {
                        let from = at * from_stride + place as usize - first;
                        *to.add(at) = *self.own.distances.add(from);
                    }
                }
            }
        });
    }

    /// Adds to a tile's scores what queries have of the positions that they see keys at.
    ///
    /// # Safety
    /// `q` are the tile's queries of the head; `scores` has a row for each.
    pub(super) unsafe fn add_queries_of_positions(
        &self,
        (distances, positions): (&Distances, &PackedPositions),
        head: usize,
        (q, queries): (*const u8, Range<usize>),
        tokens: usize,
    ) {
        let places = distances.range(queries.clone(), 0..tokens);
        let packed = (distances, positions);
        // SAFETY: granted by the caller.
        unsafe {
            let first = self.position_products(packed, head, (q, queries.len()), places);
            (self.k.add_by_place)(&PlaceArgs {
                scores: self.own.scores,
                stride: self.layout.score_stride,
                rows: queries.len(),
                n: tokens,
                by_place: self.own.distances,
                by_place_stride: self.layout.distance_stride,
                first,
                places: distances.seen_from(queries.start).as_ptr(),
                own: queries.start,
                near: distances.near,
            });
        }
    }

    /// Adds to a tile's scores rows of `positions`, from `row` on.
    ///
    /// # Safety
    /// `positions` are those of the head, `scores` has `rows` rows.
    pub(super) unsafe fn add_keys_of_positions(&self, row: usize, rows: usize, tokens: usize) {
        let stride = self.layout.score_stride;
        // SAFETY: rows have room for whole vectors.
        unsafe {
            let y = self.own.positions.add(row * stride).cast_const();
            let x = self.own.scores;
            (self.k.add_rows)(&PairArgs { x, y, stride, rows, n: tokens });
        }
    }
}
