//! `dawdle init`: queues as they must be, created or printed.

use clap::ValueEnum;
use dawdle::BackendKind;
use dawdle::backend::sqs::{SqsOptions, create_queues};
use serde_json::json;

use crate::out::Out;
use crate::problem::{Problem, Result};
use crate::queue::{Queues, config};

/// As the library creates them: the visibility timeout of the message and the delay queue, the
/// retention of all three, the count of the redrive policy.
const VISIBILITY: u32 = 60;
const RETENTION: u32 = 1_209_600;
const REDRIVE: u32 = 100;

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

pub(crate) async fn run(args: Args, out: Out) -> Result {
    let config = config()?;
    let Some(form) = args.print else { return create(config, out).await };
    let Some(queue) = &config.sqs_queue else {
        return Err(Problem::usage("no queue is named: set DAWDLE_SQS_QUEUE to the name that the queues are to have"));
    };
    let text = match form {
        Form::Aws => aws(queue),
        Form::Terraform => terraform(queue),
        Form::Cloudformation => cloudformation(queue),
    };
    match out.is_json() {
        true => out.value(&json!({ "queue": queue, "text": text })),
        false => out.line(text.trim_end()),
    }
}

async fn create(config: dawdle::Config, out: Out) -> Result {
    let kind = config.chosen_backend()?;
    if kind == BackendKind::Sqs {
        create_queues(SqsOptions::from(&config)).await?;
    }
    let queues = Queues::open_or_create(config).await?;
    queues.backend.check(dawdle::backend::Role::Listener).await?;
    let (backend, place) = (queues.backend.name(), queues.backend.describe());
    match out.is_json() {
        true => out.value(&json!({ "backend": backend, "queues": place, "ready": true })),
        false => out.line(format_args!("ready: {}", crate::out::clean(&place))),
    }
}

fn aws(queue: &str) -> String {
    format!(
        r#"aws sqs create-queue --queue-name {queue}-dead --attributes MessageRetentionPeriod={RETENTION}
aws sqs create-queue --queue-name {queue}-delay --attributes VisibilityTimeout={VISIBILITY},MessageRetentionPeriod={RETENTION}
DEAD=$(aws sqs get-queue-attributes --attribute-names QueueArn --query Attributes.QueueArn --output text \
    --queue-url "$(aws sqs get-queue-url --queue-name {queue}-dead --query QueueUrl --output text)")
aws sqs create-queue --queue-name {queue} --attributes "{{\"VisibilityTimeout\":\"{VISIBILITY}\",\"MessageRetentionPeriod\":\"{RETENTION}\",\"RedrivePolicy\":\"{{\\\"deadLetterTargetArn\\\":\\\"$DEAD\\\",\\\"maxReceiveCount\\\":\\\"{REDRIVE}\\\"}}\"}}"
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
