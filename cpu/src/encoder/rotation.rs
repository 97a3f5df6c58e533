//! Angles of the rotary embedding (Su et al. 2021), tabulated once.

use crate::error::CpuError;
use crate::slab::Slab;

/// `[tokens][head_size]`: of each position the cosines, then the sines, of a head's pairs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rotation {
    angles: *const f32,
    head_size: usize,
}

// SAFETY: what the pointer leads to is written while packing and only read after.
unsafe impl Send for Rotation {}
// SAFETY: as above.
unsafe impl Sync for Rotation {}

/// Bytes that [`Rotation::new`] takes from the slab.
pub(super) fn rotation_bytes(tokens: usize, head_size: usize) -> usize {
    (tokens * head_size * 4).next_multiple_of(crate::slab::ALIGN)
}

impl Rotation {
    pub(super) fn new(
        slab: &mut Slab,
        tokens: usize,
        head_size: usize,
        base: f64,
    ) -> Result<Self, CpuError> {
        let angles = slab.take(rotation_bytes(tokens, head_size))?.cast::<f32>();
        // SAFETY: `take` gave as many zeroed and aligned f32 that nobody else has.
        let table = unsafe { std::slice::from_raw_parts_mut(angles, tokens * head_size) };
        let half = head_size / 2;
        for (token, row) in table.chunks_exact_mut(head_size).enumerate() {
            let (cosines, sines) = row.split_at_mut(half);
            for (pair, (cosine, sine)) in cosines.iter_mut().zip(sines).enumerate() {
                // In f32 as in the reference: of far positions the rounding counts.
                #[expect(clippy::cast_precision_loss, reason = "positions and sizes")]
                #[expect(clippy::cast_possible_truncation, reason = "as the reference")]
                let frequency = (1.0 / base.powf((2 * pair) as f64 / head_size as f64)) as f32;
                #[expect(clippy::cast_precision_loss, reason = "positions")]
                let angle = token as f32 * frequency;
                (*sine, *cosine) = angle.sin_cos();
            }
        }
        Ok(Self { angles, head_size })
    }

    /// Angles of the position `place` and, after it, of those that follow.
    pub(super) fn at(&self, place: usize) -> *const f32 {
        self.angles.wrapping_add(place * self.head_size)
    }
}
