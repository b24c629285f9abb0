//! The shop as somebody uses it who copied it: a handler breaks, the failure is on the dashboard at once, its letters
//! are replayed once it is mended, from the page and by the command line.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

/// What a failure of the mailer looks like.
const ERROR: &str = "the mail provider answers 503";

/// How soon after a failed run its failure is on the page.
const SOON: Duration = Duration::from_secs(2);

/// A folder, and the environment that says where its queue is.
pub(crate) struct Place {
    folder: tempfile::TempDir,
    env: Vec<(&'static str, String)>,
}

impl Place {
    pub(crate) fn with(env: Vec<(&'static str, String)>) -> Place {
        Place { folder: tempfile::tempdir().unwrap(), env }
    }

    fn dress(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("DAWDLE_") {
                command.env_remove(name);
            }
        }
        command.current_dir(self.folder.path()).env("DAWDLE_AUDIT_LOG", self.folder.path().join("audit.jsonl"));
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs the command line, which is built beside the shop.
    pub(crate) fn dawdle(&self, args: &[&str]) -> String {
        let program = PathBuf::from(env!("CARGO_BIN_EXE_dawdle-example-web"));
        let program = program.with_file_name(format!("dawdle{}", std::env::consts::EXE_SUFFIX));
        assert!(program.exists(), "{} is missing: run `cargo build --workspace` first", program.display());
        let output = self.dress(&program).args(args).env("USER", "ann").output().unwrap();
        assert!(output.status.success(), "dawdle {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What was changed, and how it ended.
    fn audit(&self) -> Vec<(Value, Value, Value)> {
        let log = std::fs::read_to_string(self.folder.path().join("audit.jsonl")).unwrap_or_default();
        let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.map(|line| (line["what"].clone(), line["outcome"].clone(), line["count"].clone())).collect()
    }
}

/// The shop as a process, on a queue of its own.
struct Shop {
    process: Child,
    url: String,
    client: reqwest::Client,
}

impl Shop {
    fn open(place: &Place) -> Shop {
        let mut process = place
            .dress(Path::new(env!("CARGO_BIN_EXE_dawdle-example-web")))
            .envs([("PORT", "0"), ("RUST_LOG", "warn")])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let url = line.trim().strip_prefix("listening on ").expect("the address").to_owned();
        Shop { process, url, client: reqwest::Client::new() }
    }

    async fn get(&self, path: &str) -> String {
        self.client.get(format!("{}{path}", self.url)).send().await.unwrap().text().await.unwrap()
    }

    async fn order(&self, email: &str) {
        let order = json!({ "item": "tea", "email": email });
        let answer = self.client.post(format!("{}/orders", self.url)).json(&order).send().await.unwrap();
        assert_eq!(answer.status(), 202);
        assert!(answer.json::<Value>().await.unwrap()["event"].is_string());
    }

    async fn set_mailer(&self, works: bool) {
        let answer = self.client.put(format!("{}/mailer", self.url)).json(&json!({ "works": works })).send().await;
        assert_eq!(answer.unwrap().status(), 204);
    }

    /// Asks until the answer holds `text`.
    async fn until(&self, path: &str, text: &str) -> String {
        let start = Instant::now();
        loop {
            let answer = self.get(path).await;
            if answer.contains(text) {
                return answer;
            }
            assert!(start.elapsed() < Duration::from_secs(60), "no `{text}` at {path}: {answer}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The hidden fields of the form with that button.
fn fields(page: &str, button: &str) -> Vec<(String, String)> {
    let form = page.split("<form").find(|form| form.split("</form").next().unwrap_or_default().contains(button));
    let form = form.unwrap_or_else(|| panic!("no form with `{button}`: {page}")).split("</form").next().unwrap();
    let quoted = |input: &str, name: &str| {
        let (_, value) = input.split_once(&format!("{name}=\""))?;
        value.split('"').next().map(str::to_owned)
    };
    let inputs = form.split("<input").skip(1).filter_map(|input| input.split('>').next());
    inputs.filter_map(|input| Some((quoted(input, "name")?, quoted(input, "value")?))).collect()
}

/// Waits until the page, kept live by its own stream, shows the failure, and says how long after the run that was.
async fn shown_after(stream: &mut reqwest::Response) -> Duration {
    let mut text = String::new();
    loop {
        let chunk = tokio::time::timeout(Duration::from_secs(60), stream.chunk()).await.expect("a part of the page");
        text.push_str(&String::from_utf8_lossy(&chunk.unwrap().expect("the stream goes on")));
        let Some((before, _)) = text.split_once(ERROR) else { continue };
        let (_, time) = before.rsplit_once("datetime=\"").expect("the time of the failure");
        let failed_at = humantime::parse_rfc3339(time.split('"').next().unwrap()).unwrap();
        return SystemTime::now().duration_since(failed_at).unwrap_or_default();
    }
}

/// Breaks a handler, sees it on the page, mends it, and replays what died: once from the page, once by the command
/// line.
pub(crate) async fn a_bad_day(place: &Place) {
    let mut shop = Shop::open(place);
    shop.order("ada@example.com").await;
    shop.until("/mailer", r#"{"sent":1}"#).await;

    let live = shop.client.get(format!("{}/dawdle/live?page=overview", shop.url)).send().await;
    let mut live = live.unwrap().error_for_status().unwrap();
    shop.set_mailer(false).await;
    shop.order("bob@example.com").await;
    let after = shown_after(&mut live).await;
    assert!(after <= SOON, "the failure was on the page {after:?} after the run");
    drop(live);
    shop.order("cyd@example.com").await;
    shop.until("/metrics", r#"dawdle_handled_total{kind="order.placed",handler="confirm",outcome="retry"} 6"#).await;
    shop.until("/metrics", r#"dawdle_dead_lettered_total{kind="order.placed",handler="confirm",reason="attempts"} 2"#)
        .await;
    let letters = shop.until("/dawdle/dead", "<strong>2 letters</strong>").await;
    assert!(letters.contains("order.placed") && letters.contains("confirm"), "{letters}");

    shop.set_mailer(true).await;
    let form = fields(&letters, "Replay all that match");
    let replay = shop.client.post(format!("{}/dawdle/replay", shop.url)).header("Origin", &shop.url).form(&form);
    let replay = replay.send().await.unwrap();
    assert!(replay.status().is_success(), "{}", replay.text().await.unwrap());
    shop.until("/mailer", r#"{"sent":3}"#).await;
    shop.until("/dawdle/job", "2 replayed").await;

    shop.set_mailer(false).await;
    shop.order("dan@example.com").await;
    shop.until("/metrics", r#"dawdle_dead_lettered_total{kind="order.placed",handler="confirm",reason="attempts"} 3"#)
        .await;
    shop.until("/dawdle/dead", "<strong>1 letter</strong>").await;
    shop.set_mailer(true).await;
    let replayed: Value =
        serde_json::from_str(&place.dawdle(&["dead", "replay", "--handler", "confirm", "--json"])).unwrap();
    assert_eq!((&replayed["replayed"], &replayed["failed"]), (&json!(1), &json!(0)));
    shop.until("/mailer", r#"{"sent":4}"#).await;
    let change = |outcome: &str, count: Value| (json!("replay"), json!(outcome), count);
    let expected = [
        change("begun", Value::Null),
        change("done", json!(2)),
        change("begun", Value::Null),
        change("done", json!(1)),
    ];
    // On SQS the making of the queues is noted, too.
    let replays: Vec<_> = place.audit().into_iter().filter(|(what, ..)| what == "replay").collect();
    assert_eq!(replays, expected);
    // `pack` had no part in it: it ran once for each order.
    shop.until("/metrics", r#"dawdle_handled_total{kind="order.placed",handler="pack",outcome="ok"} 4"#).await;

    #[cfg(unix)]
    {
        let status = Command::new("kill").arg(shop.process.id().to_string()).status().unwrap();
        assert!(status.success());
        assert!(shop.process.wait().unwrap().success(), "it drains, and ends well");
    }
}
