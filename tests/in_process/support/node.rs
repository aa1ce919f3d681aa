//! A backend whose readiness, connections and responses a test controls.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI32, AtomicU16, AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll, Waker},
};

use http::{HeaderMap, Request, Response, header};
use http_body_util::BodyExt;
use tokio::sync::Semaphore;
use tower::{BoxError, Service};
use tower_sticky::{Disconnected, NotSent, Outcome, Unanswered};

use super::{Body, after};

/// A backend whose behaviour a test controls. Clones share everything but their readiness.
#[derive(Debug)]
pub struct Node {
    pub name: &'static str,
    pub control: Arc<Controls>,
    /// Whether `poll_ready` of this instance has returned ready since its last call.
    ready: bool,
}

#[derive(Debug)]
pub struct Controls {
    /// `poll_ready` is pending.
    pub busy: AtomicBool,
    /// `poll_ready` fails.
    pub readiness_fails: AtomicBool,
    /// The connection is refused: the error returns the request.
    pub refuses: AtomicBool,
    /// The connection is accepted, and closed before the request is sent.
    pub closes_early: AtomicBool,
    /// The number of an error of this machine, such as a shortage of sockets, or 0.
    pub os_error: AtomicI32,
    /// Errors of connections carry a redial.
    pub redialable: AtomicBool,
    /// Redials do not complete.
    pub redial_hangs: AtomicBool,
    /// How often it was redialed.
    pub redials: AtomicUsize,
    /// The connection is refused, after a permit of `gate`.
    pub refuses_after_gate: AtomicBool,
    /// The connection ends before a response, after a permit of `gate`.
    pub breaks_after_gate: AtomicBool,
    /// The same for requests that come meanwhile, and they are given back.
    pub returns_after_gate: AtomicBool,
    /// The connection ends before a response: the request was received, and comes back with the error.
    pub disconnects: AtomicBool,
    /// The call fails without returning the request.
    pub call_fails: AtomicBool,
    /// The status of the responses.
    pub status: AtomicU16,
    /// How many requests were executed.
    pub served: AtomicUsize,
    /// How often `poll_ready` was called.
    pub polls: AtomicUsize,
    /// How many clones exist.
    pub clones: AtomicUsize,
    /// The `Cookie` headers received.
    pub cookies: Mutex<Vec<String>>,
    /// The outcomes received in the extensions of requests.
    pub outcomes: Mutex<Vec<Option<Outcome>>>,
    /// The request targets received.
    pub targets: Mutex<Vec<String>>,
    /// The headers received.
    pub headers: Mutex<Vec<HeaderMap>>,
    /// Headers added to responses.
    pub response_headers: Mutex<Vec<(&'static str, String)>>,
    /// A session action for the extensions of responses.
    pub action: Mutex<Option<tower_sticky::SessionAction>>,
    /// Each response takes a permit of it.
    pub gate: Semaphore,
    waiters: Mutex<Vec<Waker>>,
}

/// Permits of a gate that holds nothing back.
pub const UNGATED: usize = 1 << 20;

impl Node {
    pub fn new(name: &'static str) -> Self {
        let control = Controls {
            busy: false.into(),
            readiness_fails: false.into(),
            refuses: false.into(),
            closes_early: false.into(),
            os_error: 0.into(),
            redialable: false.into(),
            redial_hangs: false.into(),
            redials: 0.into(),
            refuses_after_gate: false.into(),
            breaks_after_gate: false.into(),
            returns_after_gate: false.into(),
            disconnects: false.into(),
            call_fails: false.into(),
            status: 200.into(),
            served: 0.into(),
            polls: 0.into(),
            clones: 1.into(),
            cookies: Mutex::default(),
            outcomes: Mutex::default(),
            targets: Mutex::default(),
            headers: Mutex::default(),
            response_headers: Mutex::default(),
            action: Mutex::default(),
            gate: Semaphore::new(UNGATED),
            waiters: Mutex::default(),
        };
        Self { name, control: Arc::new(control), ready: false }
    }

    pub fn served(&self) -> usize {
        self.control.served.load(SeqCst)
    }

    /// Holds back every response until [`Self::release_responses`].
    pub fn hold_responses(&self) {
        self.control.gate.forget_permits(UNGATED);
    }

