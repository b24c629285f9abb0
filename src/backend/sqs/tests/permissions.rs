//! Each role against queues that allow what its policy in `ops/iam/` allows, and nothing else: it
//! is refused nothing, and uses everything.

use std::collections::{BTreeSet, VecDeque};

use futures_util::TryStreamExt;

use super::*;
use crate::envelope::{Data, Death, Envelope};
use crate::event::EventId;
use crate::{Dawdle, Event, Filter, Outcome, handlers, wire};

const SENDER: &str = include_str!("../../../../ops/iam/sender.json");
const LISTENER: &str = include_str!("../../../../ops/iam/listener.json");
const OPERATOR: &str = include_str!("../../../../ops/iam/operator.json");

#[derive(serde::Serialize, serde::Deserialize, Event)]
#[event(kind = "permissions.note", crate = "crate")]
struct Note {
    fails: bool,
}

/// Outlasts a third of the lease, so that it is extended.
#[crate::handler(attempts = 1, crate = "crate")]
async fn read_note(event: &Note) -> Outcome {
    tokio::time::sleep(Duration::from_millis(1_800)).await;
    if event.fails { Err("no")? } else { Ok(()) }
}

/// An action on a queue, such as `sqs:SendMessage orders`.
type Uses = BTreeSet<String>;

fn allowed(policy: &str) -> Uses {
    let policy: Value = serde_json::from_str(policy).expect("a policy is JSON");
    let texts = |value: &Value| -> Vec<String> {
        value.as_array().expect("a list").iter().map(|it| it.as_str().expect("text").to_owned()).collect()
    };
    let mut uses = Uses::new();
    for statement in policy["Statement"].as_array().expect("statements") {
        assert_eq!(statement["Effect"], "Allow");
        for action in texts(&statement["Action"]) {
            for resource in texts(&statement["Resource"]) {
                let queue = resource.strip_prefix("arn:aws:sqs:eu-west-1:123456789012:").expect("a queue's ARN");
                uses.insert(format!("{action} {queue}"));
            }
        }
    }
    uses
}

/// Three queues, and what was done with them.
#[derive(Clone, Default)]
struct Queues {
    messages: Arc<Mutex<HashMap<String, VecDeque<String>>>>,
    used: Arc<Mutex<Uses>>,
    refused: Arc<Mutex<Uses>>,
}

impl Queues {
    fn put(&self, queue: &str, envelope: &Envelope) {
        self.put_body(queue, wire::write(envelope, None).expect("written"));
    }

    fn put_body(&self, queue: &str, body: String) {
        self.messages.lock().expect("unpoisoned").entry(queue.to_owned()).or_default().push_back(body);
    }

    fn has_used(&self, uses: &Uses) -> bool {
        uses.is_subset(&self.used.lock().expect("unpoisoned"))
    }

    fn reply(&self, policy: &Uses, action: &str, body: &Value) -> Reply {
        let by_url = || options::name_in(body["QueueUrl"].as_str().unwrap_or_default());
        let queue = body["QueueName"].as_str().unwrap_or_else(by_url);
        let usage = format!("sqs:{} {queue}", action.strip_suffix("Batch").unwrap_or(action));
        self.used.lock().expect("unpoisoned").insert(usage.clone());
        if !policy.contains(&usage) {
            self.refused.lock().expect("unpoisoned").insert(usage);
            return Reply::Fault(403, "AccessDeniedException", "not allowed");
        }
        match action {
            "GetQueueUrl" => Reply::Answer(200, json!({ "QueueUrl": format!("http://sqs.test/123456789012/{queue}") })),
            "GetQueueAttributes" => Reply::Answer(
                200,
                json!({ "Attributes": { "VisibilityTimeout": "2", "MessageRetentionPeriod": "1209600" } }),
            ),
            "SendMessageBatch" => {
                for entry in body["Entries"].as_array().expect("entries") {
                    self.put_body(queue, entry["MessageBody"].as_str().expect("a body").to_owned());
                }
                all_entries(body)
            }
            "ReceiveMessage" => {
                // A poll without a wait is not to keep the machine busy.
                std::thread::sleep(Duration::from_millis(5));
                let body = self.messages.lock().expect("unpoisoned").get_mut(queue).and_then(VecDeque::pop_front);
                let id = EventId::new().to_string();
                let messages: Vec<Value> =
                    body.iter().map(|body| json!({ "MessageId": id, "ReceiptHandle": id, "Body": body })).collect();
                Reply::Answer(200, json!({ "Messages": messages }))
            }
            _ => all_entries(body),
        }
    }

