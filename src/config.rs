//! Where Dawdle's settings come from: [`Config`].

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Error, ErrorKind, Result};
use crate::redact::without_userinfo;
use crate::retry::Backoff;
use crate::settings::Settings;
use crate::wire::MAX_PACK;

const PREFIX: &str = "DAWDLE_";

/// An event on the delay queue is woken ten minutes before it is due: time for two looks, should the
/// node that looks first die, and for a lease of a minute in between.
const DELAY_POLL_AT_MOST: Duration = Duration::from_secs(270);

/// The most that any count may be set to.
pub(crate) const MOST: usize = 1_000_000;

/// Which backend keeps the messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendKind {
    /// One SQLite file.
    Local,
    /// This process's memory.
    Memory,
    /// Amazon SQS.
    Sqs,
}

/// A type that a setting may have.
trait Setting: Sized {
    /// What is allowed, for errors.
    const ALLOWED: &'static str;
    fn parse(text: &str) -> Option<Self>;
    fn text(&self) -> String;
}

impl Setting for BackendKind {
    const ALLOWED: &'static str = "`local`, `memory` or `sqs`";

    fn parse(text: &str) -> Option<Self> {
        match text {
            "local" => Some(BackendKind::Local),
            "memory" => Some(BackendKind::Memory),
            "sqs" => Some(BackendKind::Sqs),
            _ => None,
        }
    }

    fn text(&self) -> String {
        match self {
            BackendKind::Local => "local",
            BackendKind::Memory => "memory",
            BackendKind::Sqs => "sqs",
        }
        .to_owned()
    }
}

impl Setting for bool {
    const ALLOWED: &'static str = "`true`, `false`, `1` or `0`";

    fn parse(text: &str) -> Option<Self> {
        match text {
            "true" | "1" => Some(true),
            "false" | "0" => Some(false),
            _ => None,
        }
    }

    fn text(&self) -> String {
        self.to_string()
    }
}

/// Whole numbers, of whatever type.
macro_rules! count {
    ($($type:ty),*) => {$(
        impl Setting for $type {
            const ALLOWED: &'static str = "a whole number of at least 1";

            fn parse(text: &str) -> Option<Self> {
                text.parse().ok().filter(|number| *number >= 1)
            }

            fn text(&self) -> String {
                self.to_string()
            }
        }
    )*};
}

count!(usize, u32);

impl Setting for Duration {
    const ALLOWED: &'static str = "a time span with its unit, such as `25s`, `500ms` or `1h 30m`";

    fn parse(text: &str) -> Option<Self> {
        humantime::parse_duration(text).ok()
    }

    fn text(&self) -> String {
        humantime::format_duration(*self).to_string()
    }
}

impl Setting for String {
    const ALLOWED: &'static str = "text that is not empty";

    fn parse(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| text.to_owned())
    }

    fn text(&self) -> String {
        self.clone()
    }
}

impl Setting for Vec<String> {
    const ALLOWED: &'static str = "names, with commas between them";

    fn parse(text: &str) -> Option<Self> {
        let names: Vec<String> = text.split(',').map(|name| name.trim().to_owned()).collect();
        names.iter().all(|name| !name.is_empty()).then_some(names)
    }

    fn text(&self) -> String {
        self.join(",")
    }
}

impl Setting for PathBuf {
    const ALLOWED: &'static str = "a path";

    fn parse(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| PathBuf::from(text))
    }

    fn text(&self) -> String {
        self.to_string_lossy().into_owned()
    }
}

