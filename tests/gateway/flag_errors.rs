//! Flags that are refused: the message names the flag, and says what is allowed.

use crate::{config_errors::refused, process::run};

#[tokio::test]
async fn bad_flags_are_refused() {
    let cases: [(&[&str], &[&str]); 23] = [
        (&["--nonsense"], &["--nonsense", "--help"]),
        (&["stray"], &["stray"]),
        (&["--listen"], &["--listen"]),
        (&["--listen", "here"], &["--listen", "here", "IP:PORT"]),
        (&["--workers", "0"], &["--workers", "1 to 1024"]),
        (&["--strategy", "best"], &["--strategy", "best", "round-robin", "peak-ewma"]),
        (&["--cookie", "a b"], &["--cookie", "a b"]),
        (&["--demo-store"], &["--demo-store"]),
        (&["--demo-store", "disk"], &["--demo-store", "memory", "redis://127.0.0.1:6379/"]),
        (&["--demo-store", "redis://a b"], &["--demo-store", "expected redis://"]),
        (&["--demo-store", "memory", "--backend", "a=http://a:1"], &["--demo-store", "--backend"]),
        (&["--demo-store", "memory", "--config", "/dev/null"], &["--demo-store", "--config"]),
        (&["--config", "/no/such/file.toml"], &["/no/such/file.toml"]),
        (&["--backend", "http://a:1"], &["--backend", "ID=URL"]),
        (&["--backend", "a=ftp://a:1"], &["--backend a: url", "scheme"]),
        (&["--backend", "a=http://a:1/app"], &["--backend", "path"]),
        (&["--backend", "a;b=http://a:1"], &["--backend", "a;b"]),
        (&["--backend", "a=http://a:1,weight=x"], &["weight=x", "whole number"]),
        (&["--backend", "a=http://a:1,speed=9"], &["speed=9", "max_connections"]),
        (&["--backend", "a=http://a:1,backup=maybe"], &["backup=maybe", "[,backup]"]),
        (&["--backend", "a=http://a:1,zone="], &["zone", "name"]),
        (
            &["--backend", "a=http://a:1", "--backend", "a=http://a:2"],
            &["--backend", "\"a\"", "taken"],
        ),
        (
            &["--backend", "a=http://a:1", "--admin", "0.0.0.0:9090"],
            &["--admin", "admin_token", "loopback"],
        ),
    ];
    for (args, expected) in cases {
        let with_check = [&["--check"], args].concat();
        // A start fails with the same message as a check.
        for args in [&with_check, args] {
            let output = run(args, &[]).await;
            refused(&format!("{args:?}"), &output, expected);
        }
    }
}

#[tokio::test]
async fn the_password_of_the_demo_store_is_not_repeated() {
    for address in ["http://:secret@a", "redis://:secret@", "rediss://:secret@a:port/"] {
        let output = run(&["--demo-store", address], &[]).await;
        refused(address, &output, &["--demo-store"]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!stderr.contains("secret"), "the password is repeated: {stderr}");
    }
}
