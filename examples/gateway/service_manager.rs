//! Tells systemd that the gateway serves, or stops (sd_notify(3)).

use sd_notify::NotifyState;

/// The gateway serves. After a restart by signal its process is another one.
pub(crate) fn tell_ready() {
    tell(&[NotifyState::MainPid(std::process::id()), NotifyState::Ready]);
}

pub(crate) fn tell_stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Does nothing without a service manager.
fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager cannot be told");
    }
}
