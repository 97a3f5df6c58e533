//! Kernels, written once over [`crate::simd::Simd`] and compiled for each instruction set.

pub(crate) mod level;
mod math;
mod rows;
pub(crate) mod table;
#[cfg(test)]
mod tests;
mod tile;

pub(crate) use math::Function;
pub(crate) use rows::{Coding, NormArgs, Outliers, RowScale, RowsArgs, SoftmaxArgs};
pub(crate) use table::Kernels;
pub(crate) use tile::{Ahead, Epilogue, Tile};
