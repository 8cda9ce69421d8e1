//! The commands on one item: put, get, delete, cas, incr. Those on all items of a prefix are in `prefix.rs`.
//!
//! Data goes to standard output and nothing else does, so that it can be piped; versions and remarks go to standard error. With
//! `--json`, one object per answer (per item, for a scan) goes to standard output.

use super::connection::ConnectionArgs;
use super::exit::Failure;
use super::show::{json_bytes, put_key};
use super::value;
use crate::base::Version;
use crate::client::{Client, Error};
use crate::msg::client::{RequestBody, ResponseBody};
use crate::msg::operation::{Acknowledge, Condition, Consistency, Operation, Single};
use clap::{Args, ValueEnum};
use serde_json::json;
use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};

/// What every client command takes.
#[derive(Debug, Clone, Args)]
pub struct CommonArgs {
    #[command(flatten)]
    pub connection: ConnectionArgs,
    /// Print JSON: bytes that are no UTF-8 are {"hex": "..."}
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ConsistencyArg {
    /// Linearizable: every write acknowledged before is seen
    Strong,
    /// What any replica has applied: a past state, with no bound on how far past
    Eventual,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AcknowledgeArg {
    /// A quorum of replicas has synced it
    Quorum,
    /// Every replica has synced it; unknown when one is away
    All,
}

impl From<ConsistencyArg> for Consistency {
    fn from(argument: ConsistencyArg) -> Consistency {
        match argument {
            ConsistencyArg::Strong => Consistency::Strong,
            ConsistencyArg::Eventual => Consistency::Eventual,
        }
    }
}

impl From<AcknowledgeArg> for Acknowledge {
    fn from(argument: AcknowledgeArg) -> Acknowledge {
        match argument {
            AcknowledgeArg::Quorum => Acknowledge::Quorum,
            AcknowledgeArg::All => Acknowledge::All,
        }
    }
}

#[derive(Debug, Clone, Args)]
pub struct ReadArgs {
    /// What a read may show
    #[arg(long, value_enum, default_value = "strong")]
    pub consistency: ConsistencyArg,
}

#[derive(Debug, Clone, Args)]
pub struct WriteArgs {
    /// Which replicas must have synced a write before it is acknowledged
    #[arg(long, value_enum, default_value = "quorum")]
    pub acknowledge: AcknowledgeArg,
}

#[derive(Debug, Clone, Args)]
pub struct GetArgs {
    /// The key; \n, \t, \\, \xff, \{TABLE} and \| as keys are printed
    pub key: OsString,
    #[command(flatten)]
    pub read: ReadArgs,
    #[command(flatten)]
    pub common: CommonArgs,
}

#[derive(Debug, Clone, Args)]
pub struct PutArgs {
    /// The key; \n, \t, \\, \xff, \{TABLE} and \| as keys are printed
    pub key: OsString,
    /// Text, `-` for standard input, or `@FILE`
    #[arg(allow_negative_numbers = true)]
    pub value: OsString,
    /// Take VALUE as it stands, also when it begins with - or @
    #[arg(long)]
    pub literal: bool,
    #[command(flatten)]
    pub write: WriteArgs,
    #[command(flatten)]
    pub common: CommonArgs,
}

#[derive(Debug, Clone, Args)]
#[group(multiple = false)]
pub struct DeleteConditionArgs {
    /// Only if the item has this value
    #[arg(long = "if", value_name = "VALUE", allow_negative_numbers = true)]
    pub if_value: Option<OsString>,
    /// Only if the item has this version
    #[arg(long, value_name = "N", value_parser = version)]
    pub if_version: Option<u64>,
    /// Only if the item is there
    #[arg(long)]
    pub if_present: bool,
}

#[derive(Debug, Clone, Args)]
pub struct DeleteArgs {
    /// The key; \n, \t, \\, \xff, \{TABLE} and \| as keys are printed
    #[arg(required_unless_present = "prefix")]
    pub key: Option<OsString>,
    /// All keys that begin with this, instead of one
    #[arg(long, value_name = "P", conflicts_with_all = ["key", "if_value", "if_version", "if_present"])]
    pub prefix: Option<OsString>,
    /// Delete what --prefix names without being asked
    #[arg(long, requires = "prefix", conflicts_with = "key")]
    pub yes: bool,
    #[command(flatten)]
    pub condition: DeleteConditionArgs,
    /// Take the value of --if as it stands
    #[arg(long)]
    pub literal: bool,
    #[command(flatten)]
    pub write: WriteArgs,
    #[command(flatten)]
    pub common: CommonArgs,
}

#[derive(Debug, Clone, Args)]
#[group(required = true, multiple = false)]
pub struct CasConditionArgs {
    /// Only if the item has this value (text, `-` or `@FILE`)
    #[arg(long = "if", value_name = "VALUE", allow_negative_numbers = true)]
    pub if_value: Option<OsString>,
    /// Only if the item has this version
    #[arg(long, value_name = "N", value_parser = version)]
    pub if_version: Option<u64>,
    /// Only if the item is not there
    #[arg(long)]
    pub if_absent: bool,
    /// Only if the item is there
    #[arg(long)]
    pub if_present: bool,
}

#[derive(Debug, Clone, Args)]
pub struct CasArgs {
    /// The key; \n, \t, \\, \xff, \{TABLE} and \| as keys are printed
    pub key: OsString,
    /// The new value: text, `-` for standard input, or `@FILE`
    #[arg(allow_negative_numbers = true, value_name = "NEWVALUE")]
    pub value: OsString,
    #[command(flatten)]
    pub condition: CasConditionArgs,
    /// Take values as they stand, also when they begin with - or @
    #[arg(long)]
    pub literal: bool,
    #[command(flatten)]
    pub write: WriteArgs,
    #[command(flatten)]
    pub common: CommonArgs,
}

#[derive(Debug, Clone, Args)]
pub struct IncrArgs {
    /// The key; \n, \t, \\, \xff, \{TABLE} and \| as keys are printed
    pub key: OsString,
    /// How much to add; an absent item counts as 0
    #[arg(default_value_t = 1, allow_negative_numbers = true)]
    pub by: i64,
    #[command(flatten)]
    pub write: WriteArgs,
    #[command(flatten)]
    pub common: CommonArgs,
}

/// A version as a condition.
fn version(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(0) => Err(
            "0 is the version of a key that was never written, and no item has it; --if-absent is for a key that is not there"
                .into(),
        ),
        Ok(version) => Ok(version),
        Err(_) => Err("expected a version, a whole number as `get` says it".into()),
    }
}

pub async fn get(client: &Client, args: &GetArgs, at_prompt: bool) -> Result<(), Failure> {
    let key = value::key(&args.key)?;
    let single = Operation::read(key.clone()).alone().consistency(args.read.consistency.into());
    match operate(client, &args.common, single).await? {
        ResponseBody::Value { value: Some(value), version } if args.common.json => {
            let mut object = json!({ "outcome": "ok", "value": json_bytes(&value), "version": version.0 });
            put_key(&mut object, &key);
            Ok(writeln!(io::stdout(), "{object}")?)
        }
        ResponseBody::Value { value: Some(value), version } => {
            let mut out = io::stdout().lock();
            out.write_all(&value)?;
            // A pipe or a file gets the value byte for byte; a prompt belongs on a line of its own.
            if at_prompt || out.is_terminal() {
                out.write_all(b"\n")?;
            }
            out.flush()?;
            eprintln!("version {version}");
            Ok(())
        }
        ResponseBody::Value { value: None, version } => Err(Failure::NotFound(Some(version))),
        other => Err(unexpected(&other)),
    }
}

pub async fn put(client: &Client, args: &PutArgs) -> Result<(), Failure> {
    let put = Operation::put(value::key(&args.key)?, value::read(&args.value, args.literal)?);
    write(client, &args.common, put, &args.write).await
}

pub async fn delete(client: &Client, args: &DeleteArgs) -> Result<(), Failure> {
    let Some(key) = &args.key else { return Err(Failure::Other("a key is needed, or --prefix".into())) };
    let given = &args.condition;
    let condition = condition(given.if_value.as_ref(), given.if_version, false, given.if_present, args.literal)?;
    let delete = Operation::delete(value::key(key)?);
    if condition != Condition::None {
        return write(client, &args.common, delete.only_if(condition), &args.write).await;
    }
    // Where nothing is, nothing is written, and the user is told.
    let delete = delete.only_if(Condition::Present).alone().acknowledge(args.write.acknowledge.into());
    match operate(client, &args.common, delete).await {
        Ok(ResponseBody::Written { version, .. }) => say_deleted(version, true, args.common.json),
        Ok(other) => Err(unexpected(&other)),
        Err(Failure::Client(Error::ConditionFailed { version, present: false })) => say_deleted(version, false, args.common.json),
        Err(failure) => Err(failure),
    }
}

fn say_deleted(version: Version, was_there: bool, json: bool) -> Result<(), Failure> {
    match (json, was_there, version) {
        (true, ..) => {
            writeln!(io::stdout(), "{}", json!({ "outcome": "ok", "version": version.0, "deleted": was_there }))?;
        }
        (false, true, _) => eprintln!("version {version}"),
        (false, false, Version::ZERO) => eprintln!("there was nothing to delete: the key was never written"),
        (false, false, _) => eprintln!("there was nothing to delete: the key is absent since version {version}, or longer"),
    }
    Ok(())
}

pub async fn cas(client: &Client, args: &CasArgs) -> Result<(), Failure> {
    let given = &args.condition;
    if !args.literal && args.value == "-" && given.if_value.as_ref().is_some_and(|value| value == "-") {
        return Err(Failure::Other("only one of the two values can be read from standard input".into()));
    }
    let condition = condition(given.if_value.as_ref(), given.if_version, given.if_absent, given.if_present, args.literal)?;
    let put = Operation::put(value::key(&args.key)?, value::read(&args.value, args.literal)?);
    write(client, &args.common, put.only_if(condition), &args.write).await
}

pub async fn incr(client: &Client, args: &IncrArgs) -> Result<(), Failure> {
    write(client, &args.common, Operation::increment(value::key(&args.key)?, args.by), &args.write).await
}

fn condition(
    value: Option<&OsString>,
    version: Option<u64>,
    absent: bool,
    present: bool,
    literal: bool,
) -> Result<Condition, Failure> {
    Ok(match (value, version) {
        (Some(value), _) => Condition::Value(value::read(value, literal)?),
        (None, Some(version)) => Condition::Version(Version(version)),
        (None, None) if absent => Condition::Absent,
        (None, None) if present => Condition::Present,
        (None, None) => Condition::None,
    })
}

/// Writes, and says the version; an increment's sum is data.
async fn write(client: &Client, common: &CommonArgs, operation: Operation, args: &WriteArgs) -> Result<(), Failure> {
    match operate(client, common, operation.alone().acknowledge(args.acknowledge.into())).await? {
        ResponseBody::Written { version, number } if common.json => {
            let mut object = json!({ "outcome": "ok", "version": version.0 });
            if let Some(number) = number {
                object["number"] = number.into();
            }
            Ok(writeln!(io::stdout(), "{object}")?)
        }
        ResponseBody::Written { version, number } => {
            if let Some(number) = number {
                writeln!(io::stdout(), "{number}")?;
            }
            eprintln!("version {version}");
            Ok(())
        }
        other => Err(unexpected(&other)),
    }
}

async fn operate(client: &Client, common: &CommonArgs, single: Single) -> Result<ResponseBody, Failure> {
    Ok(client.call_within(RequestBody::Operation(single), common.connection.timeout).await?)
}

fn unexpected(body: &ResponseBody) -> Failure {
    Failure::Other(format!("a node answered with something else than was asked for: {body:?}"))
}
