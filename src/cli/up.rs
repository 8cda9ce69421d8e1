//! `ringseed up`: a whole cluster in one process, to try things out.
//!
//! Each node is what `ringseed server` would run: its own threads, its own directory, its own port, real TCP to the others. The
//! directory of the cluster holds `cluster.json` and a directory per node, and survives restarts. Addresses and the settings that
//! are fixed when a cluster forms are part of the cluster: they are chosen at the first start (ports from the default one
//! upwards, free ones), written down, and used again. A port that another process has taken meanwhile is an error, not a reason
//! to move.

use super::exit::Failure;
use super::settings::SettingFlags;
use super::{connection, folder};
use crate::base::{ClusterId, Duration, NodeId};
use crate::client::{Client, ClientOptions};
use crate::node::Fatal;
use crate::server::config::{self, ProcessSettings, Resolved, SETTINGS, SetBy, Sources};
use crate::server::private;
use crate::server::{Ended, Server, ServerSettings, StartError, Stopper};
use clap::Args;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Instant;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// Prints a line. Its reader may have left (`ringseed up | head`): no reason to end a cluster.
macro_rules! say {
    ($($text:tt)*) => {{ let _ = writeln!(io::stdout(), $($text)*); }};
}

#[derive(Debug, Clone, Args)]
pub struct UpArgs {
    /// How many nodes [default: 3, or as many as the directory's cluster has]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=16))]
    pub nodes: Option<u16>,
    /// Where the cluster's data is [default: `ringseed/up` in the user's data folder]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    #[command(flatten)]
    pub settings: SettingFlags<true>,
}

/// What is fixed at the first start: `cluster.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Cluster {
    /// Of node 1, node 2, and so on.
    addresses: Vec<String>,
    /// The settings that are fixed when a cluster forms, as text.
    settings: BTreeMap<String, String>,
    /// As it is printed, once it is known: what else listens at the addresses is not the cluster.
    #[serde(default)]
    id: Option<String>,
}

impl Cluster {
    fn id(&self) -> Option<ClusterId> {
        folder::parse_cluster(self.id.as_deref()?).ok()
    }

    fn write(&self, directory: &Path) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(self).expect("plain data");
        folder::write_whole(&directory.join(CLUSTER), &format!("{text}\n"))
    }
}

pub fn up(args: &UpArgs) -> Result<(), Failure> {
    let no_home =
        || Failure::Other("neither XDG_DATA_HOME nor HOME names a folder for the data: choose one with --data DIR".into());
    let directory = args.data.clone().or_else(|| folder::find().map(|folder| folder.join("up"))).ok_or_else(no_home)?;
    let made = private::make_directory(&directory);
    made.map_err(|e| Failure::Other(format!("cannot make the directory {}: {e}", directory.display())))?;
    // By one name, from wherever it is looked at.
    let directory = directory.canonicalize().unwrap_or(directory);
    let remembered = read_cluster(&directory)?;
    let resolved = resolve(args, remembered.as_ref())?;
    let log = if resolved.value("log").set_by == SetBy::Default { "warn" } else { &resolved.settings.log };
    super::log::start(log, &resolved.settings.log_format)?;

    let runtime = connection::background_runtime(1)?;
    let mut signals = runtime.block_on(async { Signals::new() })?;
    let (cluster, servers) = start(&directory, remembered, args.nodes.unwrap_or(DEFAULT_NODES), &resolved)?;
    folder::remember(&directory, &cluster.addresses, cluster.id());
    say_started(&directory, &cluster);
    let stoppers = servers.iter().map(|(settings, server)| (settings.node, server.stopper())).collect();
    let stoppers: Stoppers = Arc::new(Mutex::new(Some(stoppers)));
    let endings = join_all(servers, &stoppers);
    runtime.block_on(watch(&directory, cluster, &stoppers, endings, &mut signals))
}

const DEFAULT_NODES: u16 = 3;

/// Of every node's server, of the last that was started. `None`: the cluster stops.
type Stoppers = Arc<Mutex<Option<BTreeMap<NodeId, Stopper>>>>;

