//! The queues that the settings name, opened.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use dawdle::backend::{Backend, Lane};
use dawdle::{BackendKind, Config, Dawdle};

use crate::problem::{Problem, Result};
use crate::settings::Settings;
use crate::stop;

/// For how long a command that ends gives back what it holds, whatever the application's
/// `DAWDLE_SHUTDOWN_TIMEOUT` is: what it does not come to stays hidden for minutes.
const GIVING_BACK: Duration = Duration::from_secs(300);

/// The queues of an application, without its handlers.
pub(crate) struct Queues {
    pub(crate) config: Config,
    pub(crate) backend: Arc<dyn Backend>,
}

/// The file that the local backend keeps its messages in.
pub(crate) fn local_path(config: &Config) -> PathBuf {
    config.local_path.clone().unwrap_or_else(|| ".dawdle/queue.db".into())
}

impl Queues {
    /// Opens queues that are there: a local file is not created by looking for it.
    pub(crate) async fn open(settings: &Settings) -> Result<Queues> {
        let config = settings.config()?;
        if config.chosen_backend()? == BackendKind::Local {
            let path = local_path(&config);
            if !path.exists() {
                return Err(Problem::failed(format!(
                    "there is no local queue {}: go to the folder of the application, set DAWDLE_LOCAL_PATH to its \
                     file or DAWDLE_SQS_QUEUE to its queue, or make one with `dawdle init`",
                    path.display()
                )));
            }
        }
        Queues::open_or_create(config).await
    }

    /// Opens queues, and creates the local file where it is missing.
    pub(crate) async fn open_or_create(config: Config) -> Result<Queues> {
        if config.chosen_backend()? == BackendKind::Memory {
            return Err(Problem::failed(
                "DAWDLE_BACKEND is `memory`: those messages are in the memory of one process, and no other can see \
                 them; set it to `local` or `sqs`",
            ));
        }
        let backend = config.open_backend().await?;
        Ok(Queues { config, backend })
    }

    /// An instance on these queues: it sends, and runs nothing.
    pub(crate) async fn dawdle(&self) -> Result<Dawdle> {
        let config = Config { shutdown_timeout: Some(GIVING_BACK), ..self.config.clone() };
        let builder = Dawdle::builder().config(config).backend(Arc::clone(&self.backend));
        Ok(builder.discover(false).listener(false).start().await?)
    }

    /// The queues that there are.
    pub(crate) fn lanes(&self) -> Vec<Lane> {
        let limits = self.backend.limits();
        let there = |lane: &Lane| match lane {
            Lane::Message => true,
            Lane::Delay => limits.delay_lane,
            Lane::Dead => limits.dead_lane,
        };
        Lane::ALL.into_iter().filter(there).collect()
    }

    /// The time by the queues' clock; by this machine's where they do not answer, as whatever is asked next will say.
    pub(crate) async fn now(&self) -> SystemTime {
        let _unanswered = self.backend.learn_clock_offset().await;
        let (now, ahead) = (SystemTime::now(), self.backend.clock_offset_ms());
        let span = Duration::from_millis(ahead.unsigned_abs());
        if ahead < 0 { now - span } else { now + span }
    }
}

/// Ends an instance on the queues, which gives back what it holds.
pub(crate) async fn close(dawdle: &Dawdle) {
    let held = dawdle.dead_letters().held();
    stop::giving_back(held, "dead letters", "five minutes", dawdle.shutdown()).await;
}
