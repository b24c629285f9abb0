//! What the macros leave behind: functions that stay functions, and registrations with the right
//! names, options and kinds, in every place where Rust allows an item.
//!
//! The lints are the strictest that an application may set; the macros' output stays quiet.
#![forbid(unsafe_code, missing_docs, dead_code, unreachable_pub)]
#![deny(warnings, unused, nonstandard_style, non_local_definitions, unused_qualifications, unused_lifetimes)]
#![deny(single_use_lifetimes, elided_lifetimes_in_paths, let_underscore_drop, missing_debug_implementations)]
#![deny(clippy::all, clippy::pedantic, clippy::nursery)]
#![allow(clippy::redundant_pub_crate, reason = "it asks for what unreachable_pub refuses")]

use std::any::TypeId;
use std::fmt;
use std::time::Duration;

use dawdle::__private::{EventRegistration, LinkedHandler, inventory};
use dawdle::{Backoff, Context, Event, EventHandler, Failure, Handler, Outcome, Registration, State, TypedEvent};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Event)]
#[event(kind = "trial.ending", aliases("trial.ends", "trial.end"))]
struct TrialEnding {
    account: u64,
}

#[derive(Serialize, Deserialize, Event)]
#[event(kind = "heartbeat")]
enum Heartbeat {
    Regular,
    Late(u32),
}

struct Mailer;

const ATTEMPTS: u32 = 4;

const fn patience() -> Duration {
    Duration::from_secs(7)
}

#[dawdle::handler(
    attempts = 8,
    timeout = "1m 30s",
    concurrency = 4,
    backoff = "2s..10m",
    name = "trial.remind",
    aliases("remind")
)]
async fn remind(event: &TrialEnding, cx: &Context, mailer: State<Mailer>) -> Outcome {
    let (_, _) = (cx.id(), &*mailer);
    later().await;
    if event.account == 0 { Err(Failure::discard("nobody")) } else { Ok(()) }
}

#[dawdle::handler(attempts = ATTEMPTS + 1, timeout = patience(), concurrency = 1 + 1, backoff = Backoff::fixed(patience()))]
async fn computed(event: &TrialEnding) -> Outcome {
    late(event.account).await
}

#[dawdle::handler(except(Heartbeat, elsewhere::Noise))]
async fn audit(event: &dyn Event, _: &Context) -> Outcome {
    late(event.kind()).await
}

/// One that has everything in an unusual order, and patterns for arguments.
#[dawdle::handler(backoff = "3s")]
async fn crowded(
    TrialEnding { account }: &TrialEnding,
    _: State<Mailer>,
    mut counter: State<u32>,
    cx: &Context,
    again: &Context,
) -> Outcome {
    counter = counter.clone();
    late((account, *counter, cx.id(), again.id())).await
}

#[dawdle::handler]
async fn returns_anyhow(event: &TrialEnding) -> anyhow::Result<()> {
    later().await;
    anyhow::ensure!(event.account > 0, "nobody");
    Ok(())
}

#[derive(Debug)]
struct Refused;

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("refused")
    }
}

impl std::error::Error for Refused {}

#[dawdle::handler]
async fn returns_its_own_error(event: &TrialEnding) -> Result<(), Refused> {
    later().await;
    if event.account == 0 { Err(Refused) } else { Ok(()) }
}

#[dawdle::handler]
async fn named_lifetimes<'a>(event: &'a TrialEnding, cx: &'a Context) -> Result<(), Refused> {
    late((event.account, cx.id())).await.map_err(|_| Refused)
}

#[dawdle::handler]
async fn event(event: &TrialEnding, cx: &Context) -> Outcome {
    late((event.account, cx.id())).await
}

#[dawdle::handler]
async fn cx(event: &TrialEnding, cx: &Context) -> Outcome {
    late((event.account, cx.id())).await
}

#[dawdle::handler]
async fn r#try(event: &TrialEnding) -> Outcome {
    late(event.account).await
}

#[dawdle::handler]
#[cfg(any())]
async fn not_compiled(event: &Nothing) -> Outcome {}

mod elsewhere {
    use super::{Deserialize, Event, Serialize};

    #[derive(Serialize, Deserialize, Event)]
    #[event(kind = "noise")]
    pub(crate) struct Noise;

    mod private {
        #[dawdle::handler]
        async fn unseen(event: &super::Noise) -> dawdle::Outcome {
            super::super::late(event).await
        }
    }

    pub(crate) mod visible {
        #[dawdle::handler]
        pub(crate) async fn remind(event: &super::Noise) -> dawdle::Outcome {
            super::super::late(event).await
        }
    }
}

