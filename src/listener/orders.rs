//! A whole listener, from the queue to the ack, in many orders of events.

use super::*;
use crate::backend::Limits;
use crate::backend::memory::{Action, Fault, MemoryBackend};
use crate::clock::ExploredClock;
use crate::dispatcher::orders::{HANDLERS, body, dispatcher, settings};
use crate::sync::explore::{any, explore, turns};

const MESSAGES: usize = 4;

#[test]
fn whatever_happens_everything_is_handled_a_drain_ends_and_all_comes_back() {
    explore(30, || async {
        let clock = Clock::from_explored(ExploredClock::new(true));
        let backend = MemoryBackend::with_limits(clock.clone(), Limits { max_batch_entries: 2, ..Limits::unlimited() });
        let (dispatcher, log) = dispatcher(clock.clone());
        let settings = Arc::new(settings());
        let shared: Arc<dyn Backend> = Arc::new(backend.clone());
        let engine = Engine {
            tracer: Tracer::default(),
            sender: Sender::new(Arc::clone(&shared), clock.clone(), &settings),
            settler: Settler::new(Arc::clone(&shared), clock.clone(), &settings),
            leases: Leases::new(Arc::clone(&shared), clock.clone()),
            monitor: Arc::default(),
            backend: shared,
            clock,
            settings,
            dispatcher,
        };
        for number in 0..MESSAGES {
            backend.send(Lane::Message, &[Outgoing::new(body(number))]).await.remove(0).unwrap();
        }
        for action in [Action::Receive, Action::Extend, Action::Send, Action::Settle] {
            let fault = [Fault::unavailable, Fault::answer_lost, Fault::throttled][any(3)];
            backend.fail(fault(action).times(any(4) as u32));
        }
        let listener = Listener::start(engine.clone(), Arc::new(()), None);
        // Without end if one is forgotten.
        while log.handled.lock().unwrap().len() < HANDLERS * MESSAGES {
            shuttle::future::yield_now().await;
        }
        turns(20).await;
        listener.drain(Duration::from_secs(25)).await;
        // What the drain's time was too short for ends by itself.
        listener.loops.none().await;
        listener.work.busy.none().await;
        engine.sender.flush().await;
        engine.settler.flush().await;
        engine.dispatcher.all_permits_back().await;
        listener.room.assert_all_back();
        engine.leases.assert_empty();
        log.assert_at_most_as_allowed();
        assert_eq!(backend.inspect(Lane::Dead).await.unwrap().total(), 0);
    });
}
