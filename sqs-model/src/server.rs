//! Connections: who listens, what is read from them and written to them, and how they break.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdListener};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc as std_mpsc};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, DATE, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};

use crate::counts::Action;
use crate::engine::Engine;
use crate::faults::Strike;
use crate::refusal::{self, Code, Refusal};
use crate::wire::{self, Problem};
use crate::{Options, SharedEngine};

/// The largest request that is read: a batch of 1 MiB, each byte of it escaped as `\u00XX`.
const MAX_REQUEST: usize = 8 * 1024 * 1024;

/// How long an accept waits after it has failed, as it does without file descriptors left.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(crate) struct Server {
    shared: Arc<Shared>,
    port: u16,
    /// Whether it listens; held by whoever changes that.
    up: Mutex<bool>,
    door: mpsc::UnboundedSender<Door>,
    /// `None` only while it is dropped.
    runtime: Option<Runtime>,
}

struct Shared {
    engine: SharedEngine,
    latency_us: AtomicU64,
    /// Counts how often it went down: a connection of before is broken.
    downs: watch::Sender<u64>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

/// What becomes of the listening socket. Whoever asks waits for the answer.
enum Door {
    Close(std_mpsc::Sender<()>),
    Open(StdListener, std_mpsc::Sender<()>),
}

fn listen(port: u16) -> io::Result<StdListener> {
    let listener = StdListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

impl Server {
    pub(crate) fn start(options: Options) -> io::Result<Server> {
        let listener = listen(options.port)?;
        let port = listener.local_addr()?.port();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(options.threads.max(1))
            .thread_name("sqs-model")
            .enable_all()
            .build()?;
        let engine = Arc::new(Engine::new(&options, port));
        let shared = Arc::new(Shared { engine, latency_us: AtomicU64::new(0), downs: watch::Sender::new(0) });
        let (door, asked) = mpsc::unbounded_channel();
        let listener = {
            let _inside = runtime.enter();
            TcpListener::from_std(listener)?
        };
        runtime.spawn(accept(shared.clone(), listener, asked));
        let watching = shared.engine.clone();
        runtime.spawn(async move { watching.watch_hidden().await });
        let server = Server { shared, port, up: Mutex::new(true), door, runtime: Some(runtime) };
        server.set_latency(options.latency);
        Ok(server)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.shared.engine
    }

    pub(crate) fn set_latency(&self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.shared.latency_us.store(micros, Ordering::Relaxed);
    }

    pub(crate) fn go_down(&self) {
        let mut up = self.up.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut *up, false) {
            self.ask(Door::Close);
        }
    }

    pub(crate) fn come_back(&self) {
        let mut up = self.up.lock().unwrap_or_else(PoisonError::into_inner);
        if *up {
            return;
        }
        match listen(self.port) {
            Ok(listener) => self.ask(|done| Door::Open(listener, done)),
            Err(error) => panic!("the port {} cannot be listened on again: {error}", self.port),
        }
        *up = true;
    }

    /// Asks for the listening socket to be opened or closed, and waits until it is.
    fn ask(&self, what: impl FnOnce(std_mpsc::Sender<()>) -> Door) {
        let (done, wait) = std_mpsc::channel();
        if self.door.send(what(done)).is_ok() {
            let _ = wait.recv();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.go_down();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn accept(shared: Arc<Shared>, listener: TcpListener, mut asked: mpsc::UnboundedReceiver<Door>) {
    let mut listener = Some(listener);
    loop {
        let next = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            door = asked.recv() => match door {
                None => return,
                Some(Door::Close(done)) => {
                    listener = None;
                    shared.downs.send_modify(|downs| *downs += 1);
                    let _ = done.send(());
                }
                Some(Door::Open(opened, done)) => {
                    listener = TcpListener::from_std(opened).ok();
                    let _ = done.send(());
                }
            },
            accepted = next => match accepted {
                Ok((stream, _)) => begin(&shared, stream),
                Err(_) => tokio::time::sleep(ACCEPT_AGAIN).await,
            },
        }
    }
}

/// Serves a connection, or refuses it.
fn begin(shared: &Arc<Shared>, stream: TcpStream) {
    let let_in = {
        let mut state = shared.engine.lock();
        let state = &mut *state;
        state.chance.accept(&mut state.counts.struck)
    };
    let _ = stream.set_nodelay(true);
    let broken = Arc::new(AtomicBool::new(!let_in));
    let pipe = Pipe { stream, broken: broken.clone() };
    if !let_in {
        return;
    }
    tokio::spawn(serve(shared.clone(), pipe, broken));
}

async fn serve(shared: Arc<Shared>, pipe: Pipe, broken: Arc<AtomicBool>) {
    let mut downs = shared.downs.subscribe();
    let first = AtomicBool::new(true);
    let requests = service_fn(|request| {
        let (shared, first, broken) = (&shared, first.swap(false, Ordering::Relaxed), &broken);
        async move {
            let answer = shared.answer(request, first).await;
            if answer.is_err() {
                broken.store(true, Ordering::Relaxed);
            }
            answer
        }
    });
    let connection = http1::Builder::new()
        .auto_date_header(false)
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(pipe), requests);
    tokio::select! {
        // An error is the client's going, or a fault's striking.
        _ = connection => {}
        _ = downs.changed() => broken.store(true, Ordering::Relaxed),
    }
}

/// The connection is to break instead of answering.
#[derive(Debug)]
struct Break;

impl std::fmt::Display for Break {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a fault breaks the connection")
    }
}

impl std::error::Error for Break {}

type Answered = Response<Full<Bytes>>;

impl Shared {
    async fn answer(&self, request: Request<Incoming>, first: bool) -> Result<Answered, Break> {
        let action = request.headers().get("x-amz-target").and_then(|target| target.to_str().ok());
        let action = action.and_then(|target| target.strip_prefix("AmazonSQS.")).and_then(Action::named);
        let (method, body) = (request.method().clone(), Limited::new(request.into_body(), MAX_REQUEST));
        let Ok(body) = body.collect().await.map(|body| body.to_bytes()) else { return Err(Break) };
        let strike = {
            let mut state = self.engine.lock();
            let state = &mut *state;
            let queue = if state.chance.faults.aimed.is_empty() { String::new() } else { wire::queue_named(&body) };
            state.chance.strike(&queue, action, first, &mut state.counts.struck)
        };
        if strike == Strike::Refuse {
            return Err(Break);
        }
        if method != Method::POST {
            return Ok(self.response(StatusCode::OK, None, Vec::new()));
        }
        let latency = Duration::from_micros(self.latency_us.load(Ordering::Relaxed));
        self.pass(latency / 2).await;
        match strike {
            Strike::ResetBefore => return Err(Break),
            Strike::Hang { takes_effect: false } => never().await,
            Strike::Answer(code) => {
                self.pass(latency - latency / 2).await;
                return Ok(self.refuse(Refusal::new(code, struck(code))));
            }
            Strike::Html(status) => {
                self.pass(latency - latency / 2).await;
                return Ok(page(status));
            }
            _ => {}
        }
        let Some(action) = action else {
            let message = "The action or operation requested is invalid. Verify that the action is typed correctly.";
            return Ok(self.refuse(Refusal::new(&refusal::UNKNOWN_OPERATION, message)));
        };
        let answer = self.engine.act(action, &body).await;
        match strike {
            Strike::ResetAfter => return Err(Break),
            Strike::Hang { .. } => never().await,
            Strike::Slow(by) => self.pass(by).await,
            _ => {}
        }
        self.pass(latency - latency / 2).await;
        Ok(match answer {
            Ok(body) => self.response(StatusCode::OK, None, body),
            Err(refusal) => self.refuse(refusal),
        })
    }

