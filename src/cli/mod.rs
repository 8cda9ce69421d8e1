//! The `ringseed` program: arguments, what is printed, exit codes. Everything that it does it does through the library's public
//! parts: [`crate::server`] runs nodes, [`crate::client`] talks to them.
//!
//! - [`settings`]: `server`, `config`, and the flags that come from the table of settings.
//! - [`up`]: a whole cluster in one process, to try things out.
//! - [`operations`]: `put`, `get`, `delete`, `cas`, `incr`; [`prefix`]: `scan`, `count`, `delete --prefix`; [`status`]; [`ring`];
//!   [`shell`] has the same commands at a prompt.
//! - `damage`: `damage`, `scrub`.
//! - [`txn`]: `txn`, `get-many`, `txns`; [`transaction_text`]: transactions as people and programs write them.
//! - [`load`]: traffic, measured, and recorded for checkers.
//! - [`wal`]: `wal verify`, `wal dump`: the log of a node that is stopped.
//! - [`log`]: standard error, as text or as JSON. [`exit`]: exit codes and failures. [`show`], [`value`]: how bytes get out and
//!   in. [`connection`], [`folder`]: where the servers are.

/// Says a remark on standard error: see [`log::remark`]. In every module below it takes the place of `eprintln!`, which panics
/// where standard error has no reader.
macro_rules! eprintln {
    () => { $crate::cli::log::remark(format_args!("")) };
    ($($argument:tt)*) => { $crate::cli::log::remark(format_args!($($argument)*)) };
}

mod connection;
mod damage;
mod exit;
mod folder;
mod load;
mod log;
mod operations;
mod prefix;
mod ring;
mod settings;
mod shell;
mod show;
mod status;
pub mod transaction_text;
mod txn;
mod up;
mod value;
mod wal;

use crate::client::Client;
use clap::{CommandFactory, Parser, Subcommand};
use exit::{EXIT_CODES, Failure};
use operations::{CasArgs, CommonArgs, DeleteArgs, GetArgs, IncrArgs, PutArgs};
use prefix::{CountArgs, ScanArgs};
use std::io::Write;
use std::process::ExitCode;

/// A replicated key-value store on a consistent-hash ring.
#[derive(Debug, Parser)]
#[command(name = "ringseed", version, after_help = EXIT_CODES, subcommand_required = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a cluster on this machine, to try things out
    Up(Box<up::UpArgs>),
    /// Run one node of a cluster
    Server(Box<settings::RunArgs>),
    /// Print the settings that `server` would run with, and where each comes from
    Config(Box<settings::ConfigArgs>),
    #[command(flatten)]
    Data(Box<DataCommand>),
    /// The same commands at a prompt, with history and completion
    Shell(shell::ShellArgs),
    /// Put load on the cluster and measure it
    Load(Box<load::LoadArgs>),
    /// Look at the log of a node that is stopped, and change nothing
    #[command(subcommand)]
    Wal(wal::WalCommand),
    /// Print a script that completes commands in a shell
    Completions {
        /// For which shell
        shell: clap_complete::Shell,
    },
}

/// The commands that talk to a cluster once; the shell has them too.
#[derive(Debug, Subcommand)]
enum DataCommand {
    /// Write an item
    #[command(after_help = EXIT_CODES)]
    Put(PutArgs),
    /// Read an item: its value on standard output, its version on standard error
    #[command(after_help = EXIT_CODES)]
    Get(GetArgs),
    /// Delete an item, or all whose keys begin with a prefix
    #[command(after_help = EXIT_CODES)]
    Delete(DeleteArgs),
    /// Write an item if a condition holds of it (compare and set)
    #[command(after_help = EXIT_CODES)]
    Cas(CasArgs),
    /// Add to an item that is a whole number, and print the sum
    #[command(after_help = EXIT_CODES)]
    Incr(IncrArgs),
    /// Print items in key order: key, value and version, with tabs between; what is not printable is escaped
    #[command(after_help = EXIT_CODES)]
    Scan(ScanArgs),
    /// Count the items, or those whose keys begin with a prefix
    #[command(after_help = EXIT_CODES)]
    Count(CountArgs),
    /// Do several operations at one instant, or none: from a file or standard input
    #[command(after_help = format!("{}\n\n{EXIT_CODES}", txn::TEXT_FORM))]
    Txn(txn::TxnArgs),
    /// Read several items as they are at one instant: key, value and version, with tabs between
    #[command(after_help = EXIT_CODES)]
    GetMany(txn::GetManyArgs),
    /// List the transactions in flight
    Txns(txn::TxnsArgs),
    /// Show what has rotted on the nodes' disks, and the keys of which no whole value is left
    #[command(after_help = EXIT_CODES)]
    Damage(damage::DamageArgs),
    /// Read all values on every node now, and have what has rotted repaired
    #[command(after_help = EXIT_CODES)]
    Scrub(damage::DamageArgs),
    /// Show every node: up or down, leaderships, lag, disk, CPU
    Status(status::StatusArgs),
    /// Show which node owns what, or where a key is placed
    Ring(ring::RingArgs),
}

impl DataCommand {
    fn common(&self) -> &CommonArgs {
        match self {
            DataCommand::Put(args) => &args.common,
            DataCommand::Get(args) => &args.common,
            DataCommand::Delete(args) => &args.common,
            DataCommand::Cas(args) => &args.common,
            DataCommand::Incr(args) => &args.common,
            DataCommand::Scan(args) => &args.common,
            DataCommand::Count(args) => &args.common,
            DataCommand::Txn(args) => &args.common,
            DataCommand::GetMany(args) => &args.common,
            DataCommand::Txns(args) => &args.common,
            DataCommand::Damage(args) | DataCommand::Scrub(args) => &args.common,
            DataCommand::Status(args) => &args.common,
            DataCommand::Ring(args) => &args.common,
        }
    }

