//! Strings to ids: which of them is the longest that a word begins with.

/// A hash table with open addressing. A string of up to [`INLINE`] bytes lies in its slot, so that
/// looking for it touches one line of the cache; what a text's words need is seldom in it.
#[derive(Debug)]
pub(super) struct Vocabulary {
    slots: Vec<Slot>,
    shift: u32,
    /// Strings that are too long for a slot.
    long: Vec<(Box<[u8]>, u32)>,
    /// Bytes of the longest string.
    length_max: usize,
}

/// Bytes of a string, zeros after them; or the hash of a long one and its place in the list.
#[derive(Clone, Copy, Debug)]
struct Key {
    low: u64,
    high: u32,
}

/// Sixteen bytes, so none lies in two lines: the parts of a [`Key`], which alone would be padded.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    low: u64,
    high: u32,
    /// Length in the upper bits, [`INLINE`] + 1 for a long string and zero in a free slot; below
    /// it the id.
    value: u32,
}

/// Bytes that fit into a slot.
const INLINE: usize = 12;
const ID_BITS: u32 = 28;
/// Longer strings are nobody's pieces.
const LENGTH_MAX: usize = 128;
/// Digits of pi.
const LOW: u64 = 0x243f_6a88_85a3_08d3;
const HIGH: u64 = 0x1319_8a2e_0370_7345;

impl Vocabulary {
    /// `None` where a string is longer than what is looked for here, or an id too large.
    pub(super) fn new<'t>(strings: impl Iterator<Item = (&'t str, u32)>) -> Option<Self> {
        let strings: Vec<_> = strings.filter(|(text, _)| !text.is_empty()).collect();
        let length_max = strings.iter().map(|(text, _)| text.len()).max().unwrap_or(0);
        let id_max = strings.iter().map(|&(_, id)| id).max().unwrap_or(0);
        if length_max > LENGTH_MAX || id_max >> ID_BITS != 0 {
            return None;
        }
        let size = (strings.len() * 2).next_power_of_two().max(2);
        let mut table = Self {
            slots: vec![Slot::default(); size],
            shift: u64::BITS - size.trailing_zeros(),
            long: Vec::new(),
            length_max,
        };
        for (text, id) in strings {
            let bytes = text.as_bytes();
            let (key, length) = if bytes.len() > INLINE {
                let place = u32::try_from(table.long.len()).ok()?;
                table.long.push((bytes.into(), id));
                (Key { low: long_hash(bytes), high: place }, INLINE + 1)
            } else {
                (Key::read(bytes).cut(bytes.len()), bytes.len())
            };
            let hash = if length > INLINE { key.low } else { key.hash() };
            let mut place = (hash >> table.shift) as usize;
            while table.slots[place].value != 0 {
                place = (place + 1) % size;
            }
            let value = (length as u32) << ID_BITS | id;
            table.slots[place] = Slot { low: key.low, high: key.high, value };
        }
        Some(table)
    }

    /// The id of exactly this string.
    pub(super) fn find(&self, text: &[u8]) -> Option<u32> {
        self.longest(text, text.len()).filter(|&(length, _)| length == text.len()).map(|(_, id)| id)
    }

    /// Bytes and id of the longest string that a word begins with: the first `length` of `bytes`,
    /// which are UTF-8. Strings are whole characters, so equal bytes end where a character ends.
    pub(super) fn longest(&self, bytes: &[u8], length: usize) -> Option<(usize, u32)> {
        let key = Key::read(bytes);
        (1..=length.min(self.length_max)).rev().find_map(|length| {
            let id =
                if length > INLINE { self.long(&bytes[..length]) } else { self.short(key, length) };
            Some((length, id?))
        })
    }

    fn short(&self, key: Key, length: usize) -> Option<u32> {
        let key = key.cut(length);
        self.at(key.hash(), |slot| {
            let equal = (slot.low, slot.high) == (key.low, key.high)
                && slot.value >> ID_BITS == length as u32;
            equal.then_some(slot.value & ((1 << ID_BITS) - 1))
        })
    }

    fn long(&self, text: &[u8]) -> Option<u32> {
        let hash = long_hash(text);
        self.at(hash, |slot| {
            if slot.value >> ID_BITS != INLINE as u32 + 1 || slot.low != hash {
                return None;
            }
            let (bytes, id) = self.long.get(slot.high as usize)?;
            (**bytes == *text).then_some(*id)
        })
    }

    fn at(&self, hash: u64, id: impl Fn(&Slot) -> Option<u32>) -> Option<u32> {
        let mut place = (hash >> self.shift) as usize;
        loop {
            let slot = self.slots.get(place)?;
            if slot.value == 0 {
                return None;
            }
            if let Some(id) = id(slot) {
                return Some(id);
            }
            place = (place + 1) % self.slots.len();
        }
    }
}

impl Key {
    /// The first bytes, however many of them are a string's.
    fn read(bytes: &[u8]) -> Self {
        let mut start = [0; INLINE];
        if let Some(whole) = bytes.first_chunk() {
            start = *whole;
        } else {
            start[..bytes.len()].copy_from_slice(bytes);
        }
        let [a, b, c, d, e, f, g, h, high @ ..] = start;
        Self { low: u64::from_le_bytes([a, b, c, d, e, f, g, h]), high: u32::from_le_bytes(high) }
    }

    /// The first `length` bytes, of which there are at least one and at most [`INLINE`].
    fn cut(self, length: usize) -> Self {
        if length <= 8 {
            Self { low: self.low & (u64::MAX >> (64 - 8 * length)), high: 0 }
        } else {
            Self { low: self.low, high: self.high & (u32::MAX >> (96 - 8 * length)) }
        }
    }

    fn hash(self) -> u64 {
        folded(self.low ^ LOW, u64::from(self.high) ^ HIGH)
    }
}

fn long_hash(text: &[u8]) -> u64 {
    text.chunks(8).fold(LOW, |hash, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        folded(hash ^ u64::from_le_bytes(word), HIGH)
    })
}

/// Both halves of the product: every bit of either factor moves the upper ones.
fn folded(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product >> 64) as u64 ^ product as u64
}

#[cfg(test)]
mod tests {
    use super::Vocabulary;

    #[test]
    fn the_longest_beginning_is_found() {
        let strings =
            ["a", "ab", "abcd", "é", "éa", "", "twelve bytes", "thirteen byte", "thirteen bytes"];
        let table = Vocabulary::new(strings.into_iter().zip(1..)).expect("short");
        for (word, expected) in [
            ("a", Some((1, 1))),
            ("abc", Some((2, 2))),
            ("abcde", Some((4, 3))),
            ("é", Some((2, 4))),
            ("éb", Some((2, 4))),
            ("éab", Some((3, 5))),
            ("twelve bytes", Some((12, 7))),
            ("twelve bytes more", Some((12, 7))),
            ("thirteen bytE", None),
            ("thirteen byteS", Some((13, 8))),
            ("thirteen bytes more", Some((14, 9))),
            ("a\0", Some((1, 1))),
            ("b", None),
            ("è", None),
            ("", None),
        ] {
            assert_eq!(table.longest(word.as_bytes(), word.len()), expected, "{word}");
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
        assert_eq!(Vocabulary::new(std::iter::empty()).expect("empty").longest(b"a", 1), None);
    }
}