/// A dependency under another name.
mod renamed {
    use dawdle as sleepy;

    #[derive(super::Serialize, super::Deserialize, sleepy::Event)]
    #[event(kind = "renamed", crate = "sleepy")]
    struct Renamed;

    #[sleepy::handler(crate = "sleepy", except(Renamed))]
    async fn renamed_audit(event: &dyn sleepy::Event) -> sleepy::Outcome {
        super::late(event.kind()).await
    }

    #[derive(Default, sleepy::EventHandler)]
    #[handler(event = Renamed, timeout = "1s", backoff = "1s", crate = "self::sleepy")]
    struct RenamedType;

    impl sleepy::Handler<Renamed> for RenamedType {
        async fn handle(&self, event: &Renamed, _: &sleepy::Context) -> sleepy::Outcome {
            super::late(event).await
        }
    }
}

#[derive(Default, EventHandler)]
#[handler(event = TrialEnding, attempts = 3, aliases("Reminder"))]
struct Remind;

impl Handler<TrialEnding> for Remind {
    async fn handle(&self, event: &TrialEnding, _: &Context) -> Outcome {
        late(event.account).await
    }
}

#[derive(EventHandler)]
#[handler(event = dyn Event, except(Heartbeat))]
#[handler(name = "audit.type")]
struct Audit {
    prefix: String,
}

impl Handler<dyn Event> for Audit {
    async fn handle(&self, event: &dyn Event, _: &Context) -> Outcome {
        late((&self.prefix, event.kind())).await
    }
}

/// The attribute imported by name, where a derive's `#[handler(..)]` stands too.
mod imported {
    use dawdle::{EventHandler, handler};

    #[handler]
    async fn imported_function(event: &super::TrialEnding) -> dawdle::Outcome {
        super::late(event.account).await
    }

    #[derive(Default, EventHandler)]
    #[handler(event = super::TrialEnding)]
    struct ImportedType;

    impl dawdle::Handler<super::TrialEnding> for ImportedType {
        async fn handle(&self, event: &super::TrialEnding, _: &dawdle::Context) -> dawdle::Outcome {
            super::late(event.account).await
        }
    }
}

/// Handlers that are made by a macro of the application.
macro_rules! handler_of {
    ($name:ident, $event:ty, $attempts:expr) => {
        #[dawdle::handler(attempts = $attempts)]
        async fn $name(event: &$event) -> Outcome {
            late(event.account).await
        }
    };
}
handler_of!(from_a_macro, TrialEnding, 2);

async fn later() {
    tokio::task::yield_now().await;
}

async fn late<T: Send>(_: T) -> Outcome {
    later().await;
    Ok(())
}

fn linked() -> Vec<Registration> {
    inventory::iter::<LinkedHandler>().map(|linked| linked.0()).collect()
}

/// What a registration shows of itself, by handler.
fn shown(name: &str) -> String {
    let mut found = linked()
        .into_iter()
        .map(|registration| format!("{registration:?}"))
        .filter(|text| text.contains(&format!("name: {name:?}")));
    let text = found.next().unwrap_or_else(|| panic!("{name} is not linked in"));
    assert_eq!(found.next(), None, "{name} is linked in twice");
    text
}

#[track_caller]
fn assert_shows(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no {part} in {text}");
    }
}

fn event_called(kind: &str) -> &'static EventRegistration {
    inventory::iter::<EventRegistration>().find(|event| event.kind == kind).expect("it is linked in")
}

