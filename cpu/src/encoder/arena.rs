//! Scratch memory of passes, kept between them.

use super::plan::{Layout, Plan};
use crate::error::CpuError;
use crate::kernels::{HeadScale, RowScale};
use crate::slab::Slab;

/// What one pass needs, reused by the next.
#[derive(Debug, Default)]
pub(crate) struct Arena {
    slab: Option<Slab>,
    pub(super) plan: Plan,
    pub(super) own: Vec<Own>,
}

impl Arena {
    pub(crate) fn bytes(&self) -> usize {
        self.slab.as_ref().map_or(0, Slab::capacity)
    }

    /// Memory for a pass: what all threads share, and each thread's own. Grows by need.
    pub(super) fn provide(
        &mut self,
        layout: &Layout,
        own: &mut Vec<Own>,
    ) -> Result<Shared, CpuError> {
        let bytes = layout.bytes();
        if self.bytes() < bytes {
            // The old memory is let go first.
            self.slab = None;
            self.slab = Some(Slab::new(bytes.next_power_of_two())?);
        }
        let Some(slab) = &mut self.slab else {
            return Err(CpuError::BadSpec { reason: "no scratch memory".to_owned() });
        };
        slab.reset();
        let shared = Shared {
            x: slab.take(layout.x_bytes)?.cast(),
            q: slab.take(layout.q_bytes)?,
            q_scales: slab.take(layout.q_scales_bytes)?.cast(),
            k: [slab.take(layout.k_bytes)?, slab.take(layout.k_bytes)?],
            key_scales: [
                slab.take(layout.key_scales_bytes)?.cast(),
                slab.take(layout.key_scales_bytes)?.cast(),
            ],
            key_rows: [slab.take(layout.key_rows_bytes)?, slab.take(layout.key_rows_bytes)?],
            v: [slab.take(layout.v_bytes)?, slab.take(layout.v_bytes)?],
        };
        own.clear();
        for _ in 0..layout.threads {
            own.push(Own {
                wide: slab.take(layout.wide_bytes)?.cast(),
                context: slab.take(layout.context_bytes)?.cast(),
                compact: slab.take(layout.compact_bytes)?.cast(),
                normed: slab.take(layout.normed_bytes)?.cast(),
                coded: slab.take(layout.coded_bytes)?,
                scales: slab.take(layout.scales_bytes)?.cast(),
                head_scales: slab.take(layout.head_scales_bytes)?.cast(),
                scores: slab.take(layout.scores_bytes)?.cast(),
                distances: slab.take(layout.distances_bytes)?.cast(),
                positions: slab.take(layout.positions_bytes)?.cast(),
                inverse: slab.take(64)?.cast(),
            });
        }
        Ok(shared)
    }
}

/// Memory that all threads of a pass see.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shared {
    /// States `[tokens][x_stride]`; a row is its thread's own.
    pub(super) x: *mut f32,
    /// Queries, one row a token.
    pub(super) q: *mut u8,
    /// What coded queries stand for, `[heads][tokens]`; none of other queries.
    pub(super) q_scales: *mut RowScale,
    /// Keys in panels, of even and of odd layers: a thread may write the next layer's while
    /// another reads this one's.
    pub(super) k: [*mut u8; 2],
    /// What coded keys stand for; none of other keys.
    pub(super) key_scales: [*mut f32; 2],
    /// Keys in rows as queries, of even and of odd layers; none where no positions attend to them.
    pub(super) key_rows: [*mut u8; 2],
    /// Values in panels.
    pub(super) v: [*mut u8; 2],
}

// SAFETY: threads write disjoint rows, and read others' only behind a barrier.
unsafe impl Sync for Shared {}

/// One thread's memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Own {
    /// Rows between two products.
    pub(super) wide: *mut f32,
    /// Attention's results.
    pub(super) context: *mut f32,
    /// States of first tokens, gathered.
    pub(super) compact: *mut f32,
    /// A block's states, normed for the next product; none where norms are after the residuals.
    pub(super) normed: *mut f32,
    /// Left operand of the next product.
    pub(super) coded: *mut u8,
    /// Its rows' scales.
    pub(super) scales: *mut RowScale,
    /// What heads that were just coded stand for, `[rows][heads]`.
    pub(super) head_scales: *mut HeadScale,
    /// Attention scores of one tile of rows.
    pub(super) scores: *mut f32,
    /// Products of a tile's queries or keys with relative positions; none without those.
    pub(super) distances: *mut f32,
    /// What keys have of the positions that a block's queries see them from; none without those.
    pub(super) positions: *mut f32,
    /// 1 over the sums of the tile's rows.
    pub(super) inverse: *mut f32,
}

// SAFETY: each thread takes the entry of its own number.
unsafe impl Sync for Own {}
// SAFETY: plain addresses; who may use them is said above.
unsafe impl Send for Own {}
