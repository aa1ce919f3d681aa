//! From the text of the file to its sections. An error names the line and the key.

use std::ops::Range;

use serde_path_to_error::{Path, Segment};
use toml::{
    Spanned,
    de::{DeTable, DeValue, Deserializer},
};

use super::{Error, file::File};

/// Keys whose value may be a secret, or contain one. It is not repeated in an error.
pub(super) const SECRETS: [&str; 4] = ["admin_token", "headers", "keys", "store"];

/// Reads `text`, the content of the file called `name`.
pub(super) fn file(name: &str, text: &str) -> Result<File, Error> {
    let wrong = |span: Option<Range<usize>>, why: &str| {
        let before = span.and_then(|span| text.get(..span.start));
        Error::new(match before {
            Some(before) => format!("{name}, line {}: {why}", before.matches('\n').count() + 1),
            None => format!("{name}: {why}"),
        })
    };
    let mut document =
        DeTable::parse(text).map_err(|error| wrong(error.span(), error.message()))?;
    if let Some(sections) = document.get_mut().get_mut("affinity") {
        tag_by_type(sections, text).map_err(|(span, why)| wrong(Some(span), &why))?;
    }
    serde_path_to_error::deserialize(Deserializer::from(document)).map_err(|error| {
        let span = error.inner().span();
        let value = span.clone().and_then(|span| text.get(span)).unwrap_or_default();
        wrong(span, &format!("{}{}", key(error.path()), why(error.path(), error.inner(), value)))
    })
}

/// Turns each `{ type = "cookie", … }` into `{ cookie = { … } }`. Serde reads an enum that is tagged by
/// an inner key through a buffer, which knows neither keys nor lines; this way its errors name them.
fn tag_by_type(
    sections: &mut Spanned<DeValue<'_>>,
    text: &str,
) -> Result<(), (Range<usize>, String)> {
    // A value of another type is refused when it is read.
    let DeValue::Array(sections) = sections.get_mut() else { return Ok(()) };
    for (position, section) in sections.iter_mut().enumerate() {
        let span = section.span();
        let DeValue::Table(table) = section.get_mut() else { continue };
        let Some(kind) = table.remove("type") else {
            let why = "missing; expected how sessions are recognised, such as \"cookie\"";
            return Err((span, format!("affinity[{position}].type: {why}")));
        };
        let kind_span = kind.span();
        let DeValue::String(kind) = kind.into_inner() else {
            let value = text.get(kind_span.clone()).unwrap_or_default();
            let why = format!("affinity[{position}].type = {value}: expected a string");
            return Err((kind_span, why));
        };
        let options = DeValue::Table(std::mem::take(table));
        table.insert(Spanned::new(kind_span, kind), Spanned::new(span, options));
    }
    Ok(())
}

/// The key as it is written in the file: `limits.connections`, `affinity[0].keys`.
fn key(path: &Path) -> String {
    let mut key = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => key.push_str(&format!("[{index}]")),
            Segment::Map { key: name } if key.is_empty() => key.push_str(name),
            Segment::Map { key: name } => key.push_str(&format!(".{name}")),
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    // Within a section of an affinity the type comes first: without it the type is what is wrong.
    let segments: Vec<_> = path.iter().collect();
    if let [Segment::Map { key: section }, Segment::Seq { .. }] = *segments
        && section == "affinity"
    {
        key.push_str(".type");
    }
    key
}

/// What is wrong with `value`, which is not repeated where it may be a secret.
fn why(path: &Path, error: &toml::de::Error, value: &str) -> String {
    let is_secret = |segment: &Segment| match segment {
        Segment::Map { key } => SECRETS.contains(&&**key),
        _ => false,
    };
    let kind = path.iter().find_map(|segment| match segment {
        Segment::Enum { variant } => Some(format!(" (type {variant:?})")),
        _ => None,
    });
    let kind = kind.unwrap_or_default();
    // TOML has arrays.
    let message = error.message().replace("expected a sequence", "expected an array");
    if message == "wanted string or table" {
        return format!(" = {value}{kind}: expected a string");
    }
    match message.rsplit_once(", expected ") {
        Some((wrong, expected)) if wrong.starts_with("invalid") && path.iter().any(is_secret) => {
            format!("{kind}: invalid type, expected {expected}")
        }
        _ => format!("{kind}: {message}"),
    }
}
