//! Durations as people write them: `200ms`, `30s`, `1m30s`, `8h`.

use std::{fmt, time::Duration};

use serde::{Deserialize, Deserializer, de};

/// The longest duration that is accepted. Beyond it, adding to the clock could overflow.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

const EXPECTED: &str =
    "expected a number with a unit, such as \"200ms\", \"30s\", \"1m30s\", \"8h\" or \"30d\"";

/// A duration in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Humane(pub(crate) Duration);

/// Reads a duration: whole numbers, each with its unit (`ms`, `s`, `m`, `h`, `d`), one after the
/// other.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a duration; {EXPECTED}");
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(wrong());
    }
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, after) = rest.split_at(digits);
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let letters = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(letters);
        let milliseconds = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60 * 1000,
            "h" => 3600 * 1000,
            "d" => 24 * 3600 * 1000,
            _ => return Err(wrong()),
        };
        total = number
            .checked_mul(milliseconds)
            .and_then(|part| total.checked_add(Duration::from_millis(part)))
            .filter(|total| *total <= LONGEST)
            .ok_or_else(|| format!("the duration {text:?} is too long; use at most 366d"))?;
        rest = after;
    }
    Ok(total)
}

impl<'de> Deserialize<'de> for Humane {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = Humane;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration with its unit, such as \"30s\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Humane, E> {
                parse(text).map(Humane).map_err(E::custom)
            }
        }

        deserializer.deserialize_str(Visitor)
    }
}
