//! A headless browser, driven over WebDriver (<https://www.w3.org/TR/webdriver2/>), which is JSON
//! over HTTP.

use std::{
    fs,
    net::SocketAddr,
    panic::{AssertUnwindSafe, resume_unwind},
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, SystemTime},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures_util::FutureExt;
use http::{Method, Request};
use http_body_util::Full;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
};
use tower_sticky_heavy_tests::{FOREVER, client::Client, in_time};

/// Runs a story in a browser. When it fails, there is a picture of the page.
pub async fn in_a_browser(story: impl AsyncFnOnce(&Browser)) {
    let browser = Browser::start().await;
    let result = AssertUnwindSafe(story(&browser)).catch_unwind().await;
    if result.is_err() {
        eprintln!("a picture of the page is in {}", browser.screenshot().await.display());
    }
    browser.close().await;
    if let Err(failure) = result {
        resume_unwind(failure);
    }
}

/// Errors that end by themselves, while a page replaces an element.
const TRANSIENT: [&str; 2] = ["stale element reference", "element not interactable"];

/// A browser with one window. It ends when this is dropped.
pub struct Browser {
    addr: SocketAddr,
    session: String,
    driver: Child,
    _stdout: Lines<BufReader<ChildStdout>>,
    profile: PathBuf,
}

impl Browser {
    /// Starts the browser with a profile of its own.
    ///
    /// # Panics
    ///
    /// When there is none.
    pub async fn start() -> Self {
        let chromium = find(&["chromium", "chromium-browser", "google-chrome"], "CHROMIUM");
        let chromedriver = find(&["chromedriver"], "CHROMEDRIVER");
        let profile = temporary("tower-sticky-profile");
        fs::create_dir_all(&profile).unwrap();
        let mut driver = Command::new(chromedriver)
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = in_time("chromedriver says its port", async {
            loop {
                let line = stdout.next_line().await.unwrap().expect("chromedriver starts");
                let port = line
                    .rsplit_once(" successfully on port ")
                    .map(|(_, port)| port.trim_end_matches('.'));
                if let Some(port) = port.and_then(|port| port.parse().ok()) {
                    return port;
                }
            }
        })
        .await;
        let mut browser = Self {
            addr: SocketAddr::from(([127, 0, 0, 1], port)),
            session: String::new(),
            driver,
            _stdout: stdout,
            profile,
        };
        browser.open(&chromium).await;
        browser
    }

    async fn open(&mut self, chromium: &Path) {
        let args = json!([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--window-size=1000,1200",
            format!("--user-data-dir={}", self.profile.display()),
        ]);
        let options = json!({ "binary": chromium, "args": args });
        let wanted = json!({
            "capabilities": { "alwaysMatch": {
                "browserName": "chrome",
                "goog:chromeOptions": options,
                "goog:loggingPrefs": { "browser": "ALL" },
                "timeouts": { "pageLoad": FOREVER.as_millis() as u64 },
            } }
        });
        let opened = self.call(Method::POST, "/session", wanted).await;
        self.session = opened["sessionId"].as_str().expect("a session").to_owned();
    }

    /// Ends the browser properly.
    pub async fn close(mut self) {
        self.session_call(Method::DELETE, "", Value::Null).await;
        self.session.clear();
        // Dropping this ends the driver.
    }

    pub async fn visit(&self, url: &str) {
        self.session_call(Method::POST, "/url", json!({ "url": url })).await;
    }

    pub async fn reload(&self) {
        self.session_call(Method::POST, "/refresh", json!({})).await;
    }

    /// Clicks the element that a CSS selector finds, as a user would: it must be visible.
    pub async fn click(&self, selector: &str) {
        self.act(selector, "click", json!({})).await;
    }

    /// Clicks a link or the button of a form, and waits until the page that it leads to is there.
    pub async fn follow(&self, selector: &str) {
        self.run("window.isLeft = true").await;
        self.click(selector).await;
        let arrived = "window.isLeft === undefined && document.readyState === 'complete'";
        self.until(&format!("{selector} leads to another page"), arrived).await;
    }

    /// Types a text into a field, in place of what is in it.
    pub async fn fill(&self, selector: &str, text: &str) {
        self.act(selector, "clear", json!({})).await;
        self.act(selector, "value", json!({ "text": text })).await;
    }

    /// The visible text of the element that a CSS selector finds. Numbers and units are joined by common spaces.
    pub async fn text(&self, selector: &str) -> String {
        let text = format!("document.querySelector({})?.innerText", json!(selector));
        let text = self.evaluate(&text).await;
        text.as_str().unwrap_or_else(|| panic!("there is no {selector}")).replace('\u{a0}', " ")
    }

