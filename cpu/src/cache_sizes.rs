//! How large the CPU's caches are, as Linux tells of the first CPU.

use std::sync::OnceLock;

/// Of the last level, where nothing says how large it is.
const LAST_LEVEL_USUAL_BYTES: usize = 32 << 20;
/// Of the second level, likewise.
const SECOND_LEVEL_USUAL_BYTES: usize = 1 << 20;

/// Bytes of the largest cache: beyond it weights come out of the memory.
pub(crate) fn last_level_cache_bytes() -> usize {
    static BYTES: OnceLock<usize> = OnceLock::new();
    *BYTES.get_or_init(|| caches().map(|(_, bytes)| bytes).max().unwrap_or(LAST_LEVEL_USUAL_BYTES))
}

/// Bytes of the second level.
pub(crate) fn second_level_cache_bytes() -> usize {
    static BYTES: OnceLock<usize> = OnceLock::new();
    *BYTES.get_or_init(|| {
        let second = caches().find(|(level, _)| *level == 2);
        second.map_or(SECOND_LEVEL_USUAL_BYTES, |(_, bytes)| bytes)
    })
}

/// Levels and bytes.
fn caches() -> impl Iterator<Item = (u32, usize)> {
    (0..8).filter_map(|index| {
        let said = |what: &str| {
            let path = format!("/sys/devices/system/cpu/cpu0/cache/index{index}/{what}");
            std::fs::read_to_string(path).ok()
        };
        Some((said("level")?.trim().parse().ok()?, size_bytes(said("size")?.trim())?))
    })
}

/// Of `32768K` or `32M`.
fn size_bytes(text: &str) -> Option<usize> {
    let unit = match text.chars().last()? {
        'K' => 1 << 10,
        'M' => 1 << 20,
        'G' => 1 << 30,
        _ => return text.parse().ok(),
    };
    text[..text.len() - 1].parse::<usize>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::{last_level_cache_bytes, second_level_cache_bytes, size_bytes};

    #[test]
    fn sizes_are_read() {
        let cases = [("32768K", Some(32 << 20)), ("1M", Some(1 << 20)), ("512", Some(512))];
        for (text, bytes) in cases.into_iter().chain([("", None), ("K", None), ("xK", None)]) {
            assert_eq!(size_bytes(text), bytes, "{text}");
        }
        assert!(second_level_cache_bytes() >= 1 << 16);
        assert!(last_level_cache_bytes() >= second_level_cache_bytes());
    }
}
