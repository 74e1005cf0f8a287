//! Identities, parsed at the edge: what has one of these types needs no second look, and a path traversal cannot be expressed.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

/// Text that is not the identity it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a well-formed {0}")]
pub struct IdError(pub &'static str);

/// Text where people read it (JSON), bytes where they do not (what the store keeps).
macro_rules! as_text_or_bytes {
    ($name:ident, $len:literal, $what:literal) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.serialize_str(&String::from(*self))
                } else {
                    serializer.serialize_bytes(self.as_bytes())
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    let text = String::deserialize(deserializer)?;
                    return text.parse().map_err(D::Error::custom);
                }
                let bytes = <&[u8]>::deserialize(deserializer)?;
                let bytes: Option<[u8; $len]> = bytes.try_into().ok();
                bytes.map(Self::from).ok_or_else(|| D::Error::custom(IdError($what)))
            }
        }
    };
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        as_text_or_bytes!($name, 16, $what);

        impl From<[u8; 16]> for $name {
            fn from(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }
        }

        impl $name {
            /// From a UUID; version 7 keeps ids in the order of their creation.
            pub const fn new(id: Uuid) -> Self {
                Self(id)
            }

            /// Its 16 bytes.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0.simple())
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            /// Exactly what is printed: 32 lower-case hexadecimal digits.
            fn from_str(text: &str) -> Result<Self, IdError> {
                let hex = |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
                let plain = text.len() == 32 && text.bytes().all(hex);
                match Uuid::try_parse(text) {
                    Ok(id) if plain => Ok(Self(id)),
                    _ => Err(IdError($what)),
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;

            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.to_string()
            }
        }
    };
}

uuid_id!(
    /// A title.
    VideoId, "video id");
uuid_id!(
    /// A creator.
    CreatorId, "creator id");
uuid_id!(
    /// A viewing session; not secret, unlike the two keys that open it.
    SessionId, "session id");
uuid_id!(
    /// A payout; also the root of its keysend preimage, so that it can be found again after a crash.
    PayoutId, "payout id");
uuid_id!(
    /// A source on its way: what a tus client resumes. No secret: the key opens it.
    UploadId, "upload id");

macro_rules! bytes_id {
    ($(#[$doc:meta])* $name:ident, $len:literal, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; $len]);

        as_text_or_bytes!($name, $len, $what);

        impl From<[u8; $len]> for $name {
            fn from(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }
        }

        impl $name {
            /// From its bytes.
            pub const fn new(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }

            /// Its bytes.
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let mut bytes = [0_u8; $len];
                hex::decode_to_slice(text, &mut bytes).map_err(|_| IdError($what))?;
                Ok(Self(bytes))
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;

            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                hex::encode(id.0)
            }
        }
    };
}

macro_rules! shown {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

bytes_id!(
    /// SHA-256 of a preimage (BOLT 11 field `p`); names a payment.
    PaymentHash, 32, "payment hash");
shown!(PaymentHash);

bytes_id!(
    /// SHA-256 of a source, as its creator sent it.
    SourceHash, 32, "source hash");
shown!(SourceHash);

bytes_id!(
    /// What proves a payment. It has no `Debug`, so that it is never logged.
    Preimage, 32, "preimage");

impl Preimage {
    /// The hash that this preimage opens.
    pub fn hash(&self) -> PaymentHash {
        use sha2::Digest;
        PaymentHash(sha2::Sha256::digest(self.0).into())
    }
}

bytes_id!(
    /// A Lightning node's id: a compressed secp256k1 public key (BOLT 1).
    NodeId, 33, "node id");
shown!(NodeId);

/// A version of a title: counts up with each new source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Version(pub u32);

/// A segment's number within its version, the same in every rendition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SegmentNumber(pub u32);

macro_rules! number_id {
    ($name:ident, $what:literal) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            /// Decimal digits without sign or leading zero: one number has one spelling.
            fn from_str(text: &str) -> Result<Self, IdError> {
                let canonical = text == "0" || !text.starts_with(['0', '+']);
                text.parse().ok().filter(|_| canonical).map(Self).ok_or(IdError($what))
            }
        }
    };
}
number_id!(Version, "version");
number_id!(SegmentNumber, "segment number");

/// A rendition's name, as it stands in paths: 1 to 16 lower-case letters and digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RenditionName(String);

impl RenditionName {
    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RenditionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for RenditionName {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let plain = text.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase());
        if plain && (1..=16).contains(&text.len()) {
            Ok(Self(text.to_owned()))
        } else {
            Err(IdError("rendition name"))
        }
    }
}

impl TryFrom<String> for RenditionName {
    type Error = IdError;

    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl From<RenditionName> for String {
    fn from(name: RenditionName) -> Self {
        name.0
    }
}

/// One segment number of one version of one title: what a payment buys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SegmentRef {
    /// The title.
    pub video: VideoId,
    /// Its version.
    pub version: Version,
    /// The segment number.
    pub number: SegmentNumber,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_one_spelling_and_paths_cannot_be_expressed() {
        let id = VideoId::new(Uuid::from_u128(7));
        assert_eq!(id.to_string().parse::<VideoId>(), Ok(id));
        for bad in ["", "..", "%2e%2e", "../../x", "00000000-0000-0000-0000-000000000007"] {
            assert!(bad.parse::<VideoId>().is_err(), "{bad}");
            assert!(bad.parse::<RenditionName>().is_err(), "{bad}");
        }
        assert!(id.to_string().to_uppercase().replace('7', "A").parse::<VideoId>().is_err());
        for bad in ["", "-1", "+1", "01", "4294967296", "1 "] {
            assert!(bad.parse::<SegmentNumber>().is_err(), "{bad}");
        }
        assert_eq!("10".parse(), Ok(SegmentNumber(10)));
    }

    #[test]
    fn a_preimage_names_its_hash() {
        let preimage = Preimage::new([0; 32]);
        assert_eq!(
            preimage.hash().to_string(),
            "66687aadf862bd776c8fc18b8e9f8e20089714856ee233b3902a591d0d5f2925"
        );
    }
}