    /// Does something with the element that a CSS selector finds. A page that replaces itself may have replaced the
    /// element in between, or not have laid the new one out yet.
    async fn act(&self, selector: &str, action: &str, body: Value) {
        let find = json!({ "using": "css selector", "value": selector });
        let act = async {
            loop {
                let found = self.session_call(Method::POST, "/element", find.clone()).await;
                let id = found.as_object().and_then(|found| found.values().next());
                let id = id.and_then(Value::as_str).expect("an element");
                let path = format!("/session/{}/element/{id}/{action}", self.session);
                match self.try_call(Method::POST, &path, body.clone()).await {
                    Err(error) if TRANSIENT.iter().any(|kind| error["error"] == *kind) => {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    done => return done,
                }
            }
        };
        if let Err(error) = in_time(selector, act).await {
            panic!("the browser does not {action} {selector}: {error}");
        }
    }

    /// The result of a JavaScript expression.
    pub async fn evaluate(&self, expression: &str) -> Value {
        self.run(&format!("return ({expression})")).await
    }

    /// The result of a script, also when that is a promise.
    pub async fn run(&self, script: &str) -> Value {
        let script = json!({ "script": script, "args": [] });
        self.session_call(Method::POST, "/execute/sync", script).await
    }

    /// Whether pages may run scripts, from the next page on.
    pub async fn set_scripts(&self, enabled: bool) {
        self.devtools("Emulation.setScriptExecutionDisabled", json!({ "value": !enabled })).await;
    }

    /// What pages are told of the user's wish for light or dark colours.
    pub async fn set_dark(&self, dark: bool) {
        let value = if dark { "dark" } else { "light" };
        // Without motion, so that no color is on its way from one to the other.
        let features = json!([
            { "name": "prefers-color-scheme", "value": value },
            { "name": "prefers-reduced-motion", "value": "reduce" },
        ]);
        self.devtools("Emulation.setEmulatedMedia", json!({ "features": features })).await;
    }

    /// A window of this width; those of at most 500 pixels are telephones.
    pub async fn set_width(&self, width: u32) {
        let metrics = json!({
            "width": width, "height": 1200, "deviceScaleFactor": 1, "mobile": width <= 500,
        });
        self.devtools("Emulation.setDeviceMetricsOverride", metrics).await;
    }

    /// A command of the DevTools protocol (<https://chromedevtools.github.io/devtools-protocol/>).
    async fn devtools(&self, command: &str, parameters: Value) {
        let command = json!({ "cmd": command, "params": parameters });
        self.session_call(Method::POST, "/goog/cdp/execute", command).await;
    }

    /// The warnings and errors on the console since the last call.
    pub async fn complaints(&self) -> Vec<String> {
        let log = json!({ "type": "browser" });
        let entries = self.session_call(Method::POST, "/se/log", log).await;
        let entries = entries.as_array().unwrap().iter();
        let bad = entries.filter(|entry| entry["level"] == "SEVERE" || entry["level"] == "WARNING");
        bad.map(|entry| entry["message"].as_str().unwrap().to_owned()).collect()
    }

    /// Waits until an expression is true.
    pub async fn until(&self, what: &str, expression: &str) {
        let wait = async {
            while self.evaluate(expression).await != Value::Bool(true) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        in_time(what, wait).await;
    }

    /// Saves a screenshot of the page, and returns its path.
    pub async fn screenshot(&self) -> PathBuf {
        let picture = self.session_call(Method::GET, "/screenshot", Value::Null).await;
        let path = temporary("tower-sticky-failure").with_extension("png");
        fs::write(&path, STANDARD.decode(picture.as_str().unwrap()).unwrap()).unwrap();
        path
    }

    /// The browser's processes, which all name its profile.
    fn processes(&self) -> Vec<u32> {
        let mark = self.profile.display().to_string();
        let ours = |pid: &u32| {
            fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| String::from_utf8_lossy(&line).contains(&mark))
        };
        let all = fs::read_dir("/proc").into_iter().flatten().flatten();
        all.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(ours).collect()
    }

    async fn session_call(&self, method: Method, path: &str, body: Value) -> Value {
        self.call(method, &format!("/session/{}{path}", self.session), body).await
    }

    async fn call(&self, method: Method, path: &str, body: Value) -> Value {
        let answer = self.try_call(method, path, body).await;
        answer.unwrap_or_else(|error| panic!("the browser refuses {path}: {error}"))
    }

    async fn try_call(&self, method: Method, path: &str, body: Value) -> Result<Value, Value> {
        let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", "application/json")
            .body(Full::new(body))
            .unwrap();
        let mut client = Client::new(self.addr);
        let answer = in_time("the driver answers", client.send(request)).await.unwrap();
        let mut answered: Value = serde_json::from_slice(answer.body()).unwrap();
        let value = answered["value"].take();
        if answer.status().is_success() { Ok(value) } else { Err(value) }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver first, so that it starts no process any more; then its remaining processes.
        if let Some(driver) = self.driver.id() {
            kill(driver);
        }
        for _ in 0..250 {
            let left = self.processes();
            left.iter().for_each(|pid| kill(*pid));
            if left.is_empty()
                && (fs::remove_dir_all(&self.profile).is_ok() || !self.profile.exists())
            {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn kill(pid: u32) {
    let _ = std::process::Command::new("kill").args(["-s", "KILL", &pid.to_string()]).status();
}

/// A program by an environment variable or in the search path.
fn find(names: &[&str], variable: &str) -> PathBuf {
    if let Some(path) = std::env::var_os(variable) {
        return path.into();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let candidates =
        std::env::split_paths(&path).flat_map(|dir| names.iter().map(move |n| dir.join(n)));
    candidates.into_iter().find(|candidate| candidate.is_file()).unwrap_or_else(|| {
        panic!(
            "this test needs {}, which is not in the search path; install it (Debian: `apt-get \
             install chromium chromium-driver`), or say in {variable} where it is",
            names[0]
        )
    })
}

/// A unique path.
fn temporary(name: &str) -> PathBuf {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos();
    std::env::temp_dir().join(format!("{name}-{}-{now}", std::process::id()))
}
