//! The flags of the settings, made from their table, and the commands that use them: `server` and `config`.

use super::exit::Failure;
use super::show::table;
use crate::server;
use crate::server::config::{self, ProcessSettings, Resolved, SETTINGS, Setting, Sources};
use clap::{Arg, ArgMatches, Args, Command};
use serde_json::json;
use std::io::{self, Write};
use std::path::PathBuf;

/// The settings that were given as flags. A hand-written `Args`, so that each flag exists because the table has it. With
/// `SHARED`, without those that differ from node to node.
#[derive(Debug, Clone, Default)]
pub struct SettingFlags<const SHARED: bool>(pub Vec<(&'static str, String)>);

/// What `up` chooses itself, for each of its nodes.
const PER_NODE: &[&str] = &["node", "listen", "advertise", "data", "peers", "zone", "weight"];

impl<const SHARED: bool> SettingFlags<SHARED> {
    fn settings() -> impl Iterator<Item = &'static Setting> {
        SETTINGS.iter().filter(|setting| !SHARED || !PER_NODE.contains(&setting.name))
    }
}

impl<const SHARED: bool> Args for SettingFlags<SHARED> {
    fn augment_args(command: Command) -> Command {
        command.args(Self::settings().map(flag_of))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

fn flag_of(setting: &'static Setting) -> Arg {
    let default = setting.default_text();
    let shown = if default.is_empty() { "nothing" } else { &default };
    let fixed = if setting.of_cluster { "; fixed when the cluster forms" } else { "" };
    Arg::new(setting.name)
        .long(setting.flag())
        .value_name(setting.shape.placeholder())
        .help(format!("{}{fixed} [env: {}] [default: {shown}]", setting.help, setting.variable()))
        .help_heading("Settings")
        // The table's parser says what is wrong in the same words wherever a value was given.
        .allow_hyphen_values(true)
}

impl<const SHARED: bool> clap::FromArgMatches for SettingFlags<SHARED> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = |setting: &'static Setting| {
            matches.try_get_one::<String>(setting.name).ok().flatten().map(|text| (setting.name, text.clone()))
        };
        Ok(SettingFlags(Self::settings().filter_map(given).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

#[derive(Debug, Clone, Args)]
pub struct ServerArgs {
    /// A TOML file of settings [env: RINGSEED_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub settings: SettingFlags<false>,
}

#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub server: ServerArgs,
    /// Start also where the disk cannot read some of the log: then all of the node's partitions are made whole by the others, so
    /// that each must have three replicas at least. Damaged files are kept under `damaged` in the data directory. For one start
    #[arg(long)]
    pub recover: bool,
}

#[derive(Debug, Clone, Args)]
pub struct ConfigArgs {
    #[command(flatten)]
    pub server: ServerArgs,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Describe every setting instead, as a table in Markdown
    #[arg(long, conflicts_with = "json")]
    pub describe: bool,
}

pub fn resolve(args: &ServerArgs) -> Result<Resolved, Failure> {
    let sources = Sources {
        flags: args.settings.0.clone(),
        environment: Sources::environment(),
        file: config::file_of(args.config.as_deref()),
    };
    config::resolve(&sources).map_err(|errors| Failure::Other(errors.to_string()))
}

/// Runs one node until it is told to stop.
pub fn server(args: &RunArgs) -> Result<(), Failure> {
    let ProcessSettings { server: mut settings, log, log_format, .. } = resolve(&args.server)?.settings;
    settings.recover = args.recover;
    super::log::start(&log, &log_format)?;
    if settings.peers.is_empty() && !server::was_used(&settings.data_dir) {
        return Err(Failure::Other(format!(
            "`peers` is not set, and {} is new: list the initial members, this node too, as in --peers 1=10.0.0.1:7501,2=10.0.0.2:7501,3=10.0.0.3:7501. A cluster of this node alone, which cannot grow, is --peers {}={}",
            settings.data_dir.display(),
            settings.node,
            settings.listen
        )));
    }
    let (node, data) = (settings.node, settings.data_dir.clone());
    server::run(settings, |address| {
        eprintln!("ringseed: node {node} listens on {address}; its data is in {}; Ctrl-C stops it", data.display());
    })
    .map_err(|error| Failure::Other(error.to_string()))
}

/// Prints what would hold, and why.
pub fn config(args: &ConfigArgs) -> Result<(), Failure> {
    if args.describe {
        return describe();
    }
    let resolved = resolve(&args.server)?;
    if args.json {
        let object = |v: &config::Effective| json!({ "value": v.text, "from": v.set_by.to_string() });
        let map: serde_json::Map<_, _> = resolved.values.iter().map(|v| (v.setting.name.to_owned(), object(v))).collect();
        writeln!(io::stdout(), "{:#}", serde_json::Value::Object(map))?;
        return Ok(());
    }
    let mut shown = table(&["SETTING", "VALUE", "FROM"]);
    for value in &resolved.values {
        let text = if value.text.is_empty() { "\"\"" } else { &value.text };
        shown.add_row(vec![value.setting.name.to_owned(), text.to_owned(), value.set_by.to_string()]);
    }
    Ok(super::show::print(&shown)?)
}

fn describe() -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    writeln!(out, "| setting | default | what it takes | what it does |\n|---|---|---|---|")?;
    for setting in SETTINGS {
        let default = setting.default_text();
        let default = if default.is_empty() { "nothing".into() } else { format!("`{default}`") };
        let fixed = if setting.of_cluster { " (fixed when the cluster forms)" } else { "" };
        writeln!(out, "| `{}` | {default} | {} | {}{fixed} |", setting.name, setting.shape.expected(), setting.help)?;
    }
    Ok(())
}
