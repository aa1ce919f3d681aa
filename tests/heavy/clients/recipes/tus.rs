//! The page `tus`: uploads with the tus project's own server and client in Node.js.

use std::{
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
};

use tower_sticky_heavy_tests::backend_process::Port;

use super::{
    page,
    scripts::{Script, Server},
};

const SCRIPT: &str = "tus.mjs";
const MEBIBYTES: &str = "20";
const UPLOADS: &str = "6";

/// An empty folder, which is removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("tus-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Uploads whose clients are killed in the middle, and of whose servers one is restarted.
async fn assert_uploads_resume(configuration: usize, location: &str) {
    let folders = [(); 3].map(|()| Folder::new());
    let reserved = [(); 3].map(|()| Port::reserve());
    let ports = reserved.each_ref().map(|port| port.addr.port());
    let start = async |number: usize| {
        let port = ports[number].to_string();
        Server::start(SCRIPT, &[folders[number].path(), location, &port]).await
    };
    let (first, second, third) = tokio::join!(start(0), start(1), start(2));
    let gateway = page::gateway("tus.md", configuration, &ports).await;
    let url = format!("http://{}/files", gateway.addr);
    let mut clients = Script::start(SCRIPT, &["clients", &url, UPLOADS, MEBIBYTES]);
    assert_eq!(clients.line().await, format!("{UPLOADS} in the middle"));
    drop(first);
    clients.tell("").await;
    let first = start(0).await;
    assert_eq!(clients.line().await, format!("{UPLOADS} of {UPLOADS} resumed"), "{location}");
    drop((first, second, third));
}

#[tokio::test]
async fn uploads_resume_by_learned_locations() {
    for location in ["absolute", "relative"] {
        assert_uploads_resume(0, location).await;
    }
}

#[tokio::test]
async fn uploads_resume_by_sealed_routes() {
    assert_uploads_resume(1, "absolute").await;
}
