//! What is in Redis for a session, and the one script that reads and writes it.

use std::time::Duration;

use redis::{Cmd, Script};

use crate::store::traits::{SessionKey, StoredPin};

/// A session is touched in Redis at most once per this part of its idle time.
pub(super) const FRACTION: u32 = 16;

/// The first byte of a value: which form the rest has.
const VERSION: u8 = 1;
const LEN: usize = 1 + StoredPin::LEN;

/// Epochs are times in milliseconds; the year 10889 is not one of ours.
const MAX_EPOCH: u64 = 1 << 48;

/// Reads a pin and begins its time anew. With an offer (`ARGV[1]`): writes it if there is no pin, or
/// if the rule (`ARGV[3]`) prefers it to the one that is there. Answers with what is there in the end.
///
/// A pin that stays although another gateway has placed the session elsewhere gets an epoch above
/// that of the offer (`ARGV[4]`), for a backend has been told that one: epochs never go backwards.
///
/// Numbers in Lua are not exact above 2^53, and its comparison of strings depends on the locale, so
/// epochs are compared byte by byte.
const SOURCE: &str = r"
local stored = redis.pcall('GET', KEYS[1])
if type(stored) == 'table' then return stored end
local offer, ttl, rule = ARGV[1], ARGV[2], ARGV[3]
local readable = stored and #stored == 21 and string.byte(stored, 1) == 1
if not readable then
  if offer == '' then return stored end
  local set = redis.pcall('SET', KEYS[1], offer, 'PX', ttl)
  if set.err then return set end
  return offer
end
local keep = stored
if offer ~= '' then
  local order = 0
  for i = 10, 17 do
    if order == 0 then order = string.byte(offer, i) - string.byte(stored, i) end
  end
  local there = string.sub(stored, 2, 9)
  if order > 0 and (rule == 'put' or string.sub(rule, 6) == there) then
    keep = offer
  elseif order >= 0 then
    local epoch = string.sub(offer, 10, 17)
    if string.sub(offer, 2, 9) ~= there then epoch = ARGV[4] end
    keep = string.sub(stored, 1, 9) .. epoch .. string.sub(stored, 18)
  end
end
if keep == stored then
  redis.call('PEXPIRE', KEYS[1], ttl)
  return stored
end
local set = redis.pcall('SET', KEYS[1], keep, 'PX', ttl)
if set.err then return set end
return keep
";

/// When an offer replaces another pin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WriteCondition {
    /// When it is newer: the application has said where the session is.
    Put,
    /// When it is newer and the session is still at the backend from which it was moved; a session
    /// that was new to us replaces none.
    Claim(Option<u64>),
}

impl WriteCondition {
    /// Whether an offer replaces what is there, as the script decides it.
    pub(super) fn accepts(self, stored: StoredPin, offer: StoredPin) -> bool {
        let may = match self {
            Self::Put => true,
            Self::Claim(from) => from == Some(stored.backend),
        };
        may && offer.epoch > stored.epoch
    }
}

/// The pin that stays, with an epoch above that of the one which was told to another backend.
pub(super) fn told(stays: StoredPin, other: StoredPin) -> StoredPin {
    let above = other.epoch.saturating_add((stays.backend != other.backend).into());
    StoredPin { epoch: if other.epoch >= stays.epoch { above } else { stays.epoch }, ..stays }
}

/// A pin that is written if the rule says so.
#[derive(Debug, Clone, Copy)]
pub(super) struct PinWrite {
    pub(super) pin: StoredPin,
    pub(super) rule: WriteCondition,
}

/// The script, and where the sessions are.
pub(super) struct Commands {
    sha: String,
    prefix: String,
}

impl Commands {
    pub(super) fn new(prefix: String) -> Self {
        Self { sha: Script::new(SOURCE).get_hash().to_owned(), prefix }
    }

    /// By the script's hash; Redis may not have the script yet.
    pub(super) fn short(&self, arguments: &Arguments) -> Cmd {
        let mut cmd = redis::cmd("EVALSHA");
        cmd.arg(&self.sha);
        arguments.add_to(&mut cmd);
        cmd
    }

    /// The same with the whole script, which Redis then remembers.
    pub(super) fn long(&self, arguments: &Arguments) -> Cmd {
        let mut cmd = redis::cmd("EVAL");
        cmd.arg(SOURCE);
        arguments.add_to(&mut cmd);
        cmd
    }

