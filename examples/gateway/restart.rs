//! Starts the program anew on the same sockets, and hands the state over (SIGUSR2).
//!
//! The new process has one end of a pair of sockets as its standard input. It says `ready` when it could accept, the
//! old one stops accepting and sends its state, and the new one says `listening` when it accepts. Behind `ready` are the
//! addresses of the sockets that the old one has to close, because other ones that the new one is to open overlap with
//! them.

use std::{
    env, io,
    net::SocketAddr,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream as StdStream,
    },
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use command_fds::{CommandFdExt, FdMapping};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    time::timeout,
};

use crate::config::Error;

/// Set for a process that takes over from its parent.
const TAKES_OVER: &str = "GATEWAY_TAKES_OVER";
/// The first file descriptor that is passed on (sd_listen_fds(3)).
const FIRST_FD: i32 = 3;

const READY: &str = "ready";
const LISTENING: &str = "listening";

/// How this program was started.
#[derive(Debug)]
pub(crate) struct Program {
    /// Read at the start: the file may be replaced later.
    path: io::Result<PathBuf>,
}

impl Program {
    pub(crate) fn running() -> Self {
        Self { path: env::current_exe() }
    }

    /// Starts the program anew, and returns when it accepts. `pause` stops accepting here, closes the sockets at the
    /// addresses that it gets, and returns the state; if an error is returned after that, accepting has to be resumed.
    pub(crate) async fn replace(
        &self,
        sockets: Vec<OwnedFd>,
        limit: Duration,
        pause: impl AsyncFnOnce(Vec<SocketAddr>) -> Vec<u8>,
    ) -> Result<(), Error> {
        let wrong = |why: String| Error::new(format!("the new process: {why}"));
        if std::process::id() == 1 {
            return Err(Error::new(
                "this is process 1 of a container, which ends with it; start another container instead",
            ));
        }
        let (control, mut child) =
            self.spawn(sockets).map_err(|error| wrong(format!("cannot start: {error}")))?;
        let handed_over = async {
            let mut control = BufReader::new(UnixStream::from_std(control)?);
            let in_the_way = expect(&mut control, READY).await?;
            let state = pause(addresses(&in_the_way)?).await;
            control.write_all(&state).await?;
            control.shutdown().await?;
            expect(&mut control, LISTENING).await.map(drop)
        };
        match timeout(limit, handed_over).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => end(&mut child, &error.to_string()),
            Err(_) => end(&mut child, &format!("it has said nothing for {limit:?}")),
        }
        .map_or_else(|error| Err(wrong(error.to_string())), |why| Err(wrong(why)))
    }

    fn spawn(&self, sockets: Vec<OwnedFd>) -> io::Result<(StdStream, Child)> {
        let path = self.path.as_ref().map_err(|error| io::Error::other(error.to_string()))?;
        let (own, theirs) = StdStream::pair()?;
        own.set_nonblocking(true)?;
        let count = sockets.len();
        let mappings = (FIRST_FD..).zip(sockets);
        let mappings = mappings.map(|(child_fd, parent_fd)| FdMapping { parent_fd, child_fd });
        let mut command = Command::new(path);
        command
            .args(env::args_os().skip(1))
            .env(TAKES_OVER, "1")
            .env("LISTEN_FDS", count.to_string())
            .env_remove("LISTEN_PID")
            .stdin(Stdio::from(OwnedFd::from(theirs)));
        command.fd_mappings(mappings.collect()).map_err(io::Error::other)?;
        Ok((own, command.spawn()?))
    }
}

/// Ends a child that has failed, and says why it has.
fn end(child: &mut Child, why: &str) -> io::Result<String> {
    let ended = child.try_wait()?;
    child.kill()?;
    let status = child.wait()?;
    Ok(match ended {
        Some(_) => format!("it has ended ({status})"),
        None => why.to_owned(),
    })
}

/// Reads a line that begins with this word, and returns the rest of it.
async fn expect(control: &mut BufReader<UnixStream>, word: &str) -> io::Result<String> {
    let mut line = String::new();
    control.read_line(&mut line).await?;
    let line = line.trim_end();
    let (said, rest) = line.split_once(' ').unwrap_or((line, ""));
    if said == word {
        return Ok(rest.to_owned());
    }
    Err(io::Error::other(match said {
        "" => format!("it has ended before it was {word}"),
        _ => format!("it says {said:?} in place of {word:?}"),
    }))
}

fn addresses(text: &str) -> io::Result<Vec<SocketAddr>> {
    let parsed = text.split_whitespace().map(str::parse);
    parsed.collect::<Result<_, _>>().map_err(io::Error::other)
}

/// The old process, as the new one sees it.
#[derive(Debug)]
pub(crate) struct Predecessor(UnixStream);

impl Predecessor {
    /// The process that this one takes over from, if any.
    pub(crate) fn find() -> io::Result<Option<Self>> {
        if env::var_os(TAKES_OVER).is_none() {
            return Ok(None);
        }
        let control = StdStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        control.set_nonblocking(true)?;
        Ok(Some(Self(UnixStream::from_std(control)?)))
    }

    /// Stops the old process accepting, lets it close its sockets at these addresses, and returns its state.
    pub(crate) async fn state(
        &mut self,
        in_the_way: impl Iterator<Item = SocketAddr>,
    ) -> io::Result<Vec<u8>> {
        let mut line = READY.to_owned();
        for addr in in_the_way {
            line.push_str(&format!(" {addr}"));
        }
        self.0.write_all(format!("{line}\n").as_bytes()).await?;
        let mut state = Vec::new();
        self.0.read_to_end(&mut state).await?;
        Ok(state)
    }

    /// This process accepts now.
    pub(crate) async fn dismiss(mut self) -> io::Result<()> {
        self.0.write_all(format!("{LISTENING}\n").as_bytes()).await
    }
}
