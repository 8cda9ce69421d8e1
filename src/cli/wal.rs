//! `ringseed wal verify` and `wal dump`: the data directory of a node that is stopped, looked at from outside. Both only read.

use super::exit::{EXIT_CODES, Failure};
use super::show::{amount, escaped, put_key};
use super::value;
use crate::base::{GroupId, Key, Place};
use crate::msg::log::{FactSummary, Manifest, ValuePlace};
use crate::msg::transaction::TransactionFact;
use crate::server::{StartError, StoppedDirectory};
use crate::wal::Bad;
use crate::wal::walk::{CheckpointSeen, Content, Met, Seen, Walked, verify, walk};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

#[derive(Debug, Clone, Subcommand)]
pub enum WalCommand {
    /// Check every byte of the log, and the last checkpoint
    #[command(after_help = EXIT_CODES)]
    Verify(VerifyArgs),
    /// Print every record of the log as a line of JSON
    #[command(after_help = EXIT_CODES)]
    Dump(DumpArgs),
}

#[derive(Debug, Clone, Args)]
pub struct VerifyArgs {
    /// The data directory of a node that is stopped
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
    /// Print a line of JSON for each damaged place, and one for all in the end
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Clone, Args)]
pub struct DumpArgs {
    /// The data directory of a node that is stopped
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
    /// Only records of this group; partition P is of group P + 1
    #[arg(long, value_name = "N")]
    pub group: Option<u32>,
    /// Only records that name this key; \n, \t, \\, \xff, \{TABLE} and \| as keys are printed
    #[arg(long, value_name = "KEY")]
    pub key: Option<OsString>,
    /// Only records from this position on
    #[arg(long, value_name = "L", default_value = "0")]
    pub from_lsn: u64,
}

pub fn wal(command: &WalCommand) -> Result<(), Failure> {
    match command {
        WalCommand::Verify(args) => check(args),
        WalCommand::Dump(args) => dump(args),
    }
}

fn open(path: &Path) -> Result<StoppedDirectory, Failure> {
    StoppedDirectory::open(path).map_err(|error| match error {
        StartError::Locked { .. } => Failure::Other(format!("{error}; stop that node first, or look at a copy of the directory")),
        _ => Failure::Other(error.to_string()),
    })
}

/// Says each bad place when it is found, and what there is in the end.
fn check(args: &VerifyArgs) -> Result<(), Failure> {
    let mut directory = open(&args.directory)?;
    let mut out = io::stdout().lock();
    let (walked, checkpoint) = verify::<Failure>(directory.log(), &mut |met| match met {
        Met::Bad(bad) if args.json => Ok(writeln!(out, "{}", bad_json(&bad))?),
        Met::Bad(bad) => Ok(writeln!(out, "damaged: {}", bad_text(&bad))?),
        Met::Record(_) => Ok(()),
    })?;
    if args.json {
        writeln!(out, "{}", report_json(&walked, checkpoint))?;
        return ended(&walked);
    }
    for (name, text) in report(&walked, checkpoint) {
        writeln!(out, "{name:<14} {text}")?;
    }
    ended(&walked)
}

/// A line for each record that was asked for, and for each bad place, which may have held one.
fn dump(args: &DumpArgs) -> Result<(), Failure> {
    let key = args.key.as_deref().map(value::key).transpose()?;
    let group = args.group.map(GroupId);
    let mut directory = open(&args.directory)?;
    let mut out = io::BufWriter::new(io::stdout().lock());
    let walked = walk::<Failure>(directory.log(), &mut |met| {
        let line = match met {
            Met::Record(seen) => {
                let wanted = seen.lsn.0 >= args.from_lsn
                    && group.is_none_or(|group| seen.content.group() == Some(group))
                    && key.as_ref().is_none_or(|key| keys_of(&seen.content).contains(&key));
                wanted.then(|| record_json(&seen))
            }
            Met::Bad(bad) => {
                let wanted = group.is_none_or(|group| bad.groups.as_ref().is_none_or(|groups| groups.contains(&group)));
                wanted.then(|| bad_json(&bad))
            }
        };
        Ok(line.map_or(Ok(()), |line| writeln!(out, "{line}"))?)
    })?;
    out.flush()?;
    ended(&walked)
}

