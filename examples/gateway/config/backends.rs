//! `[[backend]]` and `--backend`.

use tower_sticky::{BackendId, proxy::Upstream};

use super::{Error, file::Backend};

/// The backends, once their ids and URLs are good.
pub(super) fn checked(backends: Vec<Backend>, from_flags: bool) -> Result<Vec<Backend>, Error> {
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
