//! The commands on several items at once: `txn`, `get-many`, `txns`.
//!
//! As with one item, data goes to standard output and nothing else does: what was read and what increments came to, as `scan`
//! writes it (key, value, version, tabs between). Versions of other writes, and keys that are absent, go to standard error.

use super::exit::Failure;
use super::operations::CommonArgs;
use super::show::{self, escaped, json_bytes, put_key};
use super::{transaction_text, value};
use crate::base::{Duration, Key, Version};
use crate::client::{Client, InFlight, TransactionsInFlight};
use crate::msg::operation::Action;
use crate::msg::transaction::{ItemResult, Transaction};
use bytes::Bytes;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

/// The end of `txn`'s help.
pub const TEXT_FORM: &str = "\
One operation a line, all of them done or none:
  put KEY VALUE [if CONDITION]
  delete KEY [if CONDITION]
  incr KEY [N] [if CONDITION]
  check KEY if CONDITION
  read KEY [if CONDITION]
  token TOKEN                  at most once: done once, however often it is sent
A CONDITION is absent, present, version N, or value VALUE.
Words are parted by blanks; 'quotes' and \"quotes\" keep them together; # begins a comment;
\\n \\t \\r \\xff are bytes, a backslash takes any other sign as it stands.
As JSON: {\"items\": [{\"key\": K, \"action\": {\"put\": V}, \"if\": {\"version\": N}}, ...], \"token\": T}";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FormatArg {
    /// JSON if it begins with { or [, else text
    Auto,
    Text,
    Json,
}

#[derive(Debug, Clone, Args)]
pub struct TxnArgs {
    /// The operations; `-` for standard input
    #[arg(default_value = "-")]
    pub file: OsString,
    /// How they are written
    #[arg(long, value_enum, default_value = "auto")]
    pub format: FormatArg,
    /// Done once, however often it is sent with this token within ten minutes
    #[arg(long, value_name = "T")]
    pub token: Option<OsString>,
    #[command(flatten)]
    pub common: CommonArgs,
}

#[derive(Debug, Clone, Args)]
pub struct GetManyArgs {
    /// The keys; \n, \t, \\, \xff, \{TABLE} and \| as keys are printed
    #[arg(required = true)]
    pub keys: Vec<OsString>,
    #[command(flatten)]
    pub common: CommonArgs,
}

#[derive(Debug, Clone, Args)]
pub struct TxnsArgs {
    #[command(flatten)]
    pub common: CommonArgs,
}

/// The longest input that is read. A transaction of 4 MiB that is written with an escape for every byte fits.
const INPUT_SIZE_MAX: usize = 32 * 1024 * 1024;

pub async fn txn(client: &Client, args: &TxnArgs, at_prompt: bool) -> Result<(), Failure> {
    if at_prompt && args.file == "-" {
        return Err(Failure::Other("at the prompt, name a file, or type `begin`, operations and `commit`".into()));
    }
    let transaction = read(args)?;
    let items = transaction.items.clone();
    let results = client.transact_within(transaction, args.common.connection.timeout).await?;
    let mut out = io::BufWriter::new(io::stdout().lock());
    if args.common.json {
        let results = items.iter().zip(&results).map(|(item, result)| {
            let mut object = json!({ "version": result.version.0 });
            put_key(&mut object, &item.key);
            if let Some(number) = result.number {
                object["number"] = number.into();
            }
            if item.action == Action::Read {
                object["value"] = result.value.as_deref().map(json_bytes).into();
            }
            object
        });
        let object = json!({ "outcome": "ok", "results": results.collect::<Vec<Value>>() });
        writeln!(out, "{object}")?;
        return Ok(out.flush()?);
    }
    for (item, result) in items.iter().zip(&results) {
        result_line(&mut out, &item.key, &item.action, result)?;
    }
    out.flush()?;
    eprintln!("committed");
    Ok(())
}

fn result_line(out: &mut impl Write, key: &Key, action: &Action, result: &ItemResult) -> io::Result<()> {
    let version = result.version;
    match (action, result.number, &result.value) {
        (_, Some(number), _) => writeln!(out, "{key}\t{number}\t{version}"),
        (Action::Read, _, Some(value)) => writeln!(out, "{key}\t{}\t{version}", escaped(value)),
        (Action::Read, _, None) => {
            eprintln!("{key}: not found (version {version})");
            Ok(())
        }
        (Action::Check, ..) => Ok(()),
        _ => {
            eprintln!("{key}: version {version}");
            Ok(())
        }
    }
}

fn read(args: &TxnArgs) -> Result<Transaction, Failure> {
    let (input, name) = if args.file == "-" {
        (limited(io::stdin().lock(), "standard input")?, "standard input".to_owned())
    } else {
        let path = Path::new(&args.file);
        let name = path.display().to_string();
        let file = File::open(path).map_err(|e| Failure::Other(format!("cannot read the transaction from {name}: {e}")))?;
        (limited(file, &name)?, name)
    };
    let parsed = match args.format {
        FormatArg::Auto => transaction_text::parse(&input),
        FormatArg::Text => transaction_text::parse_text(&input),
        FormatArg::Json => transaction_text::parse_json(&input),
    };
    let mut transaction = parsed.map_err(|error| Failure::Other(format!("{name}: {error}")))?;
    if let Some(token) = args.token.as_deref().map(value::literal) {
        if transaction.token.is_some() {
            return Err(Failure::Other(format!("--token: {name} has a token already")));
        }
        transaction.token = Some(token);
    }
    Ok(transaction)
}

fn limited(from: impl Read, name: &str) -> Result<Vec<u8>, Failure> {
    let mut input = Vec::new();
    let read = from.take(INPUT_SIZE_MAX as u64 + 1).read_to_end(&mut input);
    match read.map_err(|e| Failure::Other(format!("cannot read the transaction from {name}: {e}")))? {
        size if size > INPUT_SIZE_MAX => {
            Err(Failure::Other(format!("{name} is longer than {}; no transaction is", show::amount(INPUT_SIZE_MAX as u64))))
        }
        _ => Ok(input),
    }
}

pub async fn get_many(client: &Client, args: &GetManyArgs) -> Result<(), Failure> {
    let keys = args.keys.iter().map(|key| value::key(key)).collect::<Result<Vec<Key>, Failure>>()?;
    let got = client.get_many_within(keys.clone(), args.common.connection.timeout).await?;
    let items = keys.into_iter().zip(got).map(|(key, got)| (key, got.value, Some(got.version)));
    write_items(items, args.common.json)
}

/// Writes items in the order in which they were asked for. Without a version: an item as a transaction sees it.
pub fn write_items(items: impl Iterator<Item = (Key, Option<Bytes>, Option<Version>)>, json: bool) -> Result<(), Failure> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    if json {
        let items = items.map(|(key, value, version)| {
            let mut object = json!({ "value": value.as_deref().map(json_bytes) });
            put_key(&mut object, &key);
            if let Some(version) = version {
                object["version"] = version.0.into();
            }
            object
        });
        writeln!(out, "{}", json!({ "outcome": "ok", "items": items.collect::<Vec<Value>>() }))?;
        return Ok(out.flush()?);
    }
    for (key, value, version) in items {
        match (value, version) {
            (Some(value), Some(version)) => writeln!(out, "{key}\t{}\t{version}", escaped(&value))?,
            (Some(value), None) => writeln!(out, "{key}\t{}", escaped(&value))?,
            (None, Some(version)) => eprintln!("{key}: not found (version {version})"),
            (None, None) => eprintln!("{key}: not found"),
        }
    }
    Ok(out.flush()?)
}

