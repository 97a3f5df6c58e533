//! Keys that an adversary cannot make collide.

use smallvec::SmallVec;

/// A 128-bit digest of everything that an answer depends on.
///
/// Mail is written by adversaries: a fast 64-bit hash would let one craft a spam that shares a key
/// with a harmless newsletter. BLAKE3 truncated to 128 bits leaves 64 bits of collision resistance
/// (BLAKE3 specification, §6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Digest(u128);

impl Digest {
    /// Of some fields, in their order; each is length-prefixed, so that moving a byte from one field to
    /// the next changes the digest.
    #[must_use]
    pub fn of(fields: &[&[u8]]) -> Self {
        let prefixed = || fields.iter().map(|field| ((field.len() as u64).to_le_bytes(), *field));
        let bytes: usize = prefixed().map(|(length, field)| length.len() + field.len()).sum();
        let hash = if bytes <= AT_ONCE_BYTES_MAX {
            let mut together = SmallVec::<[u8; AT_ONCE_BYTES_MAX]>::new();
            for (length, field) in prefixed() {
                together.extend_from_slice(&length);
                together.extend_from_slice(field);
            }
            blake3::hash(&together)
        } else {
            let mut hasher = blake3::Hasher::new();
            for (length, field) in prefixed() {
                hasher.update(&length).update(field);
            }
            hasher.finalize()
        };
        let mut low = [0_u8; 16];
        low.copy_from_slice(&hash.as_bytes()[..16]);
        Self(u128::from_le_bytes(low))
    }

    /// Its bytes, for keeping it elsewhere.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// What [`Self::to_bytes`] gave.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }
}

/// 32 hexadecimal digits.
impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&format!("{:032x}", self.0))
    }
}

/// One chunk of BLAKE3: hashed at once, without the two kilobytes that hashing step by step takes.
const AT_ONCE_BYTES_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::Digest;

    #[test]
    fn fields_do_not_run_together() {
        let abc = Digest::of(&[b"abc"]);
        assert_ne!(Digest::of(&[b"ab", b"c"]), Digest::of(&[b"a", b"bc"]));
        assert_ne!(Digest::of(&[b"ab", b"c"]), abc);
        assert_eq!(Digest::of(&[b"abc"]), abc);
        assert_eq!(Digest::from_bytes(abc.to_bytes()), abc);
        assert_eq!((abc.to_string().len(), format!("{abc:.16}").len()), (32, 16));
    }

    /// What is kept elsewhere by its digest is found again: at once or not, it is the same.
    #[test]
    fn short_and_long_are_hashed_alike() {
        for length in [0, 1, 1000, 1016, 1017, 1024, 5000] {
            let field = vec![7_u8; length];
            let mut hasher = blake3::Hasher::new();
            hasher.update(&(length as u64).to_le_bytes()).update(&field);
            let expected = *hasher.finalize().as_bytes();
            assert_eq!(Digest::of(&[&field]).0.to_le_bytes(), expected[..16], "{length}");
        }
    }
}
