//! A headless Chromium of a test's own, driven through ChromeDriver by the WebDriver protocol:
//! <https://www.w3.org/TR/webdriver2/>. Both end with the test.

// Each test binary uses its part.
#![allow(dead_code, reason = "shared by several test binaries")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::{Value, json};
use tempfile::TempDir;

/// For how long a page may take to show what it must.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Browser {
    driver: Child,
    address: SocketAddr,
    session: String,
    process: Option<u64>,
    _profile: TempDir,
}

/// Keys that are no characters, as WebDriver names them.
pub(crate) const TAB: char = '\u{E004}';
pub(crate) const ENTER: char = '\u{E007}';

impl Browser {
    pub(crate) fn start() -> Browser {
        let profile = tempfile::tempdir().expect("a folder");
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .env("HOME", profile.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("chromedriver cannot be started: {error}; install it: apt-get install chromium chromium-driver")
            });
        let mut lines = BufReader::new(driver.stdout.take().expect("an output")).lines();
        let port = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| line.split_once("started successfully on port ")?.1.trim_end_matches('.').parse().ok());
        let Some(port) = port else {
            let _ = driver.kill();
            panic!("chromedriver does not say its port");
        };
        // Whatever else it says is not to hold it up.
        std::thread::spawn(move || lines.for_each(drop));
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let mut browser = Browser { driver, address, session: String::new(), process: None, _profile: profile };
        let data = browser._profile.path().join("profile");
        let args = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--hide-scrollbars",
        ];
        let mut args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        args.push(format!("--user-data-dir={}", data.display()));
        let asked = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome", "goog:chromeOptions": { "args": args }, "timeouts": { "pageLoad": 20_000, "script": 10_000 },
        } } });
        let begun = browser.send("POST", "/session", &asked).unwrap_or_else(|error| {
            panic!("no Chromium was started: {error}; install it: apt-get install chromium chromium-driver")
        });
        browser.session = begun["sessionId"].as_str().expect("a session").to_owned();
        browser.process = begun["capabilities"]["goog:processID"].as_u64();
        browser
    }

    fn send(&self, method: &str, path: &str, body: &Value) -> Result<Value, String> {
        let body = if method == "POST" { body.to_string() } else { String::new() };
        let failed = |error: std::io::Error| format!("{method} {path}: {error}");
        let mut stream = TcpStream::connect(self.address).map_err(failed)?;
        stream.set_read_timeout(Some(Duration::from_secs(60))).map_err(failed)?;
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            self.address,
            body.len()
        )
        .map_err(failed)?;
        let mut reader = BufReader::new(stream);
        let mut length = 0;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).map_err(failed)?;
            if line.trim().is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().map_err(|_| format!("{method} {path}: {line}"))?;
            }
        }
        let mut answer = vec![0; length];
        reader.read_exact(&mut answer).map_err(failed)?;
        let answer: Value = serde_json::from_slice(&answer).map_err(|error| format!("{method} {path}: {error}"))?;
        match answer["value"]["error"].as_str() {
            Some(error) => Err(format!("{method} {path}: {error}: {}", answer["value"]["message"])),
            None => Ok(answer["value"].clone()),
        }
    }

    fn ask(&self, method: &str, path: &str, body: &Value) -> Value {
        let path = format!("/session/{}{path}", self.session);
        self.send(method, &path, body).unwrap_or_else(|error| panic!("{error}"))
    }

    pub(crate) fn go(&self, url: &str) {
        self.ask("POST", "/url", &json!({ "url": url }));
    }

    pub(crate) fn url(&self) -> String {
        self.ask("GET", "/url", &Value::Null).as_str().expect("an address").to_owned()
    }

    pub(crate) fn source(&self) -> String {
        self.ask("GET", "/source", &Value::Null).as_str().expect("a page").to_owned()
    }

    /// What a script returns.
    pub(crate) fn eval(&self, script: &str) -> Value {
        self.ask("POST", "/execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// The same as text.
    pub(crate) fn text_of(&self, expression: &str) -> String {
        self.eval(&format!("return String({expression})")).as_str().expect("text").to_owned()
    }

    /// Everything that can be read on the page.
    pub(crate) fn text(&self) -> String {
        self.text_of("document.body.innerText")
    }

    /// Waits until a script returns true; says how long it took.
    pub(crate) fn until(&self, condition: &str) -> Duration {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            // A page that is being loaded has nothing to say.
            let path = format!("/session/{}/execute/sync", self.session);
            let script = json!({ "script": format!("return Boolean({condition})"), "args": [] });
            if self.send("POST", &path, &script) == Ok(Value::Bool(true)) {
                return begun.elapsed();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("not within {PATIENCE:?}: {condition}\n{}", self.text());
    }

    pub(crate) fn until_text(&self, text: &str) -> Duration {
        self.until(&format!("document.body.innerText.includes({})", json!(text)))
    }

    /// Clicks on what a selector finds first.
    pub(crate) fn click(&self, selector: &str) {
        let found = self.ask("POST", "/element", &json!({ "using": "css selector", "value": selector }));
        let element =
            found.as_object().and_then(|found| found.values().next()?.as_str()).expect("an element").to_owned();
        self.ask("POST", &format!("/element/{element}/click"), &json!({}));
    }

    /// Presses keys, wherever the focus is.
    pub(crate) fn press(&self, keys: &str) {
        let press = |key: char| [json!({ "type": "keyDown", "value": key }), json!({ "type": "keyUp", "value": key })];
        let actions: Vec<Value> = keys.chars().flat_map(press).collect();
        self.ask("POST", "/actions", &json!({ "actions": [{ "type": "key", "id": "keyboard", "actions": actions }] }));
    }

    /// Asks Chromium itself: <https://chromedevtools.github.io/devtools-protocol/>.
    pub(crate) fn devtools(&self, command: &str, with: &Value) -> Value {
        self.ask("POST", "/goog/cdp/execute", &json!({ "cmd": command, "params": with }))
    }

    pub(crate) fn size(&self, width: u32, height: u32) {
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 700 });
        self.devtools("Emulation.setDeviceMetricsOverride", &metrics);
    }

    pub(crate) fn colors(&self, scheme: &str) {
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.devtools("Emulation.setEmulatedMedia", &features);
    }

    pub(crate) fn scripts(&self, on: bool) {
        self.devtools("Emulation.setScriptExecutionDisabled", &json!({ "value": !on }));
    }

    /// A picture of what is to be seen: a PNG.
    pub(crate) fn picture(&self) -> Vec<u8> {
        let taken = self.devtools("Page.captureScreenshot", &json!({ "format": "png" }));
        BASE64_STANDARD.decode(taken["data"].as_str().expect("a picture")).expect("base64")
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if !self.session.is_empty() {
            let _ = self.send("DELETE", &format!("/session/{}", self.session), &Value::Null);
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
        // Ended already, unless ChromeDriver had lost it.
        if let Some(process) = self.process {
            let _ = Command::new("kill").args(["-9", &process.to_string()]).stderr(Stdio::null()).status();
        }
    }
}
