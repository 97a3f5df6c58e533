//! Files that tensors are in.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use crate::error::CpuError;
use crate::tensor::{Mapped, Owner, Source};

/// Opened for a load; what is mapped of it outlives it.
struct TensorFile {
    file: File,
    /// When it was opened.
    bytes: usize,
    map: OnceLock<Mapped>,
}

/// Opens a file for reading, of which embedding tables are mapped and used where they are.
///
/// Mapped bytes are those of the file: whoever shortens it while it is mapped ends this process, so
/// replace model files by renaming.
///
/// # Errors
/// The file cannot be opened.
pub fn open_file(path: &Path) -> io::Result<Owner> {
    let file = File::open(path)?;
    let bytes = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
    Ok(Arc::new(TensorFile { file, bytes, map: OnceLock::new() }))
}

impl Source for TensorFile {
    fn bytes(&self) -> usize {
        self.bytes
    }

    fn read(&self, at: usize, out: &mut [u8]) -> io::Result<()> {
        read_at(&self.file, at as u64, out)
    }

    fn map(self: Arc<Self>) -> Result<Mapped, CpuError> {
        let (expected, found) = (self.bytes as u64, self.file.metadata()?.len());
        if found < expected {
            return Err(CpuError::Shorter { expected, found });
        }
        if let Some(map) = self.map.get() {
            return Ok(Arc::clone(map));
        }
        // SAFETY: only ever read as bytes, of which any is valid; shortening is the documented
        // limit.
        let map = unsafe { memmap2::MmapOptions::new().len(self.bytes).map(&self.file)? };
        Ok(Arc::clone(self.map.get_or_init(|| Arc::new(map))))
    }
}

#[cfg(unix)]
fn read_at(file: &File, at: u64, out: &mut [u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, out, at)
}

#[cfg(not(unix))]
fn read_at(mut file: &File, at: u64, out: &mut [u8]) -> io::Result<()> {
    use std::io::{Read, Seek, SeekFrom};
    // The file's place is moved: one read at a time.
    static MOVED: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _held = MOVED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    file.seek(SeekFrom::Start(at))?;
    file.read_exact(out)
}
