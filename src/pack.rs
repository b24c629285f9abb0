//! Which events share a message, and which messages a request: [`Load`], a request that is being
//! put together.
//!
//! An event that packs goes into the open pack of its own kind, group and due second, else begins
//! one; any other event is a message by itself. Nothing here waits or sends.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What the events of a pack have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PackKey {
    kind: &'static str,
    group: Option<String>,
    /// When they are due, in whole seconds since 1970; `None` for at once.
    due: Option<Duration>,
}

impl PackKey {
    pub(crate) fn new(kind: &'static str, group: Option<String>, due: Option<SystemTime>) -> Self {
        let seconds = |due: SystemTime| due.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        PackKey { kind, group, due: due.map(|due| Duration::from_secs(seconds(due))) }
    }
}

/// How much a request, and a pack in it, may hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Messages of a request.
    pub(crate) messages: usize,
    /// Bytes of a request.
    pub(crate) bytes: usize,
    /// Events of a pack.
    pub(crate) pack_count: usize,
    /// Bytes of a pack.
    pub(crate) pack_bytes: usize,
}

/// A request that is being put together.
#[derive(Debug)]
pub(crate) struct Load {
    bounds: Bounds,
    messages: usize,
    bytes: usize,
    /// Packs with room for more.
    open: Vec<Pack>,
    /// Something found no room.
    overflowed: bool,
}

#[derive(Debug)]
struct Pack {
    key: PackKey,
    message: usize,
    count: usize,
    bytes: usize,
}

impl Load {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Load { bounds, messages: 0, bytes: 0, open: Vec::new(), overflowed: false }
    }

    /// Puts an event of so many bytes into the request: yields the number of its message, or `None`
    /// if there is no room. There is for the first.
    pub(crate) fn place(&mut self, bytes: usize, key: Option<&PackKey>) -> Option<usize> {
        let bounds = self.bounds;
        // A comma for each event, and a bracket at either end.
        let packed = bytes.saturating_add(1);
        if let Some(at) = self.open.iter().position(|pack| Some(&pack.key) == key)
            && let Some(pack) = self.open.get_mut(at)
        {
            let fits = pack.count < bounds.pack_count && pack.bytes.saturating_add(packed) <= bounds.pack_bytes;
            if fits && self.bytes.saturating_add(packed) <= bounds.bytes {
                pack.count += 1;
                pack.bytes += packed;
                self.bytes += packed;
                return Some(pack.message);
            }
            self.open.swap_remove(at);
        }
        let bytes = if key.is_some() { packed.saturating_add(1) } else { bytes };
        let is_first = self.messages == 0;
        if !is_first && (self.messages >= bounds.messages || self.bytes.saturating_add(bytes) > bounds.bytes) {
            self.overflowed = true;
            return None;
        }
        let message = self.messages;
        self.messages += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        if let Some(key) = key {
            self.open.push(Pack { key: key.clone(), message, count: 1, bytes });
        }
        Some(message)
    }

    /// Whether a request like this should not wait for more.
    pub(crate) fn is_full(&self) -> bool {
        let no_message_fits = self.messages >= self.bounds.messages || self.bytes >= self.bounds.bytes;
        self.overflowed || (no_message_fits && self.open.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BOUNDS: Bounds = Bounds { messages: 10, bytes: 1_000, pack_count: 5, pack_bytes: 300 };

    fn key(kind: &'static str, group: Option<&str>, due_millis: Option<u64>) -> PackKey {
        let due = due_millis.map(|millis| UNIX_EPOCH + Duration::from_millis(millis));
        PackKey::new(kind, group.map(str::to_owned), due)
    }

    fn placed(load: &mut Load, bytes: usize, key: &PackKey) -> Option<usize> {
        load.place(bytes, Some(key))
    }

    #[test]
    fn a_pack_shares_kind_group_and_due_second() {
        let alike = [key("a", None, Some(1_000)), key("a", None, Some(1_999))];
        let others = [
            key("b", None, Some(1_000)),
            key("a", Some("g"), Some(1_000)),
            key("a", None, Some(2_000)),
            key("a", None, None),
        ];
        let mut load = Load::new(BOUNDS);
        assert!(alike.iter().all(|key| placed(&mut load, 10, key) == Some(0)));
        let messages: Vec<_> = others.iter().map(|key| placed(&mut load, 10, key)).collect();
        assert_eq!(messages, [Some(1), Some(2), Some(3), Some(4)]);
        assert_eq!(placed(&mut load, 10, &alike[0]), Some(0));
    }

    #[test]
    fn a_pack_ends_at_its_count_and_at_its_bytes_and_the_next_begins() {
        let key = key("a", None, None);
        let mut load = Load::new(BOUNDS);
        let by_count: Vec<_> = (0..7).filter_map(|_| placed(&mut load, 1, &key)).collect();
        assert_eq!(by_count, [0, 0, 0, 0, 0, 1, 1]);
        let mut load = Load::new(BOUNDS);
        let by_bytes: Vec<_> = (0..4).filter_map(|_| placed(&mut load, 99, &key)).collect();
        assert_eq!(by_bytes, [0, 0, 1, 1], "three would be 302 bytes");
    }

    #[test]
    fn without_packs_a_request_is_full_with_its_last_message_and_with_them_only_when_one_finds_no_room() {
        let mut load = Load::new(BOUNDS);
        for at in 0..10 {
            assert!(!load.is_full());
            assert_eq!(load.place(1, None), Some(at));
        }
        assert!(load.is_full() && load.place(1, None).is_none());
        let mut load = Load::new(BOUNDS);
        let key = key("a", None, None);
        let fit = std::iter::from_fn(|| (!load.is_full()).then(|| placed(&mut load, 1, &key)).flatten()).count();
        assert_eq!((fit, load.messages), (50, 10));
    }

    proptest! {
        #[test]
        fn no_bound_is_passed_and_the_first_always_fits(
            events in proptest::collection::vec((1_usize..400, 0_usize..4), 1..80),
        ) {
            let keys = [None, Some(key("a", None, None)), Some(key("b", None, None)), Some(key("a", None, Some(9)))];
            let mut load = Load::new(BOUNDS);
            let mut messages: Vec<Vec<(usize, usize)>> = Vec::new();
            for (bytes, which) in events {
                let Some(at) = load.place(bytes, keys[which].as_ref()) else { break };
                if at == messages.len() {
                    messages.push(Vec::new());
                }
                messages[at].push((bytes, which));
            }
            prop_assert!((1..=10).contains(&messages.len()));
            let mut total = 0;
            for message in &messages {
                let text: usize = message.iter().map(|(bytes, _)| bytes).sum();
                let bytes = if message.len() > 1 { text + message.len() + 1 } else { text };
                total += bytes;
                prop_assert!(message.iter().all(|(_, which)| *which == message[0].1));
                prop_assert!(message.len() == 1 || (message[0].1 > 0 && message.len() <= 5 && bytes <= 300));
            }
            prop_assert!(total <= 1_000);
        }
    }
}
