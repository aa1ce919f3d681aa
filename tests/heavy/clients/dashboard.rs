//! The dashboard of the gateway in a real browser. Needs Chromium and its driver, and axe-core, which `tests/run.sh`
//! installs.

mod pages;
mod setup;

use serde_json::json;

use self::setup::{Dashboard, EACH};
use crate::browser::driver::{Browser, in_a_browser};

const VERDICT: &str = ".verdict";

/// Waits until the visible text of the page contains `text`.
async fn shows(browser: &Browser, text: &str) {
    // Numbers and units are joined by spaces that do not break.
    let words = "document.body.innerText.replaceAll('\\u00a0', ' ')";
    browser.until(text, &format!("{words}.includes({})", json!(text))).await;
}

/// Drains `a` by its link and its form.
async fn drain_by_clicks(browser: &Browser, dashboard: &mut Dashboard) {
    browser.visit(&dashboard.url).await;
    assert_eq!(browser.text(VERDICT).await, "All is well.");
    browser.follow("[aria-label='Drain a']").await;
    let asked = browser.text("main").await;
    assert!(asked.contains(&format!("a has at least {EACH} sessions and 0 requests")), "{asked}");
    assert!(asked.contains("New sessions go to b, c."), "{asked}");
    assert_eq!(dashboard.backend("a").await["mode"], "active", "nothing has happened yet");
    browser.fill("#deadline", "soon").await;
    browser.follow("main button").await;
    let refused = browser.text("[role=alert]").await;
    assert!(refused.contains("is not a duration"), "{refused}");
    browser.fill("#deadline", "1h").await;
    browser.follow("main button").await;
    let page = browser.text("main").await;
    assert!(page.contains("a has been draining for"), "{page}");
    assert!(page.contains("It ends at the latest in"), "{page}");
    assert_eq!(dashboard.backend("a").await["mode"], "draining");
    dashboard.visits().await;
    assert!(dashboard.moves().await.is_empty(), "the sessions stay during the drain");
    browser.follow("nav a[href='/']").await;
    assert_eq!(browser.text(VERDICT).await, "All is well; a is draining.");
    browser.follow("[aria-label='Enable a']").await;
    browser.follow("main button").await;
    assert_eq!(dashboard.backend("a").await["mode"], "active");
}

/// Explains the token of a customer, and reads what is said.
async fn explain_by_clicks(browser: &Browser, dashboard: &Dashboard) {
    browser.visit(&format!("{}view/explain", dashboard.url)).await;
    browser.fill("#text", &dashboard.customers[0].pair()).await;
    browser.follow("main form button").await;
    let answer = browser.text("main").await;
    assert!(answer.contains("pinned a"), "{answer}");
    assert!(answer.contains("cookie SERVER_ID"), "{answer}");
    let source = browser.evaluate("document.documentElement.outerHTML").await;
    let token = &dashboard.customers[0].token;
    assert!(!source.as_str().unwrap().contains(token), "a usable token is shown");
}

#[tokio::test]
async fn a_backend_is_drained_and_a_token_explained_by_clicks() {
    let mut dashboard = Dashboard::start().await;
    in_a_browser(async |browser| {
        drain_by_clicks(browser, &mut dashboard).await;
        explain_by_clicks(browser, &dashboard).await;
        // The form with the wrong deadline was refused with 400, which the browser tells.
        let complaints = browser.complaints().await;
        assert!(complaints.iter().all(|line| line.contains("400")), "{complaints:?}");
    })
    .await;
}

#[tokio::test]
async fn the_page_works_without_scripts() {
    let mut dashboard = Dashboard::start().await;
    in_a_browser(async |browser| {
        browser.set_scripts(false).await;
        drain_by_clicks(browser, &mut dashboard).await;
        explain_by_clicks(browser, &dashboard).await;
        browser.visit(&dashboard.url).await;
        dashboard.visits().await;
        let seen = browser.evaluate("document.querySelector('noscript meta') !== null").await;
        assert_eq!(seen, true, "scripts are off, or this would not be an element");
        let after = dashboard.requests().await;
        let refreshed = format!("document.getElementById('requests')?.innerText === '{after}'");
        browser.until("the page refreshes itself", &refreshed).await;
    })
    .await;
}

