//! The backend: it answers at once, sends 100 MB for `/large`, and does not read the body of a POST.

use std::{io, net::SocketAddr, sync::Arc};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// Of a slow reader's response, and of a slow upload.
pub(crate) const LARGE: usize = 100_000_000;

/// Starts it on a free port.
pub(crate) async fn start() -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let addr = listener.local_addr()?;
    drop(tokio::spawn(async move {
        let chunk: Arc<[u8]> = vec![b'x'; 64 << 10].into();
        while let Ok((stream, _)) = listener.accept().await {
            drop(tokio::spawn(serve(stream, chunk.clone())));
        }
    }));
    Ok(addr)
}

async fn serve(mut stream: TcpStream, chunk: Arc<[u8]>) -> io::Result<()> {
    let mut head = Vec::new();
    loop {
        head.clear();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        if head.starts_with(b"POST") {
            // The body stays in the buffers between.
            std::future::pending::<()>().await;
        }
        if !head.starts_with(b"GET /large") {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await?;
            continue;
        }
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n");
        stream.write_all(head.as_bytes()).await?;
        let mut left = LARGE;
        while left > 0 {
            let length = chunk.len().min(left);
            stream.write_all(&chunk[..length]).await?;
            left -= length;
        }
    }
}
