//! `Statuses`: the response statuses that an `HttpProbe` expects.

use std::{fmt, ops::RangeInclusive};

use crate::error::ConfigError;

/// The statuses that a response can have in the end. Interim responses (1xx) precede it.
const ALLOWED: RangeInclusive<u16> = 200..=599;

/// A set of statuses, as ascending ranges that do not touch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Statuses(Vec<RangeInclusive<u16>>);

impl Statuses {
    /// 200 to 399.
    pub(super) fn successful() -> Self {
        Self(vec![200..=399])
    }

    pub(super) fn new(statuses: impl IntoIterator<Item = u16>) -> Result<Self, ConfigError> {
        let mut ranges: Vec<RangeInclusive<u16>> = Vec::new();
        let mut expected = [false; 600];
        for status in statuses {
            match expected.get_mut(usize::from(status)) {
                Some(expected) if ALLOWED.contains(&status) => *expected = true,
                _ => {
                    return Err(ConfigError::new(format!(
                        "no response has the status {status}; a probe can expect 200 to 599"
                    )));
                }
            }
        }
        for status in ALLOWED.filter(|status| expected[usize::from(*status)]) {
            match ranges.last_mut() {
                Some(last) if *last.end() + 1 == status => *last = *last.start()..=status,
                _ => ranges.push(status..=status),
            }
        }
        if ranges.is_empty() {
            return Err(ConfigError::new(
                "a probe that expects no status cannot succeed; name at least one, of 200 to 599",
            ));
        }
        Ok(Self(ranges))
    }

    pub(super) fn contains(&self, status: u16) -> bool {
        self.0.iter().any(|range| range.contains(&status))
    }
}

/// `200`, `200 to 399`, or `200, 204 or 300 to 399`.
impl fmt::Display for Statuses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, range) in self.0.iter().enumerate() {
            match position {
                0 => {}
                _ if position + 1 == self.0.len() => f.write_str(" or ")?,
                _ => f.write_str(", ")?,
            }
            write!(f, "{}", range.start())?;
            if range.start() != range.end() {
                write!(f, " to {}", range.end())?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_sorted_and_joined_into_ranges() {
        let text = |statuses: &[u16]| Statuses::new(statuses.iter().copied()).unwrap().to_string();
        assert_eq!(text(&[200]), "200");
        assert_eq!(text(&[204, 200]), "200 or 204");
        assert_eq!(text(&[204, 201, 203, 202, 204]), "201 to 204");
        assert_eq!(text(&[599, 302, 200, 301]), "200, 301 to 302 or 599");
        assert_eq!(Statuses::new(200..=399).unwrap(), Statuses::successful());
        let some = Statuses::new([200, 301]).unwrap();
        assert!(some.contains(200) && some.contains(301) && !some.contains(204));
    }

    #[test]
    fn statuses_that_no_response_has_are_rejected() {
        for bad in [vec![], vec![199], vec![200, 600], vec![u16::MAX], (100..=299).collect()] {
            assert!(Statuses::new(bad.clone()).is_err(), "{bad:?}");
        }
    }
}
