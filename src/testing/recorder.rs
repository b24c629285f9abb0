//! Remembers what was signalled and what ran.

use std::any::Any;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::dispatcher::Observer;
use crate::envelope::{Data, Envelope};
use crate::event::{self, Event, EventId, TypedEvent};
use crate::outcome::Outcome;

/// What a harness or a context made for a test has seen.
#[derive(Default)]
pub(crate) struct Recorder(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    signalled: Vec<Envelope>,
    runs: HashMap<String, usize>,
    handled: Vec<Arc<dyn Event>>,
    handled_ids: HashSet<EventId>,
    lacking: Option<String>,
}

impl Recorder {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The events of type `E` that were signalled, in order.
    pub(crate) fn signalled<E: TypedEvent>(&self) -> Vec<Arc<E>> {
        let decode = |envelope: &Envelope| match &envelope.data {
            Data::Json(data) if event::canonical_kind(&envelope.kind) == Some(E::KIND) => {
                event::decode(E::KIND, data).ok().and_then(as_typed::<E>)
            }
            _ => None,
        };
        self.seen().signalled.iter().filter_map(decode).collect()
    }

    /// The events of type `E` that a handler has finished, each once, in order.
    pub(crate) fn handled<E: TypedEvent>(&self) -> Vec<Arc<E>> {
        self.seen().handled.iter().filter_map(|event| as_typed::<E>(Arc::clone(event))).collect()
    }

    pub(crate) fn runs(&self, handler: &str) -> usize {
        self.seen().runs.get(handler).copied().unwrap_or(0)
    }

    /// The first state that a handler was missing, once.
    pub(crate) fn take_lacking(&self) -> Option<String> {
        self.seen().lacking.take()
    }
}

fn as_typed<E: TypedEvent>(event: Arc<dyn Event>) -> Option<Arc<E>> {
    let event: Arc<dyn Any + Send + Sync> = event;
    event.downcast().ok()
}

impl Observer for Recorder {
    fn signalled(&self, envelope: &Envelope) {
        self.seen().signalled.push(envelope.clone());
    }

    fn ran(&self, handler: &str, event: &Arc<dyn Event>, id: EventId, outcome: &Outcome) {
        let mut seen = self.seen();
        *seen.runs.entry(handler.to_owned()).or_default() += 1;
        if outcome.is_ok() && seen.handled_ids.insert(id) {
            seen.handled.push(Arc::clone(event));
        }
    }

    fn lacks_state(&self, handler: &str, type_name: &str) {
        let text = format!(
            "handler `{handler}` was to run and takes State<{type_name}>, which the harness was not given; add \
             `.state(..)` of that type to `Harness::builder()`"
        );
        self.seen().lacking.get_or_insert(text);
    }
}
