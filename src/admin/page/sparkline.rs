//! A picture of the traffic of the last ten minutes.

use std::fmt::Write;

use maud::{Markup, html};

use super::words;
use crate::pool::{HISTORY_INTERVALS, HISTORY_SECS, Interval};

const WIDTH: usize = 120;
const HEIGHT: usize = 28;

/// Requests and errors per second, as lines. The newest interval is on the right.
pub(super) fn sparkline(history: &[Interval]) -> Markup {
    let most = history.iter().map(|interval| interval.requests).max().unwrap_or(0);
    let errors: u32 = history.iter().fold(0, |sum, interval| sum.saturating_add(interval.errors));
    let label = format!(
        "requests per second in the last {} minutes, at most {}; errors: {errors}",
        (history.len() * HISTORY_SECS as usize).div_ceil(60),
        words::rate(f64::from(most) / f64::from(HISTORY_SECS)),
    );
    html! {
        svg.spark viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img" aria-label=(label) {
            line.base x1="0" y1=(HEIGHT - 1) x2=(WIDTH) y2=(HEIGHT - 1) {}
            @if history.len() > 1 {
                polyline.requests points=(points(history, most, |interval| interval.requests)) {}
                @if errors > 0 {
                    polyline.errors points=(points(history, most, |interval| interval.errors)) {}
                }
            }
        }
    }
}

fn points(history: &[Interval], most: u32, value: impl Fn(&Interval) -> u32) -> String {
    let mut points = String::new();
    let first = HISTORY_INTERVALS.saturating_sub(history.len());
    for (position, interval) in history.iter().enumerate() {
        let x = (first + position) * WIDTH / (HISTORY_INTERVALS - 1);
        let filled = u64::from(value(interval)) * (HEIGHT as u64 - 3) / u64::from(most.max(1));
        let y = (HEIGHT as u64 - 1).saturating_sub(filled);
        // Writing to a string cannot fail.
        let _ = write!(points, "{}{x},{y}", if position == 0 { "" } else { " " });
    }
    points
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_a_point_for_each_interval_and_ends_on_the_right() {
        let of = |requests, errors| Interval { requests, errors, assigned: 0 };
        let history = [of(0, 0), of(50, 0), of(100, 25)];
        let svg = sparkline(&history).into_string();
        assert!(svg.contains("points=\"115,27 117,15 120,2\""), "{svg}");
        assert!(svg.contains("points=\"115,27 117,27 120,21\""), "{svg}");
        assert!(!sparkline(&[]).into_string().contains("polyline"));
    }
}
