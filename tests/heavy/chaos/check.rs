//! The invariants of every request under faults.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    time::Duration,
};

use http::StatusCode;
use tokio::time::Instant;
use tower_sticky_heavy_tests::backend_process::Log;

use crate::{
    clients::Life,
    exchange::Exchange,
    kind::Memory,
    timeline::{Drained, NAMES, Spell},
};

/// How late a client may notice the end of its connection, or that the gateway has returned.
pub const CONNECTIONS: Duration = Duration::from_millis(50);

/// How long the gateway may not have noticed a fault.
const NEWS: Duration = Duration::from_millis(50);

/// How late a deadline may be on a slow machine.
const PUNCTUALITY: Duration = Duration::from_millis(30);

/// How long after a response its log line may be written.
const WRITES: Duration = Duration::from_millis(100);

/// How long after a restart the gateway may not know the state of all backends.
const ACQUAINTANCE: Duration = Duration::from_millis(200);

/// Violations, each with its number and an example.
#[derive(Debug, Default)]
pub struct Findings(BTreeMap<&'static str, (usize, String)>);

impl Findings {
    pub fn add(&mut self, sentence: &'static str, example: &impl Debug) {
        let finding = self.0.entry(sentence).or_insert_with(|| (0, format!("{example:?}")));
        finding.0 += 1;
    }

    /// Panics if there are any.
    pub fn assert_none(&self) {
        let lines = self.0.iter();
        let lines = lines.map(|(sentence, (times, one))| format!("{sentence} {times}×: {one}"));
        let lines: Vec<_> = lines.collect();
        assert!(lines.is_empty(), "violations:\n{}", lines.join("\n"));
    }
}

/// The history of a run.
pub struct Story {
    pub lives: Vec<Life>,
    pub spells: Vec<Spell>,
    /// From when to when the gateway was restarted.
    pub gaps: Vec<(Instant, Instant)>,
    pub drained: Vec<Drained>,
    pub log: Log,
    /// The time from which all backends must be ready.
    pub quiet: Instant,
}

impl Story {
    pub fn exchanges(&self) -> impl Iterator<Item = &Exchange> {
        self.lives.iter().flat_map(|life| &life.exchanges)
    }

    /// Checks the responses, how often requests were executed, and the deadlines of drains.
    pub fn check_requests(&self, findings: &mut Findings) {
        self.check_answers(findings);
        self.check_executions(findings);
        self.check_deadlines(findings);
    }

    /// Checks each request by itself.
    fn check_answers(&self, findings: &mut Findings) {
        let (mut excused, mut nobody) = (0, 0);
        for exchange in self.exchanges() {
            nobody += usize::from(self.well(exchange).is_none());
            match &exchange.answer {
                Err(_) if !self.gateway_was_gone(exchange) => {
                    findings.add("The gateway has broken a connection off.", exchange);
                }
                Ok((status, None)) if !self.is_understood(*status, exchange) => {
                    findings.add("The gateway gives an answer that makes no sense.", exchange);
                }
                Ok((status, None)) => match self.well(exchange) {
                    None => {}
                    Some(_) if *status == 502 && self.may_have_broken(exchange) => excused += 1,
                    Some(well) if exchange.may_be_repeated() => findings.add(
                        "A request that may be repeated failed although a backend was well.",
                        &self.scene(well, exchange),
                    ),
                    Some(_) if *status == 502 => {}
                    Some(well) => findings.add(
                        "A POST was refused although a backend was well.",
                        &self.scene(well, exchange),
                    ),
                },
                Err(_) | Ok((_, Some(_))) => {}
            }
            if exchange.sent >= self.quiet && !is_good(exchange) {
                findings.add("A request failed after the faults.", exchange);
            }
        }
        println!("{nobody} requests found no backend well; {excused} broke twice");
    }

    /// Whether the response is allowed at that time.
    fn is_understood(&self, status: StatusCode, exchange: &Exchange) -> bool {
        let breaks = |spell: &Spell| {
            spell.what.breaks() && spell.meets(exchange.sent, exchange.ended, Duration::ZERO)
        };
        match status.as_u16() {
            502 => self.spells.iter().any(breaks),
            503 => true,
            _ => false,
        }
    }

    fn gateway_was_gone(&self, exchange: &Exchange) -> bool {
        let met = |(from, to): &(Instant, Instant)| {
            *from <= exchange.ended + CONNECTIONS && exchange.sent <= *to + CONNECTIONS
        };
        self.gaps.iter().any(met)
    }

    /// A backend without any fault during a request.
    fn well(&self, exchange: &Exchange) -> Option<usize> {
        let around = self.around(exchange, Duration::ZERO);
        let is_out = |backend| around.iter().any(|s| s.backend == backend && s.what.is_out());
        (0..NAMES.len()).find(|backend| !is_out(*backend))
    }

    /// Whether the gateway must have known a ready backend all the time.
    fn knows_a_well_one(&self, exchange: &Exchange) -> bool {
        let is_doubtful = |spell: &&Spell| {
            spell.what.is_out() && spell.meets(exchange.sent, exchange.ended, spell.aftermath)
        };
        let doubtful: BTreeSet<_> =
            self.spells.iter().filter(is_doubtful).map(|spell| spell.backend).collect();
        doubtful.len() < NAMES.len()
    }

    /// The faults of any backend during a request, or shortly `before` it.
    pub fn around(&self, exchange: &Exchange, before: Duration) -> Vec<&Spell> {
        let meets = |spell: &&Spell| spell.meets(exchange.sent, exchange.ended, before);
        self.spells.iter().filter(meets).collect()
    }

    /// What there is to see of a request that a well backend did not get: the name of that one and what
    /// was wrong with it last, and what was wrong with the others.
    fn scene<'a>(&'a self, well: usize, exchange: &'a Exchange) -> impl Debug + use<'a> {
        let of_it = |spell: &&Spell| spell.backend == well && spell.from < exchange.sent;
        let last = self.spells.iter().filter(of_it).max_by_key(|spell| spell.from);
        (NAMES[well], last, exchange, self.around(exchange, Duration::ZERO))
    }

    /// Whether a request that may be repeated may have failed all the same. When it breaks at one backend,
    /// it goes to one other. That one may break then, too; or, where all that are well have refused or
    /// broken connections not long ago, it may be one that still does; or the gateway was restarted just
    /// before, and does not know yet which ones break.
    fn may_have_broken(&self, exchange: &Exchange) -> bool {
        let known = exchange.sent - NEWS;
        let is_new = |spell: &Spell| (known..=exchange.ended).contains(&spell.from);
        let is_unmet = |spell: &Spell| {
            let restarted = |(_, back): &(Instant, Instant)| {
                spell.from <= *back && exchange.sent <= *back + ACQUAINTANCE
            };
            spell.meets(exchange.sent, exchange.ended, Duration::ZERO)
                && self.gaps.iter().any(restarted)
        };
        let during = |spell: &&Spell| spell.what.breaks() && (is_new(spell) || is_unmet(spell));
        let broke: BTreeSet<_> =
            self.spells.iter().filter(during).map(|spell| spell.backend).collect();
        broke.len() >= 2 || (broke.len() == 1 && !self.knows_a_well_one(exchange))
    }

    /// Past the deadline of its drain a backend serves no request.
    fn check_deadlines(&self, findings: &mut Findings) {
        for drained in &self.drained {
            // A restarted gateway reads from its file that the backend is active.
            let forgot = |exchange: &Exchange| {
                let met = |(from, to): &(Instant, Instant)| {
                    *from <= exchange.ended && drained.began <= *to
                };
                self.gaps.iter().any(met)
            };
            let late = self.exchanges().filter(|exchange| {
                exchange.server() == Some(drained.backend)
                    && exchange.sent >= drained.deadline + PUNCTUALITY
                    && exchange.ended <= drained.until
                    && !forgot(exchange)
            });
            for exchange in late {
                findings.add("A backend served somebody past its deadline.", &(drained, exchange));
            }
        }
    }

    /// No POST may be executed twice, and no request more than three times.
    fn check_executions(&self, findings: &mut Findings) {
        let often = self.log.more_than(1);
        for exchange in self.exchanges() {
            let Some(by) = often.get(&exchange.number) else { continue };
            let most = if exchange.may_be_repeated() { 3 } else { 1 };
            if by.len() > most {
                findings.add("A request was executed too often.", &(by, exchange));
            }
        }
    }

    /// A session leaves its backend only after something happened there, and for each such thing once.
    /// A restart of the gateway is one where it forgets sessions.
    pub fn check_moves(&self, memory: Memory, findings: &mut Findings) {
        let mut moves = 0;
        for life in &self.lives {
            let (mut home, mut reasons): (Option<&Exchange>, _) = (None, BTreeSet::new());
            for next in life.exchanges.iter().filter(|exchange| exchange.server().is_some()) {
                if let Some(last) = home.filter(|last| last.server() != next.server())
                    && next.has_session
                {
                    moves += 1;
                    if next.outcome.contains("borrowed") {
                        findings.add("A session was lent although it was to move.", next);
                    }
                    let all = self.reasons(last, next, memory);
                    match all.iter().find(|reason| !reasons.contains(*reason)) {
                        Some(reason) => drop(reasons.insert(*reason)),
                        None if all.is_empty() => {
                            let story = self.before(life, next);
                            findings.add("A session moved without need.", &story);
                        }
                        None => {
                            findings.add("A session moved twice for one reason.", &[last, next])
                        }
                    }
                }
                home = Some(next);
            }
        }
        println!("{moves} moves");
    }

    /// All that is known of the last moments before an exchange: what its client did, which faults there were,
    /// and when the gateway was restarted.
    fn before<'a>(&'a self, life: &'a Life, next: &Exchange) -> impl Debug + use<'a> {
        let (from, to) = (next.sent - Duration::from_secs(2), next.ended);
        let exchanges = life.exchanges.iter().filter(|one| one.ended >= from && one.sent <= to);
        let exchanges: Vec<_> = exchanges.collect();
        let spells: Vec<_> =
            self.spells.iter().filter(|spell| spell.meets(from, to, Duration::ZERO)).collect();
        let gaps: Vec<_> = self.gaps.iter().filter(|gap| gap.0 <= to && gap.1 >= from).collect();
        (exchanges, spells, gaps)
    }

    /// Why a session may have left a backend after its request `last`: numbers of what happened.
    fn reasons(&self, last: &Exchange, next: &Exchange, memory: Memory) -> Vec<usize> {
        let spells = self.spells.iter().enumerate().filter(|(_, spell)| {
            Some(spell.backend) == last.server()
                && spell.what.moves()
                && spell.meets(last.sent, next.ended, Duration::ZERO)
        });
        let gaps = self.gaps.iter().enumerate().filter(|(_, (from, to))| {
            let until = match memory {
                Memory::WithClients => return false,
                Memory::Gone => next.ended,
                Memory::WrittenBehind => last.ended + WRITES,
            };
            *from <= until && last.sent <= *to + CONNECTIONS
        });
        let spells = spells.map(|(number, _)| number);
        spells.chain(gaps.map(|(number, _)| self.spells.len() + number)).collect()
    }
}

fn is_good(exchange: &Exchange) -> bool {
    matches!(exchange.answer, Ok((status, Some(_))) if status.is_success())
}
