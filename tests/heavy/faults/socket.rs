//! A WebSocket through the gateway.

use std::net::SocketAddr;

use futures_util::{SinkExt, StreamExt};
use http::{Request, header};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message, client::IntoClientRequest, protocol::frame::coding::CloseCode},
};
use tower_sticky_heavy_tests::{
    client::cookie,
    gateway::{REASON, VERDICT},
    in_time,
};

use crate::session::SERVER;

pub struct Socket {
    socket: WebSocketStream<TcpStream>,
    pub server: String,
    pub verdict: String,
    pub reason: String,
}

/// How a socket ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// The backend sent a close frame that asks the client to reconnect.
    ComeAgain,
    /// The connection ended without a close frame.
    Broken(String),
}

impl Socket {
    /// Opens a socket for the session with this token, if there is one.
    pub async fn open(gateway: SocketAddr, path: &str, token: &mut Option<String>) -> Self {
        let mut request: Request<()> = format!("ws://shop{path}").into_client_request().unwrap();
        if let Some(token) = token {
            let cookie = format!("sid={token}").try_into().unwrap();
            request.headers_mut().insert(header::COOKIE, cookie);
        }
        let stream = TcpStream::connect(gateway).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let opened = in_time("the socket opens", client_async(request, stream)).await;
        let (socket, response) = opened.expect("the handshake succeeds");
        if let Some(new) = cookie(&response, "sid") {
            *token = Some(new);
        }
        let text = |name| {
            let value = response.headers().get(name);
            value.map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
        };
        Self { socket, server: text(SERVER), verdict: text(VERDICT), reason: text(REASON) }
    }

    /// Sends a message and waits for its echo, or for the end.
    pub async fn ask(&mut self, text: &str) -> Result<(), End> {
        if let Err(error) = self.socket.send(Message::text(text)).await {
            return Err(End::Broken(error.to_string()));
        }
        self.next(Some(text)).await
    }

    /// Waits for the end.
    pub async fn end(mut self) -> End {
        self.next(None).await.expect_err("nothing more is said")
    }

    async fn next(&mut self, expected: Option<&str>) -> Result<(), End> {
        match in_time("something comes", self.socket.next()).await {
            Some(Ok(Message::Text(text))) if expected.is_some() => {
                assert_eq!(text.split_once(": "), Some((&*self.server, expected.unwrap())));
                Ok(())
            }
            Some(Ok(Message::Close(Some(goodbye)))) if goodbye.code == CloseCode::Restart => {
                match in_time("it ends", self.socket.next()).await {
                    None => Err(End::ComeAgain),
                    other => Err(End::Broken(format!("{other:?} after the close frame"))),
                }
            }
            other => Err(End::Broken(format!("{other:?}"))),
        }
    }

    /// Sends a close frame, and waits for that of the other end.
    pub async fn close(mut self) {
        self.socket.close(None).await.unwrap();
        while in_time("it closes", self.socket.next()).await.is_some_and(|message| message.is_ok())
        {
        }
    }
}
