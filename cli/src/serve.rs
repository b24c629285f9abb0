//! Serving a router over HTTP/1, bounded: in connections, in how long each may take over the head of a request, and
//! in how long it may leave an answer unread.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_io_timeout::TimeoutStream;

/// Connections at once. Further ones wait, unaccepted, until one ends.
const CONNECTIONS: usize = 256;

/// How long a connection may take to send the head of a request, the silence before it included. After that it is
/// closed.
const HEAD: Duration = Duration::from_secs(30);

/// How long an answer may wait for its reader to take more of it. After that the connection is closed.
const STALL: Duration = Duration::from_secs(30);

/// After an accept that failed for want of something, file descriptors for instance.
const PAUSE: Duration = Duration::from_secs(1);

/// Answers requests until `end` comes, and then those that are under way.
pub(crate) async fn serve(listener: TcpListener, router: Router, end: impl Future<Output = ()>) {
    Bounds { connections: CONNECTIONS, head: HEAD, stall: STALL }.serve(listener, router, end).await;
}

/// What a server grants.
#[derive(Clone, Copy)]
struct Bounds {
    /// At once.
    connections: usize,
    head: Duration,
    stall: Duration,
}

impl Bounds {
    async fn serve(self, listener: TcpListener, router: Router, end: impl Future<Output = ()>) {
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(self.head);
        let room = Arc::new(Semaphore::new(self.connections));
        let connections = GracefulShutdown::new();
        let mut end = pin!(end);
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut end => break,
                accepted = accept(&listener, &room) => accepted,
            };
            let Some((stream, peer, permit)) = accepted else { continue };
            let router = router.clone();
            let service = service_fn(move |mut request: hyper::Request<Incoming>| {
                request.extensions_mut().insert(ConnectInfo(peer));
                TowerToHyperService::new(router.clone()).call(request)
            });
            let mut stream = TimeoutStream::new(stream);
            stream.set_write_timeout(Some(self.stall));
            let connection = connections.watch(http.serve_connection(TokioIo::new(Box::pin(stream)), service));
            tokio::spawn(async move {
                // Whoever is at the other end knows that it failed.
                drop(connection.await);
                drop(permit);
            });
        }
        drop(listener);
        connections.shutdown().await;
    }
}

/// The next connection; `None` where there was one and it failed.
async fn accept(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let permit = Arc::clone(room).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, peer)) => Some((stream, peer, permit)),
        Err(error) if [ErrorKind::ConnectionAborted, ErrorKind::ConnectionReset].contains(&error.kind()) => None,
        Err(_) => {
            tokio::time::sleep(PAUSE).await;
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::time::Instant;

    use super::*;

    /// What a test waits for.
    const SHORT: Duration = Duration::from_millis(300);

    const BOUNDS: Bounds = Bounds { connections: 1, head: HEAD, stall: STALL };

    /// More than the buffers of a connection's two ends take.
    const LARGE: usize = 32 << 20;

    async fn served(bounds: Bounds) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let router = Router::new()
            .route("/", get(|ConnectInfo(peer): ConnectInfo<SocketAddr>| async move { peer.to_string() }))
            .route("/large", get(|| async { vec![b'x'; LARGE] }));
        tokio::spawn(bounds.serve(listener, router, std::future::pending()));
        address
    }

    async fn send(address: SocketAddr, text: &str) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.expect("a connection");
        stream.write_all(text.as_bytes()).await.expect("sent");
        stream
    }

    /// All that comes until the connection ends.
    async fn answer(mut stream: TcpStream) -> String {
        let mut answer = String::new();
        let read = tokio::time::timeout(HEAD * 2, stream.read_to_string(&mut answer));
        read.await.expect("it ends").expect("text");
        answer
    }

    const REQUEST: &str = "GET / HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n";

    #[tokio::test]
    async fn a_request_is_answered_and_tells_who_has_asked() {
        let stream = send(served(BOUNDS).await, REQUEST).await;
        let own = stream.local_addr().expect("an address").to_string();
        let answer = answer(stream).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with(&own), "{answer}");
    }

    #[tokio::test]
    async fn a_connection_that_does_not_finish_a_request_head_is_closed() {
        let address = served(Bounds { connections: 10, head: SHORT, ..BOUNDS }).await;
        for head in ["", "GET / HTTP/1.1\r\nHost: he"] {
            let begun = Instant::now();
            let answer = answer(send(address, head).await).await;
            assert!(!answer.contains("200"), "{answer}");
            assert!(begun.elapsed() >= SHORT, "{head:?}: {:?}", begun.elapsed());
        }
    }

    #[tokio::test]
    async fn one_connection_too_many_waits_until_another_ends() {
        let address = served(Bounds { connections: 2, head: SHORT, ..BOUNDS }).await;
        let begun = Instant::now();
        let idle = [send(address, "").await, send(address, "").await];
        let answer = answer(send(address, REQUEST).await).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(begun.elapsed() >= SHORT, "{:?}", begun.elapsed());
        drop(idle);
    }

    #[tokio::test]
    async fn a_connection_that_does_not_read_its_answer_is_closed() {
        let address = served(Bounds { stall: SHORT, ..BOUNDS }).await;
        let begun = Instant::now();
        let deaf = send(address, "GET /large HTTP/1.1\r\nHost: here\r\n\r\n").await;
        let answer = answer(send(address, REQUEST).await).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(begun.elapsed() >= SHORT, "{:?}", begun.elapsed());
        drop(deaf);
    }

    #[tokio::test]
    async fn a_large_answer_that_is_read_arrives_whole() {
        let address = served(Bounds { stall: SHORT, ..BOUNDS }).await;
        let request = REQUEST.replace("GET /", "GET /large");
        assert!(answer(send(address, &request).await).await.len() > LARGE);
    }
}
