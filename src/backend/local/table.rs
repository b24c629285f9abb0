//! What is done to the tables, one statement each. None of them scans: `plans` below sees to it.
//!
//! Who inserts and deletes here counts, with [`Table::count_in`], once in a transaction: the triggers
//! that count what is edited by hand are off on this connection, since they cost more than an insert.
//!
//! All instants are unix milliseconds.

use rusqlite::{Connection, OptionalExtension, named_params};

use crate::backend::{Lane, LaneStats};

/// How many rows [`Table::stats`] counts of a kind before it stops.
pub(super) const COUNTED_AT_MOST: u64 = 100_000;

const INSERT: &str = "
    INSERT INTO messages (lane, visible_at, enqueued_at, attributes, body)
    VALUES (:lane, :visible_at, :enqueued_at, :attributes, :body)";

const LEASE: &str = "
    UPDATE messages
    SET visible_at = :until, receive_count = receive_count + 1, lease_owner = :owner, lease_token = :token
    WHERE id IN (
        SELECT id FROM messages WHERE lane = :lane AND visible_at <= :now ORDER BY visible_at LIMIT :max
    )
    RETURNING id, receive_count, enqueued_at, attributes, body";

const GIVE_BACK: &str = "
    UPDATE messages
    SET visible_at = :now, receive_count = receive_count - 1, lease_owner = NULL, lease_token = NULL
    WHERE id = :id AND lease_token = :token";

const ACK: &str = "DELETE FROM messages WHERE id = :id AND lease_token = :token AND lane = :lane";

const RELEASE: &str = "
    UPDATE messages SET visible_at = :visible_at, lease_owner = NULL, lease_token = NULL
    WHERE id = :id AND lease_token = :token AND lane = :lane";

const EXTEND: &str = "
    UPDATE messages SET visible_at = :until WHERE id = :id AND lease_token = :token AND lane = :lane";

const NEXT_DUE: &str = "SELECT min(visible_at) FROM messages WHERE lane = :lane";

const LENGTH: &str = "SELECT sum(messages) FROM lanes";

const COUNT_IN: &str = "UPDATE lanes SET messages = messages + :change WHERE lane = :lane";

const CLEAR: &str = "DELETE FROM messages";

const COUNT_NONE: &str = "UPDATE lanes SET messages = 0";

const LANE_LENGTH: &str = "SELECT messages FROM lanes WHERE lane = :lane";

const COUNT_LEASED: &str = "
    SELECT count(*) FROM (
        SELECT 1 FROM messages INDEXED BY messages_by_lease
        WHERE lane = :lane AND lease_owner IS NOT NULL AND visible_at > :now LIMIT :most
    )";

const COUNT_VISIBLE: &str = "
    SELECT count(*) FROM (SELECT 1 FROM messages WHERE lane = :lane AND visible_at <= :now LIMIT :most)";

const COUNT_HIDDEN: &str = "
    SELECT count(*) FROM (SELECT 1 FROM messages WHERE lane = :lane AND visible_at > :now LIMIT :most)";

/// Since when a message can be received that nobody has received. Since when those in flight were due is not
/// kept: their `enqueued_at` may lie a long delay before that.
const WAITING_SINCE: &str = "SELECT min(visible_at) FROM messages WHERE lane = :lane AND visible_at <= :now";

/// Nothing there is delayed, and a look at it does not make it younger.
const DEAD_SINCE: &str = "SELECT min(enqueued_at) FROM messages WHERE lane = 'dead'";

const TAKE_OVER: &str = "
    UPDATE messages SET visible_at = min(visible_at, :now), lease_owner = NULL, lease_token = NULL
    WHERE lane IN ('message', 'delay', 'dead') AND lease_owner = :owner";

const HOLDS_LEASES: &str = "
    SELECT EXISTS (
        SELECT 1 FROM messages
        WHERE lane IN ('message', 'delay', 'dead') AND lease_owner = :owner AND visible_at > :now
    )";

const PRUNE_DEAD: &str = "
    DELETE FROM messages WHERE id IN (
        SELECT id FROM messages WHERE lane = 'dead' AND enqueued_at < :before ORDER BY enqueued_at LIMIT :most
    ) AND visible_at <= :now";

const JOIN: &str = "
    INSERT OR REPLACE INTO nodes (id, pid, started_at, bell) VALUES (:id, :pid, :started_at, :bell)";

const LEAVE: &str = "DELETE FROM nodes WHERE id = :id";

const OTHERS: &str = "SELECT id, bell FROM nodes WHERE id <> :id LIMIT 1000";

