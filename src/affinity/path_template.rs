//! Path templates: which segment of a path is an id.

use super::token_options::invalid;
use crate::error::ConfigError;

/// A path with one placeholder, for example `/files/{id}`. It matches paths with the same segments, and whatever
/// follows after the next `/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PathTemplate {
    before: Vec<String>,
    after: Vec<String>,
}

impl PathTemplate {
    pub(super) fn parse(template: &str) -> Result<Self, ConfigError> {
        let wrong = |why: &str| {
            let why = format!("{why}; use one such as \"/files/{{id}}\"");
            invalid(&format!("the path {template:?}"), &why)
        };
        let Some(path) = template.strip_prefix('/') else {
            return Err(wrong("it does not begin with a slash"));
        };
        if path.contains(['?', '#']) {
            return Err(wrong("it has a query or a fragment"));
        }
        let segments: Vec<_> = path.split('/').collect();
        let is_placeholder = |segment: &&str| segment.starts_with('{') && segment.ends_with('}');
        let has_brace = |segment: &&&str| segment.contains(['{', '}']);
        let Some(at) = segments.iter().position(is_placeholder) else {
            return Err(wrong("it has no segment that is a name in braces"));
        };
        if segments.iter().filter(has_brace).count() > 1 {
            return Err(wrong("it has braces in more than one segment"));
        }
        let owned = |segments: &[&str]| segments.iter().map(|it| (*it).to_owned()).collect();
        Ok(Self { before: owned(&segments[..at]), after: owned(&segments[at + 1..]) })
    }

    /// The segment of `path` at the placeholder, if the path matches.
    pub(super) fn id_in<'a>(&self, path: &'a str) -> Option<&'a str> {
        let mut segments = path.strip_prefix('/')?.split('/');
        let is = |segment: Option<&str>, expected: &String| segment == Some(expected.as_str());
        if !self.before.iter().all(|expected| is(segments.next(), expected)) {
            return None;
        }
        let id = segments.next().filter(|id| !id.is_empty())?;
        self.after.iter().all(|expected| is(segments.next(), expected)).then_some(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_segment_of_a_matching_path_is_the_id() {
        for (template, path, id) in [
            ("/files/{id}", "/files/8f3a", Some("8f3a")),
            ("/files/{id}", "/files/8f3a/part/3", Some("8f3a")),
            ("/files/{id}", "/files/8f3a/", Some("8f3a")),
            ("/files/{id}", "/files/", None),
            ("/files/{id}", "/files", None),
            ("/files/{id}", "/Files/8f3a", None),
            ("/files/{id}", "/x/files/8f3a", None),
            ("/files/{id}", "*", None),
            ("/{room}/chat", "/7/chat/log", Some("7")),
            ("/{room}/chat", "/7/chats", None),
            ("/{id}", "//a", None),
        ] {
            let template = PathTemplate::parse(template).unwrap();
            assert_eq!(template.id_in(path), id, "{template:?}, {path}");
        }
    }

    #[test]
    fn bad_templates_say_why() {
        for (template, why) in [
            ("", "slash"),
            ("files/{id}", "slash"),
            ("/files", "braces"),
            ("/files/id-{id}", "braces"),
            ("/{a}/{b}", "more than one"),
            ("/files/{id}?x", "query"),
        ] {
            let error = PathTemplate::parse(template).unwrap_err().to_string();
            assert!(error.contains(why), "{template}: {error}");
        }
    }
}
