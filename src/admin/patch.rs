//! The body of `PATCH /backends/{id}`.

use std::{fmt, time::Duration};

use axum::http::StatusCode;
use serde::{
    Deserialize, Deserializer,
    de::{self, Visitor},
};

use super::{application::Change, json::Problem};
use crate::{outcome::Failover, pool::Mode};

/// The longest deadline of a drain. A longer one could overflow when it is added to the clock.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// Body of `PATCH /backends/{id}`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Patch {
    mode: Option<NewMode>,
    weight: Option<u32>,
    max_connections: Option<usize>,
    /// The time limit of a drain.
    deadline: Option<Deadline>,
    /// What happens to sessions after the deadline.
    then: Option<Then>,
    /// How many sessions a second leave during a drain, each with its next request. Default: none.
    hand_over: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum NewMode {
    Active,
    Draining,
    Disabled,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Then {
    Repin,
    Borrow,
    Reject,
}

impl From<NewMode> for Mode {
    fn from(mode: NewMode) -> Self {
        match mode {
            NewMode::Active => Self::Active,
            NewMode::Draining => Self::Draining,
            NewMode::Disabled => Self::Disabled,
        }
    }
}

impl From<Then> for Failover {
    fn from(then: Then) -> Self {
        match then {
            Then::Repin => Self::Repin,
            Then::Borrow => Self::Borrow,
            Then::Reject => Self::Reject,
        }
    }
}

impl Patch {
    /// The changes that it asks for.
    pub(super) fn changes(&self) -> Result<Vec<Change>, Problem> {
        let weight = self.weight.map(Change::Weight);
        let limit = self.max_connections.map(Change::Limit);
        Ok([weight, limit, self.mode()?].into_iter().flatten().collect())
    }

    fn mode(&self) -> Result<Option<Change>, Problem> {
        let wrong = |message| Err(Problem::new(StatusCode::BAD_REQUEST, message));
        let draining = self.mode == Some(NewMode::Draining);
        if self.deadline.is_some() && !draining {
            return wrong(
                "`deadline` is the end of a drain; add \"mode\":\"draining\", or leave it out",
            );
        }
        if self.then.is_some() && self.deadline.is_none() {
            return wrong(
                "`then` is about what comes after the deadline of a drain; add \"deadline\", such \
                 as \"30s\", or leave it out",
            );
        }
        match self.hand_over {
            Some(_) if !draining => {
                return wrong(
                    "`hand_over` is about a drain; add \"mode\":\"draining\", or leave it out",
                );
            }
            Some(0) => {
                return wrong(
                    "`hand_over` is how many sessions a second may leave; use at least 1, or leave it \
                     out",
                );
            }
            _ => {}
        }
        if self.deadline.is_none() && self.hand_over.is_none() {
            return Ok(self.mode.map(|mode| Change::Mode(mode.into())));
        }
        Ok(Some(Change::Drain {
            deadline: self.deadline.map(|Deadline(deadline)| deadline),
            then: self.then.map_or(Failover::Repin, Failover::from),
            hand_over: self.hand_over,
        }))
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline(pub(super) Duration);

impl Deadline {
    /// Reads a duration with its unit.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let too_long = || format!("{text:?} is too long; expected at most \"366d\"");
        // humantime panics when its sum of seconds overflows by a carry. Five numbers of eleven digits
        // cannot reach that, whatever their units.
        let compact: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        let mut numbers = compact.split(|c: char| !c.is_ascii_digit());
        if compact.len() > 64 || numbers.any(|digits| digits.len() > 11) {
            return Err(too_long());
        }
        let deadline = humantime::parse_duration(text).map_err(|error| {
            format!("{text:?} is not a duration ({error}); expected a number with a unit, such as \"30s\"")
        })?;
        if deadline > LONGEST { Err(too_long()) } else { Ok(Self(deadline)) }
    }
}

impl<'de> Deserialize<'de> for Deadline {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = Deadline;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration with its unit, such as \"30s\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Deadline, E> {
                Deadline::parse(text).map_err(E::custom)
            }
        }

        deserializer.deserialize_str(Text)
    }
}
