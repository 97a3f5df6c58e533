//! Keys that an adversary cannot make collide.

/// A 128-bit digest of everything that an answer depends on.
///
/// Mail is written by adversaries: a fast 64-bit hash would let one craft a spam that shares a key
/// with a harmless newsletter. BLAKE3 truncated to 128 bits leaves 64 bits of collision resistance
/// (BLAKE3 specification, §6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Digest(u128);

impl Digest {
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

/// Builds a [`Digest`] from fields; each is length-prefixed, so that moving a byte from one field
/// to the next changes the digest.
#[derive(Debug, Default)]
pub struct Digester(blake3::Hasher);

impl Digester {
    /// A digester with no fields yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one field.
    #[must_use]
    pub fn field(mut self, bytes: &[u8]) -> Self {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
        self
    }

    /// The digest of all fields added, in their order.
    #[must_use]
    pub fn finish(&self) -> Digest {
        let mut low = [0_u8; 16];
        low.copy_from_slice(&self.0.finalize().as_bytes()[..16]);
        Digest(u128::from_le_bytes(low))
    }
}

#[cfg(test)]
mod tests {
    use super::Digester;

    #[test]
    fn fields_do_not_run_together() {
        let ab_c = Digester::new().field(b"ab").field(b"c").finish();
        let a_bc = Digester::new().field(b"a").field(b"bc").finish();
        let abc = Digester::new().field(b"abc").finish();
        assert_ne!(ab_c, a_bc);
        assert_ne!(ab_c, abc);
        assert_eq!(ab_c, Digester::new().field(b"ab").field(b"c").finish());
        assert_eq!(super::Digest::from_bytes(abc.to_bytes()), abc);
        assert_eq!((abc.to_string().len(), format!("{abc:.16}").len()), (32, 16));
    }
}