#[test]
fn an_event_knows_its_names_and_is_decoded_by_its_kind() {
    assert_eq!(TrialEnding::KIND, "trial.ending");
    assert_eq!(TrialEnding::ALIASES, ["trial.ends", "trial.end"]);
    assert_eq!(TrialEnding { account: 7 }.kind(), "trial.ending");
    assert_eq!(Heartbeat::ALIASES, [""; 0]);

    let event: Box<dyn Event> = serde_json::from_str(r#"{"trial.ending":{"account":7}}"#).expect("it decodes");
    assert_eq!(event.downcast_ref::<TrialEnding>().expect("its own type").account, 7);
    let event: Box<dyn Event> = serde_json::from_str(r#"{"heartbeat":{"Late":3}}"#).expect("it decodes");
    match event.downcast_ref::<Heartbeat>() {
        Some(Heartbeat::Late(3)) => {}
        Some(Heartbeat::Late(_) | Heartbeat::Regular) | None => panic!("{event:?}"),
    }
}

#[test]
fn an_event_is_linked_in_with_its_names_type_and_place() {
    let event = event_called("trial.ending");
    assert_eq!(event.aliases, ["trial.ends", "trial.end"]);
    assert_eq!((event.type_id)(), TypeId::of::<TrialEnding>());
    assert!((event.type_name)().ends_with("macros::TrialEnding"));
    assert_eq!(event.place.file, file!());
    let declared = include_str!("macros.rs").lines().position(|line| line.starts_with("struct TrialEnding"));
    let from_derive_to_struct = 2;
    assert_eq!(event.place.line as usize + from_derive_to_struct, declared.expect("it is here") + 1);
}

#[test]
fn a_function_is_linked_in_with_its_options() {
    let states = format!("type_name: {:?}", std::any::type_name::<Mailer>());
    assert_shows(
        &shown("trial.remind"),
        &[
            r#"aliases: ["remind"]"#,
            r#"wants: Kind("trial.ending")"#,
            "attempts: Some(8)",
            "timeout: Some(90s)",
            "concurrency: Some(4)",
            "backoff: Some(Backoff { first: 2s, max: 600s, factor: 2.0 })",
            states.as_str(),
            r#"file: "tests/macros.rs""#,
            "runs: true",
        ],
    );
    assert_shows(
        &shown("computed"),
        &[
            "attempts: Some(5)",
            "timeout: Some(7s)",
            "concurrency: Some(2)",
            "backoff: Some(Backoff { first: 7s, max: 7s, factor: 1.0 })",
        ],
    );
    assert_shows(
        &shown("returns_anyhow"),
        &["aliases: []", "attempts: None", "timeout: None", "concurrency: None", "backoff: None", "states: []"],
    );
    assert_shows(&shown("crowded"), &["max: 21600s", "Mailer", "u32"]);
    assert_shows(&shown("audit"), &[r#"wants: All { except: ["heartbeat", "noise"] }"#]);
    assert_shows(&shown("from_a_macro"), &["attempts: Some(2)"]);
    assert_shows(&shown("try"), &[r#"wants: Kind("trial.ending")"#]);
}

#[test]
fn a_handler_is_linked_in_from_wherever_it_is_declared() {
    #[derive(Serialize, Deserialize, Event)]
    #[event(kind = "local")]
    struct Local;

    #[dawdle::handler]
    async fn inside_a_body(event: &Local) -> Outcome {
        late(event).await
    }

    #[derive(Default, EventHandler)]
    #[handler(event = Local)]
    struct InsideABody;

    impl Handler<Local> for InsideABody {
        async fn handle(&self, event: &Local, _: &Context) -> Outcome {
            late(event).await
        }
    }

    let _in_scope = dawdle::handlers![inside_a_body, InsideABody];
    assert_shows(&shown("inside_a_body"), &[r#"Kind("local")"#]);
    assert_shows(&shown("InsideABody"), &[r#"Kind("local")"#]);
    assert_shows(&shown("unseen"), &[r#"Kind("noise")"#]);
    assert_shows(&shown("remind"), &[r#"Kind("noise")"#]);
    assert_shows(&shown("renamed_audit"), &[r#"All { except: ["renamed"] }"#]);
    assert_shows(&shown("RenamedType"), &[r#"Kind("renamed")"#]);
    assert_eq!(event_called("local").kind, Local::KIND);
}

#[test]
fn a_type_with_a_default_registers_itself_and_another_only_its_description() {
    assert_shows(&shown("Remind"), &["attempts: Some(3)", r#"aliases: ["Reminder"]"#, "runs: true"]);
    assert_shows(&shown("audit.type"), &[r#"All { except: ["heartbeat"] }"#, "runs: false"]);
    let made = Audit { prefix: String::new() }.into_registration();
    assert_shows(&format!("{made:?}"), &[r#"name: "audit.type""#, "runs: true"]);
}

#[test]
fn a_list_names_functions_and_types_by_path() {
    assert!(dawdle::handlers![].is_empty());
    let list: Vec<Registration> = dawdle::handlers![remind, elsewhere::visible::remind, Remind, r#try,];
    let names: Vec<String> = list.iter().map(|one| format!("{one:?}")).collect();
    for (text, name) in names.iter().zip(["trial.remind", "remind", "Remind", "try"]) {
        assert_shows(text, &[&format!("name: {name:?}")]);
    }
}

#[tokio::test]
async fn a_handler_stays_a_function() {
    assert!(computed(&TrialEnding { account: 7 }).await.is_ok());
    assert!(returns_anyhow(&TrialEnding { account: 0 }).await.is_err());
    assert!(returns_its_own_error(&TrialEnding { account: 7 }).await.is_ok());
    assert!(late((remind, Heartbeat::Regular)).await.is_ok());
}