    fn common_mut(&mut self) -> &mut CommonArgs {
        match self {
            DataCommand::Put(args) => &mut args.common,
            DataCommand::Get(args) => &mut args.common,
            DataCommand::Delete(args) => &mut args.common,
            DataCommand::Cas(args) => &mut args.common,
            DataCommand::Incr(args) => &mut args.common,
            DataCommand::Scan(args) => &mut args.common,
            DataCommand::Count(args) => &mut args.common,
            DataCommand::Txn(args) => &mut args.common,
            DataCommand::GetMany(args) => &mut args.common,
            DataCommand::Txns(args) => &mut args.common,
            DataCommand::Damage(args) | DataCommand::Scrub(args) => &mut args.common,
            DataCommand::Status(args) => &mut args.common,
            DataCommand::Ring(args) => &mut args.common,
        }
    }
}

/// The program.
pub fn main() -> ExitCode {
    log::decide(std::env::args_os());
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            if error.use_stderr() && log::is_in_json() {
                eprintln!("{}", error.render());
            } else {
                let _ = error.print();
            }
            // Help and version were asked for; clap's own code for the rest would be 2.
            return ExitCode::from(if error.use_stderr() { exit::OTHER } else { 0 });
        }
    };
    let (json, done) = run(&cli.command);
    done.map_or_else(|failure| failure.exit(json), |()| ExitCode::SUCCESS)
}

/// Whether JSON was asked for, and how it went.
fn run(command: &Command) -> (bool, Result<(), Failure>) {
    match command {
        Command::Up(args) => (false, up::up(args)),
        Command::Server(args) => (false, settings::server(args)),
        Command::Config(args) => (args.json, settings::config(args)),
        Command::Data(command) => (command.common().json, once(command)),
        Command::Shell(args) => (false, shell::shell(args)),
        Command::Load(args) => (args.common.json, load::load(args)),
        Command::Wal(command) => (false, wal::wal(command)),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "ringseed", &mut script);
            (false, std::io::stdout().write_all(&script).map_err(Failure::Output))
        }
    }
}

fn once(command: &DataCommand) -> Result<(), Failure> {
    let runtime = connection::runtime()?;
    runtime.block_on(async {
        let client = command.common().connection.connect().await?;
        run_data(&client, command, false).await
    })
}

/// One command; `at_prompt`: what it prints is followed by a prompt, or would be.
async fn run_data(client: &Client, command: &DataCommand, at_prompt: bool) -> Result<(), Failure> {
    match command {
        DataCommand::Put(args) => operations::put(client, args).await,
        DataCommand::Get(args) => operations::get(client, args, at_prompt).await,
        DataCommand::Delete(args) => match &args.prefix {
            Some(prefix) => prefix::delete(client, args, prefix).await,
            None => operations::delete(client, args).await,
        },
        DataCommand::Cas(args) => operations::cas(client, args).await,
        DataCommand::Incr(args) => operations::incr(client, args).await,
        DataCommand::Scan(args) => prefix::scan(client, args).await,
        DataCommand::Count(args) => prefix::count(client, args).await,
        DataCommand::Txn(args) => txn::txn(client, args, at_prompt).await,
        DataCommand::GetMany(args) => txn::get_many(client, args).await,
        DataCommand::Txns(args) => txn::txns(client, args).await,
        DataCommand::Damage(args) => damage::damage(client, args).await,
        DataCommand::Scrub(args) => damage::scrub(client, args).await,
        DataCommand::Status(args) => status::status(client, args).await,
        DataCommand::Ring(args) => ring::ring(client, args).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn arguments_that_go_together_and_that_do_not() {
        let parse = |line: &str| Cli::try_parse_from(std::iter::once("ringseed").chain(line.split(' ')));
        for line in [
            "put k -5 --json",
            "put k - --literal",
            "put k @file --acknowledge all",
            "cas k --if-absent v",
            "cas k --if old new --timeout 250ms",
            "incr k -3",
            "scan --prefix a --limit 10 --consistency eventual",
            "delete k --if-version 7",
            "delete --prefix a --yes",
            "delete --prefix a",
            "count --prefix a --json",
            "scan --keys-only",
            "server --node 2 --peers 1=a:1,2=b:2",
            "up --nodes 5 --partitions 128",
            "load --workload mixed --clients 8 --seconds 1 --zipf",
            "ring k --servers a:1,b:2",
            "txn",
            "txn - --format json --token t",
            "get-many a b --json",
            "txns --json",
            "damage --json",
            "load --workload bank --txn-items 3 --hot",
            "wal verify d --json",
            "server --recover --node 2",
            "wal dump d --group 3 --key k --from-lsn 100",
        ] {
            parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
        for line in [
            "put k",
            "cas k new",
            "cas k --if-absent --if-version 3 new",
            "incr k many",
            "cas k --if-version 0 new",
            "delete k --if-version 0",
            "delete",
            "delete k --prefix a",
            "delete k --yes",
            "delete --prefix a --if-present",
            "get k --consistency sometimes",
            "get-many",
            "txn a b",
            "load --workload txn --txn-items 101",
            "commit",
            "get k --timeout 5",
            "get k --servers nowhere",
            "wal verify",
            "wal repair d",
            "frobnicate",
            "",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
