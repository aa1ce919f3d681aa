//! The page `configuration` has every key: it is generated from `examples/gateway/gateway.toml`, which is compared
//! with the code (`config_file`). `UPDATE_GUIDE=1 cargo test --test gateway reference` writes it.

use std::{fmt::Write, fs, path::Path};

use crate::page;

const HEAD: &str = "\
Every key of the gateway's file, with its default.

The commented file itself is `examples/gateway/gateway.toml`. A value is the default, or an example where the text says
so. Durations have a unit: \"200ms\", \"30s\", \"1m30s\", \"8h\". So may sizes: \"64KiB\", \"1MiB\". `gateway --check
--config FILE` checks a file and exits. The command line is described by `gateway --help`, and every outcome of a request
in [`outcomes`](crate::guide::outcomes). `gateway` is `target/release/examples/gateway`.
";

/// A part of the file.
#[derive(Default)]
struct Section {
    title: String,
    /// What stands before its first key, and what belongs to no key.
    paragraphs: Vec<String>,
    /// Key, value and meaning.
    rows: Vec<[String; 3]>,
}

/// A key with its value, which is one value and not several in a sentence.
fn setting(line: &str) -> Option<(&str, &str)> {
    let (key, value) = line.split_once(" = ")?;
    let is_key = key.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    let is_one = value.starts_with('{') || !value.contains(" = ");
    (is_key && is_one).then_some((key, value))
}

/// The sections of the commented file.
fn sections(text: &str) -> Vec<Section> {
    let mut sections = vec![Section { title: "The file".to_owned(), ..Section::default() }];
    let mut comment = Vec::<&str>::new();
    // The head of the file is about the file.
    let (_, text) = text.split_once("\n\n# The name of this set").expect("the file's head ends");
    let text = format!("# The name of this set{text}\n");
    for line in text.lines() {
        let section = sections.last_mut().expect("there is one");
        let code = line.strip_prefix('#').filter(|rest| !rest.starts_with(' ') && !rest.is_empty());
        let code = code.unwrap_or(line);
        if code.starts_with('[') {
            let paragraphs = paragraph(&mut comment);
            sections.push(Section { title: code.to_owned(), paragraphs, rows: Vec::new() });
        } else if let Some(("type", kind)) =
            setting(code).filter(|_| section.title == "[[affinity]]")
        {
            section.title = format!("[[affinity]] with type = {kind}");
        } else if let Some((key, value)) = setting(code) {
            section.row(key, value, &mut comment);
        } else if let Some(inner) = line.strip_prefix("#   ").and_then(|rest| rest.split_once("  "))
        {
            // A key of an inline table, with its meaning behind it.
            match setting(inner.0) {
                Some((key, value)) => {
                    section.paragraphs.extend(paragraph(&mut comment));
                    section.row(&format!("tls.{key}"), value, &mut vec![inner.1.trim()]);
                }
                None => comment.push(inner.1),
            }
        } else if let Some((key, value)) = line.strip_prefix("# ").and_then(setting) {
            section.row(key, value, &mut comment);
        } else if let Some(text) = line.strip_prefix("# ") {
            comment.push(text.trim());
        } else {
            section.paragraphs.extend(paragraph(&mut comment));
        }
    }
    explain(&mut sections);
    sections
}

/// A key without a comment is like that of an affinity before, or belongs to the comment of the key before it.
fn explain(sections: &mut [Section]) {
    for position in 0..sections.len() {
        let (before, rest) = sections.split_at_mut(position);
        let section = &mut rest[0];
        let is_affinity = |section: &Section| section.title.starts_with("[[affinity]]");
        let known = before.iter().filter(|it| is_affinity(it) && is_affinity(section));
        let known: Vec<_> = known.flat_map(|it| &it.rows).cloned().collect();
        for row in 0..section.rows.len() {
            let [key, _, meaning] = &section.rows[row];
            if meaning.is_empty() {
                let alike = known.iter().find(|it| it[0] == *key && !it[2].is_empty());
                let above = if row > 0 { "See above." } else { "" };
                section.rows[row][2] = alike.map_or(above, |it| &it[2]).to_owned();
            }
        }
    }
}

fn paragraph(comment: &mut Vec<&str>) -> Vec<String> {
    let text = comment.join(" ");
    comment.clear();
    if text.is_empty() { vec![] } else { vec![text] }
}

impl Section {
    fn row(&mut self, key: &str, value: &str, comment: &mut Vec<&str>) {
        let meaning = paragraph(comment).pop().unwrap_or_default();
        self.rows.push([key.to_owned(), value.to_owned(), meaning]);
    }

    fn write(&self, page: &mut String) {
        let title = match self.title.starts_with('[') {
            true => format!("`{}`", self.title),
            false => self.title.clone(),
        };
        write!(page, "\n# {title}\n").unwrap();
        for paragraph in &self.paragraphs {
            write!(page, "\n{}\n", in_markdown(paragraph)).unwrap();
        }
        if self.rows.is_empty() {
            return;
        }
        page.push_str("\n| key | value | meaning |\n|---|---|---|\n");
        for [key, value, meaning] in &self.rows {
            let value = value.replace('|', "\\|");
            writeln!(page, "| `{key}` | `{value}` | {} |", in_markdown(meaning)).unwrap();
        }
    }
}

/// Brackets would be links.
fn in_markdown(text: &str) -> String {
    let mut out = String::new();
    let mut in_code = false;
    for c in text.chars() {
        in_code ^= c == '`';
        match c {
            '|' => out.push_str("\\|"),
            '[' | ']' | '<' | '>' | '*' if !in_code => {
                out.push('\\');
                out.push(c);
            }
            c => out.push(c),
        }
    }
    out
}

#[test]
fn the_page_of_all_keys_is_up_to_date() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/gateway/gateway.toml");
    let mut generated = HEAD.to_owned();
    for section in sections(&fs::read_to_string(file).unwrap()) {
        section.write(&mut generated);
    }
    let path = page::guide().join("configuration.md");
    if std::env::var_os("UPDATE_GUIDE").is_some() {
        fs::write(&path, &generated).unwrap();
    }
    let shown = fs::read_to_string(&path).unwrap_or_default();
    let mut lines = shown.lines().zip(generated.lines());
    if let Some((old, new)) = lines.find(|(old, new)| old != new) {
        panic!("configuration.md is not up to date, see the head of this file:\n{old}\n{new}");
    }
    assert_eq!(shown.lines().count(), generated.lines().count(), "see the head of this file");
}
