//! `dawdle dashboard`, run: where it is served and for whom, how it ends, and what it costs on SQS.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use dawdle::backend::Lane;
use serde_json::{Value, json};
use sqs_model::{Endpoint, Options};

use common::{Place, letter, sqs};

mod common;

/// The program, serving; killed when it is dropped.
struct Served {
    child: Child,
    address: SocketAddr,
    said: Value,
}

impl Served {
    fn start(place: &Place, args: &[&str]) -> Served {
        let mut child = place.start(&[&["dashboard", "--listen", "127.0.0.1:0", "--json"], args].concat());
        let mut line = String::new();
        let out = child.stdout.take().expect("an output");
        BufReader::new(out).read_line(&mut line).expect("a line");
        let said: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let address = said["address"].as_str().expect("an address").parse().expect("an address");
        Served { child, address, said }
    }

    fn open(&self, head: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).expect("a connection");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        write!(stream, "{head}\r\nHost: {}\r\n\r\n", self.address).expect("asked");
        stream
    }

    fn get(&self, path: &str, header: &str) -> (u16, String) {
        let mut answer = String::new();
        let head = format!("GET {path} HTTP/1.1\r\nConnection: close{header}");
        self.open(&head).read_to_string(&mut answer).expect("an answer");
        let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
        (status, answer)
    }

    /// A live page that has said this.
    fn watch(&self, what: &str) -> TcpStream {
        let mut stream = self.open("GET /live?page=overview HTTP/1.1");
        let (mut seen, mut buffer) = (String::new(), [0; 4096]);
        while !seen.contains(what) {
            let read = stream.read(&mut buffer).expect("an event");
            assert!(read > 0, "it ended: {seen}");
            seen.push_str(&String::from_utf8_lossy(&buffer[..read]));
        }
        stream
    }

    /// Tells it to end, as Ctrl-C or a supervisor does.
    fn end(mut self, signal: &str) -> (ExitStatus, Duration) {
        let begun = Instant::now();
        let told = std::process::Command::new("kill").args([signal, &self.child.id().to_string()]).status();
        assert!(told.expect("kill").success());
        while begun.elapsed() < Duration::from_secs(15) {
            if let Some(status) = self.child.try_wait().expect("a state") {
                return (status, begun.elapsed());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("it does not end");
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn it_is_served_on_a_port_that_it_names() {
    let place = Place::local();
    place.bury(1..=12).await;
    let served = Served::start(&place, &[]);
    assert!(served.address.port() > 0 && served.said["url"] == json!(format!("http://{}/", served.address)));
    let (status, page) = served.get("/dead", "");
    assert!(status == 200 && page.contains("12 letters"), "{page}");
    let (_, page) = served.get("/overview", "");
    assert!(page.contains("No handlers run in this process"), "{page}");
    let stats = place.queue().await.stats(Lane::Dead).await;
    assert_eq!((stats.visible, stats.in_flight), (12, 0));
}

#[tokio::test]
async fn it_ends_when_it_is_told_to_whoever_watches() {
    for signal in ["-INT", "-TERM"] {
        let place = Place::local();
        place.bury(1..=3).await;
        let served = Served::start(&place, &[]);
        let _watching = served.watch("Dead letters");
        let idle = TcpStream::connect(served.address).expect("a connection");
        let (status, took) = served.end(signal);
        assert!(status.success() && took < Duration::from_secs(9), "{status:?} after {took:?}");
        drop(idle);
    }
}

#[tokio::test]
async fn a_replay_under_way_is_stopped_and_its_end_noted() {
    let place = Place::local();
    place.bury(1..=30).await;
    let served = Served::start(&place, &[]);
    let (_, page) = served.get("/dead", "");
    let token = page.split(r#"name="form_token" value=""#).nth(1).expect("a form").split('"').next().expect("its end");
    let form = format!("form_token={token}&all=yes&rate=5");
    let mut stream = TcpStream::connect(served.address).expect("a connection");
    write!(
        stream,
        "POST /replay HTTP/1.1\r\nHost: {0}\r\nOrigin: http://{0}\r\nConnection: close\r\nContent-Length: {1}\r\n\r\n{form}",
        served.address,
        form.len()
    )
    .expect("asked");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 303"), "{answer}");
    let (status, _) = served.end("-TERM");
    assert!(status.success());
    let audit = place.audit();
    assert_eq!((audit.len(), &audit[1]["outcome"], &audit[1]["who"]), (2, &json!("interrupted"), &json!("ann@desk")));
    let (dead, again) = (place.queue().await.stats(Lane::Dead).await, place.queue().await.stats(Lane::Message).await);
    assert_eq!((dead.visible + again.visible, dead.in_flight), (30, 0), "nothing is lost or held");
}

#[tokio::test]
async fn beyond_this_machine_it_is_served_only_with_a_token_of_some_length() {
    let place = Place::local();
    place.bury(1..=3).await;
    std::fs::write(place.path("short"), "fifteen bytes..\n").expect("a file");
    std::fs::write(place.path("token"), "a token of thirty-two characters\n").expect("a file");
    for args in [
        &["--listen", "0.0.0.0:0"][..],
        &["--listen", "[::]:0", "--token-file", "token"],
        &["--listen", "0.0.0.0:0", "--public"],
        &["--listen", "0.0.0.0:0", "--public", "--token-file", "short"],
        &["--listen", "127.0.0.1:0", "--token-file", "short"],
        &["--listen", "127.0.0.1"],
    ] {
        let said = place.run(&[&["dashboard"], args].concat());
        assert!(said.code == Some(2) && said.out.is_empty(), "{args:?}: {said:?}");
    }
    let missing = place.run(&["dashboard", "--token-file", "nowhere"]);
    assert!(missing.code == Some(1) && missing.err.contains("nowhere"), "{missing:?}");

    let mut child = place.start(&["dashboard", "--listen", "0.0.0.0:0", "--public", "--token-file", "token", "--json"]);
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("an output")).read_line(&mut line).expect("a line");
    let said: Value = serde_json::from_str(&line).expect("JSON");
    let port = said["address"].as_str().and_then(|address| address.rsplit(':').next()?.parse().ok()).expect("a port");
    let served = Served { child, address: SocketAddr::from(([127, 0, 0, 1], port)), said };
    assert_eq!(served.get("/dead", "").0, 401);
    assert_eq!(served.get("/dead", "\r\nAuthorization: Bearer a token of thirty-two characterX").0, 401);
    let (status, page) = served.get("/dead", "\r\nAuthorization: Bearer a token of thirty-two characters");
    assert!(status == 200 && page.contains("3 letters"), "{page}");
}

#[tokio::test]
async fn read_only_it_changes_nothing() {
    let place = Place::local();
    place.bury(1..=3).await;
    let served = Served::start(&place, &["--read-only"]);
    let (_, page) = served.get("/dead", "");
    assert!(page.contains("Read only") && !page.contains("method=\"post\""), "{page}");
}

#[tokio::test]
async fn a_port_that_is_taken_is_said() {
    let place = Place::local();
    place.bury([1]).await;
    let served = Served::start(&place, &[]);
    let said = place.run(&["dashboard", "--listen", &served.address.to_string()]);
    assert!(said.code == Some(1) && said.err.contains("cannot be served on"), "{said:?}");
}

/// A folder whose environment names queues on an endpoint, with letters on them.
fn on_sqs(letters: u64) -> (Endpoint, Place) {
    let endpoint = Endpoint::start(Options::default()).expect("an endpoint");
    let place = sqs::place(&endpoint.url());
    place.json(&["init"]);
    let letters: Vec<String> = (1..=letters).map(|number| letter(number).to_string()).collect();
    sqs::put(&endpoint, "orders-dead", &letters);
    (endpoint, place)
}

#[tokio::test]
async fn on_sqs_counting_is_done_once_for_all_viewers_and_rests_while_nobody_looks() {
    let (endpoint, place) = on_sqs(0);
    let served = Served::start(&place, &[]);
    let asked = || endpoint.counts().get_queue_attributes;
    let before = asked();
    let watching: Vec<TcpStream> = (0..8).map(|_| served.watch("every 15 s while somebody looks")).collect();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let counted = asked() - before;
    assert!((3..=6).contains(&counted), "{counted} requests for eight viewers: one or two for each queue");
    drop(watching);
    let before = asked();
    tokio::time::sleep(Duration::from_secs(16)).await;
    assert_eq!(asked(), before, "nobody looks");
}

#[tokio::test]
async fn on_sqs_a_look_is_given_back_and_what_it_costs_is_said() {
    let (_endpoint, place) = on_sqs(25);
    let served = Served::start(&place, &[]);
    let (_, page) = served.get("/dead", "");
    assert!(page.contains("25 letters") && page.contains("Looking is billed"), "{page}");
    let (_, page) = served.get("/overview", "");
    assert!(page.contains("which SQS bills") && page.contains("$0.40 for a million requests"), "{page}");
    let listed = place.json(&["dead", "list"]);
    assert_eq!(listed[0]["letters"], 25, "others see them at once");
}
