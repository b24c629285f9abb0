//! What the local backend promises beyond the conformance suite: durability, several processes,
//! and errors that say how to mend them.
//!
//! Other processes are this test binary itself, started to run the test `child` in a role.
#![cfg(feature = "local")]

use std::collections::{BTreeMap, HashSet};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use dawdle::ErrorKind;
use dawdle::backend::local::{LocalBackend, LocalOptions};
use dawdle::backend::{Backend, Delivery, Lane, Outgoing, Receipt, Role, Settle, Settlement};

const ROLE: &str = "LOCAL_BACKEND_TEST_ROLE";
const FILE: &str = "LOCAL_BACKEND_TEST_FILE";

fn folder() -> Result<tempfile::TempDir> {
    Ok(tempfile::tempdir()?)
}

async fn open(path: impl AsRef<Path>) -> dawdle::Result<LocalBackend> {
    LocalBackend::open(path, LocalOptions::default()).await
}

async fn send(backend: &LocalBackend, bodies: impl IntoIterator<Item = String>) -> Result<()> {
    let messages: Vec<_> = bodies.into_iter().map(Outgoing::new).collect();
    for chunk in messages.chunks(100) {
        backend.send(Lane::Message, chunk).await.into_iter().collect::<dawdle::Result<Vec<_>>>()?;
    }
    Ok(())
}

async fn ack(backend: &LocalBackend, lane: Lane, deliveries: &[Delivery]) -> Result<()> {
    let entries: Vec<_> =
        deliveries.iter().map(|d| Settle { receipt: d.receipt.clone(), how: Settlement::Ack }).collect();
    backend.settle(lane, &entries).await.into_iter().collect::<dawdle::Result<Vec<_>>>()?;
    Ok(())
}

/// Takes and acks everything that can be received now; the bodies.
async fn empty(backend: &LocalBackend, lane: Lane) -> Result<Vec<String>> {
    let mut bodies = Vec::new();
    loop {
        let deliveries = backend.browse(lane, 100, Duration::from_secs(30)).await?;
        if deliveries.is_empty() {
            return Ok(bodies);
        }
        ack(backend, lane, &deliveries).await?;
        bodies.extend(deliveries.into_iter().map(|delivery| delivery.body));
    }
}

// Other processes.

/// A child in a role; killed with SIGKILL when dropped.
struct Process {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Process {
    fn start(role: &str, file: &Path) -> Result<Process> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["child", "--exact", "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .env(FILE, file)
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().context("no stdout")?;
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(std::result::Result::ok) {
                // The first line shares its line with the name of the test.
                if let Some((_, said)) = line.split_once("> ") {
                    let _ = sender.send(said.to_owned());
                }
            }
        });
        Ok(Process { child, lines })
    }

    fn line(&self) -> Result<String> {
        self.lines.recv_timeout(Duration::from_secs(60)).context("the child said nothing")
    }

    fn wait_for(&self, said: &str) -> Result<()> {
        while self.line()? != said {}
        Ok(())
    }

    fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// What it has said and nobody has read, after its end.
    fn rest(&self) -> Vec<String> {
        self.lines.iter().collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "> {line}");
    let _ = out.flush();
}

