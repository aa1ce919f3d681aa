//! Numbers with a unit and numbers with a lower bound, as values of the file.

use std::{fmt, str::FromStr, time::Duration};

use bytesize::ByteSize;
use serde::{
    Deserialize, Deserializer,
    de::{Error, Unexpected, Visitor},
};

/// The longest duration that is accepted. A longer one could overflow when it is added to the clock.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// A duration of at least `MIN_MS` milliseconds, such as `"200ms"`, `"1m30s"`, `"8h"` or `"0"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Time<const MIN_MS: u64 = 0>(pub(crate) Duration);

impl<const MIN_MS: u64> From<Time<MIN_MS>> for Duration {
    fn from(time: Time<MIN_MS>) -> Self {
        time.0
    }
}

impl<const MIN_MS: u64> FromStr for Time<MIN_MS> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let too_long = || format!("{text:?} is too long; expected at most \"366d\"");
        // humantime panics when its sum of seconds overflows by a carry. Five numbers of eleven digits
        // cannot reach that, whatever their units.
        let compact: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        let mut numbers = compact.split(|c: char| !c.is_ascii_digit());
        if compact.len() > 64 || numbers.any(|digits| digits.len() > 11) {
            return Err(too_long());
        }
        let time = humantime::parse_duration(text).map_err(|error| {
            format!(
                "{text:?} is not a duration ({error}); expected a number with a unit, such as \
                 \"200ms\", \"30s\", \"1m30s\", \"8h\" or \"30d\""
            )
        })?;
        if time < Duration::from_millis(MIN_MS) {
            return Err(format!("{text:?} is too short; expected at least \"{MIN_MS}ms\""));
        }
        if time > LONGEST {
            return Err(too_long());
        }
        Ok(Self(time))
    }
}

impl<'de, const MIN_MS: u64> Deserialize<'de> for Time<MIN_MS> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(deserializer, "a duration with its unit, such as \"30s\"")
    }
}

/// A number of bytes, such as `"64KiB"`, `"1MB"` or `"0"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size(pub(crate) u64);

impl From<Size> for u64 {
    fn from(size: Size) -> Self {
        size.0
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let size: Result<ByteSize, _> = text.parse();
        let size = size.map_err(|_| {
            format!(
                "{text:?} is not a size; expected a number of bytes, with or without a unit, such as \
                 \"64KiB\", \"1MiB\" or \"0\""
            )
        })?;
        Ok(Self(size.as_u64()))
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(deserializer, "a size with its unit, such as \"64KiB\"")
    }
}

/// Reads a string, and a value from it.
fn text<'de, D, T>(deserializer: D, expected: &'static str) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err = String>,
{
    struct Text<T>(&'static str, std::marker::PhantomData<T>);

    impl<T: FromStr<Err = String>> Visitor<'_> for Text<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
            text.parse().map_err(E::custom)
        }
    }

    deserializer.deserialize_str(Text(expected, std::marker::PhantomData))
}

/// A whole number from `MIN` to `MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Count<const MIN: u32 = 0, const MAX: u32 = { u32::MAX }>(pub(crate) u32);

impl<const MIN: u32, const MAX: u32> From<Count<MIN, MAX>> for u32 {
    fn from(count: Count<MIN, MAX>) -> Self {
        count.0
    }
}

impl<const MIN: u32, const MAX: u32> From<Count<MIN, MAX>> for u8 {
    fn from(count: Count<MIN, MAX>) -> Self {
        Self::try_from(count.0).unwrap_or(Self::MAX)
    }
}

impl<const MIN: u32, const MAX: u32> From<Count<MIN, MAX>> for usize {
    fn from(count: Count<MIN, MAX>) -> Self {
        count.0 as Self
    }
}

impl<'de, const MIN: u32, const MAX: u32> Deserialize<'de> for Count<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number<const MIN: u32, const MAX: u32>;

        impl<const MIN: u32, const MAX: u32> Visitor<'_> for Number<MIN, MAX> {
            type Value = Count<MIN, MAX>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a whole number of at least {MIN} and at most {MAX}")
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
                match u32::try_from(number) {
                    Ok(count) if (MIN..=MAX).contains(&count) => Ok(Count(count)),
                    _ => Err(E::invalid_value(Unexpected::Signed(number), &self)),
                }
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
                self.visit_i64(i64::try_from(number).unwrap_or(i64::MAX))
            }
        }

        deserializer.deserialize_u32(Number::<MIN, MAX>)
    }
}

/// Reads any whole number from 0 as a plain one.
pub(crate) fn count<'de, D: Deserializer<'de>, T: From<Count>>(from: D) -> Result<T, D::Error> {
    Count::deserialize(from).map(T::from)
}
