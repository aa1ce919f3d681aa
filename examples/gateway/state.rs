//! What a gateway knows and its configuration does not say, for the process that replaces it: pins, counts, and what the
//! operator has changed.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use toml::Value;
use tower_sticky::{Failover, Mode};

use crate::{
    config::{Error, KeptSecrets, Settings, Stores},
    fleet::Fleet,
};

/// The version of the format.
const VERSION: u32 = 1;

/// The state of a gateway.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct State {
    version: u32,
    pool: String,
    /// In milliseconds since 1970.
    saved_at: u64,
    backends: Vec<SavedBackend>,
    /// What the file said of backends.
    file: BTreeMap<String, Value>,
    /// In base64.
    sessions: String,
    pins: BTreeMap<String, String>,
    /// Only for a process that is started by this one.
    secrets: Option<KeptSecrets>,
}

/// A backend as the operator has it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SavedBackend {
    pub(crate) id: String,
    pub(crate) url: String,
    pub(crate) weight: u32,
    pub(crate) max_connections: usize,
    pub(crate) backup: bool,
    pub(crate) zone: Option<String>,
    pub(crate) mode: SavedMode,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum SavedMode {
    Active,
    Disabled,
    /// A drain, with its deadline in milliseconds since 1970.
    Draining {
        deadline: Option<u64>,
        then: SavedPolicy,
        hand_over: Option<u32>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum SavedPolicy {
    Repin,
    Borrow,
    Reject,
}

impl From<Failover> for SavedPolicy {
    fn from(failover: Failover) -> Self {
        match failover {
            Failover::Borrow => Self::Borrow,
            Failover::Reject => Self::Reject,
            _ => Self::Repin,
        }
    }
}

impl From<SavedPolicy> for Failover {
    fn from(policy: SavedPolicy) -> Self {
        match policy {
            SavedPolicy::Borrow => Self::Borrow,
            SavedPolicy::Reject => Self::Reject,
            SavedPolicy::Repin => Self::Repin,
        }
    }
}

impl SavedMode {
    /// A drain that begins now.
    pub(crate) fn draining(
        deadline: Option<Duration>,
        then: Failover,
        hand_over: Option<u32>,
    ) -> Self {
        let deadline = deadline.map(|deadline| {
            unix_millis().saturating_add(u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX))
        });
        Self::Draining { deadline, then: then.into(), hand_over }
    }

    pub(crate) fn plain(mode: Mode) -> Self {
        match mode {
            Mode::Active => Self::Active,
            Mode::Draining | Mode::Drained => {
                Self::Draining { deadline: None, then: SavedPolicy::Repin, hand_over: None }
            }
            _ => Self::Disabled,
        }
    }
}

impl State {
    /// The state as bytes. With `secrets` it contains the keys that this process has generated.
    pub(crate) fn save(
        settings: &Settings,
        fleet: &Fleet,
        stores: &Stores,
        with_secrets: bool,
    ) -> Vec<u8> {
        let pins = stores.save();
        let state = Self {
            version: VERSION,
            pool: settings.pool.clone(),
            saved_at: unix_millis(),
            backends: fleet.save(),
            file: settings.document.section("backend."),
            sessions: STANDARD.encode(fleet.backends().save_sessions()),
            pins: pins.into_iter().map(|(at, pins)| (at, STANDARD.encode(pins))).collect(),
            secrets: with_secrets.then(|| stores.secrets()),
        };
        serde_json::to_vec(&state).unwrap_or_default()
    }

    /// Reads what [`save`](Self::save) has written. An error says what is wrong with it.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let state: Self = serde_json::from_slice(bytes)
            .map_err(|error| Error::new(format!("the saved state cannot be read: {error}")))?;
        match state.version {
            VERSION => Ok(state),
            other => Err(Error::new(format!(
                "the saved state has version {other}; this gateway reads version {VERSION}"
            ))),
        }
    }

    /// The keys that the earlier process has generated.
    pub(crate) fn secrets(&self) -> Option<&KeptSecrets> {
        self.secrets.as_ref()
    }

    /// Continues with the state. To be called before the first request is accepted.
    pub(crate) fn restore(
        &self,
        settings: &Settings,
        fleet: &Fleet,
        stores: &Stores,
    ) -> Result<(), Error> {
        if self.pool != settings.pool {
            return Err(Error::new(format!(
                "the saved state is of the pool {:?}, and this is {:?}",
                self.pool, settings.pool
            )));
        }
        let age = Duration::from_millis(unix_millis().saturating_sub(self.saved_at));
        let wrong = |error: &dyn std::fmt::Display| Error::new(format!("the saved state: {error}"));
        let decode = |text: &str| STANDARD.decode(text).map_err(|error| wrong(&error));
        // The shops of the demo are part of their process.
        if !settings.demo {
            let restored = fleet.restore(&self.backends, &self.file, &settings.document);
            restored.map_err(|error| wrong(&error))?;
        }
        let sessions = decode(&self.sessions)?;
        fleet.backends().restore_sessions(&sessions, age).map_err(|error| wrong(&error))?;
        for (carrier, pins) in &self.pins {
            stores.restore(carrier, &decode(pins)?, age).map_err(|error| wrong(&error))?;
        }
        Ok(())
    }
}

/// The time in milliseconds since 1970.
pub(crate) fn unix_millis() -> u64 {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}