/// Not a test: what the other processes run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() -> Result<()> {
    let (Ok(role), Some(file)) = (std::env::var(ROLE), std::env::var_os(FILE)) else { return Ok(()) };
    let backend = Arc::new(open(PathBuf::from(file)).await?);
    match role.as_str() {
        "hold" => {
            let held = backend.receive(Lane::Message, 100).await?;
            say(&format!("holds {}", held.len()));
            std::future::pending::<()>().await;
        }
        "send" => {
            let tasks = (0..8).map(|task| {
                let backend = Arc::clone(&backend);
                tokio::spawn(async move {
                    for number in 0.. {
                        let id = format!("{}-{task}-{number}", std::process::id());
                        if backend.send(Lane::Message, &[Outgoing::new(&id)]).await.remove(0).is_ok() {
                            say(&id);
                        }
                    }
                })
            });
            for task in tasks.collect::<Vec<_>>() {
                task.await?;
            }
        }
        "send batches" => {
            for batch in 0.. {
                let id = format!("{}-{batch}", std::process::id());
                let messages: Vec<_> = (0..50).map(|_| Outgoing::new(&id)).collect();
                if backend.send(Lane::Message, &messages).await.iter().all(dawdle::Result::is_ok) {
                    say(&id);
                }
            }
        }
        "receive" => {
            say("ready");
            loop {
                let deliveries = backend.receive(Lane::Message, 7).await?;
                deliveries.iter().for_each(|delivery| say(&delivery.body));
                ack(&backend, Lane::Message, &deliveries).await?;
            }
        }
        "listen" => {
            // The second line is said when the first receive waits: it was given time to.
            let receive = backend.receive(Lane::Message, 1);
            tokio::pin!(receive);
            let early = tokio::time::timeout(Duration::from_millis(300), &mut receive).await;
            ensure!(early.is_err(), "there was something");
            say("waits");
            let mut next = receive.await?;
            loop {
                let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_nanos();
                for delivery in &next {
                    say(&format!("{now} {}", delivery.body));
                }
                ack(&backend, Lane::Message, &next).await?;
                next = backend.receive(Lane::Message, 1).await?;
            }
        }
        other => anyhow::bail!("no role {other}"),
    }
    Ok(())
}

// Durability.