/// A message to be inserted.
pub(super) struct NewRow {
    pub(super) body: String,
    pub(super) attributes: Option<String>,
    pub(super) enqueued_at: i64,
    pub(super) visible_at: i64,
    /// It stands for a message that leaves: the length limit does not concern it.
    pub(super) in_place: bool,
}

/// A message that was leased.
pub(super) struct LeasedRow {
    pub(super) id: i64,
    pub(super) receive_count: u32,
    pub(super) enqueued_at: i64,
    pub(super) attributes: Option<String>,
    pub(super) body: String,
}

/// One receive of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) id: i64,
    pub(super) token: i64,
}

/// Another node, as its row says.
#[derive(Debug)]
pub(super) struct NodeRow {
    pub(super) id: String,
    pub(super) bell: Option<String>,
}

/// The statements, on a connection.
#[derive(Clone, Copy)]
pub(super) struct Table<'a>(pub(super) &'a Connection);

impl Table<'_> {
    pub(super) fn insert(self, lane: Lane, row: &NewRow) -> rusqlite::Result<()> {
        self.0.prepare_cached(INSERT)?.execute(named_params! {
            ":lane": lane.name(),
            ":visible_at": row.visible_at,
            ":enqueued_at": row.enqueued_at,
            ":attributes": row.attributes,
            ":body": row.body,
        })?;
        Ok(())
    }

    /// Leases up to `max` messages that are visible. All of them get the one `token`.
    pub(super) fn lease(
        self,
        lane: Lane,
        max: usize,
        owner: &str,
        token: i64,
        now: i64,
        until: i64,
    ) -> rusqlite::Result<Vec<LeasedRow>> {
        let mut statement = self.0.prepare_cached(LEASE)?;
        let rows = statement.query_map(
            named_params! {
                ":lane": lane.name(),
                ":max": i64::try_from(max).unwrap_or(i64::MAX),
                ":owner": owner,
                ":token": token,
                ":now": now,
                ":until": until,
            },
            |row| {
                // A value that was put in by hand must not keep the others from being received.
                let words =
                    |index: usize| row.get_ref(index).ok().and_then(|value| value.as_bytes_or_null().ok().flatten());
                let words = |index: usize| words(index).map(|bytes| String::from_utf8_lossy(bytes).into_owned());
                Ok(LeasedRow {
                    id: row.get(0)?,
                    receive_count: u32::try_from(row.get::<_, i64>(1)?).unwrap_or(u32::MAX),
                    enqueued_at: row.get(2)?,
                    attributes: words(3),
                    body: words(4).unwrap_or_default(),
                })
            },
        )?;
        rows.collect()
    }

    /// Undoes a receive that nobody has seen.
    pub(super) fn give_back(self, token: Token, now: i64) -> rusqlite::Result<bool> {
        self.one(GIVE_BACK, named_params! { ":id": token.id, ":token": token.token, ":now": now })
    }

    /// Whether there was such a lease; so below.
    pub(super) fn ack(self, lane: Lane, token: Token) -> rusqlite::Result<bool> {
        self.one(ACK, named_params! { ":id": token.id, ":token": token.token, ":lane": lane.name() })
    }

    pub(super) fn release(self, lane: Lane, token: Token, visible_at: i64) -> rusqlite::Result<bool> {
        self.one(
            RELEASE,
            named_params! {
                ":id": token.id, ":token": token.token, ":lane": lane.name(), ":visible_at": visible_at
            },
        )
    }

    pub(super) fn extend(self, lane: Lane, token: Token, until: i64) -> rusqlite::Result<bool> {
        self.one(
            EXTEND,
            named_params! { ":id": token.id, ":token": token.token, ":lane": lane.name(), ":until": until },
        )
    }

    /// When the first message of a lane can be received: it may be now, or past.
    pub(super) fn next_due(self, lane: Lane) -> rusqlite::Result<Option<i64>> {
        self.0.prepare_cached(NEXT_DUE)?.query_row(named_params! { ":lane": lane.name() }, |row| row.get(0))
    }

    /// Notes that there are so many more messages on a lane, or fewer.
    pub(super) fn count_in(self, lane: Lane, change: i64) -> rusqlite::Result<()> {
        self.one(COUNT_IN, named_params! { ":lane": lane.name(), ":change": change }).map(drop)
    }

    /// How many messages there are on all lanes.
    pub(super) fn length(self) -> rusqlite::Result<u64> {
        self.0.prepare_cached(LENGTH)?.query_row([], |row| row.get(0)).map(count)
    }

    /// Counts a lane; exact unless more than [`COUNTED_AT_MOST`] are leased, or both visible and
    /// hidden. With it, since when the oldest that is due has been so: of dead letters that is their age, and
    /// elsewhere that of what waits to be received.
    pub(super) fn stats(self, lane: Lane, now: i64) -> rusqlite::Result<(LaneStats, Option<i64>)> {
        let oldest = match lane {
            Lane::Dead => self.0.prepare_cached(DEAD_SINCE)?.query_row([], |row| row.get(0)),
            Lane::Message | Lane::Delay => {
                let bounds = named_params! { ":lane": lane.name(), ":now": now };
                self.0.prepare_cached(WAITING_SINCE)?.query_row(bounds, |row| row.get(0))
            }
        }?;
        let lane = lane.name();
        let most = i64::try_from(COUNTED_AT_MOST).unwrap_or(i64::MAX);
        let counted = |sql: &str| {
            let bounds = named_params! { ":lane": lane, ":now": now, ":most": most };
            self.0.prepare_cached(sql)?.query_row(bounds, |row| row.get(0)).map(count)
        };
        let total = self
            .0
            .prepare_cached(LANE_LENGTH)?
            .query_row(named_params! { ":lane": lane }, |row| row.get(0))
            .optional()?
            .map_or(0, count);
        let visible = counted(COUNT_VISIBLE)?.min(total);
        let visible = if visible < COUNTED_AT_MOST { visible } else { total.saturating_sub(counted(COUNT_HIDDEN)?) };
        let hidden = total - visible;
        let in_flight = counted(COUNT_LEASED)?.min(hidden);
        Ok((LaneStats { visible, in_flight, delayed: hidden - in_flight, oldest: None }, oldest))
    }

    /// Ends the leases of a node that is dead; how many there were.
    pub(super) fn take_over(self, owner: &str, now: i64) -> rusqlite::Result<usize> {
        self.0.prepare_cached(TAKE_OVER)?.execute(named_params! { ":owner": owner, ":now": now })
    }

    pub(super) fn holds_leases(self, owner: &str, now: i64) -> rusqlite::Result<bool> {
        let mut statement = self.0.prepare_cached(HOLDS_LEASES)?;
        statement.query_row(named_params! { ":owner": owner, ":now": now }, |row| row.get(0))
    }

    /// Deletes up to `most` dead letters that came before `before`, but for those being looked at.
    pub(super) fn prune_dead(self, before: i64, now: i64, most: u32) -> rusqlite::Result<usize> {
        let bounds = named_params! { ":before": before, ":now": now, ":most": most };
        let pruned = self.0.prepare_cached(PRUNE_DEAD)?.execute(bounds)?;
        self.count_in(Lane::Dead, -i64::try_from(pruned).unwrap_or(i64::MAX))?;
        Ok(pruned)
    }

    /// Deletes every message, leased ones included; how many there were.
    pub(super) fn clear(self) -> rusqlite::Result<u64> {
        let cleared = self.0.execute(CLEAR, [])?;
        self.0.execute(COUNT_NONE, [])?;
        Ok(cleared as u64)
    }

    /// Gives up to `most` free pages of the file back to the system, where at least half of it and
    /// more than `least` are free; whether there was anything to give.
    pub(super) fn shrink(self, least: i64, most: u32) -> rusqlite::Result<bool> {
        let one = |sql: &str| self.0.query_row(sql, [], |row| row.get::<_, i64>(0));
        let free = one("PRAGMA freelist_count")?;
        if free <= least || free < one("PRAGMA page_count")? / 2 {
            return Ok(false);
        }
        // A page at each step.
        let mut statement = self.0.prepare(&format!("PRAGMA incremental_vacuum({most})"))?;
        let mut steps = statement.query([])?;
        while steps.next()?.is_some() {}
        Ok(true)
    }

    /// Enters a node, or hangs up its bell.
    pub(super) fn join(self, id: &str, started_at: i64, bell: Option<&str>) -> rusqlite::Result<()> {
        self.0.prepare_cached(JOIN)?.execute(named_params! {
            ":id": id, ":pid": std::process::id(), ":started_at": started_at, ":bell": bell
        })?;
        Ok(())
    }

    pub(super) fn leave(self, id: &str) -> rusqlite::Result<()> {
        self.0.prepare_cached(LEAVE)?.execute(named_params! { ":id": id })?;
        Ok(())
    }

    /// All nodes but this one.
    pub(super) fn others(self, id: &str) -> rusqlite::Result<Vec<NodeRow>> {
        let mut statement = self.0.prepare_cached(OTHERS)?;
        let rows = statement
            .query_map(named_params! { ":id": id }, |row| Ok(NodeRow { id: row.get(0)?, bell: row.get(1)? }))?;
        rows.collect()
    }

    fn one(self, sql: &str, params: &[(&str, &dyn rusqlite::ToSql)]) -> rusqlite::Result<bool> {
        Ok(self.0.prepare_cached(sql)?.execute(params)? > 0)
    }
}