fn read_cluster(directory: &Path) -> Result<Option<Cluster>, Failure> {
    let path = directory.join(CLUSTER);
    let unreadable = |why: &dyn core::fmt::Display| Failure::Other(format!("cannot read {}: {why}", path.display()));
    match std::fs::read_to_string(&path) {
        Ok(text) => serde_json::from_str(&text).map(Some).map_err(|e| unreadable(&e)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unreadable(&error)),
    }
}

const CLUSTER: &str = "cluster.json";

/// The settings in effect. Those that are fixed come from the cluster, and may only be repeated.
fn resolve(args: &UpArgs, remembered: Option<&Cluster>) -> Result<Resolved, Failure> {
    let failure = |errors: config::ConfigErrors| Failure::Other(errors.to_string());
    let mut sources = Sources { flags: args.settings.0.clone(), environment: Sources::environment(), file: None };
    let asked = config::resolve(&sources).map_err(failure)?;
    let Some(cluster) = remembered else {
        if asked.value("replication_factor").set_by == SetBy::Default {
            let nodes = u64::from(args.nodes.unwrap_or(DEFAULT_NODES));
            let most = u64::from(asked.settings.server.cluster.replication_factor);
            sources.flags.push(("replication_factor", nodes.min(most).to_string()));
        }
        return config::resolve(&sources).map_err(failure);
    };
    let has = cluster.addresses.len();
    if args.nodes.is_some_and(|nodes| usize::from(nodes) != has) {
        return Err(Failure::Other(format!(
            "--nodes: the cluster in this directory has {has} nodes, and that cannot be changed yet; choose another directory with --data"
        )));
    }
    for (name, fixed) in &cluster.settings {
        let Some(setting) = config::find(name) else { continue };
        let given = asked.value(setting.name);
        if given.set_by != SetBy::Default && given.text != *fixed {
            return Err(Failure::Other(format!(
                "{}: {name} was fixed as {fixed} when the cluster in this directory formed; choose another directory with --data",
                given.set_by
            )));
        }
        sources.flags.push((setting.name, fixed.clone()));
    }
    config::resolve(&sources).map_err(failure)
}

/// Starts all nodes. At the first start ports are chosen, and chosen again if another process is quicker.
fn start(
    directory: &Path,
    remembered: Option<Cluster>,
    nodes: u16,
    resolved: &Resolved,
) -> Result<(Cluster, Vec<(ServerSettings, Server)>), Failure> {
    let first_start = remembered.is_none();
    let mut cluster = match remembered {
        Some(cluster) => cluster,
        None => choose(directory, nodes, resolved)?,
    };
    for attempt in 1.. {
        cluster.write(directory)?;
        match start_all(directory, &cluster, &resolved.settings) {
            Ok(servers) => return Ok((cluster, servers)),
            Err(StartError::Listen { error, .. }) if first_start && attempt < 5 && error.kind() == ErrorKind::AddrInUse => {
                cluster = choose(directory, nodes, resolved)?;
            }
            Err(error) => return Err(Failure::Other(explain(&error))),
        }
    }
    unreachable!("the last attempt returns")
}

fn explain(error: &StartError) -> String {
    match error {
        StartError::Listen { address, error } if error.kind() == ErrorKind::AddrInUse => format!(
            "the cluster in this directory has the address {address}, and another process listens there: end it (is it another \
             `ringseed up`?), or start another cluster with --data DIR"
        ),
        StartError::Locked { .. } => format!("{error}: is `ringseed up` already running? --data DIR starts another cluster"),
        other => other.to_string(),
    }
}

/// Addresses that are free now and belong to no other cluster of `up`, and the settings to be fixed.
fn choose(directory: &Path, nodes: u16, resolved: &Resolved) -> Result<Cluster, Failure> {
    // All are held until all are chosen, so that none is chosen twice.
    let mut held = Vec::new();
    let mut addresses = Vec::new();
    let taken = folder::taken(directory);
    for address in connection::default_addresses(PORTS_TRIED).into_iter().filter(|address| !taken.contains(address)) {
        if addresses.len() == usize::from(nodes) {
            break;
        }
        if let Ok(listener) = TcpListener::bind(&address) {
            held.push(listener);
            addresses.push(address);
        }
    }
    if addresses.len() < usize::from(nodes) {
        return Err(Failure::Other(format!("fewer than {nodes} of the {PORTS_TRIED} ports tried are free")));
    }
    let fixed = SETTINGS.iter().filter(|setting| setting.of_cluster && setting.name != "peers");
    let settings = fixed.map(|setting| (setting.name.to_owned(), resolved.value(setting.name).text.clone())).collect();
    Ok(Cluster { addresses, settings, id: None })
}

