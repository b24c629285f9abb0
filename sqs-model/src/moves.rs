//! Moving dead letters back: `StartMessageMoveTask`.
//!
//! <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_StartMessageMoveTask.html>

use std::sync::Arc;
use std::time::Duration;

use crate::content::Content;
use crate::engine::{Engine, by_arn, write};
use crate::refusal::{self, Refusal};
use crate::wire;

/// The most messages that are moved in a second.
const MOST_PER_SECOND: i64 = 500;

/// How often messages are moved.
const STEP: Duration = Duration::from_millis(100);
const STEPS_PER_SECOND: i64 = 10;

/// A move that runs or has ended.
pub(crate) struct Move(wire::MoveTask);

const RUNNING: &str = "RUNNING";

impl Engine {
    pub(crate) fn start_move(self: &Arc<Self>, request: wire::StartMessageMoveTask<'_>) -> Result<Vec<u8>, Refusal> {
        let rate = match request.max_number_of_messages_per_second {
            None => MOST_PER_SECOND,
            Some(rate @ 1..=MOST_PER_SECOND) => rate,
            Some(rate) => {
                let reason = "Must be between 1 and 500, if provided.";
                return Err(Refusal::value(rate, "MaxNumberOfMessagesPerSecond", reason));
            }
        };
        let not_found = || Refusal::new(&refusal::RESOURCE_NOT_FOUND, "The resource that you specified doesn't exist.");
        let (source, destination) = (request.source_arn.into_owned(), request.destination_arn.map(String::from));
        let handle = self.new_id().as_str().to_owned();
        let mut state = self.lock();
        let is_source = |redrive: &crate::attributes::Redrive| redrive.target_arn == source;
        let is_dead_letter_queue =
            state.queues.values().any(|kept| kept.attributes.redrive.as_ref().is_some_and(is_source));
        let now = self.now();
        let kept = by_arn(&mut state.queues, &source).ok_or_else(not_found)?;
        kept.queue.move_on(&kept.limits, now);
        let waiting = kept.queue.stats(now).visible;
        if !is_dead_letter_queue {
            return Err(Refusal::value(source, "SourceArn", "Source queue must be configured as a Dead Letter Queue."));
        }
        if let Some(destination) = &destination {
            by_arn(&mut state.queues, destination).ok_or_else(not_found)?;
        }
        if state.moves.iter().any(|Move(task)| task.source_arn == source && task.status == RUNNING) {
            let message = "There is already a task running. Only one active task is allowed for a source queue arn at \
                           a given time.";
            return Err(Refusal::new(&refusal::UNSUPPORTED, message));
        }
        state.moves.push(Move(wire::MoveTask {
            task_handle: Some(handle.clone()),
            status: RUNNING,
            source_arn: source,
            destination_arn: destination,
            max_number_of_messages_per_second: request.max_number_of_messages_per_second,
            approximate_number_of_messages_moved: 0,
            approximate_number_of_messages_to_move: waiting,
            failure_reason: None,
            started_timestamp: self.millis_now(),
        }));
        drop(state);
        let (engine, task) = (self.clone(), handle.clone());
        tokio::spawn(async move {
            let mut step = 0;
            // As many in each step that they add up to the rate after ten of them.
            while engine.move_some(&task, (rate * (step + 1)) / STEPS_PER_SECOND - rate * step / STEPS_PER_SECOND) {
                step = (step + 1) % STEPS_PER_SECOND;
                tokio::time::sleep(STEP).await;
            }
        });
        write(&wire::TaskHandle { task_handle: handle })
    }

    /// Moves up to `count` messages; answers whether the task goes on.
    fn move_some(&self, handle: &str, count: i64) -> bool {
        let now = self.now();
        let ids: Vec<_> = (0..count).map(|_| self.new_id()).collect();
        let mut state = self.lock();
        let state = &mut *state;
        let running = |task: &&mut Move| task.0.task_handle.as_deref() == Some(handle) && task.0.status == RUNNING;
        let Some(Move(task)) = state.moves.iter_mut().find(running) else { return false };
        for id in ids {
            let Some(source) = by_arn(&mut state.queues, &task.source_arn) else {
                return task.end("FAILED", Some("AWS.SimpleQueueService.NonExistentQueue"));
            };
            source.queue.move_on(&source.limits, now);
            let Some(message) = source.queue.take_out() else { return task.end("COMPLETED", None) };
            let content = message.content.clone();
            let to = task.destination_arn.as_deref().or(content.redriven_from.as_deref());
            let Some(target) = to.and_then(|arn| by_arn(&mut state.queues, arn)) else {
                if let Some(source) = by_arn(&mut state.queues, &task.source_arn) {
                    source.queue.take_in(message);
                }
                return task.end("FAILED", Some("CouldNotDetermineMessageSource"));
            };
            target.queue.send(Content { id, redriven_from: None, ..Content::clone(&content) }, Duration::ZERO, now);
            target.wake();
            task.approximate_number_of_messages_moved += 1;
        }
        true
    }

    pub(crate) fn list_moves(&self, request: wire::ListMessageMoveTasks<'_>) -> Result<Vec<u8>, Refusal> {
        let most = match request.max_results {
            None => 1,
            Some(most @ 1..=10) => usize::try_from(most).unwrap_or(10),
            Some(most) => return Err(Refusal::value(most, "MaxResults", "Must be between 1 and 10, if provided.")),
        };
        let state = self.lock();
        let of_source = state.moves.iter().rev().filter(|Move(task)| task.source_arn == request.source_arn);
        write(&wire::MoveTasks { results: of_source.take(most).map(|Move(task)| task.shown()).collect() })
    }

    pub(crate) fn cancel_move(&self, request: wire::CancelMessageMoveTask<'_>) -> Result<Vec<u8>, Refusal> {
        let mut state = self.lock();
        let named = |task: &&mut Move| task.0.task_handle.as_deref() == Some(&*request.task_handle);
        match state.moves.iter_mut().find(named) {
            Some(Move(task)) if task.status == RUNNING => {
                task.end("CANCELLED", None);
                write(&wire::Moved { approximate_number_of_messages_moved: task.approximate_number_of_messages_moved })
            }
            Some(_) => Err(Refusal::new(&refusal::UNSUPPORTED, "Only active tasks can be cancelled.")),
            None => Err(Refusal::new(&refusal::RESOURCE_NOT_FOUND, "Task does not exist.")),
        }
    }
}

impl wire::MoveTask {
    fn end(&mut self, status: &'static str, why: Option<&'static str>) -> bool {
        self.status = status;
        self.failure_reason = why;
        false
    }

    /// As it is listed: with its handle as long as that can cancel it.
    fn shown(&self) -> wire::MoveTask {
        let handle = self.task_handle.clone().filter(|_| self.status == RUNNING);
        wire::MoveTask { task_handle: handle, ..self.clone() }
    }
}
