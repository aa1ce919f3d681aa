//! The format of a pin in Redis, and the Lua script that reads and writes pins.

use std::time::Duration;

use redis::{Cmd, Script};

use crate::store::traits::{SessionKey, StoredPin};

/// A session is touched in Redis at most once per this part of its idle time.
pub(super) const FRACTION: u32 = 16;

/// The first byte of a value: the version of its format.
const VERSION: u8 = 1;
const LEN: usize = 1 + StoredPin::LEN;

/// Epochs start as Unix times in milliseconds, so one from the year 10889 on is not valid.
const MAX_EPOCH: u64 = 1 << 48;

/// Reads a pin and renews its time to live (`ARGV[2]`, in milliseconds). With a pin in `ARGV[1]`, writes
/// that one if none is stored, or if the condition (`ARGV[3]`) allows it to replace the stored one.
/// Returns the pin that is stored afterwards.
///
/// A stored pin that is kept although another gateway has assigned the session to another backend gets
/// an epoch above that of the rejected pin (`ARGV[4]`): that backend has seen the rejected epoch, and
/// epochs never decrease.
///
/// Numbers in Lua are not exact above 2^53, and its comparison of strings depends on the locale, so
/// epochs are compared byte by byte.
const SOURCE: &str = r"
local stored = redis.pcall('GET', KEYS[1])
if type(stored) == 'table' then return stored end
local new, ttl, condition = ARGV[1], ARGV[2], ARGV[3]
local readable = stored and #stored == 21 and string.byte(stored, 1) == 1
if not readable then
  if new == '' then return stored end
  local set = redis.pcall('SET', KEYS[1], new, 'PX', ttl)
  if set.err then return set end
  return new
end
local result = stored
if new ~= '' then
  local order = 0
  for i = 10, 17 do
    if order == 0 then order = string.byte(new, i) - string.byte(stored, i) end
  end
  local backend = string.sub(stored, 2, 9)
  if order > 0 and (condition == 'put' or string.sub(condition, 6) == backend) then
    result = new
  elseif order >= 0 then
    local epoch = string.sub(new, 10, 17)
    if string.sub(new, 2, 9) ~= backend then epoch = ARGV[4] end
    result = string.sub(stored, 1, 9) .. epoch .. string.sub(stored, 18)
  end
end
if result == stored then
  redis.call('PEXPIRE', KEYS[1], ttl)
  return stored
end
local set = redis.pcall('SET', KEYS[1], result, 'PX', ttl)
if set.err then return set end
return result
";

/// When a pin replaces the stored one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WriteCondition {
    /// When it is newer: the application has issued the session id.
    Put,
    /// When it is newer and the session is still on the backend from which this gateway has moved it.
    /// `None`, for a session that was unknown here, replaces no other pin.
    Claim(Option<u64>),
}

impl WriteCondition {
    /// Whether `new` replaces `stored`, as the script decides it.
    pub(super) fn accepts(self, stored: StoredPin, new: StoredPin) -> bool {
        let may_replace = match self {
            Self::Put => true,
            Self::Claim(from) => from == Some(stored.backend),
        };
        may_replace && new.epoch > stored.epoch
    }
}

/// The pin that is kept, with an epoch above that of a rejected pin to another backend, which that
/// backend has seen.
pub(super) fn raise_epoch(kept: StoredPin, rejected: StoredPin) -> StoredPin {
    let raised = rejected.epoch.saturating_add((kept.backend != rejected.backend).into());
    StoredPin { epoch: if rejected.epoch >= kept.epoch { raised } else { kept.epoch }, ..kept }
}

/// A pin to write, and the condition under which it replaces another one.
#[derive(Debug, Clone, Copy)]
pub(super) struct PinWrite {
    pub(super) pin: StoredPin,
    pub(super) condition: WriteCondition,
}

/// Makes the commands for Redis.
pub(super) struct Commands {
    sha: String,
    prefix: String,
}

impl Commands {
    pub(super) fn new(prefix: String) -> Self {
        Self { sha: Script::new(SOURCE).get_hash().to_owned(), prefix }
    }

