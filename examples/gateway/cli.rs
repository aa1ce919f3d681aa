//! The command line.

use std::path::PathBuf;

use lexopt::{Arg, Parser, ValueExt};

use crate::{
    config::{
        Error,
        file::{self, Zone},
    },
    demo,
};

/// What `--help` prints.
pub(crate) const HELP: &str = "\
A reverse proxy with session affinity: each user stays on the backend that holds their session.

USAGE
    gateway [OPTIONS]

Without --config and --backend it runs a demo: the gateway, three small shops as its backends, and
the admin interface on 127.0.0.1:9090.

OPTIONS
    --config FILE      Read the configuration from FILE (TOML); examples/gateway/gateway.toml has all
                       keys. A flag overrides the file.
    --listen ADDR      Listen for clients on ADDR. Port 0 takes a free port. The file can name several
                       listeners, with TLS, Unix sockets and the PROXY protocol; this flag replaces
                       them.
                       [default: 127.0.0.1:8080]
    --admin ADDR       Serve the dashboard and the admin interface on ADDR: show, drain, disable, add and
                       remove backends, explain tokens, and follow events. ADDR must be a loopback address unless the
                       file sets `admin_token`.
                       [default: off]
    --backend ID=URL[,weight=N][,max_connections=N][,backup][,zone=NAME]
                       Add a backend; may be repeated. [[backend]] and [[discover]] of the file are
                       ignored then.
                         ID               a stable name; sessions remember it
                         URL              http://host:port, https://host:port or unix:/path
                         weight           share of new sessions; 0 takes none and keeps those it has
                                          [default: 1]
                         max_connections  limit of requests in flight [default: 0, no limit]
                         backup           takes sessions only when no other backend is up
                         zone             new sessions prefer backends in the gateway's own zone,
                                          which the file names
    --cookie NAME      The name of the affinity cookie.
                       [default: SERVER_ID]
    --strategy NAME    How the backend of a new session is chosen: round-robin, least-connections,
                       least-sessions, random, p2c or peak-ewma.
                       [default: least-connections]
    --demo-store STORE Keep the carts of the demo in a store that all shops share, so that a cart is
                       found when its session moves: memory, or redis://HOST:PORT/. Only without
                       --config and --backend.
                       [default: each shop keeps carts in its own memory]
    --workers N        Number of threads that serve clients.
                       [default: the number of CPU cores]
    --state FILE       Leave the state (pins, counts, what the operator has changed) in FILE at the end,
                       and go on with it at the next start.
    --watch            Read the file again when it changes, as at SIGHUP. It is looked at once a second.
    --check            Check the configuration and exit: with 0 when it is good, with 2 and a message
                       when it is not.
    --explain TEXT     Say whose a cookie ('NAME=VALUE') or a header ('Name: value') is, when it was issued
                       and expires, and what would happen to it now, and exit. Also for the address of a
                       client, and for the head of a request. Ids that are learned in memory are known to
                       the gateway that has learned them alone: see POST /explain of its admin interface.
    --help, -h         Print this help and exit.

SIGNALS
    SIGTERM, SIGINT    Stop accepting connections, finish the requests in flight within
                       `shutdown_timeout` (30s), and exit with 0. A second signal ends the wait.
    SIGHUP             Read the file and the certificates of the listeners again, and open the file of
                       the access log again.
    SIGUSR2            Start the program anew on the same sockets, and stop when it accepts.

ENVIRONMENT
    RUST_LOG           What is logged to standard error, for example `info` for a line per request, or
                       `warn,tower_sticky=debug` for every decision, wait and attempt.  [default: warn]
                       A line per request for programs is the file's section [access_log].

EXAMPLES
    gateway --backend a=http://127.0.0.1:9001 --backend b=http://127.0.0.1:9002,weight=2
    gateway --demo-store redis://127.0.0.1:6379/
    gateway --config gateway.toml --check
    STICKY_KEY=$(openssl rand -base64 32) gateway --config gateway.toml
";

