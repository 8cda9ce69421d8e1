//! The production driver: a [`Node`] over TCP and real files.
//!
//! ```text
//!  sockets -> net thread -> inbox -> node thread -> outbox -> net thread -> sockets
//!                             ^          |
//!                             |          v
//!                             +-- log thread, read thread -> files
//! ```
//!
//! - [`driver`]: the node's thread. It steps the node, and never waits for I/O.
//! - [`boot`]: whether the machine stayed up since the last epoch. [`rescue`]: a start from what the disk cannot read.
//! - [`disk`]: the log's thread (write, sync, in order) and the thread for reads. [`directory`]: lock, segments, recovery's view.
//!   [`private`]: that no other user can read them.
//! - [`listener`]: the network thread; [`peers`] and [`clients`] are its two kinds of connection, [`net`] is what they share,
//!   [`links`] is what there is to each of them, [`sizes`] is what a message counts for. The handshake tells the kinds apart,
//!   [`crate::wire`] moves their bytes.
//! - [`addresses`]: where the members are now.
//! - [`descriptors`]: which part may open how much.
//! - [`notices`]: what the log says of the node's states: once when one begins, once when it ends.
//! - [`inbox`]: where everything that happens to the node waits for it.
//!
//! **Promises.** No order of these threads is needed for safety: the node orders what must be durable before what. The
//! transport may lose and repeat; the disk executes in order and answers once. Memory is bounded: each queue and buffer has a
//! limit that is named where it is kept.
//!
//! **Ends.** A clean stop hands leaderships away, syncs, answers, and says goodbye. A halt (the disk failed) says nothing more. A
//! panic of the node's thread ends the server as a crash would.
//!
//! Left out: TLS, HTTP, several nodes on one set of sockets.

mod addresses;
mod boot;
mod clients;
mod clock;
pub mod config;
mod descriptors;
mod directory;
mod disk;
mod driver;
mod error;
mod inbox;
mod links;
mod listener;
mod net;
mod notices;
mod peers;
pub(crate) mod private;
mod rescue;
#[cfg(test)]
mod scratch;
mod settings;
mod sizes;
#[cfg(test)]
mod tests;

pub use directory::{StoppedDirectory, was_used};
pub use error::StartError;
pub use settings::ServerSettings;

use crate::base::limits::{DELETED_KEPT, Limits};
use crate::base::{DirectoryId, Duration, NodeId};
use crate::msg::disk::LogDevice;
use crate::node::{Event, Fatal, Node, NodeOptions};
use crate::wal::{self, RecoverError, Recovered};
use addresses::Addresses;
use boot::BootNote;
use clock::{Clock, CpuMeters};
use directory::{DataDirectory, SegmentFiles};
use disk::Disk;
use driver::Driver;
use inbox::Inbox;
use net::{Identity, Network, NetworkOptions};
use notices::Notices;
use rescue::Rescue;
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::Arc;
use std::thread::JoinHandle;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

/// A running node: its thread, its disk's threads and its sockets. Dropping it without [`Server::join`] leaves it running.
#[derive(Debug)]
pub struct Server {
    node: NodeId,
    address: SocketAddr,
    stopper: Stopper,
    ended: watch::Receiver<bool>,
    node_thread: JoinHandle<Result<Ended, Fatal>>,
    network_thread: JoinHandle<()>,
}

/// How a server has ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was told to.
    Stopped,
    /// Its directory is an old copy: it has logged how much it lacks, and is to be started again, to be made whole by its peers.
    StartsOver,
}

/// Stops a [`Server`] from elsewhere. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Stopper {
    inbox: Arc<Inbox>,
}

impl Stopper {
    /// Asks for a clean stop: leaderships are handed away, answers are sent. [`Server::join`] returns when it is done, or when
    /// the settings' `stop_timeout` has passed. A second call changes nothing.
    pub fn stop(&self) {
        self.inbox.push(Event::Stop);
    }

    /// Ends the server at once, as a crash of its process would, except that the disk's operations in progress end first.
    pub fn abort(&self) {
        self.inbox.abort();
    }
}