/// Declares [`Config`]: one line per setting, with the name that is its field, its key in a table
/// and, behind `DAWDLE_` in capitals, its environment variable.
macro_rules! config {
    ($($(#[$doc:meta])* $name:ident: $type:ty,)*) => {
        /// Dawdle's settings. What is `None` comes from the environment, or has its default.
        ///
        /// Each field is also an environment variable: `concurrency` is `DAWDLE_CONCURRENCY`.
        /// Precedence: the builder, then the environment, then a file, then the default. A
        /// `Config` made in code and given to the builder is the builder's word. One that was
        /// deserialized, as a table of the application's own configuration, is a file's, and the
        /// environment goes before it.
        ///
        /// As a serde value, time spans are text with a unit (`"25s"`); unknown fields are errors.
        ///
        /// ```
        /// use dawdle::Config;
        ///
        /// let config: Config = serde_json::from_str(r#"{ "concurrency": 4, "send_timeout": "5s" }"#).unwrap();
        /// assert_eq!(config.concurrency, Some(4));
        /// ```
        #[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct Config {
            $($(#[$doc])*
            #[serde(default, deserialize_with = "read_setting", serialize_with = "write_setting", skip_serializing_if = "Option::is_none")]
            pub $name: Option<$type>,)*
            /// Who says so: not for use by hand.
            #[doc(hidden)]
            #[serde(skip, default = "Origin::file")]
            pub origin: Origin,
        }

        /// Without the passwords that URLs may hold.
        impl fmt::Debug for Config {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct("Config")
                    $(.field(stringify!($name), &self.$name.as_ref().map(|value| without_userinfo(&value.text()))))*
                    .field("origin", &self.origin)
                    .finish()
            }
        }

        impl Config {
            /// The settings that the environment holds: every variable that begins with `DAWDLE_`.
            ///
            /// # Errors
            /// [`ErrorKind::Config`] for a value that is not allowed, and for a name that is no
            /// setting's, naming the nearest.
            pub fn from_env() -> Result<Self> {
                let mut ours = Vec::new();
                for (name, value) in std::env::vars_os() {
                    let name = name.to_string_lossy().into_owned();
                    if name.starts_with(PREFIX) {
                        let value = value.into_string().map_err(|_| not_utf8(&name))?;
                        ours.push((name, value));
                    }
                }
                Config::from_vars(ours)
            }

            pub(crate) fn from_vars(vars: impl IntoIterator<Item = (String, String)>) -> Result<Self> {
                let mut config = Config::default();
                for (name, value) in vars {
                    let key = name.strip_prefix(PREFIX).unwrap_or_default().to_ascii_lowercase();
                    match key.as_str() {
                        $(stringify!($name) => config.$name = Some(parse_variable::<$type>(&name, &value)?),)*
                        _ => return Err(unknown_variable(&name)),
                    }
                }
                Ok(config)
            }

            /// This configuration, with `other`'s values where it has none.
            fn or(self, other: Config) -> Self {
                Config {
                    $($name: self.$name.or(other.$name),)*
                    origin: self.origin,
                }
            }
        }

        /// Every setting's name.
        pub(crate) const NAMES: &[&str] = &[$(stringify!($name)),*];
    };
}

config! {
    /// The backend. Default: SQS where an SQS queue is configured, else the local file.
    backend: BackendKind,
    /// Whether `start` starts a listener. Default: true.
    start_listener: bool,
    /// The local backend's file. Default: `.dawdle/queue.db`.
    local_path: PathBuf,
    /// How many messages the local file takes in all. Default: 1,000,000.
    local_max_messages: usize,
    /// The largest message that the local file takes, in bytes. Default: 1 MiB.
    local_max_message_bytes: usize,
    /// Where the command line notes what it changes. Default: `.dawdle/audit.jsonl`.
    audit_log: PathBuf,
    /// The SQS queues' name: NAME, NAME-delay and NAME-dead.
    sqs_queue: String,
    /// The SQS message queue by URL.
    sqs_queue_url: String,
    /// The SQS delay queue by URL.
    sqs_delay_queue_url: String,
    /// The SQS dead-letter queue by URL.
    sqs_dead_letter_queue_url: String,
    /// The AWS region. Default: the AWS default chain's.
    sqs_region: String,
    /// Another SQS endpoint. Default: `AWS_ENDPOINT_URL_SQS`, then `AWS_ENDPOINT_URL`, then AWS itself.
    sqs_endpoint_url: String,
    /// Handlers running at once on this node. Default: twice the cores, at least 10.
    concurrency: usize,
    /// Handlers that this node does not run, by name, with commas between them; their work is passed on to
    /// nodes that do. Default: none.
    except_handlers: Vec<String>,
    /// The whole of a drain. Default: 25 seconds.
    shutdown_timeout: Duration,
    /// The CloudEvents source of what this process signals. Default: the program's name.
    source: String,
    /// The build that dead letters name. Default: none.
    version: String,
    /// For how long `signal` is tried. Default: 10 seconds.
    send_timeout: Duration,
    /// For how long `start` tries to reach the backend. Default: 30 seconds.
    start_timeout: Duration,
    /// For how long an event that no node can handle is passed on before it is dead-lettered. Default: 24 hours.
    unknown_after: Duration,
    /// Attempts of a handler that names none. Default: 25.
    attempts: u32,
    /// Timeout of a handler that names none. Default: 5 minutes.
    timeout: Duration,
    /// The first delay of the backoff of a handler that names none. Default: 1 second.
    backoff_first: Duration,
    /// The longest delay of it. Default: 6 hours.
    backoff_max: Duration,
    /// How many times a message may be received without being settled. Default: 10.
    max_receives: u32,
    /// The most messages received ahead of the handlers; fewer where those of late were large, so that they are
    /// about 64 MiB at most. Default: 2,000.
    prefetch: usize,
    /// The most messages that are held until they are due, beyond those: 200, or as many as the node finishes within
    /// two seconds, where that is about 64 MiB at most. Up to 200 wait for their one handler's own limit. Default: 5,000.
    max_held: usize,
    /// The most receives under way at once. There is one while it finds less than it asks for. Default: 128.
    max_receives_at_once: usize,
    /// Events waiting to be sent. Default: 10,000.
    send_buffer: usize,
    /// The most send requests under way at once, per queue. Default: 128.
    sends_at_once: usize,
    /// The pause before a failed send is tried again, doubled each time. Default: 100 milliseconds.
    send_backoff_first: Duration,
    /// The longest such pause. Default: 2 seconds.
    send_backoff_max: Duration,
    /// So many events signalled by [`Signal::buffered`](crate::Signal::buffered) go out without waiting for
    /// more. Default: 500.
    buffer_batch: usize,
    /// How long such an event waits for others at most; up to 10 seconds. Default: 50 milliseconds.
    buffer_delay: Duration,
    /// How long an ack waits for others to share its request. Default: 50 milliseconds.
    ack_linger: Duration,
    /// How often the delay queue is looked at, less some jitter; at most 270 seconds. Default: 4
    /// minutes.
    delay_poll: Duration,
    /// How many finished messages are remembered that could not be deleted. Default: 10,000.
    remembered_ids: usize,
    /// Bodies of more bytes than this are compressed; events of up to 16 MiB fit then, if they shrink
    /// enough. Every node must be of a build that reads it. Default: never.
    compress_above: usize,
    /// Whether many events share a message, where their type does not say
    /// ([`#[event(pack)]`](macro@crate::Event)). Every node must be of a build that reads packs. Default: false.
    pack: bool,
    /// The most events that share a message: 1 to 10,000. Default: 1,000.
    pack_count: usize,
    /// The most bytes of a message of several events. SQS bills a request by 64 KiB:
    /// <https://aws.amazon.com/sqs/pricing/>. Default: 64 KiB.
    pack_bytes: usize,
}

/// Whose word a [`Config`] is.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// Made in code.
    #[default]
    Builder,
    /// Deserialized.
    File,
}

