//! `[[backend]]` and `--backend`.

use tower_sticky::{BackendId, proxy::Upstream};

use super::{Error, file::Backend};

/// The backends of the command line, or else of the file, with their ids and URLs checked.
pub(super) fn either(flags: Vec<Backend>, file: Vec<Backend>) -> Result<Vec<Backend>, Error> {
    let from_flags = !flags.is_empty();
    let backends = if from_flags { flags } else { file };
    for (position, backend) in backends.iter().enumerate() {
        let at = |option: &str, value: &str, why: &dyn std::fmt::Display| {
            Error::new(match from_flags {
                true => format!("--backend {}: {option} = {value:?}: {why}", backend.id),
                false => format!("backend[{position}].{option} = {value:?}: {why}"),
            })
        };
        BackendId::new(&backend.id).map_err(|error| at("id", &backend.id, &error))?;
        if backends[..position].iter().any(|earlier| earlier.id == backend.id) {
            return Err(at(
                "id",
                &backend.id,
                &"taken by an earlier backend; every backend needs an id of its own",
            ));
        }
        Upstream::new(&backend.url).map_err(|error| at("url", &backend.url, &error))?;
    }
    Ok(backends)
}