    /// Runs the script by its hash; fails with `NOSCRIPT` if Redis has not loaded it.
    pub(super) fn evalsha(&self, arguments: &Arguments) -> Cmd {
        let mut cmd = redis::cmd("EVALSHA");
        cmd.arg(&self.sha);
        arguments.add_to(&mut cmd);
        cmd
    }

    /// Runs the script, and makes Redis load it.
    pub(super) fn eval(&self, arguments: &Arguments) -> Cmd {
        let mut cmd = redis::cmd("EVAL");
        cmd.arg(SOURCE);
        arguments.add_to(&mut cmd);
        cmd
    }

    /// Reads the pin of a session, and writes one if it is given.
    pub(super) fn arguments(
        &self,
        key: SessionKey,
        idle: Duration,
        write: Option<PinWrite>,
    ) -> Arguments {
        // Longer than the idle time by the longest time between two touches.
        let ttl = idle.saturating_add(idle / FRACTION).as_millis();
        let ttl = ttl.clamp(1, u128::from(u32::MAX) * 1000) as u64;
        Arguments { key: self.key(key), ttl, write }
    }

    /// Reads a key that never exists, to see whether Redis answers. The number selects the key, and with
    /// it a node of a cluster.
    pub(super) fn probe(&self, number: usize) -> Arguments {
        Arguments { key: format!("{}probe:{number}", self.prefix), ttl: 1, write: None }
    }

    /// Reads the pin of a session, and leaves its time to live as it is.
    pub(super) fn get(&self, key: SessionKey) -> Cmd {
        let mut cmd = redis::cmd("GET");
        cmd.arg(self.key(key));
        cmd
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
    write: Option<PinWrite>,
}

impl Arguments {
    fn add_to(&self, cmd: &mut Cmd) {
        cmd.arg(1).arg(&self.key);
        let Some(PinWrite { pin, condition }) = self.write else {
            cmd.arg("").arg(self.ttl).arg("").arg("");
            return;
        };
        cmd.arg(&encode(pin)[..]).arg(self.ttl);
        match condition {
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

/// Decodes a value; `None` when it is not a pin in the format of this version.
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
    fn values_in_another_format_are_not_decoded() {
        let good = encode(pin(1, 2));
        assert_eq!(decode(&good), Some(pin(1, 2)));
        assert_eq!(decode(&good[..20]), None, "truncated");
        assert_eq!(decode(&[&good[..], b"x"].concat()), None, "too long");
        assert_eq!(decode(&[&[9], &good[1..]].concat()), None, "another version");
        assert_eq!(decode(b""), None);
        assert_eq!(decode(&encode(pin(1, u64::MAX))), None, "the epoch is out of range");
    }

    #[test]
    fn the_first_writer_wins_and_epochs_never_decrease() {
        let decide = |condition: WriteCondition, stored, new| match condition.accepts(stored, new) {
            true => new,
            false => raise_epoch(stored, new),
        };
        let first = WriteCondition::Claim(None);
        assert_eq!(decide(first, pin(1, 5), pin(2, 9)), pin(1, 10), "the other backend has seen 9");
        assert_eq!(decide(first, pin(1, 5), pin(1, 9)), pin(1, 9), "the same backend");
        assert_eq!(decide(first, pin(1, 5), pin(2, 3)), pin(1, 5), "an older pin is ignored");
        let moved = WriteCondition::Claim(Some(1));
        assert_eq!(decide(moved, pin(1, 5), pin(2, 9)), pin(2, 9), "moved from where it is");
        assert_eq!(decide(moved, pin(3, 5), pin(2, 9)), pin(3, 10), "another gateway was first");
        assert_eq!(decide(moved, pin(1, 9), pin(2, 9)), pin(1, 10), "a move must be newer");
        let put = WriteCondition::Put;
        assert_eq!(decide(put, pin(3, 5), pin(2, 9)), pin(2, 9), "a newer pin replaces any");
        assert_eq!(decide(put, pin(3, 5), pin(2, 4)), pin(3, 5), "an older pin is ignored");
    }
}