    /// Reads the pin of a session, or offers one.
    pub(super) fn arguments(
        &self,
        key: SessionKey,
        idle: Duration,
        offer: Option<PinWrite>,
    ) -> Arguments {
        // A fraction longer than the idle time, for as long may pass until the next touch.
        let ttl = idle.saturating_add(idle / FRACTION).as_millis();
        let ttl = ttl.clamp(1, u128::from(u32::MAX) * 1000) as u64;
        Arguments { key: self.key(key), ttl, offer }
    }

    /// Asks for what is never there, to see whether Redis answers; with another number perhaps another
    /// node of a cluster.
    pub(super) fn probe(&self, number: usize) -> Arguments {
        Arguments { key: format!("{}probe:{number}", self.prefix), ttl: 1, offer: None }
    }

    pub(super) fn delete(&self, key: SessionKey) -> Cmd {
        let mut cmd = redis::cmd("DEL");
        cmd.arg(self.key(key));
        cmd
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    fn key(&self, key: SessionKey) -> String {
        format!("{}{:032x}", self.prefix, u128::from_be_bytes(key.to_bytes()))
    }
}

pub(super) struct Arguments {
    key: String,
    /// In milliseconds.
    ttl: u64,
    offer: Option<PinWrite>,
}

impl Arguments {
    fn add_to(&self, cmd: &mut Cmd) {
        cmd.arg(1).arg(&self.key);
        let Some(PinWrite { pin, rule }) = self.offer else {
            cmd.arg("").arg(self.ttl).arg("").arg("");
            return;
        };
        cmd.arg(&encode(pin)[..]).arg(self.ttl);
        match rule {
            WriteCondition::Put => cmd.arg("put"),
            WriteCondition::Claim(None) => cmd.arg("claim"),
            WriteCondition::Claim(Some(from)) => {
                cmd.arg([&b"claim"[..], &from.to_be_bytes()].concat())
            }
        };
        cmd.arg(&pin.epoch.saturating_add(1).to_be_bytes()[..]);
    }
}

fn encode(pin: StoredPin) -> [u8; LEN] {
    let mut bytes = [VERSION; LEN];
    bytes[1..].copy_from_slice(&pin.to_bytes());
    bytes
}

/// `None` when it is not a pin as this version writes it.
pub(super) fn decode(bytes: &[u8]) -> Option<StoredPin> {
    let pin = StoredPin::from_bytes(bytes.strip_prefix(&[VERSION])?)?;
    (pin.epoch < MAX_EPOCH).then_some(pin)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pin(backend: u64, epoch: u64) -> StoredPin {
        StoredPin { backend, epoch, issued: 7 }
    }

    #[test]
    fn only_what_we_wrote_is_a_pin() {
        let good = encode(pin(1, 2));
        assert_eq!(decode(&good), Some(pin(1, 2)));
        assert_eq!(decode(&good[..20]), None, "truncated");
        assert_eq!(decode(&[&good[..], b"x"].concat()), None, "too long");
        assert_eq!(decode(&[&[9], &good[1..]].concat()), None, "another version");
        assert_eq!(decode(b""), None);
        assert_eq!(decode(&encode(pin(1, u64::MAX))), None, "no time of ours");
    }

    #[test]
    fn the_first_writer_wins_and_epochs_never_go_backwards() {
        let decide = |rule: WriteCondition, stored, offer| match rule.accepts(stored, offer) {
            true => offer,
            false => told(stored, offer),
        };
        let new = WriteCondition::Claim(None);
        assert_eq!(decide(new, pin(1, 5), pin(2, 9)), pin(1, 10), "the other backend was told 9");
        assert_eq!(decide(new, pin(1, 5), pin(1, 9)), pin(1, 9), "the same backend");
        assert_eq!(decide(new, pin(1, 5), pin(2, 3)), pin(1, 5), "an older one changes nothing");
        let moved = WriteCondition::Claim(Some(1));
        assert_eq!(decide(moved, pin(1, 5), pin(2, 9)), pin(2, 9), "a move from where it is");
        assert_eq!(decide(moved, pin(3, 5), pin(2, 9)), pin(3, 10), "another has moved it before");
        assert_eq!(decide(moved, pin(1, 9), pin(2, 9)), pin(1, 10), "a move must be newer");
        assert_eq!(
            decide(WriteCondition::Put, pin(3, 5), pin(2, 9)),
            pin(2, 9),
            "the application says so"
        );
        assert_eq!(decide(WriteCondition::Put, pin(3, 5), pin(2, 4)), pin(3, 5), "too late");
    }
}
