//! Warnings about sections that work but are probably not what was meant.

use std::time::Duration;

use super::section::Section;
use crate::config::{units::Time, words::Format};

/// The library's default.
const CLOCK_SKEW: Duration = Duration::from_secs(3600);

/// The warnings about all sections, with this strategy.
pub(crate) fn warnings(sections: Option<&[Section]>, strategy: Option<&str>) -> Vec<String> {
    let sections = sections.unwrap_or_default();
    let skewed = sections.iter().enumerate().filter_map(|(position, section)| {
        let (Time(idle), Time(skew)) = match section {
            Section::Cookie(it) => (it.idle_timeout?, it.clock_skew?),
            Section::Header(it) => (it.idle_timeout?, it.clock_skew?),
            Section::Envelope(it) => (it.idle_timeout?, it.clock_skew?),
            Section::Key(_) | Section::ClientIp(_) | Section::Learned(_) | Section::Route(_) => {
                return None;
            }
        };
        // The default says nothing about the clocks of these gateways.
        (idle <= skew && skew != CLOCK_SKEW).then(|| {
            format!(
                "affinity[{position}].idle_timeout = {idle:?} is not longer than clock_skew = {skew:?}: \
                 a session that goes from one gateway to another whose clock is so far ahead has expired \
                 there at once; make idle_timeout longer than the clocks may differ"
            )
        })
    });
    let indistinct =
        strategy.filter(|name| *name == "least-sessions").and_then(|_| indistinct(sections));
    unreachable(sections).into_iter().chain(indistinct).chain(skewed).collect()
}

/// A warning when the sessions of a section cannot be told apart, so that they cannot be counted.
fn indistinct(sections: &[Section]) -> Option<String> {
    let is_plain = |section: &Section| match section {
        Section::Cookie(it) => it.format == Format::Plain,
        Section::Header(it) => it.format == Format::Plain,
        Section::Key(_)
        | Section::ClientIp(_)
        | Section::Envelope(_)
        | Section::Learned(_)
        | Section::Route(_) => false,
    };
    let plain = sections.iter().position(is_plain)?;
    Some(format!(
        "strategy.type = \"least-sessions\" counts sessions, and those of affinity[{plain}] with format = \
         \"plain\" cannot be told apart, so that new ones go to the backend with the fewest requests; use \
         format = \"sealed\""
    ))
}

/// A warning when a section that every request matches leaves nothing to decide for the ones after it.
fn unreachable(sections: &[Section]) -> Option<String> {
    let first = sections.iter().position(|section| matches!(section, Section::ClientIp(_)))?;
    let next = sections.get(first + 1)?;
    Some(format!(
        "affinity[{first}] of type \"client-ip\" matches every request, so the sections after it, from \
         affinity[{}] of type {:?} on, decide only while the backend of the address is out; put \
         \"client-ip\" last",
        first + 1,
        next.kind()
    ))
}
