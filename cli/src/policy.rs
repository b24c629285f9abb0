//! `dawdle policy`: the least that a role must be allowed.

use clap::ValueEnum;

use crate::out::Out;
use crate::problem::{Problem, Result};
use crate::queue;

/// What the policies in `ops/iam` call the queues, and where these are.
const NAMED: &str = "orders";
const REGION: &str = "eu-west-1";
const ACCOUNT: &str = "123456789012";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What the program does: signal; handle too; look at dead letters
    #[arg(long, value_enum)]
    role: Role,
    /// The name of the message queue [default: that of DAWDLE_SQS_QUEUE, else `orders`]
    #[arg(long, value_name = "NAME")]
    queue: Option<String>,
    /// The region [default: that of DAWDLE_SQS_REGION, else `eu-west-1`]
    #[arg(long)]
    region: Option<String>,
    /// The account's number [default: 123456789012]
    #[arg(long, value_name = "NUMBER")]
    account: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Role {
    Sender,
    Listener,
    Operator,
}

pub(crate) fn run(args: Args, out: Out) -> Result {
    let config = queue::config()?;
    let policy = match args.role {
        Role::Sender => include_str!("../../ops/iam/sender.json"),
        Role::Listener => include_str!("../../ops/iam/listener.json"),
        Role::Operator => include_str!("../../ops/iam/operator.json"),
    };
    let mut arn = format!("arn:aws:sqs:{REGION}:{ACCOUNT}:{NAMED}");
    let named = policy.replace(&arn, "\0");
    for (part, given) in
        [(REGION, args.region.or(config.sqs_region)), (ACCOUNT, args.account), (NAMED, args.queue.or(config.sqs_queue))]
    {
        if let Some(given) = given {
            if given.is_empty() || !given.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)) {
                return Err(Problem::usage(format!(
                    "`{given}` cannot be part of an ARN: it has letters, digits, - and _ only"
                )));
            }
            arn = arn.replace(part, &given);
        }
    }
    let policy = named.replace('\0', &arn);
    match out.is_json() {
        true => {
            let policy: serde_json::Value = serde_json::from_str(&policy)
                .map_err(|error| Problem::failed(format!("the policy is no JSON: {error}")))?;
            out.value(&policy)
        }
        false => out.line(policy.trim_end()),
    }
}
