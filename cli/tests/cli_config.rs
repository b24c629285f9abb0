//! Settings from a file, as the application has them: which go first, and what is said of those that are wrong.

use serde_json::json;

use common::Place;

mod common;

/// A folder with these files, and nothing in the environment.
fn place(env: &[(&str, &str)], files: &[(&str, &str)]) -> Place {
    let place = Place::with(env);
    for (name, text) in files {
        std::fs::write(place.path(name), text).expect("a file");
    }
    place
}

const TOML: &str = "local_path = \"mine.db\"\naudit_log = \"noted.jsonl\"\n";

#[test]
fn settings_come_from_a_file_or_from_a_table_of_the_applications_own() {
    let nested = format!("title = \"shop\"\n[services.queue]\n{TOML}[server]\nport = 80\n");
    let files = [
        ("dawdle.toml", TOML),
        ("dawdle.json", r#"{ "local_path": "mine.db", "audit_log": "noted.jsonl", "send_timeout": "5s" }"#),
        ("shop.toml", &nested),
        ("shop.json", r#"{ "queue": { "local_path": "mine.db", "audit_log": "noted.jsonl" }, "port": 80 }"#),
    ];
    for given in ["dawdle.toml", "dawdle.json", "shop.toml#services.queue", "shop.json#queue"] {
        let place = place(&[], &files);
        place.json(&["init", "--config", given]);
        assert!(place.path("mine.db").exists() && !place.path(".dawdle").exists(), "{given}");
        place.json(&["--config", given, "signal", "trial.ending", "{}"]);
        assert_eq!(place.json(&["stats", "--config", given])[0]["queues"][0]["visible"], 1, "{given}");
        let noted = std::fs::read_to_string(place.path("noted.jsonl")).expect("a log");
        assert_eq!(noted.lines().count(), 2, "{given}");
        assert_eq!(place.json(&["reset", "--yes", "--config", given])[0]["deleted"], 1, "{given}");
    }
}

#[test]
fn the_command_line_goes_before_the_environment_and_that_before_the_file() {
    let sqs = "sqs_queue = \"orders\"\nsqs_region = \"eu-west-1\"\n";
    let files = [("dawdle.toml", TOML), ("sqs.toml", sqs)];
    let local = place(&[("DAWDLE_LOCAL_PATH", "theirs.db")], &files);
    local.json(&["init", "--config", "dawdle.toml"]);
    assert!(local.path("theirs.db").exists() && !local.path("mine.db").exists());
    local.json(&["signal", "x", "{}", "--config", "dawdle.toml", "--audit-log", "other.jsonl"]);
    assert!(local.path("other.jsonl").exists() && !local.path("noted.jsonl").exists());

    // The queues are one setting: a URL in the environment leaves no name over.
    let url = "https://sqs.us-east-2.amazonaws.com/42/jobs";
    let by_url = place(&[("DAWDLE_SQS_QUEUE_URL", url)], &files);
    let policy = by_url.json(&["policy", "--role", "sender", "--config", "sqs.toml"]);
    assert_eq!(policy[0]["Statement"][0]["Resource"], json!(["arn:aws:sqs:us-east-2:42:jobs"]));
}

#[test]
fn what_is_wrong_with_a_file_is_said_with_the_file_the_place_and_the_mend() {
    let files = [
        ("broken.toml", "concurrency = 4\nsqs_endpoint_url = \"http://me:hunter2@here\n"),
        ("broken.json", "{\n  \"concurrency\": 4,\n  \"password\": hunter2\n}"),
        ("misspelt.toml", "concurency = 4\n"),
        ("wrong.json", r#"{ "send_timeout": "5" }"#),
        ("shop.toml", "[dawdle]\nlocal_path = \"mine.db\"\n[server]\nport = 80\n"),
        ("settings.yaml", "concurrency: 4\n"),
        ("list.json", "[1]"),
    ];
    let place = place(&[], &files);
    for (given, code, parts) in [
        ("nowhere.toml", 1, &["nowhere.toml", "cannot be read", "--config"][..]),
        ("broken.toml", 2, &["broken.toml", "line 2"]),
        ("broken.json", 2, &["broken.json", "line 3"]),
        ("misspelt.toml", 2, &["misspelt.toml", "`concurency`", "`concurrency`"]),
        ("wrong.json", 2, &["wrong.json", "`send_timeout`", "`25s`"]),
        ("shop.toml", 2, &["shop.toml", "`dawdle`", "--config 'shop.toml#dawdle'"]),
        ("shop.toml#queue", 2, &["shop.toml", "`queue`", "`dawdle`, `server`", "#TABLE"]),
        ("shop.toml#dawdle.local_path", 2, &["shop.toml#dawdle.local_path", "no table"]),
        ("settings.yaml", 2, &["settings.yaml", ".toml or .json"]),
        ("list.json", 2, &["list.json", "no table"]),
    ] {
        let said = place.run(&["stats", "--config", given]);
        assert_eq!(said.code, Some(code), "{given}: {said:?}");
        for part in parts {
            assert!(said.err.contains(part), "{given}: {part}: {said:?}");
        }
        assert!(!said.err.contains("hunter2"), "{given}: {said:?}");
        let found = &place.run(&["doctor", "--json", "--config", given]).lines()[0]["findings"][0];
        assert_eq!((&found["state"], found["mend"].is_string()), (&json!("wrong"), true), "{given}: {found}");
    }
    assert!(!place.path("mine.db").exists() && !place.path(".dawdle").exists());
}