impl Server {
    /// Takes the directory, recovers the log, listens, and runs.
    pub fn start(settings: ServerSettings) -> Result<Server, StartError> {
        let others = settings.other_members()?;
        let (listener, address) = listen(&settings.listen)?;
        let advertised = settings.advertised(address)?;
        let directory = DataDirectory::open(&settings.data_dir)?;
        let boot_note = BootNote::of(directory.path());
        let mut recovered = recover(&directory, &boot_note, settings.node, settings.recover)?;

        let clock = Clock::start();
        let inbox = Arc::new(Inbox::default());
        let meters = Arc::new(CpuMeters::default());
        let seed = entropy_u128()? as u64;
        let directory_id = match recovered.directory {
            Some(id) => id,
            None => DirectoryId(entropy_u128()?),
        };
        let formation = recovered.formation.clone();
        if let Some(formation) = &formation {
            settings.check_formed(formation)?;
        }
        let members = formation.iter().flat_map(|formation| &formation.members);
        let mut peers: BTreeMap<NodeId, Vec<String>> = others.iter().map(|(node, at)| (*node, vec![at.clone()])).collect();
        for member in members.filter(|member| member.node != settings.node) {
            // What the operator says now is newer than what the cluster noted when it formed.
            let known = peers.entry(member.node).or_default();
            if !known.contains(&member.address) {
                known.push(member.address.clone());
            }
        }
        let share = descriptors::claim(settings.connections_max, peers.len(), settings.servers_in_process)?;

        let is_noted = recovered.on_a_machine_up_since(boot_note.since());
        let node = Node::boot(node_options(&settings, &others, &advertised, directory_id, seed), recovered, clock.now());
        let epoch = node.epoch();
        if !is_noted && let Err(error) = boot_note.write(epoch) {
            tracing::warn!(directory = %settings.data_dir.display(), %error, "the boot of the machine could not be noted");
        }
        let options = NetworkOptions {
            identity: Identity { node: settings.node, epoch, directory: directory_id },
            formation,
            peers,
            addresses: Addresses::open(directory.path(), addresses::said(settings.node, epoch, &advertised)),
            share,
            peer_idle_max: (settings.heartbeat_interval * 20).max(Duration::from_secs(10)),
        };
        let network = Arc::new(Network::new(options, Arc::clone(&inbox), Arc::clone(&meters)));
        let name = settings.node.to_string();
        let disk =
            Disk::start(&name, directory.log_path(), boot_note, share.segments, &inbox, &meters).map_err(StartError::System)?;
        let notices = Notices::start(settings.node, directory.path(), &network).map_err(StartError::System)?;
        let (ended_sender, ended) = watch::channel(false);
        let driver = Driver {
            node,
            clock,
            inbox: Arc::clone(&inbox),
            network: Arc::clone(&network),
            disk,
            meters,
            notices,
            stop_timeout: settings.stop_timeout,
            recovering: Some(directory.recovering_path()).filter(|path| path.exists()),
            directory,
            ended: ended_sender,
        };
        tracing::info!(node = %settings.node, %address, directory = %settings.data_dir.display(), %epoch, "node started");
        Server::spawn(settings.node, address, driver, network, listener, seed, ended)
    }

    fn spawn(
        node: NodeId,
        address: SocketAddr,
        driver: Driver,
        network: Arc<Network>,
        listener: TcpListener,
        seed: u64,
        ended: watch::Receiver<bool>,
    ) -> Result<Server, StartError> {
        let stopper = Stopper { inbox: Arc::clone(&driver.inbox) };
        let aborter = stopper.clone();
        let network_body = move || {
            if let Err(error) = listener::run(&network, listener, seed) {
                tracing::error!(%error, "the network thread failed");
                aborter.abort();
            }
        };
        let network_thread = thread(format!("net-{node}"), network_body)?;
        let node_thread = thread(format!("node-{node}"), move || driver.run())?;
        Ok(Server { node, address, stopper, ended, node_thread, network_thread })
    }

    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// [`Stopper::stop`].
    pub fn stop(&self) {
        self.stopper.stop();
    }

    /// Waits until the server has ended by itself or was stopped; [`Server::join`] then says how, at once.
    pub async fn ended(&self) {
        // The sender is gone when it has ended without a message: also an end.
        let _ = self.ended.clone().wait_for(|ended| *ended).await;
    }

    /// Waits for the end: of a stop, or of a node that starts over; or (`Err`) of one that could not go on (its disk failed).
    pub fn join(self) -> Result<Ended, Fatal> {
        let ended = self.node_thread.join();
        // Its panic was printed, and its sockets are closed either way.
        let _ = self.network_thread.join();
        ended.unwrap_or_else(|_| Err(Fatal("the node's thread panicked; see its message above".into())))
    }
}

fn thread<T: Send + 'static>(name: String, body: impl FnOnce() -> T + Send + 'static) -> Result<JoinHandle<T>, StartError> {
    std::thread::Builder::new().name(name).spawn(body).map_err(StartError::System)
}

fn listen(address: &str) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |error| StartError::Listen { address: address.to_owned(), error };
    let resolved: Vec<SocketAddr> = address.to_socket_addrs().map_err(failed)?.collect();
    let listener = TcpListener::bind(&resolved[..]).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