#[tokio::test]
async fn the_page_is_live() {
    let mut dashboard = Dashboard::start().await;
    in_a_browser(async |browser| {
        browser.visit(&dashboard.url).await;
        browser.evaluate("window.loadedOnce = true").await;
        dashboard.visits().await;
        let requests = dashboard.requests().await;
        let shown = format!("document.getElementById('requests').innerText === '{requests}'");
        browser.until("the requests are counted on the page", &shown).await;
        let page = browser.text("main").await;
        assert!(page.contains("No session has moved."), "{page}");

        // One is disabled by hand, another dies: it is said which, since when and why, and who moves.
        dashboard.set_mode("a", "disabled").await;
        shows(browser, "All is well; a is disabled.").await;
        dashboard.backends[1].kill();
        shows(browser, "b has been down since ").await;
        let health = browser.text(".health").await;
        assert!(health.contains("its probes fail") && health.contains("a is disabled"), "{health}");
        dashboard.visits().await;
        let moves = dashboard.moves().await;
        assert_eq!(moves.len(), 2 * EACH, "{moves:?}");
        for moved in &moves {
            let cells = ["session", "from", "to", "reason"].map(|cell| moved[cell].as_str());
            let cells = cells.map(Option::unwrap).join("\t");
            shows(browser, &cells).await;
        }
        dashboard.backends[1].restart().await;
        shows(browser, "All is well; a is disabled.").await;
        let said = browser.evaluate("document.getElementById('news').textContent").await;
        assert_eq!(said, "All is well; a is disabled.", "to screen readers, too");
        assert_eq!(browser.evaluate("window.loadedOnce").await, true, "it was not loaded again");
        let complaints = browser.complaints().await;
        assert!(complaints.is_empty(), "{complaints:?}");
    })
    .await;
}

#[tokio::test]
async fn whoever_uses_the_page_is_not_disturbed() {
    let mut dashboard = Dashboard::start().await;
    in_a_browser(async |browser| {
        browser.visit(&dashboard.url).await;
        let requests = async |dashboard: &mut Dashboard| {
            dashboard.visits().await;
            let requests = dashboard.requests().await;
            format!("document.getElementById('requests').innerText === '{requests}'")
        };
        // The focus stays on a link while the page around it is replaced.
        browser.evaluate("document.querySelector('[aria-label=\"Limit b\"]').focus()").await;
        let shown = requests(&mut dashboard).await;
        browser.until("the page was replaced", &shown).await;
        let focused = browser.evaluate("document.activeElement.getAttribute('aria-label')").await;
        assert_eq!(focused, "Limit b");
        // A search that is being typed stays, also without the focus.
        browser.fill("#search", "7").await;
        browser.evaluate("document.activeElement.blur()").await;
        let shown = requests(&mut dashboard).await;
        // The page asks nothing while a form is filled in, so that there is nothing to wait for but time.
        tokio::time::sleep(std::time::Duration::from_secs(5)).await;
        assert_eq!(browser.evaluate(&shown).await, false, "the search would be lost");
        assert_eq!(browser.evaluate("document.getElementById('search').value").await, "7");
        browser.fill("#search", "").await;
        browser.evaluate("document.activeElement.blur()").await;
        browser.until("it goes on afterwards", &shown).await;
    })
    .await;
}

#[tokio::test]
async fn a_login_opens_the_page() {
    let mut dashboard = Dashboard::start_with(["a", "b", "c"], Some("open sesame")).await;
    in_a_browser(async |browser| {
        browser.visit(&dashboard.url).await;
        assert!(!browser.text("body").await.contains("Backends"), "nothing is shown before");
        browser.fill("#token", "open barley").await;
        browser.follow("main button").await;
        assert_eq!(browser.text("[role=alert]").await, "This is not the admin token.");
        browser.fill("#token", "open sesame").await;
        browser.follow("main button").await;
        assert_eq!(browser.text(VERDICT).await, "All is well.");
        assert_eq!(browser.evaluate("document.cookie").await, "", "no script sees the session");
        // Live, and by forms.
        dashboard.visits().await;
        let requests = dashboard.requests().await;
        let shown = format!("document.getElementById('requests').innerText === '{requests}'");
        browser.until("the requests are counted on the page", &shown).await;
        browser.follow("[aria-label='Disable c']").await;
        browser.follow("main section button").await;
        assert_eq!(dashboard.backend("c").await["mode"], "disabled");
        browser.follow("header button").await;
        assert!(browser.text("main").await.contains("Admin token"));
        browser.visit(&dashboard.url).await;
        assert!(browser.text("main").await.contains("Admin token"), "the session has ended");
    })
    .await;
}
