//! `dawdle init`: queues as they must be, created or printed.

use clap::ValueEnum;
use dawdle::backend::sqs::{QueueChange, QueuePlan, SqsOptions};
use dawdle::{BackendKind, Config};
use serde_json::{Value, json};

use crate::audit::Audit;
use crate::out::{Out, clean};
use crate::problem::{Problem, Result};
use crate::queue::Queues;
use crate::settings::Settings;

/// As the library creates them: the visibility timeout of the message and the delay queue, the
/// retention of all three, the count of the redrive policy.
const VISIBILITY: u32 = 60;
const RETENTION: u32 = 1_209_600;
const REDRIVE: u32 = 100;

/// A queue's name has at most 80 bytes, `-delay` among them:
/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-queues.html>
const LONGEST_NAME: usize = 74;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print what creates the queues instead of creating them
    #[arg(long, value_enum, value_name = "FORM")]
    print: Option<Form>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Form {
    /// Commands of the AWS command line
    Aws,
    /// A Terraform file
    Terraform,
    /// A CloudFormation template
    Cloudformation,
}

pub(crate) async fn run(args: Args, settings: &Settings, out: Out) -> Result {
    let config = settings.config()?;
    let Some(form) = args.print else { return create(config, out).await };
    let Some(queue) = &config.sqs_queue else {
        return Err(Problem::usage("no queue is named: set DAWDLE_SQS_QUEUE to the name that the queues are to have"));
    };
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    if !(1..=LONGEST_NAME).contains(&queue.len()) || !queue.bytes().all(allowed) {
        return Err(Problem::usage(format!(
            "DAWDLE_SQS_QUEUE is {queue:?}, of {} bytes: it is 1 to {LONGEST_NAME} letters, digits, `-` and `_`, so that SQS takes \
             {queue}-delay, too",
            queue.len()
        )));
    }
    let text = match form {
        Form::Aws => aws(queue, &place(&config)),
        Form::Terraform => terraform(queue),
        Form::Cloudformation => cloudformation(queue),
    };
    match out.is_json() {
        true => out.value(&json!({ "queue": queue, "text": text })),
        false => out.line(text.trim_end()),
    }
}

async fn create(config: Config, out: Out) -> Result {
    let mut changes = Vec::new();
    if config.chosen_backend()? == BackendKind::Sqs {
        changes = mend(&config).await?;
    }
    let queues = Queues::open_or_create(config).await?;
    queues.backend.check(dawdle::backend::Role::Listener).await?;
    let (backend, place) = (queues.backend.name(), queues.backend.describe());
    if out.is_json() {
        let changes: Vec<Value> = changes.iter().map(json_of).collect();
        return out.value(&json!({ "backend": backend, "queues": place, "ready": true, "changes": changes }));
    }
    for change in &changes {
        out.line(clean(&change.to_string()))?;
    }
    out.line(format_args!("ready: {}", clean(&place)))
}

/// Creates the queues that are missing, and sets what a listener would refuse of the others. Notes it, where there is
/// anything to do.
async fn mend(config: &Config) -> Result<Vec<QueueChange>> {
    let plan = QueuePlan::make(SqsOptions::from(config)).await?;
    let changes = plan.changes();
    if !changes.is_empty() {
        let which = json!({ "changes": changes.iter().map(json_of).collect::<Vec<_>>() });
        let noted = Audit::open(config)?.begin("init", which)?;
        noted.close(plan.carry_out().await.map_err(Problem::from), |()| changes.len() as u64)?;
    }
    Ok(changes)
}

fn json_of(change: &QueueChange) -> Value {
    match change {
        QueueChange::Create { queue } => json!({ "queue": queue, "created": true }),
        QueueChange::Set { queue, attribute, from, to } => {
            json!({ "queue": queue, "attribute": attribute, "from": from, "to": to })
        }
    }
}

/// Where the settings say that the queues are, as options of the AWS command line. A URL that may hold a password
/// is left out.
fn place(config: &Config) -> String {
    let endpoint = config.sqs_endpoint_url.as_ref().filter(|url| !url.contains('@'));
    let options = [("--region", config.sqs_region.as_ref()), ("--endpoint-url", endpoint)];
    let option = |(name, value): (_, Option<&String>)| Some(format!(" {name} '{}'", value?.replace('\'', r"'\''")));
    options.into_iter().filter_map(option).collect()
}

/// `place` is where, as the command line takes it.
fn aws(queue: &str, place: &str) -> String {
    format!(
        r#"aws{place} sqs create-queue --queue-name {queue}-dead --attributes MessageRetentionPeriod={RETENTION}
aws{place} sqs create-queue --queue-name {queue}-delay --attributes VisibilityTimeout={VISIBILITY},MessageRetentionPeriod={RETENTION}
DEAD=$(aws{place} sqs get-queue-attributes --attribute-names QueueArn --query Attributes.QueueArn --output text \
    --queue-url "$(aws{place} sqs get-queue-url --queue-name {queue}-dead --query QueueUrl --output text)")
aws{place} sqs create-queue --queue-name {queue} --attributes "{{\"VisibilityTimeout\":\"{VISIBILITY}\",\"MessageRetentionPeriod\":\"{RETENTION}\",\"RedrivePolicy\":\"{{\\\"deadLetterTargetArn\\\":\\\"$DEAD\\\",\\\"maxReceiveCount\\\":\\\"{REDRIVE}\\\"}}\"}}"
"#
    )
}

fn terraform(queue: &str) -> String {
    format!(
        r#"resource "aws_sqs_queue" "dawdle_dead" {{
  name                      = "{queue}-dead"
  message_retention_seconds = {RETENTION}
}}

resource "aws_sqs_queue" "dawdle_delay" {{
  name                       = "{queue}-delay"
  visibility_timeout_seconds = {VISIBILITY}
  message_retention_seconds  = {RETENTION}
}}

resource "aws_sqs_queue" "dawdle" {{
  name                       = "{queue}"
  visibility_timeout_seconds = {VISIBILITY}
  message_retention_seconds  = {RETENTION}
  redrive_policy = jsonencode({{
    deadLetterTargetArn = aws_sqs_queue.dawdle_dead.arn
    maxReceiveCount     = {REDRIVE}
  }})
}}
"#
    )
}

fn cloudformation(queue: &str) -> String {
    format!(
        r#"Resources:
  DawdleDead:
    Type: AWS::SQS::Queue
    Properties:
      QueueName: {queue}-dead
      MessageRetentionPeriod: {RETENTION}
  DawdleDelay:
    Type: AWS::SQS::Queue
    Properties:
      QueueName: {queue}-delay
      VisibilityTimeout: {VISIBILITY}
      MessageRetentionPeriod: {RETENTION}
  Dawdle:
    Type: AWS::SQS::Queue
    Properties:
      QueueName: {queue}
      VisibilityTimeout: {VISIBILITY}
      MessageRetentionPeriod: {RETENTION}
      RedrivePolicy:
        deadLetterTargetArn: !GetAtt DawdleDead.Arn
        maxReceiveCount: {REDRIVE}
"#
    )
}
