//! The file as it is written, compared with a later one.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    hash::{DefaultHasher, Hash, Hasher},
};

use toml::{Table, Value};

/// Behind a key: the files that it names have other contents.
pub(crate) const FILE_CONTENT: &str = "(file content)";

/// The values of a file by their keys: `limits.connections`, `backend.a.weight`, `affinity[0].name`.
#[derive(Clone, Default, PartialEq)]
pub(crate) struct Document(BTreeMap<String, Value>);

impl fmt::Debug for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Some values are secrets.
        f.debug_list().entries(self.0.keys()).finish()
    }
}

/// The values whose keys begin with `prefix`.
pub(crate) fn section(values: &BTreeMap<String, Value>, prefix: &str) -> BTreeMap<String, Value> {
    let from = values.range(prefix.to_owned()..);
    let within = from.take_while(|(key, _)| key.starts_with(prefix));
    within.map(|(key, value)| (key.clone(), value.clone())).collect()
}

impl Document {
    /// Reads a file that has been read without an error.
    pub(super) fn parse(text: &str) -> Self {
        let mut values = BTreeMap::new();
        if let Ok(table) = text.parse::<Table>() {
            flatten("", Value::Table(table), &mut values);
        }
        let contents: Vec<_> =
            values.iter().filter_map(|(key, value)| contents(key, value)).collect();
        values.extend(contents);
        Self(values)
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    /// The values whose keys begin with `prefix`.
    pub(crate) fn section(&self, prefix: &str) -> BTreeMap<String, Value> {
        section(&self.0, prefix)
    }

    /// The keys whose values differ, are new or are gone.
    pub(crate) fn changes(&self, later: &Self) -> BTreeSet<String> {
        // Both are in the order of their keys: with thousands of backends, to look each key up costs more than all else.
        let (mut before, mut after) = (self.0.iter().peekable(), later.0.iter().peekable());
        let mut changed = BTreeSet::new();
        loop {
            let order = match (before.peek(), after.peek()) {
                (Some((one, _)), Some((other, _))) => one.cmp(other),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => return changed,
            };
            let old = before.next_if(|_| order.is_le());
            let new = after.next_if(|_| order.is_ge());
            if old.map(|(_, value)| value) != new.map(|(_, value)| value) {
                changed.extend(old.or(new).map(|(key, _)| key.clone()));
            }
        }
    }
}

/// A hash of the contents of the files that are the value of a key, so that a change of them is a change, too.
fn contents(key: &str, value: &Value) -> Option<(String, Value)> {
    let name = key.rsplit('.').next()?;
    let prefix = match name {
        "ca" | "client_cert" | "client_key" => "",
        "keys" => "file:",
        _ => return None,
    };
    let one = std::slice::from_ref(value);
    let paths = value.as_array().map_or(one, Vec::as_slice).iter();
    let paths = paths.filter_map(|path| path.as_str()?.strip_prefix(prefix));
    let contents: Vec<_> = paths.map(|path| fs::read(path).unwrap_or_default()).collect();
    let mut hasher = DefaultHasher::new();
    contents.hash(&mut hasher);
    Some((format!("{key} {FILE_CONTENT}"), Value::Integer(hasher.finish() as i64)))
}

/// Backends are told apart by their ids, and other lists by positions.
fn flatten(path: &str, value: Value, into: &mut BTreeMap<String, Value>) {
    match value {
        Value::Table(table) => {
            for (key, value) in table {
                let dot = if path.is_empty() { "" } else { "." };
                flatten(&format!("{path}{dot}{key}"), value, into);
            }
        }
        Value::Array(values) if !values.is_empty() && values.iter().all(Value::is_table) => {
            for (position, value) in values.into_iter().enumerate() {
                let id = value.get("id").and_then(Value::as_str).filter(|_| path == "backend");
                let name =
                    id.map_or_else(|| format!("{path}[{position}]"), |id| format!("{path}.{id}"));
                flatten(&name, value, into);
            }
        }
        value => drop(into.insert(path.to_owned(), value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_name_the_keys() {
        let old = "pool = \"x\"\n[limits]\nconnections = 1\n[[backend]]\nid = \"a\"\nurl = \"u\"\n";
        let new = "pool = \"x\"\nlisten = \"y\"\n[[backend]]\nid = \"b\"\nurl = \"u\"\n\
                   [[backend]]\nid = \"a\"\nurl = \"v\"\n";
        let (old, new) = (Document::parse(old), Document::parse(new));
        let changes: Vec<_> = old.changes(&new).into_iter().collect();
        let expected =
            ["backend.a.url", "backend.b.id", "backend.b.url", "limits.connections", "listen"];
        assert_eq!(changes, expected);
        assert!(new.changes(&new).is_empty());
    }
}