pub async fn txns(client: &Client, args: &TxnsArgs) -> Result<(), Failure> {
    let TransactionsInFlight { transactions, more, silent } = client.transactions().await?;
    if args.common.json {
        let silent: Vec<Value> = silent.iter().map(|(node, error)| json!({ "node": node.0, "why": error.to_string() })).collect();
        let transactions: Vec<Value> = transactions.iter().map(in_flight_json).collect();
        let object = json!({ "outcome": "ok", "transactions": transactions, "more": more, "silent_nodes": silent });
        writeln!(io::stdout(), "{object:#}")?;
        return Ok(());
    }
    for (node, error) in &silent {
        eprintln!("node {node} does not answer, and what only it knows is missing here: {error}");
    }
    if more > 0 {
        eprintln!("{more} younger ones are not listed (one in several partitions is counted in each)");
    }
    if transactions.is_empty() {
        eprintln!("no transaction is in flight");
        return Ok(());
    }
    let mut table = show::table(&["ID", "AGE", "HOME", "PARTICIPANTS", "STATE", "LOCKS"]);
    for transaction in &transactions {
        let participants: Vec<String> = transaction.participants.iter().map(ToString::to_string).collect();
        table.add_row([
            transaction.id.to_string(),
            show::span(Duration::from_millis(transaction.age_ms)),
            transaction.id.home.to_string(),
            participants.join(" "),
            transaction.state.to_string(),
            transaction.locks.to_string(),
        ]);
    }
    Ok(show::print(&table)?)
}

fn in_flight_json(transaction: &InFlight) -> Value {
    json!({
        "id": transaction.id.to_string(),
        "age_ms": transaction.age_ms,
        "home": transaction.id.home.0,
        "participants": transaction.participants.iter().map(|group| group.0).collect::<Vec<_>>(),
        "state": transaction.state.to_string(),
        "locks": transaction.locks,
    })
}
