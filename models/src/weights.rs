//! Safetensors files: headers first, weights one tensor at a time.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use postsort_cpu::{Owner, TensorView, open_file};
use safetensors::tensor::{Dtype, Metadata};
use serde_json::Value;

use crate::error::ModelError;

/// The largest header that is read: a thousand tensors take about 100 kB.
const HEADER_BYTES_MAX: u64 = 64 << 20;
/// How much of a tensor is in memory as it is in the file while it becomes f32.
const CHUNK_BYTES: usize = 1 << 20;

/// Where a model's tensors are, and their shapes.
#[derive(Clone, Debug)]
pub(crate) struct WeightFiles {
    files: Vec<PathBuf>,
    tensors: BTreeMap<String, Place>,
    bytes: u64,
    elements: u64,
    /// What identifies the weights: headers, lengths, and samples of the data.
    pub(crate) fingerprint: [u8; 32],
}

/// A tensor in a file.
#[derive(Clone, Debug)]
struct Place {
    file: usize,
    start: u64,
    elements: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    /// Digest of what was sampled of it.
    sample: [u8; 32],
}

impl WeightFiles {
    /// Finds `model.safetensors` or the shards of its index, and reads the headers.
    pub(crate) fn open(folder: &Path) -> Result<Self, ModelError> {
        let files = Self::find(folder)?;
        let mut fingerprint = blake3::Hasher::new();
        let (mut tensors, mut bytes, mut elements) = (BTreeMap::new(), 0, 0);
        for (at, path) in files.iter().enumerate() {
            bytes += read_header(path, at, &mut tensors, &mut fingerprint)?;
        }
        for place in tensors.values() {
            elements += place.elements as u64;
        }
        Ok(Self {
            files,
            tensors,
            bytes,
            elements,
            fingerprint: *fingerprint.finalize().as_bytes(),
        })
    }

    fn find(folder: &Path) -> Result<Vec<PathBuf>, ModelError> {
        let single = folder.join("model.safetensors");
        if single.is_file() {
            return Ok(vec![single]);
        }
        let index = folder.join("model.safetensors.index.json");
        if !index.is_file() {
            let pickle = folder.join("pytorch_model.bin").exists()
                || folder.join("pytorch_model.bin.index.json").exists();
            return Err(ModelError::NoWeights { pickle });
        }
        let text = std::fs::read(&index).map_err(|error| ModelError::io(&index, error))?;
        let wrong = |reason: &str| ModelError::bad_file(&index, reason);
        let json: Value =
            serde_json::from_slice(&text).map_err(|error| wrong(&error.to_string()))?;
        let map = json.get("weight_map").and_then(Value::as_object);
        let map = map.ok_or_else(|| wrong("has no `weight_map`"))?;
        let mut shards: Vec<&str> = map.values().filter_map(Value::as_str).collect();
        shards.sort_unstable();
        shards.dedup();
        if shards.is_empty() {
            return Err(wrong("names no file"));
        }
        // A shard lies beside its index; a path could lead anywhere.
        if shards
            .iter()
            .any(|shard| Path::new(shard).components().count() != 1 || shard.contains(".."))
        {
            return Err(wrong("names a file outside the folder"));
        }
        Ok(shards.into_iter().map(|shard| folder.join(shard)).collect())
    }

