//! `[[backend]]` and `--backend`.

use std::collections::HashSet;

use tower_sticky::BackendId;

use super::{Error, connection::of, file::Backend};

/// The backends of the command line, or else of the file, with their ids checked. Their other keys are checked when
/// they are opened.
pub(super) fn either(flags: Vec<Backend>, file: Vec<Backend>) -> Result<Vec<Backend>, Error> {
    let from_flags = !flags.is_empty();
    let mut backends = if from_flags { flags } else { file };
    let mut earlier = HashSet::new();
    for (position, backend) in backends.iter_mut().enumerate() {
        backend.at = match from_flags {
            true => format!("--backend {}", backend.id),
            false => format!("backend[{position}]"),
        };
        let wrong_id = |why: &dyn std::fmt::Display| {
            Error::new(format!("{} = {:?}: {why}", of(&backend.at, "id"), backend.id))
        };
        BackendId::new(&backend.id).map_err(|error| wrong_id(&error))?;
        if !earlier.insert(&backend.id) {
            return Err(wrong_id(
                &"taken by an earlier backend; every backend needs an id of its own",
            ));
        }
    }
    Ok(backends)
}