impl Origin {
    fn file() -> Self {
        Origin::File
    }
}

impl Config {
    /// This configuration and the environment's, each setting from the one that goes first: what a
    /// [`Builder`](crate::Builder) goes by, for a process that opens the queues without one.
    ///
    /// # Errors
    /// As [`from_env`](Config::from_env).
    ///
    /// ```
    /// use dawdle::Config;
    ///
    /// let file: Config = serde_json::from_str(r#"{ "local_path": "orders.db" }"#).unwrap();
    /// println!("{:?}", file.with_environment()?.local_path);
    /// # Ok::<(), dawdle::Error>(())
    /// ```
    pub fn with_environment(self) -> Result<Config> {
        Ok(self.with_env(Config::from_env()?))
    }

    /// This configuration and the environment's, each setting from the one that goes first. The
    /// queues are one setting: a name here is not overruled by a URL there.
    pub(crate) fn with_env(self, env: Config) -> Self {
        let (first, mut second) = match self.origin {
            Origin::Builder => (self, env),
            Origin::File => (env, self),
        };
        if first.names_queues() {
            second.sqs_queue = None;
            second.sqs_queue_url = None;
            second.sqs_delay_queue_url = None;
            second.sqs_dead_letter_queue_url = None;
        }
        first.or(second)
    }

