//! Tensors as they are handed in: read block by block to be packed, or used where they lie.

use half::slice::HalfFloatSliceExt;
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use crate::error::CpuError;

/// How much of a tensor is in memory as it is in its owner while it is packed, or a row if that is
/// more.
const BLOCK_BYTES: usize = 64 << 10;

/// Number type of a tensor's bytes, little endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// IEEE single.
    F32,
    /// IEEE half.
    F16,
    /// The upper half of a single.
    Bf16,
}

impl Dtype {
    /// Bytes of one number.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }
}

/// Bytes that tensors lie in: a file, or a vector.
///
/// What is packed is read, so that bytes which cannot be read are an error; a mapping of them
/// would end the process.
pub trait Source: Send + Sync {
    /// How many there are.
    fn bytes(&self) -> usize;

    /// Fills `out` with the bytes from byte `at` on.
    ///
    /// # Errors
    /// What the system said, or that there are not as many.
    fn read(&self, at: usize, out: &mut [u8]) -> io::Result<()>;

    /// All of them where they lie, for embedding tables. Called after all reads of a load.
    ///
    /// # Errors
    /// They cannot be mapped, or are fewer than they were.
    fn map(self: Arc<Self>) -> Result<Mapped, CpuError>;
}

/// Who holds a tensor's bytes.
pub type Owner = Arc<dyn Source>;

/// Bytes where they lie.
pub type Mapped = Arc<dyn AsRef<[u8]> + Send + Sync>;

impl Source for Vec<u8> {
    fn bytes(&self) -> usize {
        self.len()
    }

    fn read(&self, at: usize, out: &mut [u8]) -> io::Result<()> {
        let found = at.checked_add(out.len()).and_then(|end| self.get(at..end));
        out.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn map(self: Arc<Self>) -> Result<Mapped, CpuError> {
        Ok(self)
    }
}

/// A tensor, row-major, within its owner's bytes; not necessarily aligned.
#[derive(Clone)]
pub struct TensorView {
    /// Sizes.
    pub shape: Vec<usize>,
    /// Number type.
    pub dtype: Dtype,
    /// Who holds the bytes. Embedding tables keep its mapping; other tensors are packed and let go.
    pub owner: Owner,
    /// Where in the owner.
    pub range: Range<usize>,
}

impl fmt::Debug for TensorView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}{:?} at {:?}", self.dtype, self.shape, self.range)
    }
}

impl TensorView {
    /// A tensor of its own from f32 values, for tests and generated models.
    #[must_use]
    pub fn from_f32(shape: &[usize], values: &[f32]) -> Self {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let range = 0..bytes.len();
        Self { shape: shape.to_vec(), dtype: Dtype::F32, owner: Arc::new(bytes), range }
    }

    /// Some of a tensor's rows; none that are not there.
    #[must_use]
    pub fn rows(&self, rows: Range<usize>) -> Self {
        let row_bytes = self.shape.iter().skip(1).product::<usize>() * self.dtype.bytes();
        let start = (self.range.start + rows.start * row_bytes).min(self.range.end);
        let end = (self.range.start + rows.end * row_bytes).min(self.range.end);
        let mut shape = self.shape.clone();
        if let Some(first) = shape.first_mut() {
            *first = rows.len();
        }
        Self { shape, dtype: self.dtype, owner: Arc::clone(&self.owner), range: start..end }
    }

    /// The same in memory, for one that is looked through more than once.
    pub(crate) fn held(&self, tensor: &str) -> Result<Self, CpuError> {
        self.check(tensor, &self.shape)?;
        let mut bytes = Vec::with_capacity(self.range.len());
        self.each_block(tensor, 1, |block| bytes.extend_from_slice(block))?;
        let range = 0..bytes.len();
        Ok(Self { shape: self.shape.clone(), dtype: self.dtype, owner: Arc::new(bytes), range })
    }

    /// The values of a tensor of the shape that `tensor`'s place asks for; `out` has room for
    /// exactly those.
    pub(crate) fn read(
        &self,
        tensor: &str,
        expected: &[usize],
        out: &mut [f32],
    ) -> Result<(), CpuError> {
        self.check(tensor, expected)?;
        let (size, mut done) = (self.dtype.bytes(), 0);
        self.each_block(tensor, size, |block| {
            let numbers = block.len() / size;
            read_f32(self.dtype, block, &mut out[done..done + numbers]);
            done += numbers;
        })
    }

