//! `gateway.toml` has every key and is good, and every error about a file names the key.

use std::{fs, path::Path, time::Duration};

use toml::{Table, Value};

use crate::{
    config::KEY,
    process::{ConfigFile, run},
    units::{Size, Time},
};

fn template() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/gateway/gateway.toml");
    fs::read_to_string(path).unwrap()
}

/// The file with every setting on that this build has.
fn everything() -> String {
    let needs_dns = |line: &str| {
        let keys = ["#nameservers", "#[[discover]]", "#dns =", "#id =", "#tls = false"];
        keys.iter().any(|key| line.starts_with(key))
    };
    let needs_tls = |line: &str| {
        let keys = ["#ca ", "#server_name", "#verify", "#handshake_timeout"];
        keys.iter().any(|key| line.starts_with(key))
    };
    let is_on = |line: &str| {
        (cfg!(feature = "dns") || !needs_dns(line)) && (cfg!(feature = "tls") || !needs_tls(line))
    };
    let is_setting = |line: &str| line.starts_with('#') && !line.starts_with("# ") && line != "#";
    let text = template();
    let lines = text.lines().map(|line| match is_setting(line) {
        true if is_on(line) => format!("{}\n", &line[1..]),
        true => format!("# {}\n", &line[1..]),
        false => format!("{line}\n"),
    });
    lines.collect()
}

