//! Memory for weights and scratch: one mapping, in huge pages where the system has them.

use memmap2::MmapMut;

use crate::error::CpuError;

/// Cache line, and the widest vector.
pub(crate) const ALIGN: usize = 64;
const HUGE_PAGE: usize = 2 << 20;

/// A bump allocator over one anonymous mapping. Memory begins as zeros.
///
/// Streaming weights through 4 KiB pages costs address translation at small batches, so whole huge
/// pages are asked for.
#[derive(Debug)]
pub(crate) struct Slab {
    map: MmapMut,
    start: usize,
    used: usize,
    capacity: usize,
}

impl Slab {
    /// Room for `capacity` bytes, not yet resident.
    pub(crate) fn new(capacity: usize) -> Result<Self, CpuError> {
        let padded =
            capacity.checked_next_multiple_of(ALIGN).and_then(|size| size.checked_add(HUGE_PAGE));
        let padded =
            padded.ok_or_else(|| CpuError::BadSpec { reason: "sizes overflow".to_owned() })?;
        let map = MmapMut::map_anon(padded)?;
        #[cfg(target_os = "linux")]
        if capacity >= HUGE_PAGE {
            // Only advice: systems without huge pages refuse it.
            let _ = map.advise(memmap2::Advice::HugePage);
        }
        let start = map.as_ptr().align_offset(HUGE_PAGE);
        Ok(Self { map, start, used: 0, capacity: capacity.next_multiple_of(ALIGN) })
    }

    /// The next `bytes`, aligned to [`ALIGN`]; valid for as long as the slab lives.
    pub(crate) fn take(&mut self, bytes: usize) -> Result<*mut u8, CpuError> {
        let end = self.used.checked_add(bytes).and_then(|end| end.checked_next_multiple_of(ALIGN));
        let end = end.filter(|&end| end <= self.capacity);
        let end =
            end.ok_or_else(|| CpuError::BadSpec { reason: "packed sizes disagree".to_owned() })?;
        // SAFETY: start + used is within the mapping, whose length is checked above.
        let pointer = unsafe { self.map.as_mut_ptr().add(self.start + self.used) };
        self.used = end;
        Ok(pointer)
    }

    /// Forgets what was taken; the caller no longer uses those pointers.
    pub(crate) fn reset(&mut self) {
        self.used = 0;
    }

    pub(crate) fn used(&self) -> usize {
        self.used
    }

    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }
}
