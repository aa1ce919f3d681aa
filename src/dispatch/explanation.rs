//! `Explanation`: what a request carries, and what would happen to it.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use crate::{
    affinity::{FindingKind, Found},
    id::{BackendId, SessionHash},
    outcome::{Reason, Verdict},
};

/// What a request carries, and what would happen to it now: from
/// [`StickyLayer::explain`](crate::StickyLayer::explain). It contains no usable token.
///
/// Its [`Display`](fmt::Display) has several lines.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Explanation {
    /// The pool.
    pub pool: String,
    /// What the request carries that this pool recognizes.
    pub findings: Vec<Finding>,
    /// What would happen to it now.
    pub forecast: Forecast,
}

/// Something in a request that names or identifies a session.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Finding {
    /// What it is.
    pub kind: FindingKind,
    /// Where it is, such as `cookie SERVER_ID`.
    pub carrier: String,
    /// The backend that it names; `None` when that is not in the pool.
    pub backend: Option<BackendId>,
    /// Why it is of no use; `None` when it is valid.
    pub problem: Option<Reason>,
    /// A keyed hash of its session, as in logs and among the [moves](crate::Backends::moves).
    pub session: Option<SessionHash>,
    /// When its session began.
    pub issued: Option<SystemTime>,
    /// When it was last written, which is about when it was last used.
    pub last_used: Option<SystemTime>,
    /// When it expires if it is not used until then.
    pub idle_end: Option<SystemTime>,
    /// When it expires in any case.
    pub absolute_end: Option<SystemTime>,
    /// A number that grows when the session moves.
    pub epoch: Option<u64>,
    /// The position of the key that sealed it among the configured ones, from 0 on; the first one seals.
    pub key: Option<usize>,
}

/// What would happen to a request now.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Forecast {
    /// How it would be served.
    pub verdict: Verdict,
    /// The backend that would serve it; `None` when none would, or when the strategy chooses.
    pub backend: Option<BackendId>,
    /// Why its own backend would not, or why its token is of no use.
    pub reason: Option<Reason>,
    /// Why, in words.
    pub why: String,
}

impl Finding {
    pub(super) fn new(
        found: &Found,
        backend: Option<BackendId>,
        session: Option<SessionHash>,
    ) -> Self {
        let pin = found.pin.filter(|pin| pin.session().is_some());
        Self {
            kind: found.kind,
            carrier: found.carrier.clone(),
            backend,
            problem: found.problem,
            session,
            issued: pin.and_then(|pin| at(pin.issued.into())),
            last_used: found.last_used.and_then(at),
            idle_end: found.idle_end.and_then(at),
            absolute_end: found.absolute_end.and_then(at),
            epoch: pin.map(|pin| pin.epoch),
            key: found.key,
        }
    }

    /// Names and values, for people.
    pub fn rows(&self) -> Vec<(&'static str, String)> {
        let mut rows = vec![("What", format!("{} in the {}", self.kind, self.carrier))];
        let mut add = |name, value: Option<String>| rows.extend(value.map(|value| (name, value)));
        let validity = match (self.problem, self.kind) {
            (Some(problem), _) => Some(format!("of no use: {problem}")),
            (None, FindingKind::Key | FindingKind::ClientAddress) => None,
            (None, _) => Some("yes".to_owned()),
        };
        add("Valid", validity);
        add("Backend", self.backend.as_ref().map(ToString::to_string));
        add("Session", self.session.map(|session| session.to_string()));
        add("Issued", self.issued.map(time));
        add("Last written", self.last_used.map(time));
        add("Expires if unused", self.idle_end.map(time));
        add("Expires at the latest", self.absolute_end.map(time));
        add("Epoch", self.epoch.map(|epoch| epoch.to_string()));
        add("Sealed under key", self.key.map(key));
        rows
    }
}

fn at(unix_secs: u64) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(unix_secs))
}

fn key(position: usize) -> String {
    match position {
        0 => "0 (the first, which seals)".to_owned(),
        other => format!("{other} (an old one: the token is renewed with its next use)"),
    }
}

/// A time in UTC (RFC 3339).
fn time(time: SystemTime) -> String {
    let secs = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let (days, second) = (secs / 86_400, secs % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

/// The date of a day since 1970-01-01 in the Gregorian calendar (H. Hinnant, "chrono-Compatible Low-Level Date
/// Algorithms").
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + u64::from(month <= 2), month, day)
}

impl fmt::Display for Forecast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.verdict.write_with(self.backend.as_ref(), self.reason, f)?;
        write!(f, ": {}", self.why)
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "pool {}", self.pool)?;
        if self.findings.is_empty() {
            writeln!(f, "  carries nothing that this pool recognizes")?;
        }
        for finding in &self.findings {
            for (name, value) in finding.rows() {
                writeln!(f, "  {:<22}{value}", name.to_lowercase())?;
            }
        }
        write!(f, "now: {}", self.forecast)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_utc() {
        for (secs, expected) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (45_296, "1970-01-01 12:34:56 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (1_764_374_399, "2025-11-28 23:59:59 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
        ] {
            assert_eq!(time(at(secs).unwrap()), expected);
        }
    }

    #[test]
    fn everything_that_was_found_is_written() {
        let finding = Finding {
            kind: FindingKind::SealedToken,
            carrier: "cookie sid".to_owned(),
            backend: Some(BackendId::new("a").unwrap()),
            problem: None,
            session: None,
            issued: at(1),
            last_used: at(2),
            idle_end: at(3),
            absolute_end: at(4),
            epoch: Some(7),
            key: Some(0),
        };
        let written = [
            ("What", format!("{} in the cookie sid", FindingKind::SealedToken)),
            ("Valid", "yes".to_owned()),
            ("Backend", "a".to_owned()),
            ("Issued", "1970-01-01 00:00:01 UTC".to_owned()),
            ("Last written", "1970-01-01 00:00:02 UTC".to_owned()),
            ("Expires if unused", "1970-01-01 00:00:03 UTC".to_owned()),
            ("Expires at the latest", "1970-01-01 00:00:04 UTC".to_owned()),
            ("Epoch", "7".to_owned()),
            ("Sealed under key", "0 (the first, which seals)".to_owned()),
        ];
        assert_eq!(finding.rows(), written);

        let forged = Finding { problem: Some(Reason::Forged), key: Some(2), ..finding.clone() };
        let rows = forged.rows();
        assert_eq!(rows[1].1, format!("of no use: {}", Reason::Forged));
        assert!(rows.last().unwrap().1.starts_with("2 (an old one"), "{rows:?}");
        let key = Finding { kind: FindingKind::Key, ..finding.clone() };
        assert!(key.rows().iter().all(|(name, _)| *name != "Valid"), "a key is neither");

        let verdict = Verdict::Assigned;
        let forecast = Forecast { verdict, backend: None, reason: None, why: "so".to_owned() };
        let mut explanation =
            Explanation { pool: "shop".to_owned(), findings: vec![finding], forecast };
        let text = explanation.to_string();
        assert!(text.starts_with("pool shop\n"), "{text}");
        assert!(text.contains("\n  epoch                 7\n"), "{text}");
        assert!(text.ends_with(": so") && !text.contains("carries nothing"), "{text}");
        explanation.findings.clear();
        assert!(explanation.to_string().contains("carries nothing"), "{explanation}");
    }
}