    /// A tensor's shape.
    pub(crate) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|place| place.shape.as_slice())
    }

    /// Bytes on disk.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Numbers in all tensors.
    pub(crate) fn elements(&self) -> u64 {
        self.elements
    }

    /// The files opened, for engines that take tensors out of them.
    pub(crate) fn open_files(&self) -> Result<OpenWeights<'_>, ModelError> {
        let open = |path: &PathBuf| open_file(path).map_err(|error| ModelError::io(path, error));
        let owners = self.files.iter().map(open).collect::<Result<_, _>>()?;
        Ok(OpenWeights { files: self, owners })
    }

    /// Bytes on disk of the tensor `name`.
    pub(crate) fn tensor_bytes(&self, name: &str) -> Option<u64> {
        let place = self.tensors.get(name)?;
        Some(place.elements as u64 * place.dtype.bitsize() as u64 / 8)
    }

    /// Adds a tensor, its shape, type and bytes, to a digest.
    pub(crate) fn digest(&self, name: &str, digest: &mut blake3::Hasher) -> Result<(), ModelError> {
        let place = self.place(name, digest)?;
        self.each_chunk(place, |bytes| {
            digest.update(bytes);
        })
    }

    /// The same of samples, which were taken when the file was opened.
    pub(crate) fn sample(&self, name: &str, digest: &mut blake3::Hasher) -> Result<(), ModelError> {
        let place = self.place(name, digest)?;
        digest.update(&place.sample);
        Ok(())
    }

    /// Where a tensor is; its shape and type are added to a digest.
    fn place(&self, name: &str, digest: &mut blake3::Hasher) -> Result<&Place, ModelError> {
        let place = self.tensors.get(name);
        let place = place.ok_or_else(|| ModelError::MissingTensor { tensor: name.to_owned() })?;
        let kind = format!("{:?}{:?}", place.dtype, place.shape);
        digest.update(&(kind.len() as u64).to_le_bytes()).update(kind.as_bytes());
        Ok(place)
    }

    /// A tensor's values in f32. No more than [`CHUNK_BYTES`] beside them are in memory.
    pub(crate) fn read(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        let place = self.tensors.get(name);
        let place = place.ok_or_else(|| ModelError::MissingTensor { tensor: name.to_owned() })?;
        let widen: fn(&[u8], &mut Vec<f32>) = match place.dtype {
            Dtype::F32 => |bytes, values| values.extend(chunks(bytes).map(f32::from_le_bytes)),
            Dtype::F16 => |bytes, values| {
                values.extend(chunks(bytes).map(|two| f16::from_le_bytes(two).to_f32()));
            },
            Dtype::BF16 => |bytes, values| {
                values.extend(chunks(bytes).map(|two| bf16::from_le_bytes(two).to_f32()));
            },
            dtype => return Err(unsupported(name, dtype)),
        };
        let mut values = Vec::with_capacity(place.elements);
        self.each_chunk(place, |bytes| widen(bytes, &mut values))?;
        Ok(values)
    }

    fn each_chunk(&self, place: &Place, mut read: impl FnMut(&[u8])) -> Result<(), ModelError> {
        let path = &self.files[place.file];
        let io = |error: std::io::Error| ModelError::io(path, error);
        let mut file = File::open(path).map_err(io)?;
        file.seek(SeekFrom::Start(place.start)).map_err(io)?;
        let mut left = place.elements * place.dtype.bitsize() / 8;
        let mut chunk = vec![0; left.min(CHUNK_BYTES)];
        while left > 0 {
            let part = &mut chunk[..left.min(CHUNK_BYTES)];
            file.read_exact(part).map_err(io)?;
            read(part);
            left -= part.len();
        }
        Ok(())
    }
}

/// Weights that are ready to be read.
pub(crate) struct OpenWeights<'a> {
    files: &'a WeightFiles,
    owners: Vec<Owner>,
}

impl OpenWeights<'_> {
    /// Where the tensor `name` lies. Keeps its file open, and no other.
    pub(crate) fn view(&self, name: &str) -> Result<TensorView, ModelError> {
        let place = self.files.tensors.get(name);
        let place = place.ok_or_else(|| ModelError::MissingTensor { tensor: name.to_owned() })?;
        let dtype = match place.dtype {
            Dtype::F32 => postsort_cpu::Dtype::F32,
            Dtype::F16 => postsort_cpu::Dtype::F16,
            Dtype::BF16 => postsort_cpu::Dtype::Bf16,
            dtype => return Err(unsupported(name, dtype)),
        };
        let start = usize::try_from(place.start).unwrap_or(usize::MAX);
        let end = start.saturating_add(place.elements.saturating_mul(dtype.bytes()));
        let owner = Owner::clone(&self.owners[place.file]);
        Ok(TensorView { shape: place.shape.clone(), dtype, owner, range: start..end })
    }
}

fn unsupported(tensor: &str, dtype: Dtype) -> ModelError {
    ModelError::Dtype { tensor: tensor.to_owned(), dtype: format!("{dtype:?}") }
}

