//! The demo shop in a real browser. Needs Chromium and its driver.

pub mod driver;

use serde_json::json;
use tower_sticky_heavy_tests::demo::Shop;

use self::driver::{Browser, in_a_browser};

const NOTE_IS_HIDDEN: &str = "document.getElementById('note').hidden";

/// The visible text of an element.
async fn text(browser: &Browser, id: &str) -> String {
    let text = browser.evaluate(&format!("document.getElementById('{id}').innerText")).await;
    text.as_str().unwrap().trim().to_owned()
}

/// Waits until the page shows a cart with this number of things.
async fn cart(browser: &Browser, things: usize) {
    let total = match things {
        0 => "The cart is empty.".to_owned(),
        1 => "1 thing in the cart.".to_owned(),
        more => format!("{more} things in the cart."),
    };
    let shown = format!("document.getElementById('total').innerText === {}", json!(total));
    browser.until(&total, &shown).await;
}

/// The table of requests, newest first: request, outcome, backend.
async fn history(browser: &Browser) -> Vec<[String; 3]> {
    let rows = "[...document.querySelectorAll('#history tr')].map(row => \
                [...row.children].map(cell => cell.innerText.trim()))";
    serde_json::from_value(browser.evaluate(rows).await).unwrap()
}

fn row(request: &str, outcome: &str, shop: &str) -> [String; 3] {
    [request, outcome, shop].map(String::from)
}

async fn shopping(browser: &Browser, shop: &Shop) {
    let first = first_visit(browser, shop).await;
    fill_the_cart(browser, &first).await;
    shop.set_mode(&first, "disabled").await;
    let second = see_the_move(browser, &first).await;

    // It has moved once, and stays when the first shop opens again.
    browser.click("[aria-label='Add Tea to the cart']").await;
    cart(browser, 1).await;
    shop.set_mode(&first, "active").await;
    for _ in 0..3 {
        browser.reload().await;
        cart(browser, 1).await;
        assert_eq!(text(browser, "shop").await, second);
        assert_eq!(browser.evaluate(NOTE_IS_HIDDEN).await, json!(true));
    }
    let stats = shop.stats().await;
    assert_eq!(stats["moves"], 1, "{stats}");
    assert_eq!(stats["violations"], 0, "{stats}");
    assert_eq!(stats["outcomes"]["assigned"], 1, "{stats}");
}

/// Opens the page. Returns the shop that answers.
async fn first_visit(browser: &Browser, shop: &Shop) -> String {
    browser.visit(&shop.page).await;
    cart(browser, 0).await;
    let first = text(browser, "shop").await;
    assert!(first.starts_with("shop-"), "{first}");
    assert!(browser.evaluate("document.title").await.as_str().unwrap().contains(&first));
    assert_eq!(
        history(browser).await,
        [row("GET /cart", "pinned", &first), row("GET /", "assigned", &first)]
    );
    let script_sees = browser.evaluate("document.cookie").await;
    assert_eq!(script_sees, json!(""), "no script sees the cookies");
    first
}

/// Adds things to the cart. They are still there after a reload, because the shop is the same.
async fn fill_the_cart(browser: &Browser, shop: &str) {
    for (thing, count) in [("Apple", 1), ("Apple", 2), ("Bread", 3)] {
        browser.click(&format!("[aria-label='Add {thing} to the cart']")).await;
        cart(browser, count).await;
    }
    assert_eq!(history(browser).await[0], row("POST /cart/bread", "pinned", shop));
    for _ in 0..8 {
        browser.reload().await;
        cart(browser, 3).await;
        assert_eq!(text(browser, "shop").await, shop);
        assert_eq!(browser.evaluate(NOTE_IS_HIDDEN).await, json!(true));
        assert_eq!(
            history(browser).await,
            [row("GET /cart", "pinned", shop), row("GET /", "pinned", shop)]
        );
    }
    assert_eq!(text(browser, "pieces-apple").await, "2");
    assert_eq!(text(browser, "pieces-bread").await, "1");
}

/// The first shop is disabled: the session moves, and the page shows a note. Returns the second shop.
async fn see_the_move(browser: &Browser, first: &str) -> String {
    browser.reload().await;
    cart(browser, 0).await;
    let second = text(browser, "shop").await;
    assert!(second.starts_with("shop-") && second != first, "{second} after {first}");
    browser.until("the note is there", &format!("!{NOTE_IS_HIDDEN}")).await;
    let note = text(browser, "note").await;
    assert!(note.contains("Your session has moved"), "{note}");
    assert!(note.contains(first) && note.contains(&second), "{note}");
    assert!(note.contains("does not know your cart"), "{note}");
    assert_eq!(
        history(browser).await,
        [row("GET /cart", "pinned", &second), row("GET /", "moved", &second)]
    );
    second
}

/// With a store the next shop finds the cart.
async fn shopping_with_a_store(browser: &Browser, shop: &Shop) {
    browser.visit(&shop.page).await;
    cart(browser, 0).await;
    let first = text(browser, "shop").await;
    for count in [1, 2] {
        browser.click("[aria-label='Add Apple to the cart']").await;
        cart(browser, count).await;
    }
    shop.set_mode(&first, "disabled").await;
    browser.reload().await;
    cart(browser, 2).await;
    let second = text(browser, "shop").await;
    assert_ne!(second, first);
    browser.until("the note is there", &format!("!{NOTE_IS_HIDDEN}")).await;
    let note = text(browser, "note").await;
    assert!(note.contains(&format!("{second} has found your cart")), "{note}");
    // The next move is shown after a click.
    shop.set_mode(&first, "active").await;
    shop.set_mode(&second, "disabled").await;
    browser.click("[aria-label='Add Bread to the cart']").await;
    cart(browser, 3).await;
    let note = text(browser, "note").await;
    assert!(note.contains("has found your cart"), "{note}");
    let stats = shop.stats().await;
    assert_eq!(stats["violations"], 0, "{stats}");
}

#[tokio::test]
async fn a_cart_in_a_browser_stays_with_its_shop() {
    let shop = Shop::start().await;
    in_a_browser(async |browser| shopping(browser, &shop).await).await;
    shop.stop().await;
}

#[tokio::test]
async fn a_cart_in_a_browser_moves_to_the_next_shop() {
    let shop = Shop::start_with(&["--demo-store", "memory"]).await;
    in_a_browser(async |browser| shopping_with_a_store(browser, &shop).await).await;
    shop.stop().await;
}
