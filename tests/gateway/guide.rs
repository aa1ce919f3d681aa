//! The configurations of all pages of the guide are good.

use std::fs;

use crate::{
    config::KEY,
    page,
    process::{ConfigFile, run},
};

/// The names of all pages.
fn pages() -> Vec<String> {
    let files = fs::read_dir(page::guide()).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(".md")).collect()
}

/// Whether it is a whole configuration, and this build can read it.
fn is_readable(text: &str) -> bool {
    let is_whole = text.contains("[[backend]]") || text.contains("[[discover]]");
    is_whole
        && (cfg!(feature = "dns") || !text.contains("[[discover]]"))
        && (cfg!(feature = "tls") || !text.contains("tls = "))
}

#[tokio::test]
async fn every_configuration_of_the_guide_is_valid() {
    let mut checked = 0;
    for name in pages() {
        for (number, text) in page::blocks(&name, "toml").into_iter().enumerate() {
            if !is_readable(&text) {
                continue;
            }
            let file = ConfigFile::new(&text);
            let args = ["--check", "--config", file.path().to_str().unwrap()];
            let output = run(&args, &[("STICKY_KEY", KEY)]).await;
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(0), "{name}, {number}: {said}\n{text}");
            checked += 1;
        }
    }
    assert!(checked > 20, "only {checked} configurations were found");
}

#[test]
fn every_page_is_shown() {
    let shown = fs::read_to_string(page::guide().join("mod.rs")).unwrap();
    for name in pages() {
        let module = name.trim_end_matches(".md");
        assert!(shown.contains(&format!("pub mod {module} {{}}")), "{name} is not in mod.rs");
    }
}

#[test]
fn every_outcome_and_reason_is_explained() {
    let page = fs::read_to_string(page::guide().join("outcomes.md")).unwrap();
    let verdicts = tower_sticky::Verdict::ALL.iter().map(|verdict| verdict.as_str());
    let reasons = tower_sticky::Reason::ALL.iter().map(|reason| reason.as_str());
    for word in verdicts.chain(reasons) {
        assert!(page.contains(&format!("\n| `{word}` | ")), "{word} is not in outcomes.md");
    }
}