    fn names_queues(&self) -> bool {
        let urls = [&self.sqs_queue_url, &self.sqs_delay_queue_url, &self.sqs_dead_letter_queue_url];
        self.sqs_queue.is_some() || urls.into_iter().any(Option::is_some)
    }

    /// Which backend to use.
    pub(crate) fn backend_kind(&self, platform: Option<&str>) -> Result<BackendKind> {
        let queue = self.sqs_queue.is_some() || self.sqs_queue_url.is_some();
        let other = [
            ("sqs_delay_queue_url", &self.sqs_delay_queue_url),
            ("sqs_dead_letter_queue_url", &self.sqs_dead_letter_queue_url),
            ("sqs_region", &self.sqs_region),
            ("sqs_endpoint_url", &self.sqs_endpoint_url),
        ];
        if let (None, false, Some((name, _))) = (self.backend, queue, other.iter().find(|(_, value)| value.is_some())) {
            let name = both_names(name);
            return Err(Error::new(
                ErrorKind::Config,
                format!(
                    "{name} is set and no SQS queue is: set DAWDLE_SQS_QUEUE, or DAWDLE_BACKEND=local if events are to \
                     stay on this machine"
                ),
            ));
        }
        match (self.backend, queue, platform) {
            (Some(kind), ..) => Ok(kind),
            (None, true, _) => Ok(BackendKind::Sqs),
            (None, false, None) => Ok(BackendKind::Local),
            (None, false, Some(platform)) => Err(Error::new(
                ErrorKind::Config,
                format!(
                    "this runs on {platform}, where a local file would not outlive the container, and no SQS queue is \
                     configured; set DAWDLE_SQS_QUEUE, or DAWDLE_BACKEND=local if that is what you want"
                ),
            )),
        }
    }

