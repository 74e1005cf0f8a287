//! How loud sound is made: a number of LUFS, or left as it is.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The loudness that sound is brought to, in hundredths of LUFS (EBU R128); `None` leaves it as it is. Written `-16`, `-14.5` or `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loudness(Option<i32>);

/// Neither a loudness nor `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a loudness is a number of LUFS between -40 and -5, such as -16, or off")]
pub struct LoudnessError;

impl Loudness {
    /// Sound is left as it is.
    pub const OFF: Self = Self(None);

    /// From hundredths of LUFS.
    ///
    /// # Errors
    /// [`LoudnessError`] beyond -40 to -5 LUFS.
    pub fn of_centi(centi: i32) -> Result<Self, LoudnessError> {
        (-4_000..=-500).contains(&centi).then_some(Self(Some(centi))).ok_or(LoudnessError)
    }

    /// Hundredths of LUFS.
    pub const fn centi(self) -> Option<i32> {
        self.0
    }

    fn of_lufs(lufs: f64) -> Result<Self, LoudnessError> {
        // What is beyond an integer's range, and what is no number, lies beyond the bounds as well.
        Self::of_centi((lufs * 100.0).round() as i32)
    }
}

impl Default for Loudness {
    /// What streaming services and podcast hosts agree on.
    fn default() -> Self {
        Self(Some(-1_600))
    }
}

impl FromStr for Loudness {
    type Err = LoudnessError;

    fn from_str(text: &str) -> Result<Self, LoudnessError> {
        match text.trim() {
            "off" => Ok(Self::OFF),
            text => Self::of_lufs(text.parse().map_err(|_| LoudnessError)?),
        }
    }
}

impl fmt::Display for Loudness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(centi) => write!(f, "{}", f64::from(centi) / 100.0),
            None => f.write_str("off"),
        }
    }
}

impl Serialize for Loudness {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Loudness {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Words;

        impl de::Visitor<'_> for Words {
            type Value = Loudness;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of LUFS such as -16, or \"off\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Loudness, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_i64<E: de::Error>(self, lufs: i64) -> Result<Loudness, E> {
                let lufs = i32::try_from(lufs).map_err(|_| E::custom(LoudnessError))?;
                Loudness::of_lufs(f64::from(lufs)).map_err(E::custom)
            }

            fn visit_u64<E: de::Error>(self, _: u64) -> Result<Loudness, E> {
                Err(E::custom(LoudnessError))
            }

            fn visit_f64<E: de::Error>(self, lufs: f64) -> Result<Loudness, E> {
                Loudness::of_lufs(lufs).map_err(E::custom)
            }
        }

        deserializer.deserialize_any(Words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loudness_is_read_as_it_is_written() {
        for (text, centi) in
            [("-16", Some(-1_600)), ("-14.5", Some(-1_450)), ("off", None), (" -23 ", Some(-2_300))]
        {
            let read: Loudness = text.parse().unwrap();
            assert_eq!(read.centi(), centi);
            assert_eq!(read.to_string().parse(), Ok(read));
            let json = serde_json::to_string(&read).unwrap();
            assert_eq!(serde_json::from_str::<Loudness>(&json).unwrap(), read);
        }
        assert_eq!(serde_json::from_str::<Loudness>("-16").unwrap(), Loudness::default());
        assert_eq!(serde_json::from_str::<Loudness>("-14.5").unwrap().centi(), Some(-1_450));
        for bad in ["", "loud", "0", "16", "-41", "NaN", "-inf", "1e99"] {
            assert_eq!(bad.parse::<Loudness>(), Err(LoudnessError), "{bad}");
        }
    }
}
