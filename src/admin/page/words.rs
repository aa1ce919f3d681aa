//! Durations, times and numbers, in words for people. A number and its unit stay on one line.

use std::time::{Duration, SystemTime};

const DAY: Duration = Duration::from_secs(86400);

/// A duration with its two largest units, such as `5 min 12 s`.
pub(in crate::admin) fn duration(duration: Duration) -> String {
    let secs = duration.as_secs();
    let two = |large: u64, unit: &str, small: u64, smaller: &str| match small {
        0 => format!("{large}\u{a0}{unit}"),
        _ => format!("{large}\u{a0}{unit} {small}\u{a0}{smaller}"),
    };
    match secs {
        0..60 => format!("{secs}\u{a0}s"),
        60..3600 => two(secs / 60, "min", secs % 60, "s"),
        3600..86400 => two(secs / 3600, "h", secs / 60 % 60, "min"),
        _ => two(secs / 86400, "d", secs / 3600 % 24, "h"),
    }
}

/// How long ago a time was.
pub(in crate::admin) fn ago(time: SystemTime, now: SystemTime) -> Duration {
    now.duration_since(time).unwrap_or_default()
}

/// A time by RFC 3339, in UTC.
pub(in crate::admin) fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

/// The date and time of day in UTC, such as `2026-11-28 12:04:31`.
pub(in crate::admin) fn date_and_time(time: SystemTime) -> String {
    rfc3339(time).trim_end_matches('Z').replace('T', " ")
}

/// When something began and how long ago that was, such as `since 12:04:31 UTC (5 min 12 s)`. The date is left out
/// within a day.
pub(in crate::admin) fn since(time: SystemTime, now: SystemTime) -> String {
    let (at, age) = (date_and_time(time), ago(time, now));
    let shown = match at.split_once(' ') {
        Some((_, time_of_day)) if age < DAY => time_of_day,
        _ => &at,
    };
    format!("since {shown} UTC ({})", duration(age))
}

/// A short duration, such as a latency, from seconds.
pub(in crate::admin) fn latency(seconds: f64) -> String {
    match seconds {
        s if s < 0.001 => format!("{:.0}\u{a0}µs", s * 1e6),
        s if s < 0.01 => format!("{:.1}\u{a0}ms", s * 1e3),
        s if s < 1.0 => format!("{:.0}\u{a0}ms", s * 1e3),
        s => format!("{s:.1}\u{a0}s"),
    }
}

/// A rate per second.
pub(in crate::admin) fn rate(per_second: f64) -> String {
    match per_second {
        0.0 => "0".to_owned(),
        r if r < 10.0 => format!("{r:.1}"),
        r => count(r as u64),
    }
}

/// A number with thin spaces between groups of three digits.
pub(in crate::admin) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// A share as a percentage.
pub(in crate::admin) fn percent(share: f64) -> String {
    match share * 100.0 {
        p if p > 0.0 && p < 10.0 => format!("{p:.1}\u{a0}%"),
        p => format!("{p:.0}\u{a0}%"),
    }
}

/// A number of things, such as `1 session` or `5 sessions`.
pub(in crate::admin) fn plural(number: u64, thing: &str) -> String {
    match number {
        1 => format!("1 {thing}"),
        _ => format!("{} {thing}s", count(number)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_shown_in_words() {
        let secs = Duration::from_secs;
        for (secs, expected) in [
            (5, "5\u{a0}s"),
            (60, "1\u{a0}min"),
            (312, "5\u{a0}min 12\u{a0}s"),
            (7500, "2\u{a0}h 5\u{a0}min"),
            (90000, "1\u{a0}d 1\u{a0}h"),
        ]
        .map(|(number, text)| (secs(number), text))
        {
            assert_eq!(duration(secs), expected);
        }
        assert_eq!(count(1_234_567), "1\u{202f}234\u{202f}567");
        assert_eq!(count(999), "999");
        assert_eq!(percent(0.052), "5.2\u{a0}%");
        assert_eq!(percent(0.5), "50\u{a0}%");
        assert_eq!(latency(0.0123), "12\u{a0}ms");
        assert_eq!(date_and_time(SystemTime::UNIX_EPOCH), "1970-01-01 00:00:00");
        assert_eq!(plural(1, "session"), "1 session");
        let since = |age| since(SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH + secs(age));
        assert_eq!(since(86399), "since 00:00:00 UTC (23\u{a0}h 59\u{a0}min)");
        assert_eq!(since(86400), "since 1970-01-01 00:00:00 UTC (1\u{a0}d)");
    }
}
