//! `ringseed wal verify` and `wal dump`: the data directory of a node that is stopped, looked at from outside. Both only read.

use super::exit::{EXIT_CODES, Failure};
use super::show::amount;
use crate::base::GroupId;
use crate::server::{StartError, StoppedDirectory};
use crate::wal::walk::{Bad, CheckpointSeen, Met, Walked, verify};
use clap::{Args, Subcommand};
use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

#[derive(Debug, Clone, Subcommand)]
pub enum WalCommand {
    /// Check every byte of the log, and the last checkpoint
    #[command(after_help = EXIT_CODES)]
    Verify(VerifyArgs),
}

#[derive(Debug, Clone, Args)]
pub struct VerifyArgs {
    /// The data directory of a node that is stopped
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
}

pub fn wal(command: &WalCommand) -> Result<(), Failure> {
    match command {
        WalCommand::Verify(args) => check(args),
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
        Met::Bad(bad) => Ok(writeln!(out, "damaged: {}", bad_text(&bad))?),
        Met::Record(_) => Ok(()),
    })?;
    for (name, text) in report(&walked, checkpoint) {
        writeln!(out, "{name:<14} {text}")?;
    }
    ended(&walked)
}

fn ended(walked: &Walked) -> Result<(), Failure> {
    if walked.bad > 0 { Err(Failure::Damaged(walked.bad)) } else { Ok(()) }
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
        None if walked.manifest.is_some() => "nowhere: the last checkpoint is damaged, so no start is possible".to_owned(),
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