    pub(crate) fn settings(&self) -> Result<Settings> {
        let default = Settings::default();
        let shutdown_timeout = self.shutdown_timeout.unwrap_or(default.shutdown_timeout);
        at_least("shutdown_timeout", shutdown_timeout, Duration::from_millis(100))?;
        let send_timeout = self.send_timeout.unwrap_or(default.send_timeout);
        at_least("send_timeout", send_timeout, Duration::from_millis(100))?;
        let delay_poll = self.delay_poll.unwrap_or(default.delay_poll);
        at_least("delay_poll", delay_poll, Duration::from_secs(1))?;
        at_most("delay_poll", delay_poll, DELAY_POLL_AT_MOST)?;
        let timeout = self.timeout.unwrap_or(default.timeout);
        at_least("timeout", timeout, Duration::from_millis(1))?;
        let ack_linger = self.ack_linger.unwrap_or(default.ack_linger);
        at_most("ack_linger", ack_linger, Duration::from_secs(1))?;
        let buffer_delay = self.buffer_delay.unwrap_or(default.buffer_delay);
        at_most("buffer_delay", buffer_delay, Duration::from_secs(10))?;
        let start_timeout = self.start_timeout.unwrap_or_default();
        for (name, span) in
            [("shutdown_timeout", shutdown_timeout), ("send_timeout", send_timeout), ("start_timeout", start_timeout)]
        {
            at_most(name, span, Duration::from_secs(86_400))?;
        }
        for (name, count) in [
            ("concurrency", self.concurrency),
            ("prefetch", self.prefetch),
            ("max_held", self.max_held),
            ("max_receives_at_once", self.max_receives_at_once),
            ("send_buffer", self.send_buffer),
            ("sends_at_once", self.sends_at_once),
            ("buffer_batch", self.buffer_batch),
            ("pack_bytes", self.pack_bytes),
            ("remembered_ids", self.remembered_ids),
            ("attempts", self.attempts.map(|count| count as usize)),
            ("max_receives", self.max_receives.map(|count| count as usize)),
        ] {
            if let Some(count) = count.filter(|count| !(1..=MOST).contains(count)) {
                let text = format!("{} is {count}; it is 1 to {MOST}", both_names(name));
                return Err(Error::new(ErrorKind::Config, text));
            }
        }
        if let Some(count) = self.pack_count.filter(|count| !(1..=MAX_PACK).contains(count)) {
            let name = both_names("pack_count");
            let text = format!("{name} is {count}; it is 1 to {MAX_PACK}, the most that readers take");
            return Err(Error::new(ErrorKind::Config, text));
        }
        let first = self.backoff_first.unwrap_or(Duration::from_secs(1));
        let max = self.backoff_max.unwrap_or(Duration::from_secs(6 * 3600));
        Ok(Settings {
            concurrency: self.concurrency.unwrap_or(default.concurrency),
            prefetch: self.prefetch.unwrap_or(default.prefetch),
            max_held: self.max_held.unwrap_or(default.max_held),
            max_receives_at_once: self.max_receives_at_once.unwrap_or(default.max_receives_at_once),
            shutdown_timeout,
            send_timeout,
            send_buffer: self.send_buffer.unwrap_or(default.send_buffer),
            sends_at_once: self.sends_at_once.unwrap_or(default.sends_at_once),
            send_backoff: Backoff::exponential(
                self.send_backoff_first.unwrap_or(Duration::from_millis(100)),
                self.send_backoff_max.unwrap_or(Duration::from_secs(2)),
            ),
            buffer_batch: self.buffer_batch.unwrap_or(default.buffer_batch),
            buffer_delay,
            ack_linger,
            unknown_after: self.unknown_after.unwrap_or(default.unknown_after),
            max_receives: self.max_receives.unwrap_or(default.max_receives),
            delay_poll,
            remembered_ids: self.remembered_ids.unwrap_or(default.remembered_ids),
            compress_above: self.compress_above,
            pack: self.pack.unwrap_or(default.pack),
            pack_count: self.pack_count.unwrap_or(default.pack_count),
            pack_bytes: self.pack_bytes.unwrap_or(default.pack_bytes),
            attempts: self.attempts.unwrap_or(default.attempts),
            timeout,
            backoff: Backoff::exponential(first, max),
            source: self.source.clone().unwrap_or_else(program_name),
            version: self.version.clone(),
            node: node_name(),
        })
    }
}

fn at_least(name: &str, value: Duration, limit: Duration) -> Result<()> {
    if value >= limit {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Config, format!("{} is {value:?}; it is at least {limit:?}", both_names(name))))
}

fn at_most(name: &str, value: Duration, limit: Duration) -> Result<()> {
    if value <= limit {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Config, format!("{} is {value:?}; it is at most {limit:?}", both_names(name))))
}

/// A setting, as a field and as a variable.
fn both_names(name: &str) -> String {
    format!("`{name}` (DAWDLE_{})", name.to_ascii_uppercase())
}

#[cfg(feature = "sqs")]
impl From<&Config> for crate::backend::sqs::SqsOptions {
    /// What a configuration says of the queues: to create them, for instance.
    fn from(config: &Config) -> Self {
        Self {
            queue: config.sqs_queue.clone(),
            queue_url: config.sqs_queue_url.clone(),
            delay_queue_url: config.sqs_delay_queue_url.clone(),
            dead_letter_queue_url: config.sqs_dead_letter_queue_url.clone(),
            region: config.sqs_region.clone(),
            endpoint_url: config.sqs_endpoint_url.clone(),
            ..Self::default()
        }
    }
}

/// The managed platform that this process runs on, if it says so.
pub(crate) fn platform() -> Option<&'static str> {
    const SIGNS: [(&str, &str); 4] = [
        ("AWS_LAMBDA_FUNCTION_NAME", "AWS Lambda"),
        ("ECS_CONTAINER_METADATA_URI_V4", "ECS"),
        ("ECS_CONTAINER_METADATA_URI", "ECS"),
        ("KUBERNETES_SERVICE_HOST", "Kubernetes"),
    ];
    SIGNS.iter().find(|(variable, _)| std::env::var_os(variable).is_some()).map(|(_, platform)| *platform)
}