fn chunks<const SIZE: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; SIZE]> + '_ {
    bytes.as_chunks().0.iter().copied()
}

/// Notes a file's tensors; its length.
fn read_header(
    path: &Path,
    at: usize,
    tensors: &mut BTreeMap<String, Place>,
    fingerprint: &mut blake3::Hasher,
) -> Result<u64, ModelError> {
    let io = |error: std::io::Error| ModelError::io(path, error);
    let wrong = |reason: String| ModelError::bad_file(path, reason);
    let mut file = File::open(path).map_err(io)?;
    let length = file.metadata().map_err(io)?.len();
    let mut size = [0; 8];
    file.read_exact(&mut size).map_err(|_| wrong("has no safetensors header".to_owned()))?;
    let header_length = u64::from_le_bytes(size);
    if header_length > HEADER_BYTES_MAX || header_length + 8 > length {
        return Err(wrong(format!("header of {header_length} bytes in a file of {length}")));
    }
    let start = header_length + 8;
    let mut header = vec![0; usize::try_from(header_length).unwrap_or(usize::MAX)];
    file.read_exact(&mut header).map_err(io)?;
    let metadata: Metadata =
        serde_json::from_slice(&header).map_err(|error| wrong(format!("header: {error}")))?;
    let (mut end, mut extents) = (0, Vec::new());
    for (name, info) in metadata.tensors() {
        let lies =
            || wrong(format!("header: offsets of `{name}` do not fit its shape {:?}", info.shape));
        let elements = info.shape.iter().try_fold(1_usize, |all, &size| all.checked_mul(size));
        let elements = elements.ok_or_else(lies)?;
        let bits = elements.checked_mul(info.dtype.bitsize()).ok_or_else(lies)?;
        let (first, last) = info.data_offsets;
        if last.checked_sub(first) != Some(bits.div_ceil(8)) {
            return Err(lies());
        }
        end = end.max(last as u64);
        extents.push((first as u64, last as u64, name.clone()));
        let place = Place {
            file: at,
            // Wraps only where the length below is wrong, too.
            start: start.wrapping_add(first as u64),
            elements,
            dtype: info.dtype,
            shape: info.shape.clone(),
            sample: [0; 32],
        };
        if tensors.insert(name.clone(), place).is_some() {
            return Err(wrong(format!("has `{name}`, as another file has")));
        }
    }
    if end.checked_add(start) != Some(length) {
        let data = length - start;
        return Err(wrong(format!("has {data} bytes of data, its header says {end}: truncated?")));
    }
    // The header's tensors come in no order of their own.
    extents.sort_unstable();
    fingerprint.update(&length.to_le_bytes());
    fingerprint.update(&header);
    for (first, last, name) in extents {
        let mut own = blake3::Hasher::new();
        let each = |block: &[u8]| {
            fingerprint.update(block);
            own.update(block);
        };
        sample(&mut file, start + first, last - first, each).map_err(io)?;
        if let Some(place) = tensors.get_mut(&name) {
            place.sample = *own.finalize().as_bytes();
        }
    }
    Ok(length)
}

/// Two trainings of one shape have equal headers, so data is part of the fingerprint: all of a
/// small tensor (a classifier trained on a frozen encoder differs in nothing else), and blocks of a
/// large one, its first and last among them.
fn sample(
    file: &mut File,
    start: u64,
    bytes: u64,
    mut each: impl FnMut(&[u8]),
) -> std::io::Result<()> {
    const BLOCKS: u64 = 4;
    const BLOCK_BYTES: u64 = 4096;
    let mut block = Vec::new();
    let mut read = |from: u64, bytes: u64| {
        file.seek(SeekFrom::Start(from))?;
        block.clear();
        file.by_ref().take(bytes).read_to_end(&mut block)?;
        each(&block);
        Ok(())
    };
    if bytes <= BLOCKS * BLOCK_BYTES {
        return read(start, bytes);
    }
    (0..BLOCKS)
        .try_for_each(|at| read(start + (bytes - BLOCK_BYTES) * at / (BLOCKS - 1), BLOCK_BYTES))
}
