//! The gateway's configuration file: read again from what was read, it is the same, and no message tells a secret.

#![no_main]
#![allow(dead_code, unused_imports, reason = "these are parts of the gateway")]

#[path = "../../examples/gateway/cli.rs"]
mod cli;
#[path = "../../examples/gateway/config/mod.rs"]
mod config;
#[path = "../../examples/gateway/sockets.rs"]
mod sockets;
#[path = "../../examples/gateway/demo/store.rs"]
mod store;
#[path = "../../examples/gateway/strategy.rs"]
mod strategy;

/// What the configuration needs of the demo.
mod demo {
    pub(crate) use crate::store::Store;
    pub(crate) const ACTION: &str = "x-sticky-action";
}

use std::{fs, path::PathBuf};

use libfuzzer_sys::fuzz_target;
use tokio::runtime::{Builder, Runtime};

use crate::{
    cli::Flags,
    config::{Settings, Stores},
};

/// What stands for each secret.
const SECRET: &str = "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3I";

fn path() -> PathBuf {
    let directory =
        std::env::var_os("XDG_RUNTIME_DIR").map_or_else(|| "/dev/shm".into(), PathBuf::from);
    directory.join(format!("tower-sticky-fuzz-{}.toml", std::process::id()))
}

fn load(text: &str) -> Result<Settings, String> {
    let path = path();
    fs::write(&path, text).expect("a file in memory");
    let flags = Flags { config: Some(path), ..Flags::default() };
    Settings::load(flags, &Stores::default()).map_err(|error| error.to_string())
}

fuzz_target!(|text: &str| {
    // The files that it names are read: those that never end are left out.
    if text.contains("/dev") || text.contains("/proc") || text.contains("/sys") {
        return;
    }
    // Parts of the settings ask for a runtime; none of them starts a task.
    thread_local!(static RUNTIME: Runtime =
        Builder::new_current_thread().enable_all().build().expect("a runtime"));
    RUNTIME.with(|runtime| {
        let _runtime = runtime.enter();
        check(text);
    });
});

fn check(text: &str) {
    let text = text.replace("SECRET", SECRET);
    let loaded = load(&text);
    let is_secret = text.matches(SECRET).count() == 1
        && text.lines().any(|line| line == format!("admin_token = \"{SECRET}\""));
    match &loaded {
        Ok(settings) => {
            let shown = format!("{:?}", settings.shown());
            assert!(!is_secret || !shown.contains(SECRET), "{shown}");
        }
        Err(why) => {
            assert!(!why.trim().is_empty());
            assert!(!is_secret || !why.contains(SECRET), "{why}");
        }
    }
    let Ok(table) = text.parse::<toml::Table>() else {
        assert!(loaded.is_err(), "a file that is no TOML is refused");
        return;
    };
    let again = load(&table.to_string());
    match (loaded, again) {
        (Ok(first), Ok(second)) => {
            assert!(first.document.changes(&second.document).is_empty(), "{text}");
        }
        (first, second) => assert_eq!(first.is_ok(), second.is_ok(), "{text}"),
    }
}
