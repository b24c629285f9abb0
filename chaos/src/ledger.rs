//! What happened, as each process wrote it down: independent of Dawdle, and of the process's end.
//!
//! Each process appends to a file of its own, a record of 32 bytes at a time, with one write for
//! each record or batch of records. What a write has answered outlives a SIGKILL. A record that
//! the verdict relies on is written before the handler returns.

use std::fs::{File, OpenOptions};
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

/// The size of a record in a file.
const SIZE: usize = 32;

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// An event is about to be signalled; `extra` is when it is due.
    Intended,
    /// `signal` answered `Ok`.
    Confirmed,
    /// `signal` answered that it may have been sent.
    Unsure,
    /// `signal` answered that it was not sent.
    Refused,
    /// A message was received; `extra` names it, `attempt` is its receive count.
    Received,
    /// A handler's run began.
    Begun,
    /// Runs that ended; `at` is when they began, `extra` when they ended.
    Succeeded,
    Failed,
    Snoozed,
    Discarded,
    GaveUp,
    /// The queue confirmed an ack; `extra` names the message.
    Acked,
    /// An ack was answered by an error, or by nothing.
    AckUnsure,
    /// An extension of a lease was answered by an error, or by nothing.
    ExtendFailed,
    /// A message was sent, and may or may not be on the queue.
    SendUnsure,
    /// A message was given back.
    Released,
    /// A dead letter; written by the parent. `attempt` is its attempts, `extra` the reason's number.
    Dead,
    /// What the process has asked of its queues so far: `event` requests, billed as `extra`.
    Spent,
    /// A message of the delay queue was left there, hidden for a while; replaced by one on the message
    /// queue; replaced by one on the delay queue. For a pack, its first event.
    Parked,
    Forwarded,
    Renewed,
    /// A message was received from the delay queue, where leases are not extended; otherwise like `Received`.
    Found,
}

const ALL: [What; 22] = [
    What::Intended,
    What::Confirmed,
    What::Unsure,
    What::Refused,
    What::Received,
    What::Begun,
    What::Succeeded,
    What::Failed,
    What::Snoozed,
    What::Discarded,
    What::GaveUp,
    What::Acked,
    What::AckUnsure,
    What::ExtendFailed,
    What::SendUnsure,
    What::Released,
    What::Dead,
    What::Spent,
    What::Parked,
    What::Forwarded,
    What::Renewed,
    What::Found,
];

/// One line of a ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) what: What,
    /// `None` for all handlers of the event.
    pub(crate) handler: Option<u8>,
    pub(crate) attempt: u16,
    pub(crate) event: u64,
    /// Microseconds of the queue's clock.
    pub(crate) at: u64,
    pub(crate) extra: u64,
}

impl Record {
    fn bytes(&self) -> [u8; SIZE] {
        let mut bytes = [0; SIZE];
        let [what, handler, attempt @ ..] = &mut bytes;
        *what = self.what as u8;
        *handler = self.handler.unwrap_or(u8::MAX);
        let (attempt, rest) = attempt.split_at_mut(6);
        attempt[..2].copy_from_slice(&self.attempt.to_le_bytes());
        for (place, value) in rest.chunks_exact_mut(8).zip([self.event, self.at, self.extra]) {
            place.copy_from_slice(&value.to_le_bytes());
        }
        bytes
    }

    fn of(bytes: &[u8; SIZE]) -> Option<Record> {
        let word = |at: usize| bytes.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
        Some(Record {
            what: *ALL.get(usize::from(bytes[0]))?,
            handler: (bytes[1] != u8::MAX).then_some(bytes[1]),
            attempt: u16::from_le_bytes([bytes[2], bytes[3]]),
            event: word(8)?,
            at: word(16)?,
            extra: word(24)?,
        })
    }
}

/// A file that is appended to.
#[derive(Debug)]
pub(crate) struct Ledger {
    file: File,
    clock_ahead_ms: i64,
}

impl Ledger {
    pub(crate) fn open(path: &Path, clock_ahead_ms: i64) -> Result<Ledger> {
        let file = OpenOptions::new().create(true).append(true).open(path);
        let file = file.with_context(|| format!("opening the ledger {}", path.display()))?;
        Ok(Ledger { file, clock_ahead_ms })
    }

    /// The queue's time, in microseconds: this machine's, and what the queue is known to be ahead.
    pub(crate) fn now(&self) -> u64 {
        micros(SystemTime::now()).saturating_add_signed(self.clock_ahead_ms * 1_000)
    }

    /// Writes records in one write. A ledger that cannot be written makes the run void, so that
    /// ends the process, with a status that the parent knows.
    pub(crate) fn write(&self, records: &[Record]) {
        let bytes: Vec<u8> = records.iter().flat_map(Record::bytes).collect();
        if bytes.is_empty() {
            return;
        }
        if let Err(error) = (&self.file).write_all(&bytes) {
            eprintln!("the ledger cannot be written: {error}");
            std::process::exit(VOID);
        }
    }
}

/// The exit status of a process whose ledger is incomplete.
pub(crate) const VOID: i32 = 99;

/// The records of a file, in order. A torn last one is left out.
pub(crate) fn read(path: &Path) -> Result<impl Iterator<Item = Result<Record>> + use<>> {
    let file = File::open(path).with_context(|| format!("opening the ledger {}", path.display()))?;
    let mut reader = BufReader::with_capacity(1 << 18, file);
    let path = path.to_owned();
    Ok(std::iter::from_fn(move || {
        let mut bytes = [0; SIZE];
        match reader.read_exact(&mut bytes) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return None,
            Err(error) => return Some(Err(error.into())),
        }
        Some(Record::of(&bytes).with_context(|| format!("{} holds something else", path.display())))
    }))
}

/// The ledger of a process in the folder of a run.
pub(crate) fn path(folder: &Path, process: u32) -> PathBuf {
    folder.join(format!("{process:06}.ledger"))
}

/// Microseconds since 1970.
pub(crate) fn micros(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// The time of so many microseconds since 1970.
pub(crate) fn time_of(micros: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_micros(micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_a_torn_record_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = path(folder.path(), 3);
        let ledger = Ledger::open(&path, 0).unwrap();
        let records: Vec<Record> = (0..5)
            .map(|n| Record {
                what: if n % 2 == 0 { What::Succeeded } else { What::Dead },
                handler: (n % 2 == 0).then_some(4),
                attempt: 7,
                event: n << 40,
                at: n,
                extra: u64::MAX - n,
            })
            .collect();
        ledger.write(&records);
        (&ledger.file).write_all(&[1, 2, 3]).unwrap();
        let found: Vec<Record> = read(&path).unwrap().map(Result::unwrap).collect();
        assert_eq!(found, records);
    }

    #[test]
    fn every_kind_of_record_has_its_number() {
        for (number, what) in ALL.iter().enumerate() {
            assert_eq!(*what as usize, number);
        }
    }
}
