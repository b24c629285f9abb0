//! A replay or a purge that goes on whether or not anybody watches: [`Jobs`]. One at a time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use dawdle::DeadLetter;
use dawdle::backend::Lane;
use dawdle_workbench::{Audit, Change, Swept, Wanted, sweep};
use tokio::sync::watch;

use crate::dashboard::App;

/// What is done with each letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Replay,
    Purge,
}

impl What {
    pub(crate) fn name(self) -> &'static str {
        match self {
            What::Replay => "replay",
            What::Purge => "purge",
        }
    }

    /// What has become of a letter.
    pub(crate) fn done(self) -> &'static str {
        match self {
            What::Replay => "replayed",
            What::Purge => "purged",
        }
    }
}

/// The job that is under way, or the last one.
#[derive(Default)]
pub(crate) struct Jobs(Mutex<Option<Arc<Job>>>);

/// One of them.
pub(crate) struct Job {
    pub(crate) what: What,
    pub(crate) who: String,
    /// Which letters, in words.
    pub(crate) which: String,
    pub(crate) rate: Option<f64>,
    pub(crate) begun_at: SystemTime,
    begun: Instant,
    stop: watch::Sender<bool>,
    /// How many letters there were in all when it began, where that is known; it can be no more than these.
    pub(crate) at_most: Option<u64>,
    progress: watch::Sender<Progress>,
}

/// How far it has come.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress {
    pub(crate) swept: Swept,
    /// How it has ended, once it has: the outcome, and how long it took.
    pub(crate) ended: Option<Ended>,
}

/// How a job has ended.
#[derive(Clone, Debug)]
pub(crate) struct Ended {
    pub(crate) outcome: &'static str,
    pub(crate) took: std::time::Duration,
    /// Why its end could not be noted, if so.
    pub(crate) unnoted: Option<String>,
}

/// Why none was begun.
pub(crate) enum NotBegun {
    /// Another is under way.
    Busy,
    /// This process comes to its end.
    Ending,
    /// The audit log cannot be written.
    Unnoted(String),
}

impl Job {
    pub(crate) fn progress(&self) -> Progress {
        self.progress.borrow().clone()
    }

    pub(crate) fn is_running(&self) -> bool {
        self.progress.borrow().ended.is_none()
    }

    pub(crate) fn is_stopping(&self) -> bool {
        *self.stop.borrow() && self.is_running()
    }

    pub(crate) fn stop(&self) {
        self.stop.send_replace(true);
    }

    pub(crate) fn running_for(&self) -> std::time::Duration {
        self.begun.elapsed()
    }
}

impl Jobs {
    fn lock(&self) -> MutexGuard<'_, Option<Arc<Job>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The one under way, or the last one.
    pub(crate) fn last(&self) -> Option<Arc<Job>> {
        self.lock().clone()
    }

    /// The one under way.
    pub(crate) fn running(&self) -> Option<Arc<Job>> {
        self.last().filter(|job| job.is_running())
    }

    /// Stops the one under way, and waits for its end.
    pub(crate) async fn stop_and_wait(&self) {
        if let Some(job) = self.running() {
            job.stop();
            let mut progress = job.progress.subscribe();
            // The sender is in the job itself.
            let _ = progress.wait_for(|progress| progress.ended.is_some()).await;
        }
    }
}

/// Begins one: it is noted before it is.
pub(crate) async fn begin(
    app: &Arc<App>,
    what: What,
    wanted: Wanted,
    which: String,
    rate: Option<f64>,
    who: &str,
) -> Result<(), NotBegun> {
    let unnoted = |error: dawdle_workbench::Unnoted| NotBegun::Unnoted(error.to_string());
    if app.jobs.running().is_some() {
        return Err(NotBegun::Busy);
    }
    // Looks end by themselves.
    let Some(turn) = app.looks.turn().await else { return Err(NotBegun::Busy) };
    if app.is_stopped() {
        return Err(NotBegun::Ending);
    }
    let all = app.dawdle.inspect(Lane::Dead).await.ok().map(|stats| stats.total().min(wanted.limit()));
    let audit = Audit::open(&app.audit_log).map_err(unnoted)?;
    let change = audit.begin(who, what.name(), wanted.described()).map_err(unnoted)?;
    let job = Arc::new(Job {
        what,
        who: who.to_owned(),
        which,
        rate,
        begun_at: SystemTime::now(),
        begun: Instant::now(),
        stop: watch::Sender::new(false),
        at_most: all,
        progress: watch::Sender::default(),
    });
    *app.jobs.lock() = Some(Arc::clone(&job));
    // Told to end in between: the job has not been seen by whoever told.
    if app.is_stopped() {
        job.stop();
    }
    let app = Arc::clone(app);
    tokio::spawn(async move {
        let _turn = turn;
        let swept = run(&app, &job, &wanted).await;
        end(&job, change, swept);
    });
    Ok(())
}

async fn run(app: &App, job: &Job, wanted: &Wanted) -> Swept {
    let letters = app.dawdle.dead_letters();
    let act = |letter: DeadLetter| {
        let letters = letters.clone();
        async move {
            match job.what {
                What::Replay => letters.replay(&letter).await,
                What::Purge => letters.purge(&letter).await,
            }
        }
    };
    let mut stop = job.stop.subscribe();
    let stopped = async move {
        // The sender is in the job itself.
        let _ = stop.wait_for(|stop| *stop).await;
    };
    let progress = |swept: &Swept| job.progress.send_modify(|progress| progress.swept = swept.clone());
    let begun = letters.now().await;
    let swept = sweep(&letters, wanted, begun, job.rate, act, progress, stopped).await;
    letters.release_all().await;
    swept
}

fn end(job: &Job, change: Change, swept: Swept) {
    let outcome = swept.outcome();
    let unnoted = change.end(outcome, swept.done).err().map(|error| error.to_string());
    if let Some(error) = &unnoted {
        tracing::error!("the end of a {} was not noted: {error}", job.what.name());
    }
    let ended = Some(Ended { outcome, took: job.begun.elapsed(), unnoted });
    job.progress.send_replace(Progress { swept, ended });
}
