//! The results of all requests, in one line.

use std::{collections::BTreeMap, fmt, time::Duration};

use crate::crowd::Exchange;

pub(crate) const HEAD: &str = "\n                            answered  moves       p50       p99   \
                               undisturbed p99   failed";

#[derive(Debug)]
pub(crate) struct Row {
    answered: usize,
    moves: usize,
    half: Duration,
    most: Duration,
    /// Without restarts.
    undisturbed: Duration,
    /// Counts by status, or of failed connections.
    failed: BTreeMap<String, usize>,
}

impl Row {
    pub(crate) fn new(sessions: &[Vec<Exchange>], undisturbed: &[Vec<Exchange>]) -> Self {
        let mut failed = BTreeMap::new();
        // Failures without restarts are reported too, because they make a comparison meaningless.
        for exchange in sessions.iter().chain(undisturbed).flatten() {
            if !exchange.is_answered() {
                let what = exchange.status.map_or("broken".to_owned(), |s| s.as_u16().to_string());
                *failed.entry(what).or_default() += 1;
            }
        }
        let times = times(sessions);
        Self {
            answered: times.len(),
            moves: sessions.iter().map(|session| moves(session)).sum(),
            half: share(&times, 0.5),
            most: share(&times, 0.99),
            undisturbed: share(&self::times(undisturbed), 0.99),
            failed,
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let failed: Vec<_> = self.failed.iter().map(|(what, n)| format!("{what}: {n}")).collect();
        let failed = if failed.is_empty() { "none".to_owned() } else { failed.join(", ") };
        write!(
            f,
            "{:>8}{:>7}{:>7.2} ms{:>7.2} ms{:>15.2} ms   {failed}",
            self.answered,
            self.moves,
            millis(self.half),
            millis(self.most),
            millis(self.undisturbed),
        )
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

/// The durations of the answered requests, in order.
fn times(sessions: &[Vec<Exchange>]) -> Vec<Duration> {
    let answered = sessions.iter().flatten().filter(|exchange| exchange.is_answered());
    let mut times: Vec<_> = answered.map(|exchange| exchange.ended - exchange.sent).collect();
    times.sort_unstable();
    times
}

/// A quantile of the durations.
fn share(times: &[Duration], share: f64) -> Duration {
    let index = (times.len() as f64 * share) as usize;
    times.get(index).or(times.last()).copied().unwrap_or_default()
}

/// How often a session was answered by another backend than before.
fn moves(session: &[Exchange]) -> usize {
    let answered: Vec<_> = session.iter().filter(|exchange| exchange.is_answered()).collect();
    answered.windows(2).filter(|pair| pair[0].server != pair[1].server).count()
}
