//! Sessions with sealed cookies, whose requests go to any gateway.

use std::{fmt, sync::Arc, time::Duration};

use http::{HeaderValue, Request, header};
use tower_service::Service;

use crate::{
    Failure,
    plan::{Change, LAG, Options, SECONDS, replacements},
    progress::Progress,
    view::View,
    world::{Clock, Random, World, unwrap_infallible},
};

/// A session sends requests at so many times, one in each quarter of the simulation.
const VISITS: u64 = 4;
/// When the gateways begin to learn of the second key, to use it first, and to forget the first one.
const ROTATION: [(u64, &[u8]); 3] = [(100, &[1, 2]), (150, &[2, 1]), (330, &[2])];
/// How far a clock is ahead or behind, in seconds.
const SKEW: u64 = 300;
/// One server in so many crashes each second.
const CRASHES: u64 = 2_000;
/// The gateways of one delay lose their memory so many seconds after those of another.
const RESTARTS: u64 = 7;

/// The progress is told after so many seconds.
const TOLD: u64 = 10;

/// A client with its cookie.
#[derive(Default)]
struct Session {
    cookie: Option<HeaderValue>,
    home: Option<usize>,
}

/// What was counted.
#[derive(Debug, Default)]
pub(crate) struct Counted {
    requests: u64,
    /// Requests that no server has answered.
    pub(crate) refused: u64,
    /// Sessions that had to move: the server had left the pool, or did not run.
    pub(crate) necessary: u64,
    /// Requests that another server has answered although that of the session ran and had not left.
    moved_without_need: u64,
    /// Sessions that began again although their token was good.
    lost: u64,
    /// Two requests at one time that had to move, and moved to two servers.
    disagreements: u64,
    crashes: u64,
    restarts: u64,
    fewest: u64,
    most: u64,
}

impl Counted {
    /// What must not happen.
    pub(crate) fn needless(&self) -> u64 {
        self.moved_without_need + self.lost
    }
}

struct Simulation {
    options: Options,
    world: Arc<World>,
    clock: Clock,
    views: Vec<View>,
    random: Random,
    counted: Counted,
    /// When servers that have crashed run again.
    returns: Vec<(u64, usize)>,
    /// Servers whose process has ended for good.
    stopped: Vec<bool>,
}

pub(crate) async fn simulate(options: Options, progress: Progress) -> Result<Counted, Failure> {
    progress.tell("the gateways start");
    let servers = options.backends as usize;
    let (world, clock) = (World::new(servers * 2), Clock::new());
    let views = (0..=LAG).map(|lag| View::new(&world, &clock, servers, options.seed + lag));
    let mut simulation = Simulation {
        options,
        views: views.collect::<Result<_, _>>()?,
        world,
        clock,
        random: Random(options.seed),
        counted: Counted::default(),
        returns: Vec::new(),
        stopped: vec![false; servers * 2],
    };
    let mut sessions: Vec<Session> = Vec::new();
    sessions.resize_with(options.sessions as usize, Session::default);
    let changes = replacements(options.backends);
    let quarter = SECONDS / VISITS;
    for second in 0..SECONDS {
        if second.is_multiple_of(TOLD) {
            let requests = simulation.counted.requests;
            progress.tell(format_args!(
                "sealed cookies: second {second} of {SECONDS}, {requests} requests"
            ));
        }
        simulation.change(second, &changes)?;
        tokio::time::advance(Duration::from_secs(1)).await;
        // The background task of each pool has its turn.
        tokio::task::yield_now().await;
        for session in
            sessions.iter_mut().skip((second % quarter) as usize).step_by(quarter as usize)
        {
            simulation.visit(session).await?;
        }
    }
    let mut counts = vec![0_u64; servers];
    for home in sessions.iter().filter_map(|session| session.home) {
        if let Some(count) = home.checked_sub(servers).and_then(|new| counts.get_mut(new)) {
            *count += 1;
        }
    }
    let mut counted = simulation.counted;
    counted.fewest = counts.iter().copied().min().unwrap_or(0);
    counted.most = counts.iter().copied().max().unwrap_or(0);
    Ok(counted)
}