/// The exit code of `--check`, and what it says.
async fn check(text: &str) -> (Option<i32>, String) {
    let file = ConfigFile::new(text);
    let args = ["--check", "--config", file.path().to_str().unwrap()];
    let output = run(&args, &[("STICKY_KEY", KEY)]).await;
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[tokio::test]
async fn the_commented_file_is_valid_as_it_is_and_with_every_setting_on() {
    for text in [template(), everything()] {
        let (code, stderr) = check(&text).await;
        assert_eq!(code, Some(0), "{stderr}");
    }
}

/// The sections of the file, each as its header and its text with the header. The first has none.
fn sections(text: &str) -> Vec<(&str, String)> {
    let mut sections = vec![("", String::new())];
    for line in text.lines() {
        if line.starts_with('[') {
            sections.push((line, String::new()));
        }
        let (_, section) = sections.last_mut().unwrap();
        section.push_str(&format!("\n{line}"));
    }
    sections
}

#[tokio::test]
async fn the_commented_file_has_every_key() {
    let everything = everything();
    let mut before = String::new();
    for (header, section) in sections(&everything) {
        let is_second_backend = header == "[[backend]]" && before.contains(header);
        before.push_str(&section);
        if is_second_backend {
            continue;
        }
        let (code, stderr) = check(&format!("{before}\nno_such_key = 1")).await;
        assert_eq!(code, Some(2), "an unknown key in {header} is refused");
        // The error lists the keys that are known here.
        let (_, known) = stderr.split_once("expected ").unwrap();
        for key in known.split('`').skip(1).step_by(2) {
            // A key of its own line, an alternative in a comment, or a section of its own.
            let own_line = format!("\n{key} = ");
            let alternative = format!(" {key} = ");
            let own_section = [format!("[{key}]"), format!(".{key}]")];
            let is_there = [&own_line, &alternative].into_iter().any(|it| section.contains(it))
                || own_section.iter().any(|it| everything.contains(it));
            assert!(is_there, "the section {header} has no {key}");
        }
    }
}

/// The keys of `value` that have no keys themselves, each with its path.
fn leaves(path: &str, value: &Value, found: &mut Vec<(String, Value)>) {
    match value {
        Value::Table(table) => {
            for (key, value) in table {
                let dot = if path.is_empty() { "" } else { "." };
                leaves(&format!("{path}{dot}{key}"), value, found);
            }
        }
        Value::Array(values) => {
            if !values.iter().all(Value::is_table) {
                found.push((path.to_owned(), Value::Array(values.clone())));
            }
            for (position, value) in values.iter().enumerate() {
                leaves(&format!("{path}[{position}]"), value, found);
            }
        }
        leaf => found.push((path.to_owned(), leaf.clone())),
    }
}

/// The document with another value at `path`.
fn with(document: &Table, path: &str, value: Value) -> String {
    let mut document = Value::Table(document.clone());
    let mut at = &mut document;
    for part in path.replace('[', ".[").split('.') {
        at = match part.strip_prefix('[') {
            Some(index) => &mut at[index.trim_end_matches(']').parse::<usize>().unwrap()],
            None => &mut at[part],
        };
    }
    *at = value;
    toml::to_string(&document).unwrap()
}

/// Values that cannot be right in place of `value`: of a wrong type, out of range, or an unknown word.
fn bad_values(path: &str, value: &Value) -> Vec<Value> {
    let text = |text: &str| Value::String(text.to_owned());
    match value {
        Value::Boolean(_) => vec![text("yes"), Value::Integer(1)],
        Value::Integer(_) => vec![text("many"), Value::Integer(-1), Value::Integer(1 << 40)],
        Value::Float(_) => vec![text("much"), Value::Float(-1.0), Value::Float(f64::NAN)],
        Value::Array(_) => vec![text("one"), Value::Integer(1)],
        Value::String(old) if old.parse::<Time>().is_ok() => {
            vec![text("soon"), text("5"), text("400d"), Value::Integer(5)]
        }
        Value::String(_) => {
            // These are free text.
            let free =
                ["pool", "admin_token", "zone", "store_prefix", "path", "query", "access_log.file"];
            let is_free = free.iter().any(|key| path.ends_with(key)) && !path.contains("probe");
            let is_free = is_free || path.contains("probe.headers.");
            let word = if is_free { vec![] } else { vec![text("no such: word;")] };
            [word, vec![Value::Integer(5), Value::Boolean(true)]].concat()
        }
        _ => unreachable!("no such values in the file"),
    }
}

#[tokio::test]
async fn every_refusal_names_its_key() {
    let document: Table = everything().parse().unwrap();
    let mut all = Vec::new();
    leaves("", &Value::Table(document.clone()), &mut all);
    assert!(all.len() > 100, "only {} keys were found", all.len());
    for (path, value) in all {
        for bad in bad_values(&path, &value) {
            let (code, stderr) = check(&with(&document, &path, bad.clone())).await;
            assert_eq!(code, Some(2), "{path} = {bad} is refused: {stderr}");
            assert!(stderr.contains(&path), "{path} = {bad} is named: {stderr}");
        }
    }
}

#[test]
fn durations_are_written_with_units() {
    for (text, milliseconds) in [
        ("0", 0),
        ("0s", 0),
        ("100ms", 100),
        ("200ms", 200),
        ("1s", 1000),
        ("75s", 75_000),
        ("1m", 60_000),
        ("1m30s", 90_000),
        ("30m", 1_800_000),
        ("8h", 28_800_000),
        ("30d", 2_592_000_000),
    ] {
        let time: Time = text.parse().unwrap();
        assert_eq!(time.0, Duration::from_millis(milliseconds), "{text}");
    }
    for text in ["", "30", "-1s", "s", "1 parsec", "367d", "18446744073709551615s1000ms"] {
        assert!(text.parse::<Time>().is_err(), "{text:?} is refused");
    }
    assert!("0s".parse::<Time<1>>().is_err(), "a timeout of 0 is refused");
}

#[test]
fn sizes_are_written_with_or_without_units() {
    for (text, bytes) in [
        ("0", 0),
        ("100", 100),
        ("16KiB", 16 << 10),
        ("64KiB", 64 << 10),
        ("1MiB", 1 << 20),
        ("1kB", 1000),
    ] {
        let size: Size = text.parse().unwrap();
        assert_eq!(u64::from(size), bytes, "{text}");
    }
    for text in ["", "-1", "KiB", "64 parsecs"] {
        assert!(text.parse::<Size>().is_err(), "{text:?} is refused");
    }
}
