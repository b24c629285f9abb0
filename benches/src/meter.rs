//! What this process has used: [`Meter`].

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::time::{ClockId, clock_gettime};

use crate::task::Measured;

/// Begun when a client is connected.
#[derive(Debug)]
pub(crate) struct Meter {
    wall: Instant,
    cpu: Duration,
}

impl Meter {
    pub(crate) fn start() -> Meter {
        Meter { wall: Instant::now(), cpu: cpu() }
    }

    pub(crate) fn read(&self) -> Result<Measured> {
        let (wall, used) = (self.wall.elapsed(), cpu() - self.cpu);
        Ok(Measured { wall_s: wall.as_secs_f64(), cpu_s: used.as_secs_f64(), peak_kib: peak_kib()? })
    }
}

/// User and system time of all threads of this process, those that have ended included.
fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

fn peak_kib() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status").context("memory is read from /proc, on Linux")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}
