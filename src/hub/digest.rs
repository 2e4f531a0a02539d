//! Digests of content, and the two ways in which the Hub names it: sha256 for LFS and Xet files, the git
//! blob id for all others.

use std::{fmt, str::FromStr};

use sha2::Digest as _;

use super::ParseError;

/// The sha256 of a blob's content; its name in the store.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256([u8; 32]);

impl Sha256 {
    /// Stands where a digest goes and there is nothing to hash, as before the first record of a chain.
    pub const ZERO: Self = Self([0; 32]);

    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(sha2::Sha256::digest(bytes).into())
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// A git object id: `sha1("blob <length>\0" + content)` for a file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GitOid([u8; 20]);

/// Writes up to 32 bytes in hex without an allocation: every answer and every access line has several.
pub(super) fn write_hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut text = [0; 64];
    let text = text.get_mut(..2 * bytes.len()).ok_or(fmt::Error)?;
    hex::encode_to_slice(bytes, text).map_err(|_| fmt::Error)?;
    f.write_str(std::str::from_utf8(text).map_err(|_| fmt::Error)?)
}

macro_rules! hex_text {
    ($type:ident, $what:literal, $problem:literal) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_hex(&self.0, f)
            }
        }
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
        impl FromStr for $type {
            type Err = ParseError;
            fn from_str(text: &str) -> Result<Self, ParseError> {
                let mut bytes = [0; _];
                hex::decode_to_slice(text, &mut bytes).map_err(|_| ParseError::new($what, text, $problem))?;
                Ok(Self(bytes))
            }
        }
    };
}
hex_text!(Sha256, "sha256", "a sha256 is 64 hex digits");
hex_text!(GitOid, "git object id", "a git object id is 40 hex digits");

macro_rules! text_serde {
    ($($type:ty),*) => {$(
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}
text_serde!(Sha256, GitOid, BlobId, super::Commit, super::Revision, super::RepoPath, super::Repo);

/// How the origin names a file's content, and so how it is verified and which etag clients see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BlobId {
    /// LFS and Xet files.
    Sha256(Sha256),
    /// All other files.
    Git(GitOid),
}

/// The value of the strong etag that the Hub's clients expect, without quotes (PROTOCOL 3.2).
impl fmt::Display for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sha256(sha256) => sha256.fmt(f),
            Self::Git(oid) => oid.fmt(f),
        }
    }
}

/// Reads what `Display` writes; the length tells which of the two it is.
impl FromStr for BlobId {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        if text.len() == 64 { text.parse().map(Self::Sha256) } else { text.parse().map(Self::Git) }
    }
}

/// Computes a [`Sha256`] piece by piece.
#[derive(Debug, Clone, Default)]
pub struct Sha256Hasher(sha2::Sha256);

impl Sha256Hasher {
    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all bytes taken.
    pub fn finish(self) -> Sha256 {
        Sha256(self.0.finalize().into())
    }
}

/// Computes the [`GitOid`] of a file piece by piece, and notices SHA-1 collision attacks.
pub struct GitHasher(sha1_checked::Sha1);

impl GitHasher {
    /// Starts a file of `size` bytes: the length is part of what git hashes.
    pub fn new(size: u64) -> Self {
        use sha1_checked::Digest as _;
        let mut sha1 = sha1_checked::Sha1::new();
        sha1.update(format!("blob {size}\0"));
        Self(sha1)
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        use sha1_checked::Digest as _;
        self.0.update(bytes);
    }

    /// The id, or `None` when the content carries the marks of a SHA-1 collision attack.
    pub fn finish(self) -> Option<GitOid> {
        let result = self.0.try_finalize();
        (!result.has_collision()).then(|| GitOid((*result.hash()).into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_of_known_contents_are_right() {
        assert_eq!(Sha256::of(b"").to_string(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        let mut hasher = GitHasher::new(6);
        hasher.update(b"hel");
        hasher.update(b"lo\n");
        // `printf 'hello\n' | git hash-object --stdin`
        assert_eq!(hasher.finish().unwrap().to_string(), "ce013625030ba8dba906f756967f9e9ca394464a");
    }

    /// The first 320 bytes of one of the two PDFs of <https://shattered.io>, after which both have the same SHA-1.
    const SHATTERED: &str = concat!(
        "255044462d312e330a25e2e3cfd30a0a0a312030206f626a0a3c3c2f57696474682032203020522f",
        "4865696768742033203020522f547970652034203020522f537562747970652035203020522f4669",
        "6c7465722036203020522f436f6c6f7253706163652037203020522f4c656e677468203820302052",
        "2f42697473506572436f6d706f6e656e7420383e3e0a73747265616d0affd8fffe00245348412d31",
        "20697320646561642121212121852fec092339759c39b1a1c63c4c97e1fffe017346dc9166b67e11",
        "8f029ab621b2560ff9ca67cca8c7f85ba84c79030c2b3de218f86db3a90901d5df45c14f26fedfb3",
        "dc38e96ac22fe7bd728f0e45bce046d23c570feb141398bb552ef5a0a82be331fea48037b8b5d71f",
        "0e332edf93ac3500eb4ddc0decc1a864790c782c76215660dd309791d06bd0af3f98cda4bc4629b1",
    );

    #[test]
    fn content_with_the_marks_of_a_collision_attack_has_no_id() {
        // Without git's header, behind which these bytes are no attack: a forger would make others.
        let mut hasher = GitHasher(sha1_checked::Sha1::new());
        hasher.update(&hex::decode(SHATTERED).unwrap());
        assert_eq!(hasher.finish(), None);
    }
}
