//! `MoveFilter`: which moves are asked for.

use crate::pool::MoveRecord;

/// Which moves are asked for; an empty field selects all.
#[derive(Debug, Default, Clone)]
pub(super) struct MoveFilter {
    /// The beginning of the hash.
    pub(super) session: String,
    pub(super) from: String,
    pub(super) to: String,
    pub(super) reason: String,
}

impl MoveFilter {
    /// Reads the query of a request. Other parameters are ignored.
    pub(super) fn parse(query: &str) -> Self {
        let mut filter = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let value = value.trim().to_owned();
            match &*name {
                "session" => filter.session = value.to_lowercase(),
                "from" => filter.from = value,
                "to" => filter.to = value,
                "reason" => filter.reason = value,
                _ => {}
            }
        }
        filter
    }

    /// The moves that it selects.
    pub(super) fn select(&self, moves: Vec<MoveRecord>) -> Vec<MoveRecord> {
        moves.into_iter().filter(|record| self.selects(record)).collect()
    }

    fn selects(&self, record: &MoveRecord) -> bool {
        let is = |wanted: &str, found: Option<&str>| wanted.is_empty() || found == Some(wanted);
        let session = record.session.map(|session| session.to_string()).unwrap_or_default();
        session.starts_with(&self.session)
            && is(&self.from, record.from.as_ref().map(|from| from.as_str()))
            && is(&self.to, Some(record.to.as_str()))
            && is(&self.reason, record.reason.map(|reason| reason.as_str()))
    }
}
