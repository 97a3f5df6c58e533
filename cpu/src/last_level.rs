//! The cache beyond which weights come out of the memory.

use std::sync::OnceLock;

/// Where nothing says how large it is.
const USUAL_BYTES: usize = 32 << 20;

/// Bytes of the largest cache of the first CPU, as Linux tells.
pub(crate) fn last_level_cache_bytes() -> usize {
    static BYTES: OnceLock<usize> = OnceLock::new();
    *BYTES.get_or_init(|| {
        let sizes = (0..8).filter_map(|index| {
            let path = format!("/sys/devices/system/cpu/cpu0/cache/index{index}/size");
            size_bytes(std::fs::read_to_string(path).ok()?.trim())
        });
        sizes.max().unwrap_or(USUAL_BYTES)
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
    use super::{last_level_cache_bytes, size_bytes};

    #[test]
    fn sizes_are_read() {
        let cases = [("32768K", Some(32 << 20)), ("1M", Some(1 << 20)), ("512", Some(512))];
        for (text, bytes) in cases.into_iter().chain([("", None), ("K", None), ("xK", None)]) {
            assert_eq!(size_bytes(text), bytes, "{text}");
        }
        assert!(last_level_cache_bytes() >= 1 << 16);
    }
}
