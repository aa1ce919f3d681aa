//! The backends: nginx, on many ports, and a server that echoes.

use std::{env, fs, io, net::SocketAddr, path::Path, process::Command};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::{
    Failure, LOAD_CORE,
    certificate::Certificate,
    peer::Setup,
    process::on_core,
    proxy_process::{self, Proxy},
};

const FEW: usize = 4;
const MANY: usize = 64;
/// Of a large answer, and of an upload.
pub(crate) const LARGE: usize = 1 << 20;

/// They end when this is dropped.
#[derive(Debug)]
pub(crate) struct Backends {
    nginx: Vec<SocketAddr>,
    echo: [SocketAddr; 1],
    pub(crate) certificate: Certificate,
    _process: Proxy,
}

impl Backends {
    pub(crate) async fn start() -> Result<Self, Failure> {
        let folder = env::temp_dir().join("peers");
        fs::create_dir_all(&folder)?;
        let certificate = Certificate::make(&folder)?;
        fs::write(folder.join("large"), vec![b'x'; LARGE])?;
        let nginx = proxy_process::free_addrs::<MANY>()?.to_vec();
        let mut command = Command::new("nginx");
        command.arg("-p").arg(&folder).args(["-e", "stderr", "-c"]);
        let command = on_core(LOAD_CORE, &command);
        let process = Proxy::run(command, nginx[0], &config(&folder, &nginx)).await?;
        Ok(Self { nginx, echo: [echo().await?], certificate, _process: process })
    }

    pub(crate) fn of(&self, setup: Setup) -> &[SocketAddr] {
        match setup {
            Setup::Plain | Setup::Sealed => &self.nginx[..FEW],
            Setup::Many => &self.nginx,
            Setup::Echo => &self.echo,
        }
    }
}

/// 100 bytes for `/`, and `/large`; the body of a request is read and dropped.
fn config(folder: &Path, addrs: &[SocketAddr]) -> String {
    let folder = folder.display();
    let listen: String = addrs.iter().map(|addr| format!("listen {addr};\n")).collect();
    let small = "x".repeat(100);
    format!(
        "daemon off;\nmaster_process off;\npid {folder}/nginx.pid;\nerror_log stderr crit;\n\
         events {{ worker_connections 4096; }}\nhttp {{\naccess_log off;\n\
         keepalive_requests 100000000;\nkeepalive_timeout 600s;\nclient_max_body_size 0;\n\
         client_body_temp_path {folder}/body;\nproxy_temp_path {folder}/proxy;\n\
         fastcgi_temp_path {folder}/f;\nuwsgi_temp_path {folder}/u;\nscgi_temp_path {folder}/s;\n\
         sendfile on;\nserver {{\n{listen}root {folder};\n\
         location = /large {{ }}\nlocation / {{ return 200 \"{small}\"; }}\n}}\n}}\n"
    )
}

/// Switches protocols, and sends back what it is sent.
async fn echo() -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let addr = listener.local_addr()?;
    drop(tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            drop(tokio::spawn(serve_echo(stream)));
        }
    }));
    Ok(addr)
}

async fn serve_echo(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let is_upgrade = head.to_ascii_lowercase().windows(9).any(|part| part == b"\nupgrade:");
    if !is_upgrade {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        return stream.write_all(answer).await;
    }
    // The answer to this key (RFC 6455, section 1.3).
    stream
        .write_all(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
              Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
        )
        .await?;
    let mut bytes = [0; 4096];
    loop {
        let count = stream.read(&mut bytes).await?;
        if count == 0 {
            return Ok(());
        }
        stream.write_all(&bytes[..count]).await?;
    }
}