/// The keys that a record names, but for the copies of a checkpoint.
fn keys_of(content: &Content) -> Vec<&Key> {
    if let Content::Moved { keys, .. } = content {
        return keys.iter().collect();
    }
    let Content::Entry { fact, .. } = content else { return Vec::new() };
    match fact {
        FactSummary::Write { key, .. } => vec![key],
        FactSummary::Transaction(fact) => {
            let written = fact.writes().iter().map(|write| &write.key);
            match &**fact {
                TransactionFact::Prepare { shared, .. } => written.chain(shared).collect(),
                _ => written.collect(),
            }
        }
        FactSummary::Noop | FactSummary::Configuration(_) => Vec::new(),
    }
}

fn record_json(seen: &Seen) -> Value {
    let Place { segment, offset, length } = seen.place;
    let mut object = json!({ "lsn": seen.lsn, "segment": segment, "offset": offset, "length": length, "epoch": seen.epoch });
    if let Some(group) = seen.content.group() {
        object["group"] = group.0.into();
    }
    let (kind, more) = content_json(&seen.content);
    object["kind"] = kind.into();
    if let (Value::Object(object), Value::Object(more)) = (&mut object, more) {
        object.extend(more);
    }
    object
}

/// The name of the record's kind, and what that has.
fn content_json(content: &Content) -> (&'static str, Value) {
    match content {
        Content::Epoch(_) => ("epoch", Value::Null),
        Content::Formation(formation) => {
            let members: Vec<Value> =
                formation.members.iter().map(|member| json!({ "node": member.node, "address": member.address })).collect();
            let options = &formation.options;
            let more = json!({
                "cluster": formation.cluster.to_string(),
                "members": members,
                "partitions": options.partitions,
                "replication_factor": options.replication_factor,
            });
            ("formation", more)
        }
        Content::PeerMark(node, mark) => {
            ("peer_mark", json!({ "node": node, "mark": { "epoch": mark.epoch, "durable": mark.durable } }))
        }
        Content::HardState(_, state) => ("hard_state", json!({ "term": state.term, "vote": state.vote, "commit": state.commit })),
        Content::Entry { index, term, commit, fact, .. } => {
            let mut object = json!({ "index": index, "term": term, "commit": commit });
            (fact_json(fact, &mut object), object)
        }
        Content::Clean => ("clean", Value::Null),
        Content::CaughtUp => ("caught_up", Value::Null),
        Content::Stands { last, whole, is_last, .. } => {
            ("stands", json!({ "index": last.index, "term": last.term, "whole": whole, "last": is_last }))
        }
        Content::Leaf { fence, items, .. } => ("leaf", json!({ "fence": escaped(fence), "items": items })),
        Content::Parts(_) => ("parts", Value::Null),
        Content::Root(_, root) => {
            let pieces: Vec<[u32; 3]> = root.pieces.iter().map(|place| [place.segment.0, place.offset, place.length]).collect();
            let base = json!({ "index": root.base.index, "term": root.base.term });
            ("root", json!({ "begin": root.begin, "base": base, "pieces": pieces }))
        }
        Content::Piece { base, snapshot, number, parts, is_last, .. } => {
            let base = json!({ "index": base.index, "term": base.term });
            (
                "piece",
                json!({ "base": base, "snapshot": format!("{snapshot:016x}"), "number": number, "parts": parts, "last": is_last }),
            )
        }
        Content::Moved { keys, .. } => ("moved", json!({ "items": keys.len() })),
        Content::Manifest(manifest) => {
            let Manifest { start, groups, kept, .. } = manifest;
            ("manifest", json!({ "start": start, "groups": groups.len(), "kept": kept }))
        }
    }
}