fn program_name() -> String {
    let path = std::env::current_exe().ok();
    let stem = path.as_deref().and_then(|path| path.file_stem()).map(|stem| stem.to_string_lossy().into_owned());
    stem.filter(|name| !name.is_empty()).unwrap_or_else(|| crate::envelope::DEFAULT_SOURCE.to_owned())
}

/// What dead letters call this node: its host and process.
fn node_name() -> String {
    let host = std::env::var("HOSTNAME").ok().filter(|host| !host.is_empty());
    let host = host.or_else(|| {
        let text = std::fs::read_to_string("/etc/hostname").ok()?;
        Some(text.trim().to_owned())
    });
    format!("{}:{}", host.unwrap_or_else(|| "localhost".to_owned()), std::process::id())
}

fn parse_variable<T: Setting>(name: &str, value: &str) -> Result<T> {
    T::parse(value)
        .ok_or_else(|| Error::new(ErrorKind::Config, format!("{name} is `{value}`; allowed is {}", T::ALLOWED)))
}

fn not_utf8(name: &str) -> Error {
    Error::new(ErrorKind::Config, format!("the value of {name} is not UTF-8; write it in UTF-8"))
}

fn unknown_variable(name: &str) -> Error {
    let known: BTreeMap<usize, String> = NAMES
        .iter()
        .map(|known| format!("{PREFIX}{}", known.to_ascii_uppercase()))
        .map(|known| (strsim::damerau_levenshtein(name, &known), known))
        .rev()
        .collect();
    let nearest = known.first_key_value().map_or("", |(_, nearest)| nearest.as_str());
    Error::new(ErrorKind::Config, format!("there is no setting {name}; the nearest is {nearest}"))
}

fn read_setting<'de, T: Setting, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    struct Text;
    impl Visitor<'_> for Text {
        type Value = Option<String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("text, a number or a boolean")
        }

        fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
            Ok(Some(text.to_owned()))
        }

        fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
            Ok(Some(value.to_string()))
        }

        fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
            Ok(Some(value.to_string()))
        }

        fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
            Ok(Some(value.to_string()))
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }
    }
    let Some(text) = deserializer.deserialize_any(Text)? else { return Ok(None) };
    match T::parse(&text) {
        Some(value) => Ok(Some(value)),
        None => Err(serde::de::Error::custom(format!("`{text}` is not allowed; allowed is {}", T::ALLOWED))),
    }
}