    async fn serve(&self, policy: &str) -> Server {
        let (queues, policy) = (self.clone(), allowed(policy));
        Server::start(move |action, body| queues.reply(&policy, action, body)).await
    }
}

fn envelope(fails: bool, due: Option<SystemTime>) -> Envelope {
    Envelope { due, ..Envelope::of(&Note { fails }, "test", SystemTime::now()).expect("encoded") }
}

fn dead() -> Envelope {
    let death = Death { reason: "attempts".into(), error: None, time: SystemTime::now(), node: None, version: None };
    Envelope { death: Some(death), data: Data::None, ..envelope(false, None) }
}

/// Plays a role on queues given by name and by URL. By URL it is to do without `GetQueueUrl`.
async fn plays(policy: &'static str, fill: impl Fn(&Queues), play: impl AsyncFn(SqsBackend, &Queues, &Uses)) {
    for by_name in [true, false] {
        let queues = Queues::default();
        fill(&queues);
        let server = queues.serve(policy).await;
        let mut uses = allowed(policy);
        if !by_name {
            uses.retain(|usage| !usage.starts_with("sqs:GetQueueUrl"));
        }
        let backend = if by_name { backend(server.named()) } else { server.backend() };
        play(backend, &queues, &uses).await;
        assert_eq!(*queues.refused.lock().expect("unpoisoned"), Uses::new(), "refused");
        assert_eq!(*queues.used.lock().expect("unpoisoned"), uses, "used");
    }
}

async fn connected(backend: SqsBackend) -> Dawdle {
    Dawdle::builder().backend(backend).discover(false).listener(false).start().await.expect("a start")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_sender_needs_what_its_policy_allows_and_nothing_else() {
    plays(
        SENDER,
        |_| {},
        async |backend, _, _| {
            let dawdle = connected(backend).await;
            dawdle.signal(Note { fails: false }).await.expect("sent");
            dawdle.signal(Note { fails: false }).delay(Duration::from_secs(600)).await.expect("sent");
            dawdle.signal(Note { fails: false }).delay(Duration::from_secs(86_400)).await.expect("sent");
            dawdle.shutdown().await;
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_listener_needs_what_its_policy_allows_and_nothing_else() {
    let later = SystemTime::now() + Duration::from_secs(7_200);
    let fill = |queues: &Queues| {
        queues.put("orders", &envelope(true, None));
        // On to the delay queue, where another waits, and one that is due.
        queues.put("orders", &envelope(false, Some(later)));
        queues.put("orders-delay", &envelope(false, Some(later)));
        queues.put("orders-delay", &envelope(false, Some(SystemTime::now())));
    };
    plays(LISTENER, fill, async |backend, queues, uses| {
        let builder = Dawdle::builder().backend(backend).discover(false).handlers(handlers![read_note]);
        let dawdle = builder.start().await.expect("a start");
        for _ in 0..1_000 {
            if queues.has_used(uses) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        dawdle.shutdown().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_operator_needs_what_its_policy_allows_and_nothing_else() {
    let fill = |queues: &Queues| (0..3).for_each(|_| queues.put("orders-dead", &dead()));
    plays(OPERATOR, fill, async |backend, queues, _| {
        // As `dawdle stats` counts, and `dawdle peek --queue dead` looks.
        backend.check(Role::Sender).await.expect("the queues are there");
        for lane in Lane::ALL {
            backend.inspect(lane).await.expect("counts");
        }
        let found = backend.browse(Lane::Dead, 1, Duration::from_secs(30)).await.expect("a look").remove(0);
        let how = Settlement::ReleaseAfter(Duration::ZERO);
        backend.settle(Lane::Dead, &[Settle { receipt: found.receipt, how }]).await.remove(0).expect("given back");
        queues.put_body("orders-dead", found.body);
        // As `dawdle signal`, `dead list`, `dead show`, `dead replay`, `dead edit` and `dead purge`.
        let dawdle = connected(backend).await;
        dawdle.send(envelope(false, None)).await.expect("sent");
        let letters = dawdle.dead_letters();
        let found: Vec<_> = letters.scan(Filter::default()).try_collect().await.expect("a scan");
        assert_eq!(found.len(), 3);
        letters.replay(&found[0]).await.expect("replayed");
        letters.purge(&found[1]).await.expect("purged");
        // What is left alone is let go.
        dawdle.shutdown().await;
        assert_eq!(queues.messages.lock().expect("unpoisoned")["orders"].len(), 2);
    })
    .await;
}
