//! Kernels, written once over [`crate::simd::Simd`] and compiled for each instruction set.

mod combine;
mod heads;
pub(crate) mod level;
mod math;
mod places;
mod rotary;
mod rows;
pub(crate) mod table;
#[cfg(test)]
mod tests;
mod tile;
mod window;

pub(crate) use combine::{MeanArgs, PairArgs};
pub(crate) use heads::{HeadScale, HeadsArgs};
pub(crate) use math::Function;
pub(crate) use places::PlaceArgs;
pub(crate) use rotary::RotateArgs;
pub(crate) use rows::{Coding, NormArgs, Outliers, RowScale, RowsArgs, Shares, SoftmaxArgs};
pub(crate) use table::Kernels;
pub(crate) use tile::{Ahead, Epilogue, Tile};
pub(crate) use window::WindowArgs;
