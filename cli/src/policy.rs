//! `dawdle policy`: the least that a role must be allowed.

use clap::ValueEnum;
use dawdle::Config;
use serde::{Deserialize, Serialize};

use crate::out::Out;
use crate::problem::{Problem, Result};
use crate::settings::Settings;

/// What the policies in `ops/iam` call the queues, and where these are.
const NAMED: &str = "orders";
const REGION: &str = "eu-west-1";
const ACCOUNT: &str = "123456789012";

/// The statement that queues given by URL do without.
const BY_NAME: &str = "QueuesByName";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What the program does: signal; handle too; look at dead letters
    #[arg(long, value_enum)]
    role: Role,
    /// The name of the message queue [default: the queues of the settings, else `orders`]
    #[arg(long, value_name = "NAME")]
    queue: Option<String>,
    /// The region [default: that of a queue's URL, of DAWDLE_SQS_REGION, else `eu-west-1`]
    #[arg(long)]
    region: Option<String>,
    /// The account's number [default: that of a queue's URL, else 123456789012]
    #[arg(long, value_name = "NUMBER")]
    account: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Role {
    Sender,
    Listener,
    Operator,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Policy {
    version: String,
    statement: Vec<Statement>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Statement {
    sid: String,
    effect: String,
    action: Vec<String>,
    resource: Vec<String>,
}

pub(crate) fn run(args: Args, settings: &Settings, out: Out) -> Result {
    let config = settings.config()?;
    let policy = match args.role {
        Role::Sender => include_str!("../../ops/iam/sender.json"),
        Role::Listener => include_str!("../../ops/iam/listener.json"),
        Role::Operator => include_str!("../../ops/iam/operator.json"),
    };
    let urls = [&config.sqs_queue_url, &config.sqs_delay_queue_url, &config.sqs_dead_letter_queue_url];
    let policy = match args.queue.is_none() && urls.into_iter().any(Option::is_some) {
        true => for_urls(policy, &args, &config)?,
        false => for_names(policy, &args, &config)?,
    };
    match out.is_json() {
        true => out.value(&parse::<serde_json::Value>(&policy)?),
        false => out.line(policy.trim_end()),
    }
}

fn parse<'a, T: Deserialize<'a>>(policy: &'a str) -> Result<T> {
    serde_json::from_str(policy).map_err(|error| Problem::failed(format!("the policy is no JSON: {error}")))
}

/// For the three queues of a name.
fn for_names(policy: &str, args: &Args, config: &Config) -> Result<String> {
    let region = args.region.as_deref().or(config.sqs_region.as_deref()).unwrap_or(REGION);
    let account = args.account.as_deref().unwrap_or(ACCOUNT);
    let name = args.queue.as_deref().or(config.sqs_queue.as_deref()).unwrap_or(NAMED);
    Ok(policy.replace(&arn(REGION, ACCOUNT, NAMED)?, &arn(region, account, name)?))
}

/// For queues that are given by URL, all or some: each is where its URL says, and nobody has to ask for that.
fn for_urls(policy: &str, args: &Args, config: &Config) -> Result<String> {
    let mut policy: Policy = parse(policy)?;
    let queues = [
        ("", "DAWDLE_SQS_QUEUE_URL", config.sqs_queue_url.as_deref()),
        ("-delay", "DAWDLE_SQS_DELAY_QUEUE_URL", config.sqs_delay_queue_url.as_deref()),
        ("-dead", "DAWDLE_SQS_DEAD_LETTER_QUEUE_URL", config.sqs_dead_letter_queue_url.as_deref()),
    ];
    for (suffix, variable, url) in queues {
        let by_name = config.sqs_queue.as_ref().map(|name| format!("{name}{suffix}"));
        let given = match (url, &by_name) {
            (Some(url), _) => Some(arn_of(variable, url, None, args, config)?),
            (None, Some(name)) => {
                let (variable, url) =
                    queues.iter().find_map(|(_, variable, url)| Some((*variable, (*url)?))).unwrap_or_default();
                Some(arn_of(variable, url, Some(name), args, config)?)
            }
            // Without a delay queue long delays chain on the message queue.
            (None, None) if suffix == "-delay" || (suffix == "-dead" && args.role == Role::Sender) => None,
            (None, None) => {
                return Err(Problem::usage(format!(
                    "{variable} is not set, and the role needs that queue: set it, or give the queues by name \
                     (--queue NAME)"
                )));
            }
        };
        let ours = arn(REGION, ACCOUNT, &format!("{NAMED}{suffix}"))?;
        for statement in &mut policy.statement {
            let asks = statement.sid == BY_NAME;
            let given = given.as_ref().filter(|_| !asks || url.is_none());
            statement.resource = std::mem::take(&mut statement.resource)
                .into_iter()
                .filter_map(|arn| if arn == ours { given.cloned() } else { Some(arn) })
                .collect();
        }
    }
    policy.statement.retain(|statement| !statement.resource.is_empty());
    serde_json::to_string_pretty(&policy)
        .map_err(|error| Problem::failed(format!("the policy cannot be written as JSON: {error}")))
}

/// The ARN of the queue of a URL, or of one of this name beside it.
fn arn_of(variable: &str, url: &str, name: Option<&str>, args: &Args, config: &Config) -> Result<String> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let mut path = path.trim_end_matches('/').rsplit('/');
    let (last, before) = (path.next().unwrap_or_default(), path.next());
    let region = host.split(['.', ':', '@']).find(|label| is_region(label));
    let account = before.filter(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()));
    let not_said = |what: &str, option: &str| {
        Problem::usage(format!("{variable} does not say the {what} of the queue: give it by {option}"))
    };
    let region = args.region.as_deref().or(region).or(config.sqs_region.as_deref());
    let region = region.ok_or_else(|| not_said("region", "--region"))?;
    let account = args.account.as_deref().or(account).ok_or_else(|| not_said("account", "--account"))?;
    arn(region, account, name.unwrap_or(last))
}

/// Whether this is a region's name, such as `us-gov-west-1`.
fn is_region(label: &str) -> bool {
    let parts: Vec<&str> = label.split('-').collect();
    let is = |part: &str, of: fn(&u8) -> bool| !part.is_empty() && part.as_bytes().iter().all(of);
    match parts.as_slice() {
        [words @ .., number] => {
            words.len() > 1
                && words.iter().all(|word| is(word, u8::is_ascii_lowercase))
                && is(number, u8::is_ascii_digit)
        }
        [] => false,
    }
}

/// <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference-arns.html>
fn arn(region: &str, account: &str, queue: &str) -> Result<String> {
    for part in [region, account, queue] {
        if part.is_empty() || !part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)) {
            return Err(Problem::usage(format!(
                "`{part}` cannot be part of an ARN: it has letters, digits, - and _ only"
            )));
        }
    }
    let partition = match () {
        () if region.starts_with("cn-") => "aws-cn",
        () if region.starts_with("us-gov-") => "aws-us-gov",
        () => "aws",
    };
    Ok(format!("arn:{partition}:sqs:{region}:{account}:{queue}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_is_told_from_what_else_is_in_a_host() {
        for region in ["eu-west-1", "us-gov-west-1", "ap-southeast-2"] {
            assert!(is_region(region), "{region}");
        }
        for other in ["sqs", "vpce-0a1b2c-3d4e", "amazonaws", "localhost", "my-queue", "127", "us-east-1a", "", "--1"] {
            assert!(!is_region(other), "{other}");
        }
    }
}
