//! The gateway's admin interface.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Method, Request};
use serde_json::{Value, json};
use tower_sticky_heavy_tests::{client::Client, in_time};

#[derive(Debug, Clone, Copy)]
pub struct Admin(pub SocketAddr);

impl Admin {
    /// Calls it, which must work.
    pub async fn call(&self, method: Method, path: &str, body: &Value) -> Value {
        serde_json::from_slice(&self.answer(method, path, body).await).unwrap_or_default()
    }

    async fn answer(&self, method: Method, path: &str, body: &Value) -> Bytes {
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let request = Request::builder().method(&method).uri(path).body(text.into()).unwrap();
        let mut client = Client::new(self.0);
        let answer = in_time("the operator is answered", client.send(request)).await.unwrap();
        let (status, said) = (answer.status(), answer.into_body());
        assert!(status.is_success(), "{method} {path} {body}: {status} {said:?}");
        said
    }

    /// The sum of the values of a metric.
    pub async fn metric(&self, name: &str) -> u64 {
        let all = self.answer(Method::GET, "/metrics", &Value::Null).await;
        let all = String::from_utf8_lossy(&all).into_owned();
        let lines = all.lines().filter(|line| line.starts_with(name));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
    }

    pub async fn backends(&self) -> Vec<Value> {
        let all = self.call(Method::GET, "/backends", &Value::Null).await;
        all.as_array().unwrap().clone()
    }

    pub async fn violations(&self) -> u64 {
        self.call(Method::GET, "/stats", &Value::Null).await["violations"].as_u64().unwrap()
    }

    pub async fn patch(&self, id: &str, change: Value) {
        self.call(Method::PATCH, &format!("/backends/{id}"), &change).await;
    }

    pub async fn remove(&self, id: &str) {
        self.call(Method::DELETE, &format!("/backends/{id}"), &Value::Null).await;
    }

    pub async fn put(&self, id: &str, backend: SocketAddr) {
        let body = json!({ "url": format!("http://{backend}") });
        self.call(Method::PUT, &format!("/backends/{id}"), &body).await;
    }
}
