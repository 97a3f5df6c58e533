//! Strings to ids: which of them is the longest that a word begins with.

/// A hash table with open addressing over one pool of bytes. The hash of every beginning of a word
/// falls out of one walk along it.
#[derive(Debug)]
pub(super) struct Vocabulary {
    slots: Vec<Slot>,
    entries: Vec<Entry>,
    bytes: Vec<u8>,
    /// Bytes of the longest string.
    length_max: usize,
    shift: u32,
}

/// Hash of an entry and its position from one; zero is free.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    hash: u32,
    entry: u32,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    start: u32,
    length: u32,
    id: u32,
}

/// Longer strings are nobody's pieces; room for their hashes is cleared for every piece.
const LENGTH_MAX: usize = 128;
/// FNV-1a, 32 bits.
const SEED: u32 = 0x811c_9dc5;
const PRIME: u32 = 0x0100_0193;

impl Vocabulary {
    /// `None` where a string is longer than what is looked for here, or all are too many.
    pub(super) fn new<'t>(strings: impl Iterator<Item = (&'t str, u32)>) -> Option<Self> {
        let (mut entries, mut bytes, mut length_max) = (Vec::new(), Vec::new(), 0);
        for (text, id) in strings.filter(|(text, _)| !text.is_empty()) {
            let (start, length) =
                (u32::try_from(bytes.len()).ok()?, u32::try_from(text.len()).ok()?);
            bytes.extend_from_slice(text.as_bytes());
            entries.push(Entry { start, length, id });
            length_max = length_max.max(text.len());
        }
        if length_max > LENGTH_MAX {
            return None;
        }
        let size = (entries.len() * 2).next_power_of_two().max(2);
        let mut table = Self {
            slots: vec![Slot::default(); size],
            entries: Vec::new(),
            bytes,
            length_max,
            shift: u32::BITS - size.trailing_zeros(),
        };
        for (at, entry) in entries.iter().enumerate() {
            let hash = table.text(entry).iter().fold(SEED, |hash, &byte| step(hash, byte));
            let mut place = table.home(hash);
            while table.slots[place].entry != 0 {
                place = (place + 1) % size;
            }
            table.slots[place] = Slot { hash, entry: u32::try_from(at + 1).ok()? };
        }
        table.entries = entries;
        Some(table)
    }

    /// The id of exactly this string.
    pub(super) fn find(&self, text: &[u8]) -> Option<u32> {
        self.longest(text).filter(|&(length, _)| length == text.len()).map(|(_, id)| id)
    }

    /// Bytes and id of the longest string that `word`, which is UTF-8, begins with.
    pub(super) fn longest(&self, word: &[u8]) -> Option<(usize, u32)> {
        let head = &word[..word.len().min(self.length_max)];
        let (mut hashes, mut hash) = ([0_u32; LENGTH_MAX], SEED);
        for (place, &byte) in hashes.iter_mut().zip(head) {
            hash = step(hash, byte);
            *place = hash;
        }
        // Strings are whole characters, so equal bytes end where a character ends.
        (1..=head.len()).rev().find_map(|length| {
            let id = self.at(&head[..length], hashes[length - 1])?;
            Some((length, id))
        })
    }

    fn at(&self, text: &[u8], hash: u32) -> Option<u32> {
        let mut place = self.home(hash);
        loop {
            let slot = self.slots[place];
            let entry = self.entries.get((slot.entry as usize).checked_sub(1)?)?;
            if slot.hash == hash && self.text(entry) == text {
                return Some(entry.id);
            }
            place = (place + 1) % self.slots.len();
        }
    }

    fn text(&self, entry: &Entry) -> &[u8] {
        &self.bytes[entry.start as usize..(entry.start + entry.length) as usize]
    }

    /// The upper bits, which all bytes have moved.
    fn home(&self, hash: u32) -> usize {
        (hash.wrapping_mul(0x9e37_79b1) >> self.shift) as usize
    }
}

fn step(hash: u32, byte: u8) -> u32 {
    (hash ^ u32::from(byte)).wrapping_mul(PRIME)
}

#[cfg(test)]
mod tests {
    use super::Vocabulary;

    #[test]
    fn the_longest_beginning_is_found() {
        let strings = ["a", "ab", "abcd", "é", "éa", ""];
        let table = Vocabulary::new(strings.into_iter().zip(1..)).expect("short");
        for (word, expected) in [
            ("a", Some((1, 1))),
            ("abc", Some((2, 2))),
            ("abcde", Some((4, 3))),
            ("é", Some((2, 4))),
            ("éb", Some((2, 4))),
            ("éab", Some((3, 5))),
            ("b", None),
            ("è", None),
            ("", None),
        ] {
            assert_eq!(table.longest(word.as_bytes()), expected, "{word}");
        }
        assert_eq!((table.find(b"ab"), table.find(b"abc")), (Some(2), None));
    }

    #[test]
    fn many_strings_all_are_found_and_others_are_not() {
        let strings: Vec<String> = (0..30_000_u32).map(|n| format!("{:x}", n * 7)).collect();
        let table = Vocabulary::new(strings.iter().map(String::as_str).zip(0..)).expect("short");
        for (string, id) in strings.iter().zip(0..) {
            assert_eq!(table.find(string.as_bytes()), Some(id));
        }
        assert!(
            (0..30_000_u32)
                .filter(|n| n % 7 != 0)
                .all(|n| table.find(format!("{n:x}").as_bytes()).is_none())
        );
        let long = "x".repeat(129);
        assert!(Vocabulary::new([(long.as_str(), 1)].into_iter()).is_none());
        assert_eq!(Vocabulary::new(std::iter::empty()).expect("empty").longest(b"a"), None);
    }
}
