//! What was asked, and what was done: [`Counts`] and [`QueueStats`].

/// An action of SQS, by the name that it has there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "their names say it")]
#[non_exhaustive]
pub enum Action {
    CreateQueue,
    DeleteQueue,
    GetQueueUrl,
    ListQueues,
    GetQueueAttributes,
    SetQueueAttributes,
    PurgeQueue,
    SendMessage,
    SendMessageBatch,
    ReceiveMessage,
    DeleteMessage,
    DeleteMessageBatch,
    ChangeMessageVisibility,
    ChangeMessageVisibilityBatch,
    StartMessageMoveTask,
    ListMessageMoveTasks,
    CancelMessageMoveTask,
}

impl Action {
    /// The action of this name, such as `SendMessage`.
    pub fn named(name: &str) -> Option<Action> {
        Some(match name {
            "CreateQueue" => Action::CreateQueue,
            "DeleteQueue" => Action::DeleteQueue,
            "GetQueueUrl" => Action::GetQueueUrl,
            "ListQueues" => Action::ListQueues,
            "GetQueueAttributes" => Action::GetQueueAttributes,
            "SetQueueAttributes" => Action::SetQueueAttributes,
            "PurgeQueue" => Action::PurgeQueue,
            "SendMessage" => Action::SendMessage,
            "SendMessageBatch" => Action::SendMessageBatch,
            "ReceiveMessage" => Action::ReceiveMessage,
            "DeleteMessage" => Action::DeleteMessage,
            "DeleteMessageBatch" => Action::DeleteMessageBatch,
            "ChangeMessageVisibility" => Action::ChangeMessageVisibility,
            "ChangeMessageVisibilityBatch" => Action::ChangeMessageVisibilityBatch,
            "StartMessageMoveTask" => Action::StartMessageMoveTask,
            "ListMessageMoveTasks" => Action::ListMessageMoveTasks,
            "CancelMessageMoveTask" => Action::CancelMessageMoveTask,
            _ => return None,
        })
    }
}

/// Requests per action, failed ones included, and what came of them, since the last reset.
///
/// A request that was refused or reset before it was read counts only in [`Struck`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// `CreateQueue`
    pub create_queue: u64,
    /// `DeleteQueue`
    pub delete_queue: u64,
    /// `GetQueueUrl`
    pub get_queue_url: u64,
    /// `ListQueues`
    pub list_queues: u64,
    /// `GetQueueAttributes`
    pub get_queue_attributes: u64,
    /// `SetQueueAttributes`
    pub set_queue_attributes: u64,
    /// `PurgeQueue`
    pub purge_queue: u64,
    /// `SendMessage`
    pub send_message: u64,
    /// `SendMessageBatch`
    pub send_message_batch: u64,
    /// `ReceiveMessage`, those that answered no message included.
    pub receive_message: u64,
    /// `ReceiveMessage` that answered no message.
    pub empty_receives: u64,
    /// `DeleteMessage`
    pub delete_message: u64,
    /// `DeleteMessageBatch`
    pub delete_message_batch: u64,
    /// `ChangeMessageVisibility`
    pub change_message_visibility: u64,
    /// `ChangeMessageVisibilityBatch`
    pub change_message_visibility_batch: u64,
    /// `StartMessageMoveTask`, `ListMessageMoveTasks` and `CancelMessageMoveTask`
    pub message_move_tasks: u64,
    /// What SQS bills: one for each request, and one more for each further 64 KiB of the messages
    /// that it carries: <https://aws.amazon.com/sqs/pricing/>
    pub billed: u64,
    /// Messages put on a queue.
    pub messages_sent: u64,
    /// Messages handed out, each as often as it was.
    pub messages_received: u64,
    /// Messages deleted by their receipt.
    pub messages_deleted: u64,
    /// Messages moved to a dead-letter queue by a redrive policy.
    pub messages_redriven: u64,
    /// The faults that struck.
    pub struck: Struck,
}

/// How often each fault struck.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Struck {
    /// Connections and requests refused.
    pub refuse: u64,
    /// Requests reset without effect.
    pub reset_before: u64,
    /// Requests reset after their effect.
    pub reset_after: u64,
    /// Answers that were late.
    pub slow: u64,
    /// Requests that were never answered.
    pub hang: u64,
    /// Requests answered by HTTP 500.
    pub error_500: u64,
    /// Requests throttled.
    pub throttle: u64,
    /// Requests answered by a page of HTML with HTTP 404.
    pub html_404: u64,
    /// Requests answered by a page of HTML with HTTP 502.
    pub html_502: u64,
    /// Requests refused for their credentials.
    pub expired_credentials: u64,
    /// Entries of batches that failed on their own.
    pub entry_failure: u64,
    /// Messages that were received twice.
    pub duplicate: u64,
    /// Messages that came back after they were deleted.
    pub undelete: u64,
}

impl Counts {
    /// All requests.
    pub fn requests(&self) -> u64 {
        self.create_queue
            + self.delete_queue
            + self.get_queue_url
            + self.list_queues
            + self.get_queue_attributes
            + self.set_queue_attributes
            + self.purge_queue
            + self.send_message
            + self.send_message_batch
            + self.receive_message
            + self.delete_message
            + self.delete_message_batch
            + self.change_message_visibility
            + self.change_message_visibility_batch
            + self.message_move_tasks
    }

    pub(crate) fn count(&mut self, action: Action) {
        let count = match action {
            Action::CreateQueue => &mut self.create_queue,
            Action::DeleteQueue => &mut self.delete_queue,
            Action::GetQueueUrl => &mut self.get_queue_url,
            Action::ListQueues => &mut self.list_queues,
            Action::GetQueueAttributes => &mut self.get_queue_attributes,
            Action::SetQueueAttributes => &mut self.set_queue_attributes,
            Action::PurgeQueue => &mut self.purge_queue,
            Action::SendMessage => &mut self.send_message,
            Action::SendMessageBatch => &mut self.send_message_batch,
            Action::ReceiveMessage => &mut self.receive_message,
            Action::DeleteMessage => &mut self.delete_message,
            Action::DeleteMessageBatch => &mut self.delete_message_batch,
            Action::ChangeMessageVisibility => &mut self.change_message_visibility,
            Action::ChangeMessageVisibilityBatch => &mut self.change_message_visibility_batch,
            Action::StartMessageMoveTask | Action::ListMessageMoveTasks | Action::CancelMessageMoveTask => {
                &mut self.message_move_tasks
            }
        };
        *count += 1;
        self.billed += 1;
    }

    /// Bills what a request's messages add to it.
    pub(crate) fn bill_payload(&mut self, bytes: usize) {
        const UNIT: usize = 64 * 1024;
        let further = bytes.div_ceil(UNIT).saturating_sub(1);
        self.billed += u64::try_from(further).unwrap_or(u64::MAX);
    }
}

/// What is on one queue now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueStats {
    /// Messages that can be received.
    pub visible: u64,
    /// Messages that are leased.
    pub in_flight: u64,
    /// Messages that are still delayed.
    pub delayed: u64,
    /// The most messages that were in flight at once.
    pub most_in_flight: u64,
}

impl QueueStats {
    /// All messages on the queue.
    pub fn total(&self) -> u64 {
        self.visible + self.in_flight + self.delayed
    }
}
