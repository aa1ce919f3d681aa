//! The configurations of the pages, and drains.

use http::Request;
use http_body_util::Full;
pub use tower_sticky_heavy_tests::page::gateway;
use tower_sticky_heavy_tests::{client::Client, in_time, process::Gateway};

/// Drains a backend with this deadline.
pub async fn drain(gateway: &mut Gateway, id: &str, deadline: &str) {
    let mut admin = Client::new(gateway.admin_addr().await);
    let body = format!("{{\"mode\":\"draining\",\"deadline\":\"{deadline}\"}}");
    let request = Request::patch(format!("/backends/{id}")).body(Full::from(body)).unwrap();
    let response = in_time("the admin interface answers", admin.send(request)).await.unwrap();
    assert!(response.status().is_success(), "{}", response.status());
}
