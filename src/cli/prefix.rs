//! The commands on all items under a prefix: `scan`, `count`, `delete --prefix`. Page after page: none of them is of one instant.

use super::exit::Failure;
use super::operations::{CommonArgs, DeleteArgs, ReadArgs};
use super::show::{escaped, json_bytes, json_key, put_key, quoted};
use super::value;
use crate::base::Key;
use crate::base::limits::{SCAN_ITEMS_MAX, TRANSACTION_ITEMS_MAX};
use crate::client::{Client, Error};
use crate::msg::client::{RequestBody, ResponseBody, Scan, Scanned};
use crate::msg::operation::{Condition, Consistency, Operation};
use clap::Args;
use serde_json::{Value, json};
use std::ffi::OsString;
use std::io::{self, Write};

#[derive(Debug, Clone, Args)]
pub struct ScanArgs {
    /// Only keys that begin with this; \n, \t, \\, \xff, \{TABLE} and \| as keys are printed
    #[arg(long, value_name = "P", default_value = "")]
    pub prefix: OsString,
    /// Only keys from this on
    #[arg(long, value_name = "K", default_value = "")]
    pub from: OsString,
    /// At most so many items [default: all]
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
    /// Print keys alone
    #[arg(long)]
    pub keys_only: bool,
    #[command(flatten)]
    pub read: ReadArgs,
    #[command(flatten)]
    pub common: CommonArgs,
}

#[derive(Debug, Clone, Args)]
pub struct CountArgs {
    /// Only keys that begin with this; \n, \t, \\, \xff, \{TABLE} and \| as keys are printed
    #[arg(long, value_name = "P", default_value = "")]
    pub prefix: OsString,
    #[command(flatten)]
    pub read: ReadArgs,
    #[command(flatten)]
    pub common: CommonArgs,
}

/// Items of one step of a deletion: as many are deleted at a time.
const STEP: u32 = TRANSACTION_ITEMS_MAX as u32;

/// Page after page, written as they come.
pub async fn scan(client: &Client, args: &ScanArgs) -> Result<(), Failure> {
    let prefix = value::key(&args.prefix)?;
    let mut from = value::key(&args.from)?;
    let mut left = args.limit.unwrap_or(u64::MAX);
    while left > 0 {
        let limit = left.min(SCAN_ITEMS_MAX as u64) as u32;
        let scanned = page(client, &args.common, &prefix, from, limit, args.read.consistency.into()).await?;
        write_page(&scanned, args)?;
        left = left.saturating_sub(scanned.items.len() as u64);
        match scanned.next {
            None => return Ok(()),
            Some(next) if left == 0 => return say_next(&next, args),
            Some(next) => from = next,
        }
    }
    Ok(())
}

/// There are more than were asked for: where they begin, so that it can be given back.
fn say_next(next: &Key, args: &ScanArgs) -> Result<(), Failure> {
    let from = next.to_string();
    if args.common.json {
        writeln!(io::stdout(), "{}", json!({ "next": json_key(next), "next_text": from }))?;
    } else {
        eprintln!("there are more; the next begins at --from {}", quoted(&from));
    }
    Ok(())
}

fn write_page(scanned: &Scanned, args: &ScanArgs) -> Result<(), Failure> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    for item in &scanned.items {
        match (args.common.json, args.keys_only) {
            (true, keys_only) => {
                let mut object: Value = json!({ "version": item.version.0 });
                put_key(&mut object, &item.key);
                if !keys_only {
                    object["value"] = json_bytes(&item.value);
                }
                writeln!(out, "{object}")?;
            }
            (false, true) => writeln!(out, "{}", item.key)?,
            (false, false) => {
                writeln!(out, "{}\t{}\t{}", item.key, escaped(&item.value), item.version)?;
            }
        }
    }
    Ok(out.flush()?)
}

