//! The one range of a request that is served. Pure, and nothing but the standard library, so that it is fuzzed without the server.

/// What of a body is asked for (RFC 9110, section 14). Several ranges, and units unknown here, are answered with the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Range {
    /// All of it.
    Whole {
        /// Its length.
        of: u64,
    },
    /// The bytes `first..=last`.
    Part {
        /// The first byte.
        first: u64,
        /// The last byte.
        last: u64,
        /// The whole length.
        of: u64,
    },
}

/// A range that lies outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unsatisfiable;

impl Range {
    /// The value of a `Range` header, for a body of this length.
    ///
    /// # Errors
    /// [`Unsatisfiable`] where no byte of the body lies in it.
    pub fn of(value: &str, of: u64) -> Result<Self, Unsatisfiable> {
        let whole = Ok(Self::Whole { of });
        let Some(spec) = value.trim().strip_prefix("bytes=").filter(|spec| !spec.contains(','))
        else {
            return whole;
        };
        let Some((first, last)) = spec.trim().split_once('-') else { return whole };
        let end = of.checked_sub(1).ok_or(Unsatisfiable)?;
        let number = |text: &str| match text {
            "" => Ok(None),
            digits => digits.parse::<u64>().map(Some).map_err(|_| ()),
        };
        let (first, last) = match (number(first.trim()), number(last.trim())) {
            (Ok(Some(first)), Ok(last)) => (first, last.unwrap_or(end).min(end)),
            (Ok(None), Ok(Some(0))) => return Err(Unsatisfiable),
            (Ok(None), Ok(Some(count))) => (of.saturating_sub(count), end),
            (Ok(None), Ok(None)) | (Err(()), _) | (_, Err(())) => return whole,
        };
        if first > end {
            return Err(Unsatisfiable);
        }
        // `last < first` makes the header invalid, and an invalid one is ignored.
        if last < first { whole } else { Ok(Self::Part { first, last, of }) }
    }

    /// How many bytes that is.
    #[allow(clippy::len_without_is_empty, reason = "none is asked whether it is")]
    pub const fn len(&self) -> u64 {
        match self {
            Self::Whole { of } => *of,
            Self::Part { first, last, .. } => last.saturating_sub(*first).saturating_add(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range_is_served_several_are_answered_whole_and_a_bad_one_is_refused() {
        let part = |first, last| Ok(Range::Part { first, last, of: 100 });
        let whole = Ok(Range::Whole { of: 100 });
        for (value, expected) in [
            ("bytes=0-", part(0, 99)),
            ("bytes=0-0", part(0, 0)),
            ("bytes=10-19", part(10, 19)),
            ("bytes=90-1000", part(90, 99)),
            ("bytes=-5", part(95, 99)),
            ("bytes=-500", part(0, 99)),
            ("bytes=0-1,5-6", whole),
            ("items=0-1", whole),
            ("bytes=5-1", whole),
            ("bytes=-", whole),
            ("bytes=x-y", whole),
            ("bytes=100-", Err(Unsatisfiable)),
            ("bytes=-0", Err(Unsatisfiable)),
        ] {
            assert_eq!(Range::of(value, 100), expected, "{value}");
        }
        assert_eq!(Range::of("bytes=0-", 0), Err(Unsatisfiable));
    }
}
