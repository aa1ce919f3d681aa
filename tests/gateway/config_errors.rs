//! Files that are refused: the message names the key, and says what is allowed.

use crate::process::{ConfigFile, run};

/// A run is refused with a message that has all these parts.
pub(crate) fn refused(what: &str, output: &std::process::Output, expected: &[&str]) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{what}: {stderr}");
    assert!(output.stdout.is_empty(), "{what}");
    for part in expected {
        assert!(stderr.contains(part), "{what}: {part:?} is missing in {stderr}");
    }
}

/// The error about a name server that is not an address.
const NAMESERVERS: &[&str] = match cfg!(feature = "dns") {
    true => &["upstream.nameservers", "ns1", "IP:PORT"],
    false => &["upstream.nameservers", "--features dns"],
};

/// What a file with `[[discover]]` is refused for, without the feature `dns` for the section itself.
const fn discover(why: &'static [&'static str]) -> &'static [&'static str] {
    match cfg!(feature = "dns") {
        true => why,
        false => &["discover needs the feature dns", "--features dns"],
    }
}

const COOKIE: &str = "[[affinity]]\ntype = \"cookie\"\n";
const ROUTE: &str = "[[affinity]]\ntype = \"route\"\ncookie = \"J\"\n";
const PLAIN: &str = "[[affinity]]\ntype = \"cookie\"\nformat = \"plain\"\n";

/// The error about a certificate that does not exist.
const NO_CERTIFICATE: &[&str] = match cfg!(feature = "tls") {
    true => &["listener[0].tls.certificates[0]", "/no/a", "cannot be read"],
    false => &["listener[0].tls", "--features tls"],
};

const LISTENER: &str = "[[listener]]\n";
const PORT: &str = "[[listener]]\naddress = \"127.0.0.1:0\"\n";
const SOCKET: &str = "[[listener]]\naddress = \"unix:/tmp/gateway.sock\"\n";

