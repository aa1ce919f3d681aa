//! `[access_log]`: checked, with defaults filled in.

use std::path::{Path, PathBuf};

use tower_sticky::metrics::access_log::Format;

use super::{Error, file};

/// How many lines may wait by default.
const QUEUE: usize = 8192;

/// The access log.
#[derive(Debug, Clone)]
pub(crate) struct AccessLog {
    pub(crate) format: Format,
    /// `None` for the standard output.
    pub(crate) file: Option<PathBuf>,
    pub(crate) queue: usize,
    pub(crate) sample: f64,
}

/// The log of this section.
pub(super) fn access_log(section: &file::AccessLog) -> Result<AccessLog, Error> {
    let sample = section.sample.unwrap_or(1.0);
    if !(0.0..=1.0).contains(&sample) {
        return Err(Error::new(format!(
            "access_log.sample = {sample}: not a share of the requests; expected 0.0 to 1.0"
        )));
    }
    Ok(AccessLog {
        format: section.format.map_or(Format::Json, Format::from),
        file: file(section.file.as_deref().unwrap_or("-"))?,
        queue: section.queue.map_or(QUEUE, usize::from),
        sample,
    })
}

fn file(name: &str) -> Result<Option<PathBuf>, Error> {
    let refused = |why: &str| {
        Err(Error::new(format!(
            "access_log.file = {name:?}: {why}; expected \"-\" for the standard output, or the path of a \
             file such as \"/var/log/gateway.log\""
        )))
    };
    if name == "-" {
        return Ok(None);
    }
    let path = Path::new(name);
    if name.is_empty() || path.is_dir() {
        return refused("not a file");
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    if parent.is_some_and(|parent| !parent.is_dir()) {
        return refused("its directory does not exist");
    }
    Ok(Some(path.to_owned()))
}
