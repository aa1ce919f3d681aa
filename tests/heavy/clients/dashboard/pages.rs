//! Every page: for everybody, on a telephone, in light and dark; and with hostile names.

use std::{fs, path::Path};

use serde_json::{Value, json};

use super::{
    setup::{Dashboard, EACH},
    shows,
};
use crate::browser::driver::{Browser, in_a_browser};

/// All rules of axe-core, and what they have found, one line each.
const CHECK: &str = "return axe.run(document).then((result) => result.violations.flatMap((violation) => \
    violation.nodes.map((node) => `${violation.id}: ${node.html}: ${node.failureSummary}`)))";

/// The pages that can be visited, and those that a form answers with.
const PAGES: [&str; 12] = [
    "",
    "?only=attention",
    "?q=no-such-backend",
    "view/moves",
    "view/explain",
    "view/configuration",
    "view/backends/a",
    "view/backends/b",
    "view/backends/a/drain",
    "view/backends/b/weigh",
    "view/backends/c/limit",
    "view/backends/c/remove",
];

/// The script of axe-core.
fn axe() -> String {
    let file =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/node/node_modules/axe-core/axe.min.js");
    fs::read_to_string(file)
        .expect("the packages are not installed: see \"clients\" in tests/run.sh")
}

/// The page that is shown has no violation in light and dark, and is no wider than a telephone.
async fn is_for_everybody(browser: &Browser, axe: &str, page: &str) {
    for (dark, width) in [(false, 1100), (true, 1100), (false, 390), (true, 390)] {
        browser.set_dark(dark).await;
        browser.set_width(width).await;
        let violations = browser.run(&format!("{axe}; {CHECK}")).await;
        let violations = violations.as_array().unwrap();
        assert!(violations.is_empty(), "{page}, dark {dark}, width {width}: {violations:#?}");
        let needed = browser.evaluate("document.documentElement.scrollWidth").await;
        assert!(needed.as_u64() <= Some(width.into()), "{page} is {needed} wide, not {width}");
        let background = browser.evaluate("getComputedStyle(document.body).backgroundColor").await;
        let is_dark = background == "rgb(18, 22, 28)";
        assert_eq!(is_dark, dark, "{page}: the background is {background}");
    }
}

#[tokio::test]
async fn every_page_is_for_everybody() {
    let mut dashboard = Dashboard::start().await;
    let axe = axe();
    // One is disabled, one is down, one drains; sessions have moved.
    dashboard.set_mode("a", "disabled").await;
    dashboard.backends[1].kill();
    dashboard.visits().await;
    dashboard.set_mode("c", "draining").await;
    in_a_browser(async |browser| {
        browser.visit(&dashboard.url).await;
        shows(browser, "b has been down since ").await;
        for page in PAGES {
            browser.visit(&format!("{}{page}", dashboard.url)).await;
            is_for_everybody(browser, &axe, page).await;
        }
        browser.visit(&format!("{}view/explain", dashboard.url)).await;
        browser.fill("#text", &dashboard.customers[0].pair()).await;
        browser.follow("main form button").await;
        shows(browser, "What would happen now").await;
        is_for_everybody(browser, &axe, "an explanation").await;
        let complaints = browser.complaints().await;
        assert!(complaints.is_empty(), "{complaints:?}");
        // A page that is not there, and a refused form; the browser tells their statuses.
        browser.visit(&format!("{}view/backends/nobody", dashboard.url)).await;
        is_for_everybody(browser, &axe, "an unknown backend").await;
        browser.visit(&format!("{}view/backends/c/drain", dashboard.url)).await;
        browser.fill("#deadline", "soon").await;
        browser.follow("main button").await;
        is_for_everybody(browser, &axe, "a refused form").await;
    })
    .await;
}

#[tokio::test]
async fn the_login_is_for_everybody() {
    let dashboard = Dashboard::start_with(["a", "b", "c"], Some("open sesame")).await;
    let axe = axe();
    in_a_browser(async |browser| {
        browser.visit(&dashboard.url).await;
        is_for_everybody(browser, &axe, "the login").await;
        browser.fill("#token", "wrong").await;
        browser.follow("main button").await;
        is_for_everybody(browser, &axe, "a refused login").await;
        browser.fill("#token", "open sesame").await;
        browser.follow("main button").await;
        is_for_everybody(browser, &axe, "the overview of somebody who may log out").await;
    })
    .await;
}

/// An id that would be an image with a script, if it were not escaped.
const HOSTILE: &str = "<img/src=x/onerror=document.title='hit'>";

/// Nothing of what is hostile has become an element or has run.
async fn is_harmless(browser: &Browser, page: &str) {
    let injected = "document.querySelectorAll('img, main script, main style, iframe').length";
    assert_eq!(browser.evaluate(injected).await, json!(0), "{page}");
    let title = browser.evaluate("document.title").await;
    assert_ne!(title, "hit", "{page}");
}

#[tokio::test]
async fn hostile_ids_reasons_and_cookies_are_escaped() {
    let mut dashboard = Dashboard::start_with([HOSTILE, "b", "c"], None).await;
    dashboard.set_mode(HOSTILE, "disabled").await;
    dashboard.visits().await;
    assert_eq!(dashboard.moves().await.len(), EACH);
    let encoded: String = HOSTILE.bytes().map(|byte| format!("%{byte:02X}")).collect();
    in_a_browser(async |browser| {
        for page in [
            String::new(),
            format!("?q={encoded}&only={encoded}"),
            "view/moves".to_owned(),
            format!("view/moves?session={encoded}&from={encoded}&to={encoded}&reason={encoded}"),
            "view/configuration".to_owned(),
            format!("view/backends/{encoded}"),
            format!("view/backends/{encoded}/drain"),
            format!("view/backends/{encoded}x"),
        ] {
            browser.visit(&format!("{}{page}", dashboard.url)).await;
            is_harmless(browser, &page).await;
            let source = browser.evaluate("document.documentElement.outerHTML").await;
            assert!(shown(&source), "{page} does not show it: {source}");
        }
        // The page that is replaced by a script, with links that lead to the right backend.
        browser.visit(&dashboard.url).await;
        dashboard.visits().await;
        let requests = dashboard.requests().await;
        let replaced = format!("document.getElementById('requests').innerText === '{requests}'");
        browser.until("the page was replaced", &replaced).await;
        is_harmless(browser, "the replaced page").await;
        browser.follow(&format!("[aria-label=\"Enable {HOSTILE}\"]")).await;
        browser.follow("main button").await;
        assert_eq!(dashboard.backend(HOSTILE).await["mode"], "active");
        is_harmless(browser, "the page of the backend").await;
        for text in [format!("SERVER_ID={HOSTILE}"), HOSTILE.to_owned(), format!("{HOSTILE}: x")] {
            browser.visit(&format!("{}view/explain", dashboard.url)).await;
            browser.fill("#text", &text).await;
            browser.follow("main form button").await;
            is_harmless(browser, &text).await;
            let page = browser.text("main").await;
            assert!(!page.contains("onerror"), "what was pasted is not repeated: {page}");
        }
    })
    .await;
}

/// Whether the source of a page contains the hostile text, escaped.
fn shown(source: &Value) -> bool {
    let source = source.as_str().unwrap();
    source.contains("&lt;img/src=x/onerror=document.title='hit'")
        || source.contains("value=\"<img/src=x/onerror=document.title='hit'>\"")
}
