//! The configuration of a server: what can be set, where it may be set, and what holds in the end.
//!
//! Every setting is a flag, an environment variable and a key of a TOML file, by one name (`wal_sync_interval`:
//! `--wal-sync-interval`, `RINGSEED_WAL_SYNC_INTERVAL`). A flag goes before the environment, that before the file, that before
//! the default. All that is wrong is reported at once: which setting, where it was set, what was expected, and, for an unknown
//! name, the name that was probably meant. One table ([`SETTINGS`]) is the source of all of it.

mod file;
mod table;
mod text;

pub use table::{SETTINGS, Setting, find};
pub use text::{Shape, Value, duration_text, is_unspecified, nearest, parse_address, parse_duration, parse_size, size_text};

use super::ServerSettings;
use crate::base::Duration;
use core::fmt;
use std::path::{Path, PathBuf};

/// What a `ringseed server` process runs with.
#[derive(Debug, Clone)]
pub struct ProcessSettings {
    pub server: ServerSettings,
    /// A filter as of `tracing_subscriber::EnvFilter`.
    pub log: String,
    /// `text` or `json`.
    pub log_format: String,
}

impl Default for ProcessSettings {
    fn default() -> Self {
        ProcessSettings { server: ServerSettings::default(), log: "info".into(), log_format: "text".into() }
    }
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SetBy {
    Default,
    /// The file, and the line (from 1) if the trouble is with one.
    File(PathBuf, Option<usize>),
    /// The variable's name.
    Environment(String),
    /// The flag, without dashes.
    Flag(String),
}

impl fmt::Display for SetBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SetBy::Default => write!(f, "default"),
            SetBy::File(file, Some(line)) => write!(f, "{}:{line}", file.display()),
            SetBy::File(file, None) => write!(f, "{}", file.display()),
            SetBy::Environment(variable) => write!(f, "{variable}"),
            SetBy::Flag(flag) => write!(f, "--{flag}"),
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The setting's name as it was given; `None` when the trouble is with a whole file.
    pub name: Option<String>,
    pub set_by: SetBy,
    pub problem: Problem,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// There is no such setting.
    Unknown,
    /// The setting does not take this.
    Value(String),
    /// The value does not go with another setting's, and why.
    Conflict(String),
    /// The file is not TOML, and why.
    Syntax(String),
    /// The file cannot be read, and why.
    Unreadable(String),
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name.as_deref().unwrap_or_default();
        write!(f, "{}: ", self.set_by)?;
        match &self.problem {
            Problem::Unknown => {
                write!(f, "there is no setting `{name}`")?;
                match nearest(name, SETTINGS.iter().map(|setting| setting.name)) {
                    Some(meant) => write!(f, "; did you mean `{}`?", spelled(&self.set_by, meant)),
                    None => write!(f, "; `ringseed config` lists all there are"),
                }
            }
            Problem::Value(shown) => match find(name) {
                Some(setting) => write!(f, "{shown} is no value for `{name}`: expected {}", setting.shape.expected()),
                None => write!(f, "there is no setting `{name}`"),
            },
            Problem::Conflict(why) => write!(f, "`{name}` {why}"),
            Problem::Syntax(why) => write!(f, "this is not TOML: {why}"),
            Problem::Unreadable(why) => write!(f, "cannot read the configuration file: {why}"),
        }
    }
}

/// How a setting is spelled where it was given.
fn spelled(set_by: &SetBy, name: &str) -> String {
    match (set_by, find(name)) {
        (SetBy::Environment(_), Some(setting)) => setting.variable(),
        (SetBy::Flag(_), Some(setting)) => format!("--{}", setting.flag()),
        _ => name.to_owned(),
    }
}