async fn page(
    client: &Client,
    common: &CommonArgs,
    prefix: &Key,
    from: Key,
    limit: u32,
    consistency: Consistency,
) -> Result<Scanned, Failure> {
    let scan = Scan { prefix: prefix.clone(), from, limit, consistency };
    match client.call_within(RequestBody::Scan(scan), common.connection.timeout).await? {
        ResponseBody::Scanned(scanned) => Ok(scanned),
        _ => Err(Failure::Other("a node answered a scan with something else".into())),
    }
}

/// How many items there are. An item that comes or goes meanwhile is counted or not.
pub async fn count(client: &Client, args: &CountArgs) -> Result<(), Failure> {
    let prefix = value::key(&args.prefix)?;
    let (mut from, mut count) = (Key::default(), 0);
    loop {
        let scanned = page(client, &args.common, &prefix, from, SCAN_ITEMS_MAX as u32, args.read.consistency.into()).await?;
        count += scanned.items.len() as u64;
        match scanned.next {
            Some(next) => from = next,
            None if args.common.json => return Ok(writeln!(io::stdout(), "{}", json!({ "outcome": "ok", "count": count }))?),
            None => return Ok(writeln!(io::stdout(), "{count}")?),
        }
    }
}

/// What a deletion has come to.
#[derive(Debug, Default)]
struct Deleted {
    done: u64,
    /// May have been deleted.
    unknown: u64,
}

/// Deletes what it finds under the prefix, a page at a time. Whatever ends it, it says what was done; the same command goes on
/// with the rest. An item that is written again behind it stays.
pub async fn delete(client: &Client, args: &DeleteArgs, prefix: &OsString) -> Result<(), Failure> {
    let shown = quoted(&prefix.to_string_lossy());
    let prefix = value::key(prefix)?;
    if !args.yes {
        return Err(Failure::Other(format!(
            "this would delete every key that begins with {shown} (`count --prefix {shown}` says how many there are); add --yes to do it"
        )));
    }
    let mut deleted = Deleted::default();
    let ended = tokio::select! {
        ended = delete_pages(client, args, &prefix, &mut deleted) => ended,
        interrupted = tokio::signal::ctrl_c() => match interrupted {
            Ok(()) => Err(Failure::Other("interrupted; deletes that were under way may have been done, or may yet be".into())),
            Err(error) => Err(Failure::Other(format!("interrupts cannot be caught: {error}"))),
        },
    };
    let Deleted { done, unknown } = deleted;
    if args.common.json {
        if ended.is_ok() {
            writeln!(io::stdout(), "{}", json!({ "outcome": "ok", "deleted": done }))?;
        } else {
            eprintln!("{}", json!({ "deleted": done, "unknown": unknown }));
        }
        return ended;
    }
    match &ended {
        Ok(()) => writeln!(io::stdout(), "{done}")?,
        Err(_) if unknown > 0 => {
            eprintln!("{done} keys are deleted, and {unknown} may be; the same command goes on with the rest")
        }
        Err(_) => eprintln!("{done} keys are deleted; the same command goes on with the rest"),
    }
    ended
}

async fn delete_pages(client: &Client, args: &DeleteArgs, prefix: &Key, deleted: &mut Deleted) -> Result<(), Failure> {
    let mut from = Key::default();
    loop {
        let scanned = page(client, &args.common, prefix, from, STEP, Consistency::Strong).await?;
        let deletes = scanned.items.into_iter().map(|item| {
            // The other client that deleted it meanwhile has counted it.
            let delete = Operation::delete(item.key).only_if(Condition::Present).alone();
            let delete = delete.acknowledge(args.write.acknowledge.into());
            client.call_within(RequestBody::Operation(delete), args.common.connection.timeout)
        });
        let mut trouble = None;
        for answer in futures::future::join_all(deletes).await {
            match answer {
                Ok(_) => deleted.done += 1,
                Err(Error::ConditionFailed { .. }) => {}
                Err(error) => {
                    deleted.unknown += u64::from(matches!(error, Error::Unknown(_)));
                    trouble.get_or_insert(error);
                }
            }
        }
        if let Some(error) = trouble {
            return Err(error.into());
        }
        match scanned.next {
            Some(next) => from = next,
            None => return Ok(()),
        }
    }
}
