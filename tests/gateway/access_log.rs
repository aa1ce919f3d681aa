//! The access log: its formats, its file, and what becomes of lines that cannot be written.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use http::{Method, StatusCode};
use serde_json::Value;
use tokio::{io::AsyncWriteExt, net::TcpStream, time::timeout};

use crate::{
    backends::{Backend, echo, held, mortal, streaming},
    client::{self, Client, get},
    process::{ConfigFile, FOREVER, Gateway},
};

/// A file for a log, which is removed with its guard.
struct LogPath(ConfigFile);

impl LogPath {
    fn new() -> Self {
        Self(ConfigFile::new(""))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// The lines so far.
    fn lines(&self) -> Vec<String> {
        lines(self.path())
    }

    /// The lines, once there are so many.
    async fn wait_for(&self, count: usize) -> Vec<String> {
        let enough = async {
            loop {
                let lines = self.lines();
                if lines.len() >= count {
                    return lines;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let found = timeout(FOREVER, enough).await;
        found.unwrap_or_else(|_| panic!("{count} lines are expected: {:?}", self.lines()))
    }

    async fn records(&self, count: usize) -> Vec<Value> {
        let lines = self.wait_for(count).await;
        lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
}

/// A configuration with this log and these backends.
fn file(keys: &str, log: &Path, backends: &[&Backend]) -> String {
    let entries = ["a", "b"].into_iter().zip(backends);
    let entries: String = entries.map(|(id, backend)| backend.entry(id)).collect();
    format!(
        "admin = \"127.0.0.1:0\"\n[access_log]\n{keys}\nfile = {:?}\n{entries}",
        log.to_str().unwrap()
    )
}

/// The value of a sample of the metrics.
async fn metric(admin: SocketAddr, sample: &str) -> u64 {
    let text = get(admin, "/metrics").await.text();
    let line = text.lines().find(|line| line.starts_with(sample));
    line.unwrap_or_else(|| panic!("{sample}: {text}")).rsplit_once(' ').unwrap().1.parse().unwrap()
}

const DROPPED: &str = "sticky_access_log_lines_total{result=\"dropped\"}";

#[tokio::test]
async fn a_line_of_json_says_where_the_request_went_and_why() {
    let (log, (a, b)) = (LogPath::new(), (mortal("a").await, echo("b").await));
    let config = file("", log.path(), &[&a.backend, &b]);
    let gateway = Gateway::configured(&config).await;
    let mut client = Client::new(gateway.addr);
    while client.get("/cart?secret=1").await.backend() != "a" {
        client.jar.clear();
    }
    client.send(Method::POST, "/buy", &[("user-agent", "x\"y")], "12345").await;
    let before = log.wait_for(2).await.len();
    drop(a.die().await);
    let moved = client.get("/cart").await;
    let records = log.records(before + 1).await;
    let [.., first, second, third] = &records[..] else { panic!("{records:?}") };
    assert_eq!(first["method"], "GET");
    assert_eq!(first["path"], "/cart", "the query may contain secrets");
    assert_eq!(first["host"], gateway.addr.to_string());
    assert_eq!(first["client"], "127.0.0.1");
    assert_eq!(first["protocol"], "HTTP/1.1");
    assert_eq!(first["status"], 200);
    assert_eq!(first["end"], "complete");
    assert_eq!((&first["backend"], &first["outcome"]), (&"a".into(), &"assigned".into()));
    assert_eq!(first["token"], "new");
    assert!(first["first_byte_ms"].as_f64() <= first["duration_ms"].as_f64(), "{first}");
    assert_eq!((&second["method"], &second["outcome"]), (&"POST".into(), &"pinned".into()));
    assert_eq!(second.get("reason"), None);
    assert_eq!(third["outcome"], "moved");
    assert_eq!(third["reason"], "connect-failed");
    assert_eq!(third["attempts"], 2);
    assert_eq!(third["bytes"], moved.body.len());
    for record in [second, third] {
        assert_eq!(record["session"], first["session"], "a session can be followed");
    }
    assert!(third["epoch"].as_u64() > second["epoch"].as_u64());
    let id = third["request_id"].as_str().unwrap();
    assert_eq!(moved.header("x-request-id"), id, "the client gets it, too");
    let time = third["time"].as_str().unwrap();
    assert!(time.ends_with('Z') && humantime::parse_rfc3339(time).is_ok(), "{time}");
}

#[tokio::test]
async fn lines_have_the_formats_that_other_tools_read() {
    let a = echo("a").await;
    let cases = [
        (
            "format = \"common\"",
            r#"127.0.0.1 - - [<time> +0000] "GET /a\x22b HTTP/1.1" 200 <n>"#.to_owned(),
        ),
        (
            "format = \"combined\"",
            r#"127.0.0.1 - - [<time> +0000] "GET /a\x22b HTTP/1.1" 200 <n> "http://b/\x5C" "curl\xE4""#
                .to_owned(),
        ),
        (
            "format = \"haproxy\"",
            r#"127.0.0.1:<n> [<time>.<n>] default default/a 0/0/0/<n>/<n> 200 <n> - - --NI 0/0/0/0/0 0/0 "GET /a\x22b HTTP/1.1""#
                .to_owned(),
        ),
    ];
    for (keys, expected) in cases {
        let log = LogPath::new();
        let gateway = Gateway::configured(&file(keys, log.path(), &[&a])).await;
        let request = format!(
            "GET /a\"b?q HTTP/1.1\r\nhost: {}\r\nreferer: http://b/\\\r\nuser-agent: curl",
            gateway.addr
        );
        let mut stream = TcpStream::connect(gateway.addr).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.write_all(b"\xe4\r\nconnection: close\r\n\r\n").await.unwrap();
        client::read_to_end(&mut stream).await;
        let line = &log.wait_for(1).await[0];
        assert_eq!(without_numbers(line), without_numbers(&expected), "{line}");
        assert!(line.contains(" 200 "), "{line}");
    }
}

/// A line with `<n>` for each number that varies, and `<time>` for a time.
fn without_numbers(line: &str) -> String {
    let (mut out, mut rest) = (String::new(), line);
    if let Some((before, after)) = line.split_once('[')
        && let Some((time, end)) = after.split_at_checked(20)
        && time.contains(':')
        && !time.contains('<')
    {
        out = format!("{before}[<time>");
        rest = end;
    }
    let with = format!("{out}{rest}");
    let mut words: Vec<String> = Vec::new();
    for word in with.split(' ') {
        let parts = word.split_inclusive(['/', ':', '.', ']']).map(|part| {
            let end = part.trim_end_matches(['/', ':', '.', ']']);
            let is_number = !end.is_empty() && end.bytes().all(|byte| byte.is_ascii_digit());
            if is_number { part.replacen(end, "<n>", 1) } else { part.to_owned() }
        });
        words.push(parts.collect());
    }
    words.join(" ")
}

#[tokio::test]
async fn a_client_that_leaves_has_a_line() {
    let (log, a) = (LogPath::new(), held("a").await);
    let gateway = Gateway::configured(&file("sample = 0.0", log.path(), &[&a.backend])).await;
    let request = a.request(gateway.addr).await;
    request.abort();
    let record = &log.records(1).await[0];
    assert_eq!((&record["status"], &record["end"]), (&499.into(), &"client-left".into()));
    assert_eq!((&record["outcome"], &record["backend"]), (&"assigned".into(), &"a".into()));
    assert_eq!(record.get("first_byte_ms"), None, "there was no answer");
}

#[tokio::test]
async fn a_client_that_leaves_within_the_body_has_a_line_with_what_it_got() {
    let (log, a) = (LogPath::new(), streaming("a").await);
    let gateway = Gateway::configured(&file("", log.path(), &[&a])).await;
    let mut stream = TcpStream::connect(gateway.addr).await.unwrap();
    let request = format!("GET /stream HTTP/1.1\r\nhost: {}\r\n\r\n", gateway.addr);
    stream.write_all(request.as_bytes()).await.unwrap();
    client::read_head(&mut stream).await;
    assert!(log.lines().is_empty(), "the response has not ended");
    drop(stream);
    let record = &log.records(1).await[0];
    assert_eq!((&record["status"], &record["end"]), (&200.into(), &"client-left".into()));
    assert_eq!(record["bytes"], "begun".len());
}

#[tokio::test]
async fn a_request_that_the_server_refuses_has_a_line() {
    const BODY: &str = "Content-Length: 2000\r\n\r\n";
    let (log, a) = (LogPath::new(), echo("a").await);
    let config = file("", log.path(), &[&a]);
    let limits = "[limits]\nbody_bytes = \"1KiB\"\ntarget_bytes = \"1KiB\"";
    let gateway = Gateway::configured(&format!("{config}\n{limits}")).await;
    let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(1 << 10));
    let cases = [
        ("GET /host HTTP/1.1\r\nHost: a/b\r\n\r\n".to_owned(), 400, "/host"),
        (format!("POST /large HTTP/1.1\r\nHost: a\r\n{BODY}"), 413, "/large"),
        ("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n".to_owned(), 501, ""),
        (long, 414, "/xxx"),
    ];
    for (number, (request, status, path)) in cases.into_iter().enumerate() {
        let mut stream = TcpStream::connect(gateway.addr).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let head = client::read_head(&mut stream).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        let record = &log.records(number + 1).await[number];
        assert_eq!((&record["status"], &record["end"]), (&status.into(), &"refused".into()));
        assert!(record["path"].as_str().unwrap().starts_with(path), "{record}");
        assert_eq!(record["client"], "127.0.0.1");
        assert_eq!(record.get("outcome"), None, "no backend was chosen");
    }
}

/// A body whose length nobody knew has an outcome: a backend had its begin.
#[tokio::test]
async fn a_body_that_becomes_too_large_has_the_status_that_the_client_gets() {
    let (log, a) = (LogPath::new(), echo("a").await);
    let config = file("", log.path(), &[&a]);
    let gateway = Gateway::configured(&format!("{config}\n[limits]\nbody_bytes = \"1KiB\"")).await;
    let mut stream = TcpStream::connect(gateway.addr).await.unwrap();
    let chunk = format!("800\r\n{}\r\n", "x".repeat(0x800));
    let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(format!("{head}{chunk}").as_bytes()).await.unwrap();
    let answer = client::read_to_end(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.ends_with("too large\n"), "{answer}");
    let record = &log.records(1).await[0];
    assert_eq!((&record["status"], &record["reason"]), (&413.into(), &"client-error".into()));
}

#[tokio::test]
async fn errors_and_moves_are_written_whatever_the_sample() {
    let (log, (a, b)) = (LogPath::new(), (mortal("a").await, echo("b").await));
    let gateway = Gateway::configured(&file("sample = 0.0", log.path(), &[&a.backend, &b])).await;
    let mut client = Client::new(gateway.addr);
    while client.get("/").await.backend() != "a" {
        client.jar.clear();
    }
    client.get("/pinned").await;
    drop(a.die().await);
    client.get("/moved").await;
    client.get("/pinned").await;
    let paths: Vec<_> = log.records(1).await.iter().map(|record| record["path"].clone()).collect();
    assert_eq!(paths, ["/moved"]);
}

#[tokio::test]
async fn logrotate_loses_no_line() {
    const REQUESTS: usize = 300;
    let (log, a) = (LogPath::new(), echo("a").await);
    let gateway = Gateway::configured(&file("", log.path(), &[&a])).await;
    let addr = gateway.addr;
    let requests = tokio::spawn(async move {
        let mut client = Client::new(addr);
        for number in 0..REQUESTS {
            client.get(&format!("/{number}")).await;
        }
    });
    let mut rotated: Vec<PathBuf> = Vec::new();
    while !requests.is_finished() {
        let name = log.path().with_extension(format!("{}", rotated.len()));
        if fs::rename(log.path(), &name).is_ok() {
            rotated.push(name);
        }
        gateway.signal("HUP").await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    requests.await.unwrap();
    let all = || {
        let files = rotated.iter().map(PathBuf::as_path).chain([log.path()]);
        files.filter(|path| path.exists()).flat_map(lines).collect::<Vec<_>>()
    };
    let complete = async {
        while all().len() < REQUESTS {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let complete = timeout(FOREVER, complete).await;
    let all = all();
    rotated.iter().for_each(|path| fs::remove_file(path).unwrap());
    assert!(complete.is_ok() && all.len() == REQUESTS, "{} of {REQUESTS}", all.len());
    assert!(rotated.len() > 1, "it was rotated");
    for number in 0..REQUESTS {
        let path = format!("\"path\":\"/{number}\"");
        assert_eq!(all.iter().filter(|line| line.contains(&path)).count(), 1, "{number}");
    }
}

#[tokio::test]
async fn a_blocked_disk_stops_no_request_and_lines_are_counted_as_dropped() {
    let (pipe, a) = (LogPath::new(), echo("a").await);
    fs::remove_file(pipe.path()).unwrap();
    assert!(Command::new("mkfifo").arg(pipe.path()).status().unwrap().success());
    let mut gateway = Gateway::configured(&file("queue = 3", pipe.path(), &[&a])).await;
    let admin = gateway.admin_addr().await;
    let mut client = Client::new(gateway.addr);
    for _ in 0..20 {
        assert_eq!(client.get("/").await.status, StatusCode::OK);
    }
    // The thread may have taken the first ones, and the last response may still be ending.
    assert!(metric(admin, DROPPED).await >= 20 - 2 * 3 - 1);
    gateway.signal("TERM").await;
    assert!(gateway.ended().await.success(), "nor does it hold up the end");
}

#[tokio::test]
async fn a_stop_and_a_reload_write_what_waits() {
    let (log, other, a) = (LogPath::new(), LogPath::new(), echo("a").await);
    let mut gateway = Gateway::configured(&file("", log.path(), &[&a])).await;
    let admin = gateway.admin_addr().await;
    get(gateway.addr, "/first").await;
    gateway.rewrite(&file("format = \"common\"", other.path(), &[&a]));
    let reloaded = client::send(admin, Method::POST, "/reload", &[], "").await;
    assert_eq!(reloaded.status, StatusCode::OK, "{}", reloaded.text());
    get(gateway.addr, "/second").await;
    gateway.signal("TERM").await;
    assert!(gateway.ended().await.success());
    assert!(log.wait_for(1).await[0].contains("\"path\":\"/first\""));
    let second = other.lines();
    assert!(second.len() == 1 && second[0].contains("\"GET /second HTTP/1.1\""), "{second:?}");
}

#[tokio::test]
async fn a_log_on_the_standard_output_follows_the_address() {
    let a = echo("a").await;
    let config = format!("[access_log]\n{}", a.entry("a"));
    let mut gateway = Gateway::configured(&config).await;
    get(gateway.addr, "/there").await;
    let line = gateway.stdout_line().await;
    assert!(line.starts_with("{\"time\":") && line.contains("\"path\":\"/there\""), "{line}");
}

#[tokio::test]
async fn a_file_that_cannot_be_opened_is_refused_at_the_start_and_at_a_reload() {
    let (log, a) = (LogPath::new(), echo("a").await);
    let config = file("", log.path(), &[&a]);
    let mut gateway = Gateway::configured(&config).await;
    let admin = gateway.admin_addr().await;
    gateway.rewrite(&file("", Path::new("/no/such/directory/log"), &[&a]));
    let refused = client::send(admin, Method::POST, "/reload", &[], "").await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    assert!(refused.text().contains("access_log.file"), "{}", refused.text());
    get(gateway.addr, "/").await;
    log.wait_for(1).await;
}