    pub fn release_responses(&self) {
        self.control.gate.add_permits(UNGATED);
    }
}

impl Controls {
    /// The error of a refused connection.
    fn refuse(self: &Arc<Self>, request: Request<Body>) -> BoxError {
        let not_sent = NotSent::new(request, "connection refused");
        if !self.redialable.load(SeqCst) {
            return not_sent.into();
        }
        let control = self.clone();
        not_sent.with_redial(move || control.clone().redial()).into()
    }

    /// The error of a connection that ends before a response.
    fn break_connection(self: &Arc<Self>) -> Disconnected {
        let broken = Disconnected::new("connection closed");
        if !self.redialable.load(SeqCst) {
            return broken;
        }
        let control = self.clone();
        broken.with_redial(move || control.clone().redial())
    }

    async fn redial(self: Arc<Self>) -> Result<(), BoxError> {
        self.redials.fetch_add(1, SeqCst);
        while self.redial_hangs.load(SeqCst) {
            after(10).await;
        }
        match self.os_error.load(SeqCst) {
            0 if self.refuses.load(SeqCst) => Err("refused again".into()),
            0 => Ok(()),
            error => Err(io::Error::from_raw_os_error(error).into()),
        }
    }

    pub fn set_busy(&self, busy: bool) {
        self.busy.store(busy, SeqCst);
        for waker in self.waiters.lock().unwrap().drain(..) {
            waker.wake();
        }
    }
}

impl Clone for Node {
    fn clone(&self) -> Self {
        self.control.clones.fetch_add(1, SeqCst);
        // A clone does not inherit the readiness of the original.
        Self { name: self.name, control: self.control.clone(), ready: false }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.control.clones.fetch_sub(1, SeqCst);
    }
}

impl Service<Request<Body>> for Node {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.control.polls.fetch_add(1, SeqCst);
        if self.control.readiness_fails.load(SeqCst) {
            return Poll::Ready(Err("the worker is gone".into()));
        }
        if self.control.busy.load(SeqCst) {
            self.control.waiters.lock().unwrap().push(cx.waker().clone());
            return Poll::Pending;
        }
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        assert!(self.ready, "the instance that is called is the one that was ready");
        self.ready = false;
        let (control, name) = (self.control.clone(), self.name);
        Box::pin(async move {
            if control.os_error.load(SeqCst) != 0 {
                let error = io::Error::from_raw_os_error(control.os_error.load(SeqCst));
                return Err(NotSent::new(request, error).into());
            }
            if control.refuses.load(SeqCst) {
                return Err(control.refuse(request));
            }
            if control.closes_early.load(SeqCst) {
                let control = control.clone();
                let closed = Disconnected::new("closed at once");
                let closed = closed.with_redial(move || control.clone().redial());
                return Err(NotSent::new(request, closed).into());
            }
            if control.refuses_after_gate.load(SeqCst) {
                // The connection begins now.
                let refused = control.refuse(request);
                control.gate.acquire().await?.forget();
                control.gate.add_permits(1);
                return Err(refused);
            }
            if control.disconnects.load(SeqCst) {
                control.served.fetch_add(1, SeqCst);
                return Err(Unanswered::new(request, control.break_connection()).into());
            }
            if control.call_fails.load(SeqCst) {
                return Err("garbage".into());
            }
            let cookies = request.headers().get_all(header::COOKIE).iter();
            let cookies: Vec<_> = cookies.map(|c| c.to_str().unwrap().to_owned()).collect();
            control.cookies.lock().unwrap().push(cookies.join("|"));
            control.targets.lock().unwrap().push(request.uri().to_string());
            control.headers.lock().unwrap().push(request.headers().clone());
            let outcome = Outcome::of(request.extensions()).cloned();
            control.outcomes.lock().unwrap().push(outcome);
            let returns = control.returns_after_gate.load(SeqCst);
            control.gate.acquire().await?.forget();
            control.gate.add_permits(1);
            control.served.fetch_add(1, SeqCst);
            if control.breaks_after_gate.load(SeqCst) {
                return Err(control.break_connection().into());
            }
            if returns {
                return Err(Unanswered::new(request, control.break_connection()).into());
            }
            let body = request.into_body().collect().await?.to_bytes();
            let mut response = Response::new(Body::from([name.as_bytes(), &body].concat()));
            *response.status_mut() = control.status.load(SeqCst).try_into()?;
            for (name, value) in control.response_headers.lock().unwrap().iter() {
                response.headers_mut().append(*name, value.parse()?);
            }
            if let Some(action) = control.action.lock().unwrap().clone() {
                response.extensions_mut().insert(action);
            }
            Ok(response)
        })
    }
}