impl Simulation {
    /// What happens in this second, to the servers and in the gateways.
    fn change(&mut self, second: u64, changes: &[Vec<Change>]) -> Result<(), Failure> {
        for (lag, view) in self.views.iter_mut().enumerate() {
            let Some(known) = second.checked_sub(lag as u64) else { continue };
            view.change(&changes[known as usize])?;
            for (_, keys) in ROTATION.iter().filter(|(at, _)| *at == known) {
                view.set_keys(keys)?;
            }
        }
        for change in &changes[second as usize] {
            if let Change::Stop(number) = *change {
                self.stopped[number] = true;
                self.world.set_running(number, false);
            }
        }
        let (back, out): (Vec<_>, Vec<_>) =
            self.returns.drain(..).partition(|(at, _)| *at <= second);
        self.returns = out;
        for (_, number) in back {
            self.world.set_running(number, !self.stopped[number]);
        }
        let crashes = self.options.backends.div_ceil(CRASHES);
        for _ in 0..crashes {
            let number = self.random.below(self.options.backends * 2) as usize;
            if self.world.is_running(number) {
                self.world.set_running(number, false);
                self.returns.push((second + 3 + self.random.below(20), number));
                self.counted.crashes += 1;
            }
        }
        if second % RESTARTS == RESTARTS - 1 {
            let view = self.random.below(self.views.len() as u64) as usize;
            self.views[view].restart()?;
            self.counted.restarts += 1;
        }
        Ok(())
    }

    /// Two requests at one time to two gateways, then one with what the responses have set.
    async fn visit(&mut self, session: &mut Session) -> Result<(), Failure> {
        if session.cookie.is_none() {
            return self.request(session).await.map(drop);
        }
        let mut copy = Session { cookie: session.cookie.clone(), home: session.home };
        let (first, second) = (self.request(session).await?, self.request(&mut copy).await?);
        if let (Some(first), Some(second)) = (first, second)
            && first != second
        {
            self.counted.disagreements += 1;
        }
        // As in a browser, the later cookie counts.
        if copy.home != session.home {
            *session = copy;
        }
        self.request(session).await.map(drop)
    }

    /// Sends a request of the session to any gateway. Returns the server that has answered.
    async fn request(&mut self, session: &mut Session) -> Result<Option<usize>, Failure> {
        // The delay and the clock of a gateway follow from its number.
        let gateway = self.random.below(self.options.gateways);
        let mut fixed = Random(self.options.seed ^ (gateway << 20));
        let lag = fixed.below(LAG + 1) as usize;
        self.clock.set_ahead(fixed.below(2 * SKEW + 1) as i64 - SKEW as i64);
        let view = &mut self.views[lag];

        let mut request = Request::new(());
        if let Some(cookie) = &session.cookie {
            request.headers_mut().insert(header::COOKIE, cookie.clone());
        }
        let response = unwrap_infallible(view.service.call(request).await);
        self.counted.requests += 1;
        let Some(server) = self.world.take_served_by() else {
            self.counted.refused += 1;
            return Ok(None);
        };
        if let Some(home) = session.home.filter(|&home| home != server) {
            if self.world.is_running(home) && !view.has_left(home) {
                self.counted.moved_without_need += 1;
            } else {
                self.counted.necessary += 1;
            }
        }
        let issued = response.headers().get(header::SET_COOKIE);
        if let Some(field) = issued {
            let pair = field.as_bytes().split(|&byte| byte == b';').next().unwrap_or_default();
            session.cookie = Some(HeaderValue::from_bytes(pair)?);
        } else if session.home.is_some_and(|home| home != server) {
            // Served elsewhere without a new token: the session has no home there.
            self.counted.lost += 1;
        }
        session.home = Some(server);
        Ok(Some(server))
    }
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { requests, refused, necessary, disagreements, crashes, restarts, .. } = self;
        writeln!(f, "sealed cookies: {requests} requests, {refused} without an answer")?;
        writeln!(f, "  {crashes} crashes of servers, {restarts} of all gateways with one delay")?;
        writeln!(f, "  moves that were necessary: {necessary}")?;
        writeln!(f, "  moves without need: {}", self.needless())?;
        writeln!(f, "  moves of two parallel requests to two servers: {disagreements}")?;
        write!(f, "  sessions of a server at the end: {} to {}", self.fewest, self.most)
    }
}
