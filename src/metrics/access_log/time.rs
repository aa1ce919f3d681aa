//! The time of a request, as the formats write it: always in UTC.

use std::{
    io::Write,
    time::{Duration, SystemTime},
};

use cookie::time::OffsetDateTime;

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Appends `2026-11-28T23:05:09.042Z` (RFC 3339).
pub(super) fn rfc3339(out: &mut Vec<u8>, time: SystemTime) {
    let time = OffsetDateTime::from(time);
    let (year, month, day) = time.to_calendar_date();
    let (hour, minute, second, milli) = time.to_hms_milli();
    // Writing to a vector cannot fail.
    let _ = write!(
        out,
        "{year:04}-{:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z",
        u8::from(month)
    );
}

/// Appends `28/Nov/2026:23:05:09 +0000`.
pub(super) fn clf(out: &mut Vec<u8>, time: SystemTime) {
    date(out, OffsetDateTime::from(time));
    out.extend(b" +0000");
}

/// Appends `28/Nov/2026:23:05:09.042`.
pub(super) fn haproxy(out: &mut Vec<u8>, time: SystemTime) {
    let time = OffsetDateTime::from(time);
    date(out, time);
    let _ = write!(out, ".{:03}", time.millisecond());
}

fn date(out: &mut Vec<u8>, time: OffsetDateTime) {
    let (year, month, day) = time.to_calendar_date();
    let (hour, minute, second) = time.to_hms();
    let month = MONTHS[usize::from(u8::from(month) - 1)];
    let _ = write!(out, "{day:02}/{month}/{year:04}:{hour:02}:{minute:02}:{second:02}");
}

/// Appends a duration in milliseconds, with microseconds as its fraction.
pub(super) fn millis(out: &mut Vec<u8>, duration: Duration) {
    let micros = duration.as_micros();
    let _ = write!(out, "{}.{:03}", micros / 1000, micros % 1000);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_utc() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_798_585_509_042);
        let written = |write: fn(&mut Vec<u8>, SystemTime)| {
            let mut out = Vec::new();
            write(&mut out, time);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(written(rfc3339), "2026-12-29T23:05:09.042Z");
        assert_eq!(written(clf), "29/Dec/2026:23:05:09 +0000");
        assert_eq!(written(haproxy), "29/Dec/2026:23:05:09.042");
    }
}
