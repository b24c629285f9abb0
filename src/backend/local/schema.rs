//! Opening the file, and its tables.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, params};

use super::errors::{Called, QUEUE, failed_in};
use crate::error::{Error, ErrorKind, Result};

/// What a file of ours holds. There is a table `meta (name, value)` among its tables.
#[derive(Debug)]
pub(crate) struct Schema {
    pub(crate) called: Called,
    /// What it is instead of a database of another program.
    pub(crate) kind: &'static str,
    /// What makes a SQLite file one of these.
    pub(crate) application_id: i64,
    /// The version of its tables. A change of them raises it and adds a migration to [`open`].
    pub(crate) version: i64,
    pub(crate) tables: &'static str,
}

/// The queue's: `DAWD`.
pub(super) const MESSAGES: Schema =
    Schema { called: QUEUE, kind: "a Dawdle queue", application_id: 0x4441_5744, version: 1, tables: TABLES };

/// For how long a transaction waits for a writer that takes no [turn](super::turn::Turn): a
/// `sqlite3` shell.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// `visible_at` and `enqueued_at` are unix milliseconds. A message is leased while it has a
/// `lease_owner` and its `visible_at` lies ahead. The token names one receive of it.
///
/// Ids are never used again: listeners remember those of finished messages.
///
/// Small columns come before the large ones, so that they can be read without them.
/// The triggers keep the counts right under edits by hand; Dawdle's own connections count by themselves.
const TABLES: &str = "
CREATE TABLE meta (
    name  TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE lanes (
    lane     TEXT PRIMARY KEY,
    messages INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE nodes (
    id         TEXT PRIMARY KEY,
    pid        INTEGER NOT NULL,
    started_at INTEGER NOT NULL,
    bell       TEXT
) STRICT, WITHOUT ROWID;

CREATE TABLE messages (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    lane          TEXT NOT NULL CHECK (lane IN ('message', 'delay', 'dead')),
    visible_at    INTEGER NOT NULL,
    enqueued_at   INTEGER NOT NULL,
    receive_count INTEGER NOT NULL DEFAULT 0,
    lease_owner   TEXT,
    lease_token   INTEGER,
    attributes    TEXT,
    body          TEXT NOT NULL
) STRICT;

CREATE INDEX messages_by_visible_at ON messages (lane, visible_at);
CREATE INDEX messages_by_enqueued_at ON messages (lane, enqueued_at);
CREATE INDEX messages_by_lease ON messages (lane, lease_owner, visible_at) WHERE lease_owner IS NOT NULL;

CREATE TRIGGER message_added AFTER INSERT ON messages BEGIN
    UPDATE lanes SET messages = messages + 1 WHERE lane = new.lane;
END;
CREATE TRIGGER message_removed AFTER DELETE ON messages BEGIN
    UPDATE lanes SET messages = messages - 1 WHERE lane = old.lane;
END;
CREATE TRIGGER message_moved AFTER UPDATE OF lane ON messages BEGIN
    UPDATE lanes SET messages = messages - 1 WHERE lane = old.lane;
    UPDATE lanes SET messages = messages + 1 WHERE lane = new.lane;
END;

INSERT INTO lanes VALUES ('message', 0), ('delay', 0), ('dead', 0);
";

/// Opens the file at `path`, which exists, creating its tables where it is empty. Only to be
/// called by who has the [turn](super::turn::Turn).
pub(crate) fn open(schema: &Schema, path: &Path) -> Result<Connection> {
    let Schema { called, kind, version: known, .. } = schema;
    let Called { name, at } = called;
    let failed = |doing, error| failed_in(called, path, doing, error);
    let connection = connect(path).map_err(|error| failed("opening", error))?;
    let found = identify(schema, &connection).map_err(|error| failed("opening", error))?;
    match found {
        Found::Nothing => create(schema, &connection).map_err(|error| failed("creating the tables of", error))?,
        Found::Version(version) if version == *known => {}
        Found::Version(version) => {
            return Err(Error::new(
                ErrorKind::Queue,
                format!(
                    "{name} {} has schema version {version}, and this program knows up to {known}: it was written by a \
                     newer Dawdle; upgrade this program, or name another file {at}",
                    path.display()
                ),
            ));
        }
        Found::WithoutLog(mode) => {
            return Err(Error::new(
                ErrorKind::Queue,
                format!(
                    "{name} {} stays in journal mode {mode}, and needs `wal`: its file system has no shared memory; \
                     put it on a local disk {at}",
                    path.display()
                ),
            ));
        }
        Found::Another => {
            return Err(Error::new(
                ErrorKind::Queue,
                format!(
                    "{} is a SQLite database of another program, not {kind}: name another file {at}",
                    path.display()
                ),
            ));
        }
    }
    Ok(connection)
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    use rusqlite::OpenFlags;
    // Without CREATE: a file that has been removed must not come back empty and unprotected.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

enum Found {
    Nothing,
    Version(i64),
    Another,
    WithoutLog(String),
}

fn identify(schema: &Schema, connection: &Connection) -> rusqlite::Result<Found> {
    // Read before anything is set: another program's database stays as it is.
    let application: i64 = connection.query_row("PRAGMA application_id", [], |row| row.get(0))?;
    let objects: i64 = connection.query_row("SELECT count(*) FROM sqlite_master", [], |row| row.get(0))?;
    let found = match (application, objects) {
        (0, 0) => Found::Nothing,
        (application, 1..) if application == schema.application_id => {
            let version = connection
                .query_row("SELECT value FROM meta WHERE name = 'schema_version'", [], |row| row.get(0))
                .optional()?;
            version.map_or(Found::Another, Found::Version)
        }
        _ => return Ok(Found::Another),
    };
    if let Found::Nothing = found {
        connection.execute_batch("PRAGMA auto_vacuum = INCREMENTAL")?;
    }
    if matches!(found, Found::Nothing) || matches!(found, Found::Version(version) if version == schema.version) {
        let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
        if mode != "wal" {
            return Ok(Found::WithoutLog(mode));
        }
        // Synced at each commit, not only at checkpoints; and on macOS, where a sync is less by
        // default, as far as the disk.
        connection.execute_batch(
            "PRAGMA synchronous = FULL; PRAGMA fullfsync = ON; PRAGMA checkpoint_fullfsync = ON; PRAGMA journal_size_limit = 67108864; PRAGMA temp_store = MEMORY; \
             PRAGMA cache_size = -8192",
        )?;
    }
    Ok(found)
}

fn create(schema: &Schema, connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch("BEGIN IMMEDIATE")?;
    let created = connection
        .execute_batch(schema.tables)
        .and_then(|()| connection.execute("INSERT INTO meta VALUES ('schema_version', ?1)", params![schema.version]))
        .and_then(|_| connection.pragma_update(None, "application_id", schema.application_id))
        .and_then(|()| connection.execute_batch("COMMIT"));
    if created.is_err() && !connection.is_autocommit() {
        let _ = connection.execute_batch("ROLLBACK");
    }
    created
}
