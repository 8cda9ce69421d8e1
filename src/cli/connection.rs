//! How the client commands reach a cluster.

use super::exit::Failure;
use super::folder::{self, parse_cluster};
use crate::base::limits::TIMEOUT_MAX;
use crate::base::{ClusterId, Duration};
use crate::client::{Client, ClientOptions, Error};
use crate::server::ServerSettings;
use crate::server::config::{parse_address, parse_duration};
use tokio::runtime::{Builder, Runtime};

/// What every client command takes.
#[derive(Debug, Clone, clap::Args)]
pub struct ConnectionArgs {
    /// Any of the cluster's servers; the others are learnt from the first that answers [default: those of the last `ringseed up`]
    #[arg(long, env = "RINGSEED_SERVERS", value_name = "HOST:PORT,...", value_delimiter = ',', value_parser = address)]
    pub servers: Vec<String>,
    /// The cluster that is meant, as `status` prints it: a server of another is an error [default: with the servers of the last
    /// `ringseed up`, that one's; else that of the first that answers]
    #[arg(long, env = "RINGSEED_CLUSTER", value_name = "ID", value_parser = parse_cluster)]
    pub cluster: Option<ClusterId>,
    /// For how long to go on trying
    #[arg(long, env = "RINGSEED_TIMEOUT", value_name = "DURATION", default_value = "5s", value_parser = timeout)]
    pub timeout: Duration,
}

fn address(text: &str) -> Result<String, String> {
    parse_address(text.trim()).ok_or_else(|| "expected an address, such as 127.0.0.1:7501".into())
}

fn timeout(text: &str) -> Result<Duration, String> {
    let expected = || format!("expected a duration up to {}s, such as 500ms or 5s", TIMEOUT_MAX.as_secs());
    parse_duration(text).filter(|d| !d.is_zero() && *d <= TIMEOUT_MAX).ok_or_else(expected)
}

impl ConnectionArgs {
    /// The flag's or variable's, else those of the last `up` and its cluster, else where `up` would listen.
    fn target(&self) -> (Vec<String>, Option<ClusterId>) {
        if !self.servers.is_empty() {
            return (self.servers.clone(), self.cluster);
        }
        match folder::remembered() {
            Some((servers, cluster)) => (servers, self.cluster.or(cluster)),
            None => (default_addresses(3), self.cluster),
        }
    }

    pub async fn connect(&self) -> Result<Client, Failure> {
        let (addresses, cluster) = self.target();
        let options = ClientOptions { timeout: self.timeout, cluster, ..ClientOptions::default() };
        match Client::connect(&addresses, options).await {
            Err(Error::Unreachable(why)) if self.servers.is_empty() => {
                Err(Error::Unreachable(format!("{why}\n(`ringseed up` starts a cluster to try; --servers names another)")).into())
            }
            connected => Ok(connected?),
        }
    }
}

/// Where the first `count` nodes of a cluster on this machine listen unless told otherwise: at the default of `listen` and the
/// ports after it.
pub fn default_addresses(count: u16) -> Vec<String> {
    let listen = ServerSettings::default().listen;
    let (host, port) = listen.rsplit_once(':').expect("the default has a port");
    let first: u16 = port.parse().expect("the default's port is a number");
    (0..count).map(|at| format!("{host}:{}", first + at)).collect()
}

/// One thread for everything: a single command has no use for more.
pub fn runtime() -> Result<Runtime, Failure> {
    finish(Builder::new_current_thread())
}

/// A thread beside the caller's, so that connections are looked after while the caller waits for something else.
pub fn background_runtime(threads: usize) -> Result<Runtime, Failure> {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(threads);
    finish(builder)
}

fn finish(mut builder: Builder) -> Result<Runtime, Failure> {
    builder.enable_all().build().map_err(|e| Failure::Other(format!("the operating system gave no event loop: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_servers_begin_with_the_default_server() {
        let addresses = default_addresses(3);
        assert_eq!(addresses[0], ServerSettings::default().listen);
        assert_eq!(addresses.len(), 3);
    }

    #[test]
    fn a_cluster_is_read_as_it_is_printed() {
        let id = ClusterId(0x0123_4567_89ab);
        assert_eq!(parse_cluster(&id.to_string()), Ok(id));
        assert!(["", "12", "+0000000000000000000000000000001", &"g".repeat(32)].iter().all(|text| parse_cluster(text).is_err()));
    }

    #[test]
    fn timeouts() {
        assert_eq!(timeout("250ms"), Ok(Duration::from_millis(250)));
        assert!(["0", "2h", "soon", ""].iter().all(|text| timeout(text).is_err()));
    }
}
