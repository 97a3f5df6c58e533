//! Safetensors files: headers first, weights when they are wanted.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, Metadata};
use serde_json::Value;

use crate::error::ModelError;

/// The largest header that is read: a thousand tensors take about 100 kB.
const HEADER_BYTES_MAX: u64 = 64 << 20;

/// Where a model's tensors are, and their shapes.
#[derive(Clone, Debug)]
pub(crate) struct WeightFiles {
    files: Vec<PathBuf>,
    shapes: BTreeMap<String, Vec<usize>>,
    bytes: u64,
    elements: u64,
    /// What identifies the weights: headers, lengths, and samples of the data.
    pub(crate) fingerprint: [u8; 32],
}

/// A tensor's values as they are in the file.
pub(crate) struct RawTensor<'a> {
    pub(crate) dtype: Dtype,
    pub(crate) shape: &'a [usize],
    pub(crate) bytes: &'a [u8],
}

impl WeightFiles {
    /// Finds `model.safetensors` or the shards of its index, and reads the headers.
    pub(crate) fn open(folder: &Path) -> Result<Self, ModelError> {
        let files = Self::find(folder)?;
        let mut fingerprint = blake3::Hasher::new();
        let (mut shapes, mut bytes, mut elements) = (BTreeMap::new(), 0, 0);
        for path in &files {
            let (header, length) = read_header(path, &mut fingerprint)?;
            for (name, info) in header.tensors() {
                elements += info.shape.iter().product::<usize>() as u64;
                shapes.insert(name, info.shape.clone());
            }
            bytes += length;
        }
        Ok(Self { files, shapes, bytes, elements, fingerprint: *fingerprint.finalize().as_bytes() })
    }

    fn find(folder: &Path) -> Result<Vec<PathBuf>, ModelError> {
        let single = folder.join("model.safetensors");
        if single.is_file() {
            return Ok(vec![single]);
        }
        let index = folder.join("model.safetensors.index.json");
        if !index.is_file() {
            let pickle = folder.join("pytorch_model.bin").exists();
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
        self.shapes.get(name).map(Vec::as_slice)
    }

    /// Bytes on disk.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Numbers in all tensors.
    pub(crate) fn elements(&self) -> u64 {
        self.elements
    }

    /// Hands every tensor to `visit`, file by file; at most one file is in memory at a time.
    pub(crate) fn for_each(
        &self,
        mut visit: impl FnMut(&str, RawTensor<'_>) -> Result<(), ModelError>,
    ) -> Result<(), ModelError> {
        for path in &self.files {
            let data = std::fs::read(path).map_err(|error| ModelError::io(path, error))?;
            let tensors = SafeTensors::deserialize(&data)
                .map_err(|error| ModelError::bad_file(path, error))?;
            for (name, tensor) in tensors.iter() {
                let raw = RawTensor {
                    dtype: tensor.dtype(),
                    shape: tensor.shape(),
                    bytes: tensor.data(),
                };
                visit(name, raw)?;
            }
        }
        Ok(())
    }
}

fn read_header(
    path: &Path,
    fingerprint: &mut blake3::Hasher,
) -> Result<(Metadata, u64), ModelError> {
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
    let mut header = vec![0; usize::try_from(header_length).unwrap_or(usize::MAX)];
    file.read_exact(&mut header).map_err(io)?;
    let metadata: Metadata =
        serde_json::from_slice(&header).map_err(|error| wrong(format!("header: {error}")))?;
    let data =
        metadata.tensors().values().map(|info| info.data_offsets.1 as u64).max().unwrap_or(0);
    if data + header_length + 8 != length {
        let whole = data + header_length + 8;
        return Err(wrong(format!("has {length} bytes, its header says {whole}: truncated?")));
    }
    fingerprint.update(&length.to_le_bytes());
    fingerprint.update(&header);
    sample(&mut file, header_length + 8, length, fingerprint).map_err(io)?;
    Ok((metadata, length))
}

/// Two trainings of one shape have equal headers, so some of the data is part of the fingerprint:
/// 64 blocks, evenly spread.
fn sample(
    file: &mut File,
    start: u64,
    end: u64,
    hasher: &mut blake3::Hasher,
) -> std::io::Result<()> {
    use std::io::{Seek, SeekFrom};
    const BLOCKS: u64 = 64;
    let mut block = [0; 4096];
    for step in 0..BLOCKS {
        file.seek(SeekFrom::Start(start + (end - start) / BLOCKS * step))?;
        let read = file.read(&mut block)?;
        hasher.update(&block[..read]);
    }
    Ok(())
}
