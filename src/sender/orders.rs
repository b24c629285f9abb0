//! That every place in the send buffer comes back, in every order of events.

use super::*;
use crate::backend::memory::{Action, Fault, MemoryBackend};
use crate::clock::ExploredClock;
use crate::sync::explore::{any, explore, turns};

#[test]
fn every_place_in_the_buffer_comes_back_however_a_signal_ends() {
    explore(300, || async {
        let clock = Clock::from_explored(ExploredClock::new(true));
        let limits = Limits { max_batch_entries: 2, ..Limits::unlimited() };
        let backend = MemoryBackend::with_limits(clock.clone(), limits);
        backend.fail(Fault::unavailable(Action::Send).times(any(3) as u32));
        let settings = Settings { send_buffer: 2, sends_at_once: 1 + any(2), ..Settings::default() };
        let sender = Sender::new(Arc::new(backend.clone()), clock, &settings);
        let signals: Vec<_> = (0..5)
            .map(|number| {
                let (sender, outgoing) = (sender.clone(), Outgoing::new(number.to_string()));
                let parcel = Parcel::alone(Lane::Message, outgoing, None);
                let when_full = if any(3) == 0 { WhenFull::Refuse } else { WhenFull::Wait };
                shuttle::future::spawn(async move { sender.signal(parcel, when_full).await })
            })
            .collect();
        let mut durable = 0;
        for signal in signals {
            if any(3) == 0 {
                turns(6).await;
                signal.abort();
            }
            durable += u64::from(matches!(signal.await, Ok(Ok(()))));
        }
        sender.flush().await;
        assert_eq!(sender.buffer.available_permits(), settings.send_buffer);
        assert!(backend.inspect(Lane::Message).await.unwrap().total() >= durable);
    });
}