fn write_setting<T: Setting, S: Serializer>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => serializer.serialize_some(&value.text()),
        None => serializer.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vars(vars: &[(&str, &str)]) -> Result<Config> {
        Config::from_vars(vars.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
    }

    #[test]
    fn every_variable_of_the_table_is_read() {
        let config = vars(&[
            ("DAWDLE_BACKEND", "sqs"),
            ("DAWDLE_START_LISTENER", "0"),
            ("DAWDLE_LOCAL_PATH", "/tmp/q.db"),
            ("DAWDLE_SQS_QUEUE", "orders"),
            ("DAWDLE_SQS_QUEUE_URL", "u"),
            ("DAWDLE_SQS_DELAY_QUEUE_URL", "u"),
            ("DAWDLE_SQS_DEAD_LETTER_QUEUE_URL", "u"),
            ("DAWDLE_SQS_REGION", "eu-west-1"),
            ("DAWDLE_SQS_ENDPOINT_URL", "http://localhost:4566"),
            ("DAWDLE_CONCURRENCY", "3"),
            ("DAWDLE_SHUTDOWN_TIMEOUT", "25s"),
            ("DAWDLE_SOURCE", "orders-service"),
            ("DAWDLE_VERSION", "1.2.3"),
        ])
        .unwrap();
        assert_eq!(config.backend, Some(BackendKind::Sqs));
        assert_eq!(config.start_listener, Some(false));
        assert_eq!(config.shutdown_timeout, Some(Duration::from_secs(25)));
    }

    #[test]
    fn a_bad_value_names_variable_value_and_what_is_allowed() {
        let error = vars(&[("DAWDLE_BACKEND", "redis")]).unwrap_err().to_string();
        assert_eq!(error, "DAWDLE_BACKEND is `redis`; allowed is `local`, `memory` or `sqs`");
        assert!(vars(&[("DAWDLE_CONCURRENCY", "0")]).unwrap_err().to_string().contains("at least 1"));
        assert!(vars(&[("DAWDLE_SHUTDOWN_TIMEOUT", "25")]).unwrap_err().to_string().contains("`25s`"));
        assert!(vars(&[("DAWDLE_SQS_QUEUE", "")]).unwrap_err().to_string().contains("not empty"));
    }

    #[test]
    fn a_password_in_a_url_is_not_shown() {
        let config = vars(&[("DAWDLE_SQS_ENDPOINT_URL", "http://me:secret@localhost:4566")]).unwrap();
        let text = format!("{config:?}");
        assert!(text.contains("http://localhost:4566") && !text.contains("secret"), "{text}");
    }

    #[test]
    fn a_misspelt_variable_names_the_nearest() {
        let error = vars(&[("DAWDLE_CONCURENCY", "3")]).unwrap_err().to_string();
        assert_eq!(error, "there is no setting DAWDLE_CONCURENCY; the nearest is DAWDLE_CONCURRENCY");
    }

    #[test]
    fn the_builder_goes_before_the_environment_and_the_environment_before_a_file() {
        let env = || Config { concurrency: Some(2), attempts: Some(2), ..Config::default() };
        let code = Config { concurrency: Some(1), ..Config::default() };
        let both = code.with_env(env());
        assert_eq!((both.concurrency, both.attempts), (Some(1), Some(2)));
        let file: Config = serde_json::from_str(r#"{"concurrency": 1, "max_receives": 7}"#).unwrap();
        let both = file.with_env(env());
        assert_eq!((both.concurrency, both.attempts, both.max_receives), (Some(2), Some(2), Some(7)));
    }

    #[test]
    fn a_queue_that_the_builder_names_is_not_overruled_by_a_url_of_the_environment() {
        let env = Config { sqs_queue_url: Some("url".into()), sqs_region: Some("r".into()), ..Config::default() };
        let code = Config { sqs_queue: Some("name".into()), ..Config::default() };
        let both = code.with_env(env);
        assert_eq!(
            (both.sqs_queue.as_deref(), both.sqs_queue_url, both.sqs_region.as_deref()),
            (Some("name"), None, Some("r"))
        );
    }

    #[test]
    fn a_table_is_read_and_written_and_its_errors_are_clear() {
        let config: Config =
            serde_json::from_str(r#"{"backend": "local", "start_listener": true, "timeout": "1m", "attempts": 3}"#)
                .unwrap();
        assert_eq!(config.timeout, Some(Duration::from_secs(60)));
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<Config>(&text).unwrap(), config);
        let error = serde_json::from_str::<Config>(r#"{"concurency": 1}"#).unwrap_err().to_string();
        assert!(error.contains("concurency") && error.contains("`concurrency`"), "{error}");
        assert!(
            serde_json::from_str::<Config>(r#"{"timeout": "soon"}"#).unwrap_err().to_string().contains("with its unit")
        );
    }

    #[test]
    fn the_backend_is_sqs_where_a_queue_is_configured_and_local_on_a_laptop_only() {
        let queue = Config { sqs_queue: Some("q".into()), ..Config::default() };
        assert_eq!(queue.backend_kind(Some("ECS")).unwrap(), BackendKind::Sqs);
        assert_eq!(Config::default().backend_kind(None).unwrap(), BackendKind::Local);
        let error = Config::default().backend_kind(Some("ECS")).unwrap_err().to_string();
        assert!(error.contains("ECS") && error.contains("DAWDLE_SQS_QUEUE"), "{error}");
        let forgotten = Config { sqs_region: Some("eu-west-1".into()), ..Config::default() };
        let error = forgotten.backend_kind(None).unwrap_err().to_string();
        assert!(error.contains("`sqs_region`") && error.contains("DAWDLE_SQS_QUEUE"), "{error}");
        let local = Config { backend: Some(BackendKind::Local), ..forgotten };
        assert_eq!(local.backend_kind(Some("ECS")).unwrap(), BackendKind::Local);
    }
}