const PORTS_TRIED: u16 = 500;

/// Starts every node, or none.
fn start_all(
    directory: &Path,
    cluster: &Cluster,
    settings: &ProcessSettings,
) -> Result<Vec<(ServerSettings, Server)>, StartError> {
    let peers: Vec<(NodeId, String)> =
        (1..).zip(&cluster.addresses).map(|(node, address)| (NodeId(node), address.clone())).collect();
    let mut servers: Vec<(ServerSettings, Server)> = Vec::new();
    for (node, address) in &peers {
        let settings = ServerSettings {
            node: *node,
            listen: address.clone(),
            advertise: None,
            data_dir: directory.join(format!("node-{node}")),
            peers: peers.clone(),
            servers_in_process: peers.len(),
            ..settings.server.clone()
        };
        match Server::start(settings.clone()) {
            Ok(server) => servers.push((settings, server)),
            Err(error) => {
                servers.iter().for_each(|(_, server)| server.stop());
                servers.into_iter().for_each(|(_, server)| drop(server.join()));
                return Err(error);
            }
        }
    }
    Ok(servers)
}

fn say_started(directory: &Path, cluster: &Cluster) {
    let nodes = cluster.addresses.len();
    say!("A cluster of {nodes} node{} is starting; its data is in {}", if nodes == 1 { "" } else { "s" }, directory.display());
    for (node, address) in (1_u16..).zip(&cluster.addresses) {
        say!("  node {node} listens on {address}");
    }
}

fn say_ready(after: Duration) {
    let program = std::env::args_os().next().map_or_else(|| "ringseed".into(), |program| program.to_string_lossy().into_owned());
    say!("Ready after {:.1} s. In another terminal, try:", after.as_secs_f64());
    for line in [
        "put greeting hello",
        "get greeting",
        "incr visits",
        "scan",
        "status",
        "ring greeting",
        "shell",
        "load --workload mixed --seconds 5",
    ] {
        say!("  {program} {line}");
    }
    say!("Ctrl-C stops the cluster; its data stays.");
}

/// Waits for each server on a thread of its own.
fn join_all(servers: Vec<(ServerSettings, Server)>, stoppers: &Stoppers) -> UnboundedReceiver<(NodeId, Result<(), Fatal>)> {
    let (ended, endings) = unbounded_channel();
    for (settings, server) in servers {
        let (ended, stoppers) = (ended.clone(), Arc::clone(stoppers));
        std::thread::spawn(move || {
            let _ = ended.send((settings.node, join(&settings, server, &stoppers)));
        });
    }
    endings
}

/// Waits until the server ends for good: one that starts over is started again.
fn join(settings: &ServerSettings, mut server: Server, stoppers: &Stoppers) -> Result<(), Fatal> {
    while server.join()? == Ended::StartsOver {
        if stoppers.lock().expect("nobody panics with it").is_none() {
            break;
        }
        server = Server::start(settings.clone()).map_err(|error| Fatal(explain(&error)))?;
        match &mut *stoppers.lock().expect("nobody panics with it") {
            Some(stoppers) => _ = stoppers.insert(settings.node, server.stopper()),
            None => server.stop(),
        }
    }
    Ok(())
}