/// The flags as they were given.
#[derive(Debug, Default, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "independent flags of the command line")]
pub(crate) struct Flags {
    pub(crate) config: Option<PathBuf>,
    pub(crate) listen: Option<String>,
    pub(crate) admin: Option<String>,
    pub(crate) backends: Vec<file::Backend>,
    pub(crate) cookie: Option<String>,
    pub(crate) strategy: Option<String>,
    pub(crate) demo_store: Option<demo::Store>,
    pub(crate) workers: Option<usize>,
    pub(crate) check: bool,
    pub(crate) watch: bool,
    pub(crate) state: Option<PathBuf>,
    /// A cookie or a header that is to be explained.
    pub(crate) explain: Option<String>,
    pub(crate) help: bool,
    /// Forwards round robin to the same backends with the same server and the same HTTP client, without
    /// affinity: the baseline when the cost of affinity is measured. Not in `--help`, because it is no
    /// feature.
    pub(crate) forward_only: bool,
}

impl Flags {
    pub(crate) fn parse(mut args: Parser) -> Result<Self, Error> {
        let mut flags = Self::default();
        while let Some(arg) = args.next()? {
            match arg {
                Arg::Long("config") => {
                    flags.config = Some(args.value()?.into());
                }
                Arg::Long("listen") => flags.listen = Some(text(&mut args)?),
                Arg::Long("admin") => flags.admin = Some(text(&mut args)?),
                Arg::Long("backend") => flags.backends.push(backend(&text(&mut args)?)?),
                Arg::Long("cookie") => flags.cookie = Some(text(&mut args)?),
                Arg::Long("strategy") => flags.strategy = Some(text(&mut args)?),
                Arg::Long("demo-store") => {
                    flags.demo_store = Some(demo::Store::parse(text(&mut args)?)?);
                }
                Arg::Long("workers") => flags.workers = Some(workers(&text(&mut args)?)?),
                Arg::Long("check") => flags.check = true,
                Arg::Long("explain") => flags.explain = Some(text(&mut args)?),
                Arg::Long("state") => flags.state = Some(args.value()?.into()),
                Arg::Long("watch") => flags.watch = true,
                Arg::Long("forward-only") => flags.forward_only = true,
                Arg::Long("help") | Arg::Short('h') => flags.help = true,
                other => return Err(other.unexpected().into()),
            }
        }
        Ok(flags)
    }
}

impl From<lexopt::Error> for Error {
    fn from(error: lexopt::Error) -> Self {
        Self::new(format!("{error}; --help lists all options"))
    }
}

fn text(args: &mut Parser) -> Result<String, Error> {
    Ok(args.value()?.string()?)
}

fn workers(text: &str) -> Result<usize, Error> {
    match text.parse() {
        Ok(workers @ 1..=1024) => Ok(workers),
        _ => Err(Error::new(format!(
            "--workers {text:?} is not a number of threads; expected 1 to 1024"
        ))),
    }
}

/// Parses `ID=URL[,weight=N][,max_connections=N][,backup][,zone=NAME]`.
fn backend(text: &str) -> Result<file::Backend, Error> {
    let wrong = |why: &str| {
        Error::new(format!(
            "--backend {text:?} {why}; expected \
             ID=URL[,weight=N][,max_connections=N][,backup][,zone=NAME], for example \
             a=http://127.0.0.1:9001,weight=2"
        ))
    };
    let mut parts = text.split(',');
    let (id, url) =
        parts.next().and_then(|first| first.split_once('=')).ok_or_else(|| wrong("has no URL"))?;
    let mut backend = file::Backend::new(id, url);
    for option in parts {
        let number = |value: &str| {
            value
                .parse::<u32>()
                .map_err(|_| wrong(&format!("has {option:?}, which is not a whole number")))
        };
        match option.split_once('=') {
            Some(("weight", value)) => backend.weight = number(value)?,
            Some(("max_connections", value)) => backend.max_connections = number(value)? as usize,
            Some(("zone", name)) => {
                let zone = Zone::try_from(name.to_owned());
                backend.zone = Some(zone.map_err(|_| wrong("has a zone without a name"))?);
            }
            None if option == "backup" => backend.backup = true,
            _ => return Err(wrong(&format!("has the unknown option {option:?}"))),
        }
    }
    Ok(backend)
}