    /// Calls `each` with every row's number and values, which it may change.
    pub(crate) fn each_row(
        &self,
        tensor: &str,
        [rows, width]: [usize; 2],
        mut each: impl FnMut(usize, &mut [f32]),
    ) -> Result<(), CpuError> {
        self.check(tensor, &[rows, width])?;
        let row_bytes = width * self.dtype.bytes();
        let (mut row, mut at) = (vec![0.0_f32; width], 0);
        self.each_block(tensor, row_bytes, |block| {
            for bytes in block.chunks_exact(row_bytes) {
                read_f32(self.dtype, bytes, &mut row);
                each(at, &mut row);
                at += 1;
            }
        })
    }

    /// The table where it lies.
    pub(crate) fn table(&self, tensor: &str, shape: [usize; 2]) -> Result<Table, CpuError> {
        self.check(tensor, &shape)?;
        let mapped = Arc::clone(&self.owner).map()?;
        Ok(Table { shape, dtype: self.dtype, mapped, range: self.range.clone() })
    }

    /// Whether the shape is the one that `tensor`'s place asks for, and the bytes fit it.
    fn check(&self, tensor: &str, expected: &[usize]) -> Result<(), CpuError> {
        if self.shape != expected {
            let (expected, found) = (expected.to_vec(), self.shape.clone());
            return Err(CpuError::Shape { tensor: tensor.to_owned(), expected, found });
        }
        let elements = expected.iter().try_fold(1_usize, |all, &size| all.checked_mul(size));
        let bytes = elements.and_then(|elements| elements.checked_mul(self.dtype.bytes()));
        let expected =
            bytes.ok_or_else(|| CpuError::BadSpec { reason: format!("{tensor} is too large") })?;
        let left = self.owner.bytes().saturating_sub(self.range.start);
        let found = self.range.len().min(left);
        if found == expected && self.range.len() == expected {
            Ok(())
        } else {
            Err(CpuError::Bytes { tensor: tensor.to_owned(), expected, found })
        }
    }

    /// Reads the bytes in blocks of whole `unit`s, about [`BLOCK_BYTES`] at a time.
    fn each_block(
        &self,
        tensor: &str,
        unit: usize,
        mut each: impl FnMut(&[u8]),
    ) -> Result<(), CpuError> {
        let units = (BLOCK_BYTES / unit.max(1)).max(1);
        let mut block = vec![0; self.range.len().min(units * unit)];
        let mut at = self.range.start;
        while at < self.range.end {
            let bytes = block.len().min(self.range.end - at);
            self.owner.read(at, &mut block[..bytes]).map_err(|source| CpuError::Read {
                tensor: tensor.to_owned(),
                at,
                bytes,
                source,
            })?;
            each(&block[..bytes]);
            at += bytes;
        }
        Ok(())
    }
}

/// An embedding table where it lies; not necessarily aligned.
pub(crate) struct Table {
    pub(crate) shape: [usize; 2],
    pub(crate) dtype: Dtype,
    mapped: Mapped,
    range: Range<usize>,
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}{:?} at {:?}", self.dtype, self.shape, self.range)
    }
}

impl Table {
    /// Bytes of a row; empty if there is none, which the checks rule out.
    pub(crate) fn row(&self, row: usize) -> &[u8] {
        let bytes = self.shape[1] * self.dtype.bytes();
        let start = self.range.start + row * bytes;
        let all: &[u8] = (*self.mapped).as_ref();
        all.get(start..start + bytes).unwrap_or_default()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.range.len()
    }
}

/// Reads numbers of `dtype` as f32; `bytes` holds exactly as many as `out`.
pub(crate) fn read_f32(dtype: Dtype, bytes: &[u8], out: &mut [f32]) {
    match dtype {
        Dtype::F32 => {
            for (out, bytes) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *out = f32::from_le_bytes(*bytes);
            }
        }
        Dtype::F16 => {
            // In blocks: the conversion of a slice uses the CPU's own instruction where it has one.
            let mut block = [half::f16::ZERO; 64];
            let halves = bytes.as_chunks::<2>().0;
            for (out, halves) in out.chunks_mut(block.len()).zip(halves.chunks(block.len())) {
                let block = &mut block[..halves.len()];
                for (half, bytes) in block.iter_mut().zip(halves) {
                    *half = half::f16::from_le_bytes(*bytes);
                }
                block.convert_to_f32_slice(&mut out[..halves.len()]);
            }
        }
        Dtype::Bf16 => {
            for (out, bytes) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *out = f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
            }
        }
    }
}