fn count(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::local::schema;

    /// Every statement that runs beside large tables goes by an index.
    #[test]
    fn plans() -> crate::Result<()> {
        let file =
            tempfile::NamedTempFile::new().map_err(|e| crate::Error::new(crate::ErrorKind::Invalid, e.to_string()))?;
        let connection = schema::open(&schema::MESSAGES, file.path())?;
        let hot = [
            INSERT,
            LEASE,
            GIVE_BACK,
            ACK,
            RELEASE,
            EXTEND,
            NEXT_DUE,
            COUNT_LEASED,
            COUNT_VISIBLE,
            COUNT_HIDDEN,
            WAITING_SINCE,
            DEAD_SINCE,
            TAKE_OVER,
            HOLDS_LEASES,
            PRUNE_DEAD,
            LANE_LENGTH,
            COUNT_IN,
        ];
        for sql in hot {
            let plan = plan(&connection, sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
            for step in &plan {
                let scans = step.starts_with("SCAN") && step != "SCAN CONSTANT ROW" && !step.contains("(subquery");
                assert!(!scans, "{sql}\nscans: {plan:?}");
                assert!(!step.contains("TEMP B-TREE"), "{sql}\nsorts: {plan:?}");
            }
        }
        // The inner query of a receive stops at the limit because the index is in its order.
        let lease = plan(&connection, LEASE).unwrap_or_default().join("\n");
        assert!(lease.contains("COVERING INDEX messages_by_visible_at (lane=? AND visible_at<?)"), "{lease}");
        let leased = plan(&connection, COUNT_LEASED).unwrap_or_default().join("\n");
        assert!(leased.contains("COVERING INDEX messages_by_lease"), "{leased}");
        let taken = plan(&connection, TAKE_OVER).unwrap_or_default().join("\n");
        assert!(taken.contains("messages_by_lease (lane=? AND lease_owner=?)"), "{taken}");
        Ok(())
    }

    #[test]
    fn what_is_delayed_is_not_due_and_a_look_makes_no_dead_letter_younger() -> crate::Result<()> {
        const DAY: i64 = 86_400_000;
        let failed = |error: &dyn std::fmt::Display| crate::Error::new(crate::ErrorKind::Invalid, error.to_string());
        let file = tempfile::NamedTempFile::new().map_err(|error| failed(&error))?;
        let connection = schema::open(&schema::MESSAGES, file.path())?;
        let table = Table(&connection);
        let due_since = |lane, now| table.stats(lane, now).map(|(_, since)| since);
        let check = || -> rusqlite::Result<()> {
            let row = |visible_at| NewRow {
                body: String::new(),
                attributes: None,
                enqueued_at: 0,
                visible_at,
                in_place: false,
            };
            table.insert(Lane::Message, &row(14 * DAY))?;
            assert_eq!(due_since(Lane::Message, 13 * DAY)?, None, "while it is delayed");
            assert_eq!(due_since(Lane::Message, 14 * DAY + 5)?, Some(14 * DAY), "since its delay has ended");
            table.lease(Lane::Message, 1, "node", 7, 14 * DAY + 5, 15 * DAY)?;
            assert_eq!(due_since(Lane::Message, 14 * DAY + 6)?, None, "while it is handled");
            table.insert(Lane::Dead, &row(0))?;
            table.lease(Lane::Dead, 1, "node", 8, DAY, DAY + 300)?;
            assert_eq!(due_since(Lane::Dead, DAY)?, Some(0), "while it is looked at");
            assert!(table.release(Lane::Dead, Token { id: 2, token: 8 }, DAY + 1)?);
            assert_eq!(due_since(Lane::Dead, 2 * DAY)?, Some(0), "after it was looked at");
            Ok(())
        };
        check().map_err(|error| failed(&error))
    }

    fn plan(connection: &Connection, sql: &str) -> rusqlite::Result<Vec<String>> {
        let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}"))?;
        // Unbound parameters read as NULL; the plan is the same.
        let mut rows = statement.raw_query();
        let mut plan = Vec::new();
        while let Some(row) = rows.next()? {
            plan.push(row.get(3)?);
        }
        Ok(plan)
    }
}