/// All that is wrong, one on a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, error) in self.0.iter().enumerate() {
            write!(f, "{}{error}", if at == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// Where settings are looked for.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// Setting's name and text, for each flag that was given.
    pub flags: Vec<(&'static str, String)>,
    /// Variables whose names begin with `RINGSEED_`; see [`Sources::environment`].
    pub environment: Vec<(String, String)>,
    pub file: Option<PathBuf>,
}

impl Sources {
    /// The process's own variables.
    pub fn environment() -> Vec<(String, String)> {
        let text = |os: std::ffi::OsString| os.to_string_lossy().into_owned();
        std::env::vars_os().map(|(name, value)| (text(name), text(value))).filter(|(name, _)| name.starts_with(PREFIX)).collect()
    }
}

/// What holds, and where each value came from.
#[derive(Debug, Clone)]
pub struct Resolved {
    pub settings: ProcessSettings,
    /// In the order of [`SETTINGS`].
    pub values: Vec<Effective>,
}

/// One setting's value in effect.
#[derive(Debug, Clone)]
pub struct Effective {
    pub setting: &'static Setting,
    pub text: String,
    pub set_by: SetBy,
}

/// Puts the sources together: flag over environment over file over default.
///
/// # Errors
/// All unknown names, all bad values (also those that a stronger source hides), and values that do not go together.
pub fn resolve(sources: &Sources) -> Result<Resolved, ConfigErrors> {
    let mut resolved = Resolved {
        settings: ProcessSettings::default(),
        values: SETTINGS
            .iter()
            .map(|setting| Effective { setting, text: setting.default_text(), set_by: SetBy::Default })
            .collect(),
    };
    let mut errors = Vec::new();
    // From the weakest to the strongest: each overwrites what came before.
    if let Some(path) = &sources.file {
        match file::read(path) {
            Ok(entries) => entries.into_iter().for_each(|e| resolved.take(&e.name, &e.text, e.set_by, &mut errors)),
            Err(wrong) => errors.extend(wrong),
        }
    }
    for (variable, value) in &sources.environment {
        let name = variable.strip_prefix(PREFIX).unwrap_or(variable);
        if !OTHER_VARIABLES.contains(&name) && !is_of_kubernetes(name, value) {
            let set_by = SetBy::Environment(variable.clone());
            resolved.take(&name.to_ascii_lowercase(), value, set_by, &mut errors);
        }
    }
    for (name, value) in &sources.flags {
        let flag = find(name).map_or_else(|| (*name).to_owned(), Setting::flag);
        resolved.take(name, value, SetBy::Flag(flag), &mut errors);
    }
    if errors.is_empty() {
        resolved.check_together(&mut errors);
    }
    if errors.is_empty() { Ok(resolved) } else { Err(ConfigErrors(errors)) }
}

impl Resolved {
    /// The effective value of the setting `name`, which must be one.
    pub fn value(&self, name: &str) -> &Effective {
        self.values.iter().find(|value| value.setting.name == name).expect("a name in the table")
    }

    fn take(&mut self, name: &str, text: &str, set_by: SetBy, errors: &mut Vec<ConfigError>) {
        let wrong = |problem| ConfigError { name: Some(name.to_owned()), set_by: set_by.clone(), problem };
        let Some(at) = SETTINGS.iter().position(|setting| setting.name == name) else {
            return errors.push(wrong(Problem::Unknown));
        };
        match SETTINGS[at].shape.parse(text) {
            None => errors.push(wrong(Problem::Value(format!("`{}`", text.escape_debug())))),
            Some(value) => {
                self.values[at] = Effective { setting: &SETTINGS[at], text: value.text(), set_by };
                (SETTINGS[at].set)(&mut self.settings, value);
            }
        }
    }

    /// What no setting can be judged for alone.
    fn check_together(&self, errors: &mut Vec<ConfigError>) {
        let server = &self.settings.server;
        let mut conflict = |name: &str, why: String| {
            let set_by = self.value(name).set_by.clone();
            errors.push(ConfigError { name: Some(name.to_owned()), set_by, problem: Problem::Conflict(why) });
        };
        let support = Duration::from_millis(u64::from(server.cluster.support_ms));
        if support < 2 * server.heartbeat_interval {
            conflict(
                "support_duration",
                format!(
                    "({}) must be at least twice heartbeat_interval ({}), or support lapses whenever a heartbeat is late",
                    duration_text(support),
                    duration_text(server.heartbeat_interval)
                ),
            );
        }
        if let Some(address) = server.advertise.as_ref().filter(|address| is_unspecified(address)) {
            conflict(
                "advertise",
                format!("({address}) is no address that others can dial: name one that is, such as 10.0.0.1:7501"),
            );
        }
        if server.advertise.is_none()
            && is_unspecified(&server.listen)
            && !server.peers.iter().any(|(node, _)| *node == server.node)
        {
            conflict(
                "listen",
                format!("({}) is no address that others can dial: set advertise, or name this node in peers", server.listen),
            );
        }
        let members = server.peers.len();
        if members > 0 && !server.peers.iter().any(|(node, _)| *node == server.node) {
            let why = format!(
                "does not name this node (node {}): list every initial member, this one as well, and the same list on each",
                server.node
            );
            conflict("peers", why);
        }
        let factor = usize::from(server.cluster.replication_factor);
        if members > 0 && factor > members && self.value("replication_factor").set_by != SetBy::Default {
            let why = format!("({factor}) is more than there are initial members ({members}): so many replicas there cannot be");
            conflict("replication_factor", why);
        }
        if let Some(part) = self.settings.log.split(',').find(|part| !is_log_directive(part)) {
            let why = format!(
                "(`{}`) is no filter: expected off, error, warn, info, debug or trace, or a filter such as info,ringseed::server=debug",
                part.escape_debug()
            );
            conflict("log", why);
        }
        if server.wal_sync_interval > Duration::ZERO && server.wal_sync_interval < Duration::from_millis(1) {
            conflict("wal_sync_interval", "must be 0 or at least 1ms".into());
        }
    }
}

/// Whether a part of a filter names a level, alone or behind a module. Text that is no level would be taken for a module, and
/// turn all else off.
fn is_log_directive(part: &str) -> bool {
    let level = part.rsplit_once('=').map_or(part, |(_, level)| level).trim();
    ["off", "error", "warn", "info", "debug", "trace"].iter().any(|name| level.eq_ignore_ascii_case(name))
}

/// Kubernetes sets these for every container when there is a service of the name `ringseed`: `RINGSEED_SERVICE_HOST`,
/// `RINGSEED_PORT=tcp://10.0.0.1:7501`, `RINGSEED_PORT_7501_TCP_ADDR`. None is a setting.
fn is_of_kubernetes(name: &str, value: &str) -> bool {
    name.starts_with("SERVICE_") || name.starts_with("PORT_") || (name == "PORT" && value.contains("://"))
}

const PREFIX: &str = "RINGSEED_";

/// Variables that are no settings of a server: where the file is, and what the client commands read.
const OTHER_VARIABLES: &[&str] = &["CONFIG", "SERVERS", "CLUSTER", "TIMEOUT"];

/// Where `--config` or `RINGSEED_CONFIG` says the file is.
pub fn file_of(flag: Option<&Path>) -> Option<PathBuf> {
    let variable = || std::env::var_os("RINGSEED_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from);
    flag.map(Path::to_path_buf).or_else(variable)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(flags: &[(&'static str, &str)], environment: &[(&str, &str)]) -> Sources {
        Sources {
            flags: flags.iter().map(|(name, value)| (*name, (*value).to_owned())).collect(),
            environment: environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            file: None,
        }
    }

    fn errors(sources: &Sources) -> Vec<String> {
        resolve(sources).unwrap_err().0.iter().map(ToString::to_string).collect()
    }

    /// A file that is removed at the end of the test.
    struct Scratch(PathBuf);
    impl Scratch {
        fn new(name: &str, text: &str) -> Scratch {
            let path = std::env::temp_dir().join(format!("ringseed-config-{}-{name}.toml", std::process::id()));
            std::fs::write(&path, text).unwrap();
            Scratch(path)
        }
    }
    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    #[test]
    fn a_flag_goes_before_the_environment_before_the_file_before_the_default() {
        let file = Scratch::new("order", "weight = 2\npartitions = 128\nzone = \"file\"\n");
        let mut sources = sources(&[("weight", "4")], &[("RINGSEED_WEIGHT", "3"), ("RINGSEED_PARTITIONS", "256")]);
        sources.file = Some(file.0.clone());
        let resolved = resolve(&sources).unwrap();
        let server = &resolved.settings.server;
        assert_eq!((server.weight, server.cluster.partitions, server.zone.as_str()), (4, 256, "file"));
        let sources = ["weight", "partitions", "zone", "listen"].map(|name| resolved.value(name).set_by.to_string());
        assert_eq!(sources, ["--weight", "RINGSEED_PARTITIONS", &format!("{}:3", file.0.display()), "default"]);
    }

    #[test]
    fn all_that_is_wrong_is_said_at_once() {
        let file = Scratch::new("wrong", "\npartitons = 64\ncolour = \"red\"\ncache_size = \"lots\"\n");
        let mut sources = sources(&[("weight", "0")], &[("RINGSEED_PEER", "1=a:1"), ("RINGSEED_SEGMENT_SIZE", "12")]);
        sources.file = Some(file.0.clone());
        let path = file.0.display();
        assert_eq!(
            errors(&sources),
            [
                format!("{path}:2: there is no setting `partitons`; did you mean `partitions`?"),
                format!("{path}:3: there is no setting `colour`; `ringseed config` lists all there are"),
                format!("{path}:4: `lots` is no value for `cache_size`: expected a size from 0 to 1TiB, such as 64MiB"),
                "RINGSEED_PEER: there is no setting `peer`; did you mean `RINGSEED_PEERS`?".into(),
                "RINGSEED_SEGMENT_SIZE: `12` is no value for `segment_size`: expected a size from 1MiB to 1GiB, such as 64MiB"
                    .into(),
                "--weight: `0` is no value for `weight`: expected a whole number from 1 to 1000".into(),
            ]
        );
    }

    #[test]
    fn values_that_do_not_go_together() {
        let short = errors(&sources(&[("support_duration", "60ms")], &[("RINGSEED_HEARTBEAT_INTERVAL", "50ms")]));
        assert!(short[0].starts_with("--support-duration: `support_duration` (60ms) must be at least twice"), "{short:?}");
        let wildcard = errors(&sources(&[("listen", "0.0.0.0:7501")], &[]));
        assert!(wildcard[0].contains("set advertise"), "{wildcard:?}");
        assert!(resolve(&sources(&[("listen", "0.0.0.0:7501"), ("advertise", "a:1")], &[])).is_ok());
        let advertised = errors(&sources(&[("advertise", "[::]:7501")], &[]));
        assert!(advertised[0].contains("others can dial"), "{advertised:?}");
    }

    #[test]
    fn settings_that_would_do_harm_in_silence() {
        let three = ("peers", "1=a:1,2=b:1,3=c:1");
        let absent = errors(&sources(&[("node", "4"), three], &[]));
        assert!(absent[0].contains("does not name this node (node 4)"), "{absent:?}");
        let factor = errors(&sources(&[("replication_factor", "5"), three], &[]));
        assert!(factor[0].contains("(5) is more than there are initial members (3)"), "{factor:?}");
        assert!(resolve(&sources(&[("peers", "1=a:1")], &[])).is_ok(), "the default is as many as there can be");
        for log in ["verbose", "info,ringseed", "ringseed=loud", ""] {
            let wrong = errors(&sources(&[], &[("RINGSEED_LOG", log)]));
            assert!(wrong[0].contains("is no filter"), "{log}: {wrong:?}");
        }
        for log in ["WARN", "info,ringseed::server=debug", "off"] {
            assert!(resolve(&sources(&[("log", log)], &[])).is_ok(), "{log}");
        }
    }

    #[test]
    fn what_kubernetes_sets_for_a_service_of_this_name_is_no_setting() {
        let set = [
            ("RINGSEED_SERVICE_HOST", "10.0.0.1"),
            ("RINGSEED_SERVICE_PORT_CLIENTS", "7501"),
            ("RINGSEED_PORT", "tcp://10.0.0.1:7501"),
            ("RINGSEED_PORT_7501_TCP_ADDR", "10.0.0.1"),
        ];
        assert!(resolve(&sources(&[], &set)).is_ok());
        assert!(resolve(&sources(&[], &[("RINGSEED_PORT", "7501")])).is_err());
    }

    #[test]
    fn variables_of_the_client_commands_are_no_settings() {
        assert!(
            resolve(&sources(&[], &[("RINGSEED_SERVERS", "a:1"), ("RINGSEED_TIMEOUT", "1s"), ("RINGSEED_CLUSTER", "x")])).is_ok()
        );
    }

    #[test]
    fn a_file_that_is_not_there() {
        let missing = Sources { file: Some("/nonexistent/ringseed.toml".into()), ..Sources::default() };
        assert!(errors(&missing)[0].starts_with("/nonexistent/ringseed.toml: cannot read the configuration file"));
    }
}