#[tokio::test(flavor = "multi_thread")]
async fn sends_at_once_share_commits() -> Result<()> {
    let folder = folder()?;
    let backend = Arc::new(open(folder.path().join("queue.db")).await?);
    let tasks: Vec<_> = (0..64)
        .map(|task| {
            let backend = Arc::clone(&backend);
            tokio::spawn(async move {
                for number in 0..10 {
                    send(&backend, [format!("{task}-{number}")]).await?;
                }
                anyhow::Ok(())
            })
        })
        .collect();
    for task in tasks {
        task.await??;
    }
    let commits = backend.commits();
    ensure!(commits <= 320, "640 sends took {commits} commits");
    ensure!(backend.inspect(Lane::Message).await?.visible == 640);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_ok_survives_kill_9_at_any_instant() -> Result<()> {
    let folder = folder()?;
    let path = folder.path().join("queue.db");
    let mut answered = Vec::new();
    for _ in 0..8 {
        let mut sender = Process::start("send", &path)?;
        answered.push(sender.line()?);
        std::thread::sleep(Duration::from_millis(fastrand::u64(1..120)));
        sender.kill()?;
        answered.extend(sender.rest());
    }
    let backend = open(&path).await?;
    let mut kept: BTreeMap<String, u32> = BTreeMap::new();
    for body in empty(&backend, Lane::Message).await? {
        *kept.entry(body).or_default() += 1;
    }
    let answered: HashSet<_> = answered.into_iter().collect();
    for id in &answered {
        ensure!(kept.get(id) == Some(&1), "{id} is there {:?} times", kept.get(id));
    }
    ensure!(kept.values().all(|times| *times == 1));
    println!("{} answered, {} kept", answered.len(), kept.len());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_there_whole_after_kill_9() -> Result<()> {
    let folder = folder()?;
    let path = folder.path().join("queue.db");
    let mut answered = Vec::new();
    for _ in 0..5 {
        let mut sender = Process::start("send batches", &path)?;
        answered.push(sender.line()?);
        std::thread::sleep(Duration::from_millis(fastrand::u64(1..80)));
        sender.kill()?;
        answered.extend(sender.rest());
    }
    let backend = open(&path).await?;
    let mut kept: BTreeMap<String, u32> = BTreeMap::new();
    for body in empty(&backend, Lane::Message).await? {
        *kept.entry(body).or_default() += 1;
    }
    ensure!(kept.values().all(|times| *times == 50), "a torn batch: {kept:?}");
    ensure!(answered.iter().all(|id| kept.contains_key(id)));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn receivers_that_are_killed_lose_nothing() -> Result<()> {
    let folder = folder()?;
    let path = folder.path().join("queue.db");
    let backend = open(&path).await?;
    send(&backend, (0..2000).map(|n| n.to_string())).await?;
    drop(backend);
    let mut seen = HashSet::new();
    for _ in 0..4 {
        let mut receiver = Process::start("receive", &path)?;
        receiver.wait_for("ready")?;
        std::thread::sleep(Duration::from_millis(fastrand::u64(1..100)));
        receiver.kill()?;
        seen.extend(receiver.rest());
    }
    let backend = open(&path).await?;
    // Opening has taken over what the last of them had leased.
    let left = empty(&backend, Lane::Message).await?;
    println!("{} were received by who was killed, {} were left", seen.len(), left.len());
    ensure!(left.iter().collect::<HashSet<_>>().len() == left.len(), "something is there twice");
    seen.extend(left);
    ensure!(seen.len() == 2000, "{} of 2000 messages were seen", seen.len());
    Ok(())
}

#[tokio::test]
async fn reopening_finds_everything() -> Result<()> {
    let folder = folder()?;
    let path = folder.path().join("queue.db");
    let backend = open(&path).await?;
    let mut message = Outgoing::new("later");
    message.delay = Duration::from_secs(3600);
    message.attributes.insert("name".to_owned(), "värde \"q\"".to_owned());
    backend.send(Lane::Delay, &[message]).await.remove(0)?;
    send(&backend, ["held".to_owned(), "free".to_owned()]).await?;
    let held = backend.receive(Lane::Message, 1).await?;
    ensure!(held.len() == 1 && held[0].receive_count == 1);
    drop(backend);
    let left: Vec<_> = std::fs::read_dir(folder.path().join("queue.db.nodes"))?
        .filter_map(|entry| entry.ok()?.path().extension().map(|e| e.to_owned()))
        .collect();
    ensure!(left.is_empty(), "a closed backend left {left:?}");
    ensure!(!folder.path().join("queue.db-wal").exists(), "the log was not moved to the file");

    let backend = open(&path).await?;
    let stats = backend.inspect(Lane::Delay).await?;
    ensure!((stats.visible, stats.in_flight, stats.delayed) == (0, 0, 1), "{stats:?}");
    let again = backend.browse(Lane::Message, 10, Duration::from_secs(5)).await?;
    let mut counts: Vec<_> = again.iter().map(|d| (d.body.as_str(), d.receive_count)).collect();
    counts.sort_unstable();
    ensure!(counts == [("free", 1), ("held", 2)], "closing gives leases back: {counts:?}");
    Ok(())
}

// Several processes.

#[tokio::test(flavor = "multi_thread")]
async fn the_leases_of_a_killed_process_are_taken_over_at_once() -> Result<()> {
    let folder = folder()?;
    let path = folder.path().join("queue.db");
    let backend = open(&path).await?;
    send(&backend, (0..20).map(|n| n.to_string())).await?;
    let mut holder = Process::start("hold", &path)?;
    holder.wait_for("holds 20")?;

    // A live owner's leases are nobody else's, whoever starts beside it.
    let second = open(&path).await?;
    let stolen = tokio::time::timeout(Duration::from_millis(2500), second.receive(Lane::Message, 100)).await;
    ensure!(stolen.is_err(), "a live owner's messages were received: {stolen:?}");

    let killed = Instant::now();
    holder.kill()?;
    let taken = second.receive(Lane::Message, 100).await?;
    println!("taken over after {:?}", killed.elapsed());
    ensure!(taken.len() == 20 && taken.iter().all(|delivery| delivery.receive_count == 2), "{}", taken.len());
    ensure!(killed.elapsed() < Duration::from_secs(10), "not before the lease of 30 s ended by itself");
    // Nothing of the dead one is left: what there is belongs to the two that live.
    let locks = std::fs::read_dir(folder.path().join("queue.db.nodes"))?
        .filter(|entry| entry.as_ref().is_ok_and(|entry| entry.path().extension().is_some_and(|e| e == "lock")))
        .count();
    ensure!(locks == 2, "{locks} lock files");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_never_have_the_same_message() -> Result<()> {
    let folder = folder()?;
    let path = folder.path().join("queue.db");
    let backend = open(&path).await?;
    let receivers = [Process::start("receive", &path)?, Process::start("receive", &path)?];
    receivers.iter().try_for_each(|receiver| receiver.wait_for("ready"))?;
    send(&backend, (0..1000).map(|n| n.to_string())).await?;
    let mut got = Vec::new();
    for receiver in receivers {
        let from = got.len();
        while let Ok(body) = receiver.lines.recv_timeout(Duration::from_secs(if got.len() < 1000 { 3 } else { 0 })) {
            got.push(body);
        }
        println!("{} received {}", receiver.child.id(), got.len() - from);
    }
    let distinct: HashSet<_> = got.iter().collect();
    ensure!(got.len() == 1000 && distinct.len() == 1000, "{} received, {} distinct", got.len(), distinct.len());
    ensure!(backend.inspect(Lane::Message).await?.total() == 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_that_create_a_file_at_once_share_it() -> Result<()> {
    let folder = folder()?;
    let path = folder.path().join(".dawdle/queue.db");
    let mut senders = (0..6).map(|_| Process::start("send", &path)).collect::<Result<Vec<_>>>()?;
    let mut answered = senders.iter().map(Process::line).collect::<Result<HashSet<_>>>()?;
    for sender in &mut senders {
        sender.kill()?;
        answered.extend(sender.rest());
    }
    let backend = open(&path).await?;
    let kept = empty(&backend, Lane::Message).await?;
    let distinct: HashSet<_> = kept.iter().cloned().collect();
    ensure!(distinct.len() == kept.len() && answered.is_subset(&distinct), "{} of {}", kept.len(), answered.len());
    // Those that were killed are cleared away.
    let locks = std::fs::read_dir(folder.path().join(".dawdle/queue.db.nodes"))?
        .filter(|entry| entry.as_ref().is_ok_and(|entry| entry.path().extension().is_some_and(|e| e == "lock")))
        .count();
    ensure!(locks == 1, "{locks} lock files");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_send_wakes_another_process() -> Result<()> {
    let folder = folder()?;
    let path = folder.path().join("queue.db");
    let backend = open(&path).await?;
    let listener = Process::start("listen", &path)?;
    listener.wait_for("waits")?;
    let mut latencies = Vec::new();
    for number in 0..20 {
        tokio::time::sleep(Duration::from_millis(30)).await;
        let sent = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_nanos();
        send(&backend, [number.to_string()]).await?;
        let line = listener.line()?;
        let (at, body) = line.split_once(' ').context("no time")?;
        ensure!(body == number.to_string());
        latencies.push(Duration::from_nanos(u64::try_from(at.parse::<u128>()?.saturating_sub(sent))?));
    }
    latencies.sort_unstable();
    let (middle, worst) = (latencies[10], latencies[19]);
    println!("from send to another process's receive: median {middle:?}, worst {worst:?}");
    // Looking by itself would take it half a second on average.
    ensure!(middle < Duration::from_millis(300), "median {middle:?}: it was not woken");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_too_long_for_a_socket_still_wakes() -> Result<()> {
    let folder = folder()?;
    let path = folder.path().join("long-".repeat(20)).join("queue.db");
    let (sender, receiver) = (open(&path).await?, Arc::new(open(&path).await?));
    let waiting = {
        let receiver = Arc::clone(&receiver);
        tokio::spawn(async move { receiver.receive(Lane::Message, 1).await })
    };
    tokio::time::sleep(Duration::from_millis(300)).await;
    let sent = Instant::now();
    send(&sender, ["x".to_owned()]).await?;
    ensure!(waiting.await??.len() == 1);
    println!("woken after {:?}", sent.elapsed());
    Ok(())
}

// Leases within a process.

#[tokio::test]
async fn a_dropped_answer_restores_the_count() -> Result<()> {
    let folder = folder()?;
    let backend = open(folder.path().join("queue.db")).await?;
    send(&backend, ["x".to_owned()]).await?;
    {
        let receive = backend.receive(Lane::Message, 1);
        tokio::pin!(receive);
        // Polled once: it is on its way to the writer, whose answer finds nobody polling.
        tokio::select! { biased; _ = &mut receive => anyhow::bail!("too fast"), () = std::future::ready(()) => {} }
        std::thread::sleep(Duration::from_millis(300));
    }
    let again = backend.receive(Lane::Message, 1).await?;
    ensure!(again.len() == 1 && again[0].receive_count == 1, "{:?}", again.first().map(|d| d.receive_count));
    Ok(())
}

#[tokio::test]
async fn a_stale_receipt_touches_nothing() -> Result<()> {
    let folder = folder()?;
    let mut options = LocalOptions::default();
    options.lease = Duration::from_millis(200);
    let backend = LocalBackend::open(folder.path().join("queue.db"), options).await?;
    send(&backend, ["x".to_owned()]).await?;
    let old = backend.receive(Lane::Message, 1).await?.remove(0);
    let new = backend.receive(Lane::Message, 1).await?.remove(0);
    ensure!(new.message_id == old.message_id && new.receive_count == 2);
    for how in [Settlement::Ack, Settlement::ReleaseAfter(Duration::ZERO)] {
        let answer = backend.settle(Lane::Message, &[Settle { receipt: old.receipt.clone(), how }]).await.remove(0);
        ensure!(answer.is_err_and(|error| error.kind() == ErrorKind::LeaseLost));
    }
    let both = [old.receipt, new.receipt.clone(), Receipt("nonsense".to_owned())];
    let extended = backend.extend(Lane::Message, &both, Duration::from_secs(60)).await;
    ensure!(extended[0].is_err() && extended[1].is_ok() && extended[2].is_err(), "{extended:?}");
    ack(&backend, Lane::Message, &[new]).await
}

#[tokio::test]
async fn delays_and_releases_wake_in_time() -> Result<()> {
    let folder = folder()?;
    let backend = open(folder.path().join("queue.db")).await?;
    let start = Instant::now();
    let delayed = Outgoing { delay: Duration::from_millis(400), ..Outgoing::new("x") };
    backend.send(Lane::Message, &[delayed]).await.remove(0)?;
    let delivery = backend.receive(Lane::Message, 1).await?.remove(0);
    let waited = start.elapsed();
    println!("a delay of 400 ms took {waited:?}");
    ensure!(waited >= Duration::from_millis(400), "early: {waited:?}");
    let entry = Settle { receipt: delivery.receipt, how: Settlement::ReleaseAfter(Duration::from_millis(300)) };
    backend.settle(Lane::Message, &[entry]).await.remove(0)?;
    let start = Instant::now();
    ensure!(backend.receive(Lane::Message, 1).await?.len() == 1);
    println!("a release of 300 ms took {:?}", start.elapsed());
    Ok(())
}

#[tokio::test]
async fn a_receive_with_nothing_answers_none_in_the_end() -> Result<()> {
    let folder = folder()?;
    let mut options = LocalOptions::default();
    options.receive_wait = Duration::from_millis(50);
    let backend = LocalBackend::open(folder.path().join("queue.db"), options).await?;
    ensure!(backend.receive(Lane::Message, 10).await?.is_empty());
    ensure!(backend.commits() == 0, "waiting writes nothing");
    Ok(())
}

// Limits and errors.

#[tokio::test]
async fn a_full_queue_and_a_large_message_are_refused() -> Result<()> {
    let folder = folder()?;
    let path = folder.path().join("queue.db");
    let mut options = LocalOptions::default();
    options.max_messages = 3;
    options.max_message_bytes = 10;
    let backend = LocalBackend::open(&path, options).await?;
    let batch = ["1", "far too large", "2", "3", "4"].map(Outgoing::new);
    let answers = backend.send(Lane::Message, &batch).await;
    let kinds: Vec<_> = answers.iter().map(|answer| answer.as_ref().err().map(dawdle::Error::kind)).collect();
    ensure!(kinds == [None, Some(ErrorKind::TooLarge), None, None, Some(ErrorKind::Full)], "{answers:?}");
    let says = |index: usize| answers[index].as_ref().err().map(ToString::to_string).unwrap_or_default();
    ensure!(says(1).contains("13 bytes") && says(1).contains("limit of 10"), "{}", says(1));
    ensure!(says(4).contains("holds 3") && says(4).contains("limit is 3"), "{}", says(4));
    ensure!(!says(1).contains("far too large"), "an error shows a payload");
    // The length counts all lanes, and acking makes room.
    ensure!(backend.send(Lane::Dead, &[Outgoing::new("d")]).await.remove(0).is_err());
    let got = backend.receive(Lane::Message, 1).await?;
    ack(&backend, Lane::Message, &got).await?;
    backend.send(Lane::Dead, &[Outgoing::new("d")]).await.remove(0)?;
    Ok(())
}

#[tokio::test]
async fn files_are_private_and_ignored_by_git() -> Result<()> {
    let folder = folder()?;
    let path = folder.path().join(".dawdle/queue.db");
    let backend = open(&path).await?;
    send(&backend, ["x".to_owned()]).await?;
    ensure!(std::fs::read_to_string(folder.path().join(".dawdle/.gitignore"))? == "*\n");
    ensure!(Path::new(&backend.describe()).is_absolute() && backend.describe().ends_with("queue.db"));
    backend.check(Role::Listener).await?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = |path: &Path| Ok::<_, std::io::Error>(std::fs::metadata(path)?.permissions().mode() & 0o777);
        ensure!(mode(&path)? == 0o600 && mode(path.parent().context("no parent")?)? == 0o700);
        ensure!(mode(&folder.path().join(".dawdle/queue.db-wal"))? == 0o600);
    }
    Ok(())
}

#[tokio::test]
async fn files_that_are_no_queue_are_refused_and_left_alone() -> Result<()> {
    let folder = folder()?;
    let refused = |path: PathBuf| async move {
        let error = open(&path).await.err().context("opened")?;
        ensure!(error.kind() == ErrorKind::Queue, "{error:?}");
        ensure!(error.to_string().contains(&path.file_name().context("no name")?.to_string_lossy().into_owned()));
        Ok(error.to_string())
    };

    let text = folder.path().join("notes.txt");
    std::fs::write(&text, "dear diary, ".repeat(100))?;
    ensure!(refused(text.clone()).await?.contains("no SQLite database"));
    ensure!(std::fs::read_to_string(&text)?.starts_with("dear diary"));

    let other = folder.path().join("app.db");
    rusqlite::Connection::open(&other)?.execute_batch("CREATE TABLE users (name TEXT)")?;
    let before = std::fs::read(&other)?;
    ensure!(refused(other.clone()).await?.contains("another program"));
    ensure!(std::fs::read(&other)? == before, "another program's database was changed");

    let newer = folder.path().join("newer.db");
    drop(open(&newer).await?);
    rusqlite::Connection::open(&newer)?.execute("UPDATE meta SET value = 99 WHERE name = 'schema_version'", [])?;
    let error = refused(newer).await?;
    ensure!(error.contains("schema version 99") && error.contains("newer Dawdle"), "{error}");

    let error = open(folder.path()).await.err().context("opened a folder")?;
    ensure!(error.kind() == ErrorKind::Config, "{error:?}");
    let error = open(folder.path().join("notes.txt/queue.db")).await.err().context("opened under a file")?;
    ensure!(error.kind() == ErrorKind::Queue && error.to_string().contains("DAWDLE_LOCAL_PATH"), "{error:?}");
    Ok(())
}

#[cfg(unix)]
#[tokio::test]
async fn a_folder_that_cannot_be_written_is_refused() -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let folder = folder()?;
    let locked = folder.path().join("locked");
    std::fs::create_dir(&locked)?;
    std::fs::set_permissions(&locked, std::fs::Permissions::from_mode(0o500))?;
    if std::fs::write(locked.join("probe"), "").is_ok() {
        println!("this user may write anywhere: nothing to see");
        return Ok(());
    }
    let error = open(locked.join("queue.db")).await.err().context("opened")?;
    ensure!(error.kind() == ErrorKind::Queue && error.to_string().contains("writable"), "{error:?}");
    Ok(())
}

#[tokio::test]
async fn what_is_written_by_hand_is_received() -> Result<()> {
    let folder = folder()?;
    let path = folder.path().join("queue.db");
    let backend = open(&path).await?;
    backend.send(Lane::Dead, &[Outgoing::new("dead")]).await.remove(0)?;
    let shell = rusqlite::Connection::open(&path)?;
    shell.execute_batch(
        "INSERT INTO messages (lane, visible_at, enqueued_at, body, attributes) VALUES ('message', 0, 0, 'by hand', '{');
         UPDATE messages SET lane = 'message' WHERE lane = 'dead';",
    )?;
    let mut got = empty(&backend, Lane::Message).await?;
    got.sort_unstable();
    ensure!(got == ["by hand", "dead"], "{got:?}");
    ensure!(backend.inspect(Lane::Message).await?.total() == 0);
    Ok(())
}
