//! Token, position and type embeddings.

use std::ops::Range;

use super::norm::PackedNorm;
use crate::error::CpuError;
use crate::pack::PackedLinear;
use crate::spec::{NormPlace, Positions, TokenBatch};
use crate::tensor::{Dtype, Table, read_f32};

/// The tables where they lie, rows converted when they are looked up.
#[derive(Debug)]
pub(super) struct PackedEmbeddings {
    pub(super) word: Table,
    pub(super) position: Option<Table>,
    pub(super) positions: Positions,
    pub(super) token_type: Option<Table>,
    pub(super) norm: PackedNorm,
    pub(super) projection: Option<PackedLinear>,
    pub(super) norm_place: NormPlace,
}

impl PackedEmbeddings {
    /// Whether all ids have embeddings.
    pub(super) fn check(&self, batch: TokenBatch<'_>) -> Result<(), CpuError> {
        let vocabulary = self.word.shape[0];
        if let Some(&id) = batch.ids.iter().find(|&&id| id as usize >= vocabulary) {
            return Err(CpuError::TokenOutOfRange { id, vocabulary });
        }
        let types = self.types();
        if types > 1
            && let Some(&id) = batch.type_ids.iter().find(|&&id| id as usize >= types)
        {
            return Err(CpuError::TypeOutOfRange { id, types });
        }
        Ok(())
    }

    /// Bytes of the tables.
    pub(super) fn table_bytes(&self) -> usize {
        let others = self.position.iter().chain(&self.token_type);
        self.word.bytes() + others.map(Table::bytes).sum::<usize>()
    }

    fn types(&self) -> usize {
        self.token_type.as_ref().map_or(0, |table| table.shape[0])
    }

    /// Sums of the tables' rows for tokens `rows` of the sequence that begins at `start`; `out` has
    /// `stride` elements from row to row.
    pub(super) fn look_up(
        &self,
        batch: TokenBatch<'_>,
        start: usize,
        rows: Range<usize>,
        out: &mut [f32],
        stride: usize,
    ) {
        let width = self.word.shape[1];
        let mut next = match self.positions {
            Positions::FromZero => rows.start - start,
            Positions::AfterPadding { padding } => {
                let counted = batch.ids[start..rows.start].iter().filter(|&&id| id != padding);
                padding as usize + 1 + counted.count()
            }
        };
        for (row, out) in rows.zip(out.chunks_mut(stride)) {
            let out = &mut out[..width];
            let id = batch.ids[row];
            read_row(&self.word, id as usize, out);
            let position = self.position.as_ref().map(|table| match self.positions {
                Positions::AfterPadding { padding } if id == padding => (table, padding as usize),
                _ => {
                    next += 1;
                    (table, next - 1)
                }
            });
            let token_type = self.token_type.as_ref().map(|table| {
                let id = if self.types() > 1 {
                    batch.type_ids.get(row).copied().unwrap_or(0)
                } else {
                    0
                };
                (table, id as usize)
            });
            match (position, token_type) {
                (Some((positions, position)), Some((types, id)))
                    if positions.dtype == Dtype::F32 && types.dtype == Dtype::F32 =>
                {
                    // What nearly all models have, in one go.
                    let (positions, types) = (positions.row(position), types.row(id));
                    let pairs = positions.as_chunks::<4>().0.iter().zip(types.as_chunks::<4>().0);
                    for (out, (position, token_type)) in out.iter_mut().zip(pairs) {
                        *out = (*out + f32::from_le_bytes(*position))
                            + f32::from_le_bytes(*token_type);
                    }
                }
                (position, token_type) => {
                    for (table, row) in position.into_iter().chain(token_type) {
                        add_row(table, row, out);
                    }
                }
            }
        }
    }
}

fn read_row(table: &Table, row: usize, out: &mut [f32]) {
    read_f32(table.dtype, table.row(row), out);
}

fn add_row(table: &Table, row: usize, out: &mut [f32]) {
    // In pieces that fit the registers' neighbourhood rather than through a second row.
    let mut piece = [0.0_f32; 64];
    let size = table.dtype.bytes();
    let bytes = table.row(row);
    for (out, bytes) in out.chunks_mut(64).zip(bytes.chunks(64 * size)) {
        let piece = &mut piece[..out.len()];
        read_f32(table.dtype, bytes, piece);
        for (out, piece) in out.iter_mut().zip(piece) {
            *out += *piece;
        }
    }
}