    async fn pass(&self, span: Duration) {
        if !span.is_zero() {
            tokio::time::sleep(span).await;
        }
    }

    fn refuse(&self, refusal: Refusal) -> Answered {
        let Refusal { code, message } = &refusal;
        let body = serde_json::to_vec(&Problem { shape: code.shape, message }).unwrap_or_default();
        let status = StatusCode::from_u16(code.status).unwrap_or(StatusCode::BAD_REQUEST);
        let blame = if refusal.senders_fault() { "Sender" } else { "Receiver" };
        self.response(status, Some(format!("{};{blame}", code.query)), body)
    }

    fn response(&self, status: StatusCode, query_error: Option<String>, body: Vec<u8>) -> Answered {
        const REQUEST_ID: HeaderName = HeaderName::from_static("x-amzn-requestid");
        const QUERY_ERROR: HeaderName = HeaderName::from_static("x-amzn-query-error");
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-amz-json-1.0"));
        for (name, value) in [
            (REQUEST_ID, HeaderValue::from_str(self.engine.new_id().as_str()).ok()),
            (DATE, HeaderValue::try_from(httpdate::fmt_http_date(self.engine.now())).ok()),
            (QUERY_ERROR, query_error.and_then(|error| HeaderValue::try_from(error).ok())),
        ] {
            headers.extend(value.map(|value| (name, value)));
        }
        response
    }
}

/// What something answers that is no SQS.
fn page(status: u16) -> Answered {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
    let html = format!("<html><head><title>{status}</title></head><body><h1>{status}</h1></body></html>\n");
    let mut response = Response::new(Full::new(Bytes::from(html)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html"));
    response
}

async fn never() {
    std::future::pending().await
}

fn struck(code: &Code) -> &'static str {
    match code.query {
        "ExpiredToken" => "The security token included in the request is expired",
        "InternalFailure" => "The request processing has failed because of an unknown error, exception or failure.",
        "ServiceUnavailable" => "The request has failed due to a temporary failure of the server.",
        _ => "Rate exceeded",
    }
}

/// A connection that is reset, rather than closed, when it is dropped after having been broken.
struct Pipe {
    stream: TcpStream,
    broken: Arc<AtomicBool>,
}

impl Drop for Pipe {
    fn drop(&mut self) {
        if self.broken.load(Ordering::Relaxed) {
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Pipe {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