/// `with_rescue`: also from what the disk cannot read.
fn recover(directory: &DataDirectory, boot_note: &BootNote, me: NodeId, with_rescue: bool) -> Result<Recovered, StartError> {
    let path = directory.log_path();
    let mut files = SegmentFiles::new(path.clone(), me);
    let rescue = with_rescue.then(|| Rescue::new(directory, clock::wall_clock_ms()));
    if let Some(rescue) = &rescue {
        let all = files.list().map_err(|error| StartError::Disk { path: path.clone(), error })?;
        files.pass_over(rescue.find_unreadable(&all)?);
    }
    let is_unreadable = files.passes_over_some() || directory.recovering_path().exists();
    let restored = if is_unreadable { wal::restore_what_is_left(&mut files, me) } else { wal::restore(&mut files, me) };
    let recovered = match restored {
        Ok(recovered) if is_unreadable && recovered.directory.is_none() => {
            let why = "nothing that can be read says which directory it is, so that its peers could make it whole".to_string();
            return Err(StartError::Recovery { path, why });
        }
        Ok(recovered) => recovered,
        Err(RecoverError::Device(error)) => {
            // It may have been a sync.
            boot_note.withdraw();
            return Err(StartError::Disk { path, error });
        }
        Err(damaged @ RecoverError::Damaged { .. }) => {
            let why =
                format!("{damaged}; and nothing in the log says which directory it is, so that its peers could make it whole");
            return Err(StartError::Recovery { path, why });
        }
        Err(other) => return Err(StartError::Recovery { path, why: other.to_string() }),
    };
    if let Some(rescue) = &rescue {
        rescue.keep_damaged(recovered.damage.iter().map(|bad| bad.segment).collect(), files.passed_over())?;
        if files.passes_over_some() {
            rescue.replace(files.passed_over())?;
        }
    }
    if is_unreadable {
        // What the page cache shows is not what the last epoch wrote.
        boot_note.withdraw();
    }
    files.end();
    if let Some(torn) = &recovered.torn {
        notices::torn(me, torn);
    }
    if !recovered.damage.is_empty() {
        notices::damaged(me, &recovered.damage, recovered.forgot);
    }
    Ok(recovered)
}

fn node_options(
    settings: &ServerSettings,
    others: &BTreeMap<NodeId, String>,
    advertised: &str,
    directory: DirectoryId,
    seed: u64,
) -> NodeOptions {
    let mut initial_members: Vec<NodeId> = others.keys().copied().chain([settings.node]).collect();
    initial_members.sort_unstable();
    NodeOptions {
        me: settings.node,
        directory,
        address: advertised.to_owned(),
        zone: settings.zone.clone(),
        weight: settings.weight,
        initial_members,
        cluster: settings.cluster,
        heartbeat_interval: settings.heartbeat_interval,
        wal_sync_interval: settings.wal_sync_interval,
        snapshot_interval: settings.snapshot_interval,
        catch_up_rate: settings.catch_up_rate,
        scrub_interval: settings.scrub_interval,
        segment_size: settings.segment_size,
        cache_size: settings.cache_size,
        limits: Limits::DEFAULT,
        deleted_kept: DELETED_KEPT,
        seed,
    }
}

fn entropy_u128() -> Result<u128, StartError> {
    directory::entropy().map(u128::from_le_bytes).map_err(StartError::System)
}

/// Why [`run`] ended badly.
#[derive(Debug)]
pub enum RunError {
    Start(StartError),
    /// The node could not go on.
    Halted(Fatal),
}

impl core::fmt::Display for RunError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            RunError::Start(why) => write!(f, "{why}"),
            RunError::Halted(Fatal(why)) => write!(f, "the node halted: {why}"),
        }
    }
}

impl std::error::Error for RunError {}

/// Runs one server until SIGINT or SIGTERM (a clean stop; a second one ends it at once) or until it fails. A node that starts
/// over is started again. Blocks. `started` is called once it listens.
pub fn run(mut settings: ServerSettings, started: impl FnOnce(SocketAddr)) -> Result<(), RunError> {
    let mut server = Server::start(settings.clone()).map_err(RunError::Start)?;
    settings.listen = server.address().to_string();
    started(server.address());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| RunError::Start(StartError::System(error)))?;
    let signals = runtime.block_on(async { Ok([signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?]) });
    let mut signals = match signals {
        Ok(signals) => signals,
        Err(error) => {
            server.stop();
            return Err(RunError::Start(StartError::System(error)));
        }
    };
    loop {
        let asked = runtime.block_on(wait(&server, &mut signals));
        match server.join().map_err(RunError::Halted)? {
            Ended::Stopped => return Ok(()),
            Ended::StartsOver if asked => return Ok(()),
            Ended::StartsOver => {
                settings.recover = false;
                server = Server::start(settings.clone()).map_err(RunError::Start)?;
            }
        }
    }
}

/// Waits for the server's end. Whether signals asked for it.
async fn wait(server: &Server, [interrupt, terminate]: &mut [Signal; 2]) -> bool {
    let mut asked = false;
    loop {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            () = server.ended() => return asked,
        }
        if std::mem::replace(&mut asked, true) {
            tracing::warn!("asked twice: ending without a clean stop");
            server.stopper().abort();
        } else {
            tracing::info!("stopping");
            server.stop();
        }
    }
}
