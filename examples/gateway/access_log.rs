//! The access log that is in force, and its file.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http::{Request, StatusCode};
use tower_sticky::{
    metrics::{
        OwnMetric,
        access_log::{AccessLog, AccessLogLayer, LogFile},
    },
    serve::RequestBody,
};

use crate::config::{self, Error, Settings};

/// How long a stop waits for the disk.
const FLUSH: Duration = Duration::from_secs(1);

/// The file of the access log, which a reload replaces.
#[derive(Debug, Default)]
pub(crate) struct LogFiles(Mutex<InForce>);

#[derive(Debug, Default)]
struct InForce {
    file: Option<LogFile>,
    layer: Option<AccessLogLayer>,
    /// Lines of earlier files.
    written: u64,
    dropped: u64,
}

impl LogFiles {
    /// The file that is written, if there is one.
    pub(crate) fn file(&self) -> Option<LogFile> {
        self.in_force().file.clone()
    }

    /// Writes to this file from now on. The lines of requests in flight go to the one before.
    pub(crate) fn set(&self, settings: &Settings, file: Option<LogFile>) -> Option<AccessLogLayer> {
        let layer = layer(settings, file.as_ref());
        let mut in_force = self.in_force();
        let is_same = |before: &LogFile| file.as_ref().is_some_and(|file| file.is_same(before));
        if let Some(before) = in_force.file.take().filter(|before| !is_same(before)) {
            in_force.written += before.written();
            in_force.dropped += before.dropped();
        }
        in_force.file = file;
        in_force.layer.clone_from(&layer);
        layer
    }

    /// Writes the line of a request that the server has refused.
    pub(crate) fn refused(&self, request: &Request<RequestBody>, status: StatusCode) {
        let layer = self.in_force().layer.clone();
        if let Some(layer) = layer {
            layer.record_refusal(request, status);
        }
    }

    /// The file was renamed.
    pub(crate) fn reopen(&self) {
        self.in_force().file.iter().for_each(LogFile::reopen);
    }

    /// Waits until the lines are written, but not long for a disk that is blocked.
    pub(crate) async fn flush(&self) {
        let Some(file) = self.file() else { return };
        if !tokio::task::spawn_blocking(move || file.flush(FLUSH)).await.unwrap_or(false) {
            tracing::warn!("the access log was not written in time");
        }
    }

    /// How many lines were written, and how many were dropped.
    pub(crate) fn metric(&self) -> OwnMetric {
        let in_force = self.in_force();
        let counts = in_force.file.as_ref().map(|file| (file.written(), file.dropped()));
        let (written, dropped) = counts.unwrap_or_default();
        OwnMetric::counter(
            "sticky_access_log_lines_total",
            "Lines of the access log that were written, and those that were dropped.",
        )
        .value(&[("result", "written")], in_force.written + written)
        .value(&[("result", "dropped")], in_force.dropped + dropped)
    }

    fn in_force(&self) -> MutexGuard<'_, InForce> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens the file of the settings.
pub(crate) fn open(settings: &Settings) -> Result<Option<LogFile>, Error> {
    let Some(config::AccessLog { file, queue, .. }) = &settings.access_log else { return Ok(None) };
    let opened = match file {
        None => LogFile::stdout(*queue),
        Some(path) => LogFile::open_with(path, *queue),
    };
    let name = file.as_ref().map_or("-".into(), |path| path.display().to_string());
    opened.map(Some).map_err(|error| Error::new(format!("access_log.file = {name:?}: {error}")))
}

/// The layer that writes to `file`.
fn layer(settings: &Settings, file: Option<&LogFile>) -> Option<AccessLogLayer> {
    let (settings_of_log, file) = settings.access_log.as_ref().zip(file)?;
    let log = AccessLog::new(settings_of_log.format, file.clone())
        .name(&settings.pool)
        .sample(settings_of_log.sample);
    let proxies = settings.trusted_proxies.iter().copied();
    Some(AccessLogLayer::new(log).trusted_proxies(proxies))
}
