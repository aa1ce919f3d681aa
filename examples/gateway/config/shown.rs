//! The configuration in force, as it is shown to operators: without secrets.

use toml::Value;

use super::{Document, Settings, document::FILE_CONTENT, read::SECRETS};

/// What is shown in place of a secret.
const REDACTED: &str = "(not shown)";

impl Settings {
    /// Keys and values. The values of the file, and what was in force without one.
    pub(crate) fn shown(&self) -> Vec<(String, String)> {
        let mut rows = vec![("pool".to_owned(), self.pool.clone())];
        rows.push(("workers".to_owned(), self.workers.to_string()));
        for backend in &self.backends {
            rows.push((format!("backend.{}", backend.id), backend.url.clone()));
        }
        if self.passing_key {
            rows.push(("keys".to_owned(), "one that was made at the start".to_owned()));
        }
        rows.extend(self.document.shown());
        rows
    }
}

impl Document {
    /// The keys and values of the file.
    fn shown(&self) -> Vec<(String, String)> {
        let values = self.section("").into_iter();
        let values = values.filter(|(key, _)| !key.ends_with(FILE_CONTENT));
        values.map(|(key, value)| (format!("file: {key}"), shown(&key, &value))).collect()
    }
}

fn shown(key: &str, value: &Value) -> String {
    let is_secret = key.split('.').any(|part| SECRETS.contains(&part));
    if is_secret { REDACTED.to_owned() } else { value.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        let text = "admin_token = \"open sesame\"\n[[affinity]]\nkeys = [\"base64:c2VjcmV0\"]\n\
                    name = \"sid\"\n[health.probe.headers]\nx-key = \"open\"\n";
        let rows = Document::parse(text).shown();
        let all = format!("{rows:?}");
        assert!(!all.contains("open") && !all.contains("c2VjcmV0"), "{all}");
        assert!(rows.contains(&("file: affinity[0].name".to_owned(), "\"sid\"".to_owned())));
    }
}