/// Until every node has ended: says when the cluster is ready, stops it at the first signal, and leaves at the second.
async fn watch(
    directory: &Path,
    mut cluster: Cluster,
    stoppers: &Stoppers,
    mut endings: UnboundedReceiver<(NodeId, Result<(), Fatal>)>,
    signals: &mut Signals,
) -> Result<(), Failure> {
    let began = Instant::now();
    let mut ready = tokio::spawn(until_ready(cluster.addresses.clone(), cluster.id()));
    let (mut said_ready, mut stopping, mut failed) = (false, None, None);
    loop {
        tokio::select! {
            formed = &mut ready, if !said_ready => {
                said_ready = true;
                if let Ok(Some(id)) = formed {
                    cluster.id = Some(id.to_string());
                    // Known again at the next start, if it cannot be written down now.
                    if let Err(failure) = cluster.write(directory) {
                        failure.report(false);
                    }
                    folder::remember(directory, &cluster.addresses, Some(id));
                }
                match formed {
                    Ok(Some(_)) if stopping.is_none() => say_ready(began.elapsed()),
                    Ok(None) if stopping.is_none() => eprintln!("the cluster is not ready yet; `status` shows how its nodes are"),
                    _ => {}
                }
            }
            () = signals.next() => {
                if stopping.is_some() {
                    say!("\nStopped at once; what was acknowledged is safe.");
                    std::process::exit(130);
                }
                say!("\nStopping; Ctrl-C again stops at once.");
                stopping = Some(Instant::now());
                let stoppers = stoppers.lock().expect("nobody panics with it").take();
                stoppers.iter().flatten().for_each(|(_, stopper)| stopper.stop());
            }
            ending = endings.recv() => match ending {
                Some((node, Err(Fatal(why)))) => {
                    eprintln!("node {node} halted: {why}");
                    failed = Some(format!("node {node} halted: {why}"));
                }
                Some((node, Ok(()))) if stopping.is_none() => eprintln!("node {node} stopped"),
                Some((_, Ok(()))) => {}
                None => break,
            },
        }
    }
    ready.abort();
    if let Some(began) = stopping {
        say!("Stopped after {:.1} s.", began.elapsed().as_secs_f64());
    }
    failed.map_or(Ok(()), |why| Err(Failure::Other(why)))
}

/// Waits until every partition has a leader; gives the cluster's id. `None`: the cluster never said so.
async fn until_ready(addresses: Vec<String>, cluster: Option<ClusterId>) -> Option<ClusterId> {
    let options = ClientOptions { timeout: Duration::from_secs(2), cluster, ..ClientOptions::default() };
    for _ in 0..600 {
        if let Ok(client) = Client::connect(&addresses, options.clone()).await
            && let Ok(ring) = client.ring().await
            && !ring.partitions.is_empty()
            && ring.partitions.iter().all(|partition| partition.leader.is_some())
        {
            return Some(ring.formation.cluster);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    None
}

/// What asks a process to stop.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Inside a runtime.
    fn new() -> Result<Signals, Failure> {
        let failure = |e: io::Error| Failure::Other(format!("signals cannot be caught: {e}"));
        let interrupt = signal(SignalKind::interrupt()).map_err(failure)?;
        Ok(Signals { interrupt, terminate: signal(SignalKind::terminate()).map_err(failure)? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(nodes: Option<u16>, flags: &[(&'static str, &str)]) -> UpArgs {
        let flags = flags.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        UpArgs { nodes, data: None, settings: SettingFlags(flags) }
    }

    #[test]
    fn what_is_fixed_may_be_repeated_but_not_changed() {
        let first = resolve(&args(None, &[("partitions", "128")]), None).unwrap();
        let cluster = choose(Path::new("/nowhere"), 2, &first).unwrap();
        assert_eq!((cluster.addresses.len(), cluster.settings["partitions"].as_str()), (2, "128"));
        let again = resolve(&args(Some(2), &[]), Some(&cluster)).unwrap();
        assert_eq!(again.settings.server.cluster.partitions, 128);
        assert!(resolve(&args(None, &[("partitions", "128")]), Some(&cluster)).is_ok());
        let changed = resolve(&args(None, &[("partitions", "64")]), Some(&cluster)).unwrap_err();
        assert!(changed.to_string().starts_with("--partitions: partitions was fixed as 128"), "{changed}");
        let more = resolve(&args(Some(3), &[]), Some(&cluster)).unwrap_err();
        assert!(more.to_string().contains("has 2 nodes"), "{more}");
    }

    #[test]
    fn a_small_cluster_replicates_as_far_as_it_can() {
        let factor = |nodes, flags: &[(&'static str, &str)]| {
            resolve(&args(nodes, flags), None).unwrap().settings.server.cluster.replication_factor
        };
        assert_eq!((factor(Some(1), &[]), factor(None, &[]), factor(Some(5), &[])), (1, 3, 3));
        assert_eq!(factor(Some(5), &[("replication_factor", "5")]), 5);
    }
}