/// A beginning, what is wrong after it, and what the message contains.
const BAD_FILES: &[(&str, &str, &[&str])] = &[
    ("", "nonsense = 1", &["nonsense", "line 1"]),
    ("", "listen = ", &["line 1"]),
    ("", "listen = 8080", &["listen"]),
    (LISTENER, "address = 8080", &["listener[0].address"]),
    (LISTENER, "address = \"8080\"", &["listener[0].address", "HOST:PORT", "unix:/PATH"]),
    (LISTENER, "address = \"a b:80\"", &["listener[0].address", "HOST:PORT"]),
    (LISTENER, "address = \"fd:x\"", &["listener[0].address", "position of a socket"]),
    (LISTENER, "address = \"unix:\"", &["listener[0].address", "path is missing"]),
    (LISTENER, "proxy_protocol = \"off\"", &["listener[0]", "address"]),
    (
        "listen = \"127.0.0.1:0\"\n",
        "[[listener]]\naddress = \"127.0.0.1:0\"",
        &["listen:", "`address`"],
    ),
    (
        "",
        "[[listener]]\naddress = \"a:81\"\n[[listener]]\naddress = \"a:81\"",
        &["listener[1].address", "same address"],
    ),
    (PORT, "mode = \"0660\"", &["listener[0].mode", "Unix socket"]),
    (SOCKET, "mode = \"rw\"", &["listener[0].mode", "rw", "octal"]),
    (SOCKET, "mode = \"1777\"", &["listener[0].mode", "octal"]),
    (PORT, "proxy_protocol = \"maybe\"", &["listener[0].proxy_protocol", "maybe", "require"]),
    (PORT, "proxy_protocol = \"require\"", &["listener[0].proxy_protocol", "trusted_proxies"]),
    (PORT, "client_cert_header = true", &["listener[0].client_cert_header", "tls.client_auth"]),
    (PORT, "tls = true", &["listener[0].tls", "table"]),
    (PORT, "tls = {}", &["listener[0].tls", "certificates"]),
    (
        PORT,
        "tls = { certificates = [{ cert = \"a\" }] }",
        &["listener[0].tls.certificates[0]", "key"],
    ),
    (PORT, "tls = { certificates = [{ cert = \"/no/a\", key = \"/no/b\" }] }", NO_CERTIFICATE),
    ("", "shutdown_timeout = 30", &["shutdown_timeout", "duration", "30s"]),
    ("", "shutdown_timeout = \"30\"", &["shutdown_timeout", "30", "unit"]),
    ("", "shutdown_timeout = \"soon\"", &["shutdown_timeout", "duration"]),
    ("", "shutdown_timeout = \"999999h\"", &["shutdown_timeout", "too long", "366d"]),
    ("", "trusted_proxies = [\"10.0.0.0/33\"]", &["trusted_proxies[0]", "10.0.0.0/33", "CIDR"]),
    ("", "admin = \"0.0.0.0:9090\"", &["admin_token"]),
    ("", "admin_token = \"\"", &["admin_token", "empty"]),
    ("", "admin_hosts = \"a\"", &["admin_hosts"]),
    ("", "admin_hosts = [\"a\", \"b:1\"]", &["admin_hosts[1]", "b:1", "without a port"]),
    ("", "admin_hosts = [\"\"]", &["admin_hosts[0]", "a name"]),
    ("", "pool = \"\"", &["pool"]),
    ("", "[limits]\nconnections = 0", &["limits.connections"]),
    ("", "[limits]\nheader_timeout = \"0s\"", &["limits.header_timeout"]),
    ("", "[limits]\nbody_timeout = \"0s\"", &["limits.body_timeout"]),
    ("", "[limits]\nspeed = 1", &["limits.speed", "body_timeout"]),
    ("", "[upstream]\nresolve_every = \"0s\"", &["upstream.resolve_every"]),
    ("", "[upstream]\nhttp2 = \"often\"", &["upstream.http2", "often", "auto"]),
    ("", "[upstream]\nsend_proxy = \"v3\"", &["upstream.send_proxy", "v3", "v1"]),
    (
        "[upstream]\nhttp2 = \"auto\"\n",
        "[[backend]]\nid = \"b\"\nurl = \"http://b:1\"\nsend_proxy = \"v2\"",
        &["backend[0].send_proxy = \"v2\"", "upstream.http2 = \"off\""],
    ),
    (
        "",
        "[upstream]\nsend_proxy = \"v1\"\nhttp2 = \"on\"",
        &["upstream.send_proxy", "upstream.http2 = \"off\""],
    ),
    ("", "[upstream]\nidle_timeout = \"0s\"", &["upstream.idle_timeout"]),
    ("", "[[backend]]\nid = \"b\"\nurl = \"unix:app.sock\"", &["backend[0].url", "relative"]),
    (
        "",
        "[[backend]]\nid = \"b\"\nurl = \"http://b:1\"\nverify = false",
        &["backend[0].verify", "https"],
    ),
    (
        "",
        "[[backend]]\nid = \"b\"\nurl = \"http://b.test\"\nresolve_every = \"0s\"",
        &["backend[0].resolve_every"],
    ),
    ("", "[upstream]\nnameservers = [\"ns1\"]", NAMESERVERS),
    ("", COOKIE, &["affinity[0].keys", "sealed", "openssl"]),
    (COOKIE, "keys = [\"env:NO_SUCH_KEY\"]", &["affinity[0].keys[0]", "NO_SUCH_KEY", "not set"]),
    (COOKIE, "keys = [\"base64:c2hvcnQ=\"]", &["affinity[0].keys[0]", "5 bytes", "32"]),
    (COOKIE, "keys = [\"hunter2\"]", &["affinity[0].keys[0]", "env:NAME", "base64:"]),
    (COOKIE, "keys = []", &["affinity[0].keys"]),
    (PLAIN, "keys = [\"env:X\"]", &["affinity[0].keys", "plain"]),
    (PLAIN, "idle_timeout = \"5m\"", &["affinity[0].idle_timeout = 300s", "plain", "timeouts"]),
    (PLAIN, "lifetime = \"permanent\"", &["affinity[0].lifetime", "absolute timeout"]),
    (PLAIN, "same_site = \"none\"", &["affinity[0].same_site = None", "SameSite"]),
    (PLAIN, "same_site = \"sometimes\"", &["affinity[0].same_site", "sometimes", "strict"]),
    (PLAIN, "name = \"a=b\"", &["affinity[0].name", "a=b"]),
    (PLAIN, "header = \"x\"", &["affinity[0].header", "type \"cookie\""]),
    ("", "[[affinity]]\ntype = \"magic\"", &["affinity[0].type", "magic", "cookie"]),
    (
        "",
        "[[affinity]]\ntype = \"key\"",
        &["affinity[0]", "exactly one of header, cookie and query"],
    ),
    (
        "",
        "[[affinity]]\ntype = \"key\"\nheader = \"host\"",
        &["affinity[0].header", "host", "HTTP itself"],
    ),
    ("", "[[affinity]]\ntype = \"key\"\nname = \"u\"", &["`name`", "type \"key\""]),
    ("", "[[affinity]]\ntype = \"header\"\nformat = \"plain\"", &["affinity[0].name", "missing"]),
    (
        "",
        "[[affinity]]\ntype = \"client-ip\"\nipv4_prefix = 33",
        &["affinity[0].ipv4_prefix", "33", "at most 32"],
    ),
    (PLAIN, "query = \"u\"", &["`query`", "type \"cookie\""]),
    ("", "[[affinity]]\ntype = \"learned\"", &["affinity[0]", "learned", "JSESSIONID"]),
    ("", "[[affinity]]\ntype = \"envelope\"\ncookie = \"J\"", &["affinity[0].keys"]),
    ("", "[[affinity]]\ntype = \"route\"", &["affinity[0]", "route", "path and path_parameter"]),
    (ROUTE, "header = \"x\"", &["affinity[0]", "exactly one"]),
    (ROUTE, "separator = \"x\"", &["affinity[0].separator = 'x'", "neither a letter"]),
    (ROUTE, "separator = \"..\"", &["affinity[0].separator"]),
    (ROUTE, "position = \"prefix\"", &["affinity[0].position", "no separator"]),
    (ROUTE, "format = \"sealed\"", &["affinity[0].keys", "sealed", "openssl"]),
    (ROUTE, "keys = [\"env:X\"]", &["affinity[0].keys", "plain"]),
    ("", "[[affinity]]\ntype = \"route\"\npath = \"/files\"", &["affinity[0].path", "braces"]),
    (COOKIE, "keys = [\"file:/no/such/file\"]", &["affinity[0].keys[0]", "/no/such/file"]),
    (
        "[[affinity]]\ntype = \"learned\"\ncookie = \"J\"\n",
        "store = \"redis://localhost\"",
        &["affinity[0].store", "no keys", "env:STICKY_KEY"],
    ),
    (
        "[[affinity]]\ntype = \"learned\"\ncookie = \"J\"\n",
        "store = \"mysql://:hunter2@db\"",
        &["affinity[0].store", "unknown", "memory", "redis://"],
    ),
    (
        "[[affinity]]\ntype = \"learned\"\ncookie = \"J\"\nstore = \"redis://:hunter2@h/x\"\n",
        "keys = [\"base64:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\"]",
        &["affinity[0].store", "Redis", "redis://"],
    ),
    (
        "[[affinity]]\ntype = \"learned\"\ncookie = \"J\"\n",
        "store = \"env:NO_SUCH_VARIABLE\"",
        &["affinity[0].store", "NO_SUCH_VARIABLE", "not set"],
    ),
    (
        "[[affinity]]\ntype = \"learned\"\ncookie = \"J\"\n",
        "on_store_down = \"reject\"",
        &["affinity[0].on_store_down", "redis://"],
    ),
    ("", "[strict]\nstatus = 503", &["strict.status", "503", "at least 400 and at most 499"]),
    ("", "[strict]\nstatus = 7", &["strict.status", "7"]),
    (
        "",
        "[strict]\nunavailable_status = 200",
        &["strict.unavailable_status", "200", "at least 400 and at most 599"],
    ),
    ("", "[strict]\nexpired = 1", &["strict.expired"]),
    ("", "[strict]\nunavailable = \"reject\"", &["unavailable", "unavailable_status"]),
    ("", "[strategy]\ntype = \"best\"", &["strategy.type", "best", "random"]),
    ("", "[strategy]\nbalance_factor = 1.25", &["strategy.balance_factor = 1.25", "hash modes"]),
    (
        "[[affinity]]\ntype = \"client-ip\"\n",
        "[strategy]\nbalance_factor = 0.5",
        &["strategy.balance_factor = 0.5", "1.25"],
    ),
    ("", "[failover]\nbusy = \"wait\"", &["failover.busy", "wait", "borrow"]),
    ("", "[health]\nprobe = {}", &["health.probe", "path"]),
    ("", "[health]\nprobe = { path = \"healthz\" }", &["health.probe.path", "healthz", "'/'"]),
    ("", "[health.probe]\npath = \"/\"\ninterval = \"0s\"", &["health.probe.interval"]),
    ("", "[health.probe]\npath = \"/\"\ntimeout = \"0s\"", &["health.probe.timeout"]),
    ("", "[health.probe]\npath = \"/\"\nrise = 0", &["health.probe.rise", "at least 1"]),
    ("", "[health.probe]\npath = \"/\"\nfall = 0", &["health.probe.fall", "at least 1"]),
    ("", "[health.probe]\npath = \"/\"\nspeed = 1", &["speed", "interval"]),
    ("", "[health.probe]\ninterval = \"1s\"", &["health.probe", "exactly one of path and grpc"]),
    (
        "",
        "[health]\nprobe = { path = \"/\", grpc = \"\" }",
        &["health.probe", "exactly one of path and grpc"],
    ),
    (
        "",
        "[health]\nprobe = { path = \"/\", method = \"GET /\" }",
        &["health.probe.method = \"GET /\"", "OPTIONS"],
    ),
    (
        "",
        "[health]\nprobe = { path = \"/\", host = \"http://a\" }",
        &["health.probe.host = \"http://a\"", "app.internal"],
    ),
    (
        "",
        "[health]\nprobe = { path = \"/\", headers = { content-length = \"hunter2\" } }",
        &["health.probe.headers.content-length", "leave it out"],
    ),
    (
        "",
        "[health]\nprobe = { path = \"/\", headers = { a = \"hunter2\\n\" } }",
        &["health.probe.headers.a", "visible ASCII"],
    ),
    (
        "",
        "[health]\nprobe = { path = \"/\", status = [] }",
        &["health.probe.status", "at least one"],
    ),
    (
        "",
        "[health]\nprobe = { path = \"/\", status = [200, 42] }",
        &["health.probe.status[1]", "42", "200 to 599"],
    ),
    (
        "",
        "[health]\nprobe = { path = \"/\", status = [\"300-200\"] }",
        &["health.probe.status[0]", "300-200", "\"200-299\""],
    ),
    (
        "",
        "[health]\nprobe = { grpc = \"\", status = [200] }",
        &["health.probe.status", "instead of grpc"],
    ),
    ("", "[health]\nprobes_in_flight = 0", &["health.probes_in_flight", "at least 1"]),
    ("", "[health]\nslow_start = 5", &["health.slow_start", "duration"]),
    ("", "[health]\noutlier = { consecutive_5xx = -1 }", &["health.outlier.consecutive_5xx", "-1"]),
    ("", "[health]\noutlier = { max_ejected = 50 }", &["health.outlier.max_ejected", "50", "1.0"]),
    ("", "[health]\noutlier = { max_ejected = nan }", &["health.outlier.max_ejected", "1.0"]),
    ("", "[health]\nredial = \"0s\"", &["health.redial", "1ms"]),
    ("", "[health]\nredial = \"2s\"\nredial_max = \"1s\"", &["health.redial_max", "2s"]),
    ("", "[failover]\nmax_attempts = 0", &["failover.max_attempts", "at least 1"]),
    ("", "[failover]\nhome_wait = 1", &["failover.home_wait", "duration"]),
    ("", "[rebalance]\ntolerance = 1", &["rebalance.tolerance", "1.25"]),
    ("", "[rebalance]\ntolerance = nan", &["rebalance.tolerance", "1.25"]),
    ("", "[rebalance]\nidle_for = \"500ms\"", &["rebalance.idle_for = 500ms", "one second"]),
    ("", "[rebalance]\nidle_for = 300", &["rebalance.idle_for", "duration"]),
    ("", "[rebalance]\nmax_per_second = 0", &["rebalance.max_per_second", "at least 1"]),
    ("", "[rebalance]\nmax_per_second = -1", &["rebalance.max_per_second", "-1"]),
    ("", "[rebalance]\nspeed = 1", &["rebalance.speed", "max_per_second"]),
    (PLAIN, "[rebalance]", &["rebalance", "sealed"]),
    ("", "[failover]\nbackup = \"leave\"", &["failover.backup", "leave", "stay", "return"]),
    ("", "zone = \"\"", &["zone", "eu-1"]),
    ("", "[[backend]]\nid = \"b\"\nurl = \"http://b:1\"\nzone = \"\"", &["zone", "eu-1"]),
    (
        "",
        "[[backend]]\nid = \"b\"\nurl = \"http://b:1\"\nbackup = \"yes\"",
        &["backend[0].backup", "yes"],
    ),
    (
        "",
        "[application]\nheader = \"set-cookie\"",
        &["application.header", "set-cookie", "HTTP itself"],
    ),
    ("", "[session_headers]\nreplicas = 2", &["session_headers.replicas", "enabled = true"]),
    ("", "[[discover]]", &["discover[0]", "`dns`"]),
    (
        "",
        "[[discover]]\ndns = \"\"",
        discover(&["discover[0].dns = \"\"", "_http._tcp.app.example"]),
    ),
    (
        "",
        "[[discover]]\ndns = \"app.test\"",
        discover(&["discover[0].dns = \"app.test\"", "app.example:8080"]),
    ),
    (
        "",
        "[[discover]]\ndns = \"app.test:0\"",
        discover(&["discover[0].dns = \"app.test:0\"", "1 to 65535"]),
    ),
    (
        "",
        "[[discover]]\ndns = \"http://app.test:80\"",
        discover(&["discover[0].dns", "not a name"]),
    ),
    ("", "[[discover]]\ndns = \"10.0.0.1:80\"", discover(&["discover[0].dns", "is an address"])),
    ("", "[[discover]]\ndns = \"[::1]:80\"", discover(&["discover[0].dns", "not a name"])),
    ("", "[[discover]]\ndns = \"a..test:80\"", discover(&["discover[0].dns", "not a domain name"])),
    (
        "",
        "[[discover]]\ndns = \"_http._tcp.app.test:80\"",
        discover(&["discover[0].dns", "leave the port out"]),
    ),
    (
        "",
        "[[discover]]\ndns = \"app.test:80\"\nid = \"target\"",
        discover(&["discover[0].id = \"target\"", "SRV"]),
    ),
    (
        "",
        "[[discover]]\ndns = \"app.test:80\"\nid = \"name\"",
        &["discover[0].id", "name", "address", "target"],
    ),
    (
        "[[discover]]\ndns = \"app.test:80\"\n",
        "[[discover]]\ndns = \"app.test:80\"",
        discover(&["discover[1].dns = \"app.test:80\"", "earlier"]),
    ),
    ("", "[[backend]]\nid = \"b\"", &["backend[0]", "`url`"]),
    ("", "[[backend]]\nid = \"b\"\nurl = \"b\"", &["backend[0].url", "scheme"]),
    ("", "[[backend]]\nid = \"a\"\nurl = \"http://b:1\"", &["backend[1].id = \"a\"", "taken"]),
];

#[tokio::test]
async fn bad_files_are_refused() {
    for (before, text, expected) in BAD_FILES {
        // With a good backend, so that nothing else is wrong.
        let backend = "\n[[backend]]\nid = \"a\"\nurl = \"http://127.0.0.1:1\"\n";
        let file = ConfigFile::new(&format!("{before}{text}\n{backend}"));
        let output = run(&["--check", "--config", file.path().to_str().unwrap()], &[]).await;
        refused(text, &output, expected);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!stderr.contains("hunter2"), "a secret is repeated: {stderr}");
    }
    let no_backend = ConfigFile::new("server_timing = true");
    let output = run(&["--config", no_backend.path().to_str().unwrap()], &[]).await;
    refused("no backend", &output, &["[[backend]]", "--backend"]);
}