/// Puts in what an entry says; the name of its kind.
fn fact_json(fact: &FactSummary, object: &mut Value) -> &'static str {
    match fact {
        FactSummary::Noop => "noop",
        FactSummary::Write { key, value } => {
            put_key(object, key);
            object["value"] = value_json(value.as_ref());
            "write"
        }
        FactSummary::Configuration(configuration) => {
            object["voters"] = json!(configuration.voters());
            object["outgoing"] = json!(configuration.outgoing());
            let learners = configuration.members().filter(|node| !configuration.is_voter(*node));
            object["learners"] = learners.map(|node| json!(node)).collect();
            "configuration"
        }
        FactSummary::Transaction(fact) => {
            let (step, id) = match &**fact {
                TransactionFact::Prepare { id, parties, shared, .. } => {
                    object["parties"] = json!(parties);
                    object["reads"] = shared.iter().map(ToString::to_string).collect();
                    ("prepare", Some(id))
                }
                TransactionFact::Decide { id, commit, parties, .. } => {
                    object["parties"] = json!(parties);
                    object["committed"] = (*commit).into();
                    ("decide", Some(id))
                }
                TransactionFact::Resolve { id, commit } => {
                    object["committed"] = (*commit).into();
                    ("resolve", Some(id))
                }
                TransactionFact::End { ended, .. } => {
                    object["ended"] = ended.iter().map(ToString::to_string).collect();
                    ("end", None)
                }
            };
            object["step"] = step.into();
            if let Some(id) = id {
                object["transaction"] = id.to_string().into();
            }
            let writes = fact.writes().iter().map(|write| {
                let mut object = json!({ "value": value_json(write.value.as_ref()) });
                put_key(&mut object, &write.key);
                object
            });
            object["writes"] = writes.collect();
            "transaction"
        }
    }
}

/// `null`: deleted.
fn value_json(value: Option<&ValuePlace>) -> Value {
    value.map_or(Value::Null, |value| json!({ "length": value.place.length, "checksum": format!("{:08x}", value.checksum) }))
}

fn ended(walked: &Walked) -> Result<(), Failure> {
    if walked.bad > 0 { Err(Failure::Damaged(walked.bad)) } else { Ok(()) }
}

/// `groups`: null if any may be touched.
fn bad_json(bad: &Bad) -> Value {
    json!({ "bad": bad.what, "segment": bad.segment, "offset": bad.offset, "groups": bad.groups })
}

fn report_json(walked: &Walked, checkpoint: Option<CheckpointSeen>) -> Value {
    let torn = walked.torn.map(|torn| json!({ "segment": torn.segment, "offset": torn.offset, "bytes": torn.bytes }));
    let checkpoint = checkpoint.map(|seen| json!({ "replay_from": seen.start, "groups": seen.groups }));
    json!({
        "node": walked.node,
        "directory": walked.directory.map(|directory| directory.to_string()),
        "segments": walked.segments,
        "bytes": walked.bytes,
        "records": walked.records,
        "epochs": walked.epochs,
        "groups": walked.groups,
        "last_lsn": walked.last,
        "has_checkpoint": walked.manifest.is_some(),
        "checkpoint": checkpoint,
        "torn": torn,
        "damaged": walked.bad,
    })
}

fn bad_text(bad: &Bad) -> String {
    let Bad { segment, offset, what, groups } = bad;
    format!("segment {segment} at byte {offset}: {what}; {}", groups_text(groups.as_ref()))
}

fn groups_text(groups: Option<&BTreeSet<GroupId>>) -> String {
    match groups {
        None => "any group may be touched".to_owned(),
        Some(groups) if groups.is_empty() => "no group is touched".to_owned(),
        Some(groups) => {
            let names: Vec<String> = groups.iter().map(ToString::to_string).collect();
            format!("groups touched: {}", names.join(", "))
        }
    }
}

fn report(walked: &Walked, checkpoint: Option<CheckpointSeen>) -> Vec<(&'static str, String)> {
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "none is known".to_owned());
    let replay = match checkpoint {
        Some(CheckpointSeen { start, groups }) => format!("segment {start}, with a checkpoint of {groups} groups"),
        None if walked.manifest.is_some() => "what is left: the last checkpoint is damaged".to_owned(),
        None => "the first segment; there is no checkpoint yet".to_owned(),
    };
    let end = match &walked.torn {
        Some(torn) => format!(
            "torn: {} bytes in segment {} at byte {} are no whole batch; a start cuts them off, which loses nothing",
            torn.bytes, torn.segment, torn.offset
        ),
        None => "not torn".to_owned(),
    };
    vec![
        ("node", or_none(walked.node.map(|node| node.to_string()))),
        ("directory", or_none(walked.directory.map(|directory| directory.to_string()))),
        ("segments", walked.segments.to_string()),
        ("bytes", format!("{} ({})", walked.bytes, amount(walked.bytes))),
        ("records", walked.records.to_string()),
        ("epochs", walked.epochs.to_string()),
        ("groups", walked.groups.len().to_string()),
        ("last position", walked.last.to_string()),
        ("replay from", replay),
        ("end", end),
        ("damaged places", walked.bad.to_string()),
    ]
}
