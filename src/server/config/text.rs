//! How settings read and print: durations (`100ms`, `5s`), sizes (`64MiB`), addresses, lists of peers; and which known name is
//! nearest to a wrong one.

use crate::base::{Duration, NodeId};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

/// What a setting's text may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A whole number, bounds included.
    Number {
        min: u64,
        max: u64,
    },
    /// A power of two from 1 to `max`.
    PowerOfTwo {
        max: u64,
    },
    /// Bounds included.
    Duration {
        min: Duration,
        max: Duration,
    },
    /// Bytes, bounds included.
    Size {
        min: u64,
        max: u64,
    },
    /// `host:port`.
    Address,
    /// `host:port`, or nothing.
    OptionalAddress,
    Path,
    /// Any text without line breaks.
    Text,
    /// One of these values.
    Choice(&'static [&'static str]),
    /// `1=host:port,2=host:port`.
    Peers,
}

/// A setting's value. Which kind it is follows from its [`Shape`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Number(u64),
    Duration(Duration),
    Size(u64),
    /// An address, a choice, or free text.
    Text(String),
    Path(PathBuf),
    /// In ascending order of node id.
    Peers(Vec<(NodeId, String)>),
}

impl Shape {
    /// What is expected, as the end of a sentence.
    pub fn expected(self) -> String {
        match self {
            Shape::Number { min, max } => format!("a whole number from {min} to {max}"),
            Shape::PowerOfTwo { max } => format!("a power of two from 1 to {max}"),
            Shape::Duration { min, max } => {
                format!("a duration from {} to {}, such as 100ms or 5s", duration_text(min), duration_text(max))
            }
            Shape::Size { min, max } => format!("a size from {} to {}, such as 64MiB", size_text(min), size_text(max)),
            Shape::Address => "an address, such as 127.0.0.1:7501".into(),
            Shape::OptionalAddress => "an address, such as 127.0.0.1:7501, or nothing".into(),
            Shape::Path => "a path".into(),
            Shape::Text => "text on one line".into(),
            Shape::Choice(words) => format!("one of {}", words.join(", ")),
            Shape::Peers => "a list of node=host:port, such as 1=10.0.0.1:7501,2=10.0.0.2:7501".into(),
        }
    }

    /// What stands for the value in a help text.
    pub fn placeholder(self) -> &'static str {
        match self {
            Shape::Number { .. } | Shape::PowerOfTwo { .. } => "NUMBER",
            Shape::Duration { .. } => "DURATION",
            Shape::Size { .. } => "SIZE",
            Shape::Address | Shape::OptionalAddress => "HOST:PORT",
            Shape::Path => "PATH",
            Shape::Text => "TEXT",
            Shape::Choice(_) => "WORD",
            Shape::Peers => "PEERS",
        }
    }

    /// Reads a value. `None`: it is not what [`Shape::expected`] says.
    pub fn parse(self, text: &str) -> Option<Value> {
        let text = text.trim();
        Some(match self {
            Shape::Number { min, max } => Value::Number(parse_number(text).filter(|n| (min..=max).contains(n))?),
            Shape::PowerOfTwo { max } => Value::Number(parse_number(text).filter(|n| n.is_power_of_two() && *n <= max)?),
            Shape::Duration { min, max } => Value::Duration(parse_duration(text).filter(|d| (min..=max).contains(d))?),
            Shape::Size { min, max } => Value::Size(parse_size(text).filter(|n| (min..=max).contains(n))?),
            Shape::Address => Value::Text(parse_address(text)?),
            Shape::OptionalAddress if text.is_empty() => Value::Text(String::new()),
            Shape::OptionalAddress => Value::Text(parse_address(text)?),
            Shape::Path => Value::Path(Some(text).filter(|t| !t.is_empty()).map(PathBuf::from)?),
            Shape::Text => Value::Text(Some(text).filter(|t| !t.contains(['\n', '\r', '\0']))?.to_owned()),
            Shape::Choice(words) => Value::Text((*words.iter().find(|word| **word == text)?).to_owned()),
            Shape::Peers => Value::Peers(parse_peers(text)?),
        })
    }
}

impl Value {
    /// The text that [`Shape::parse`] reads back.
    pub fn text(&self) -> String {
        match self {
            Value::Number(number) => number.to_string(),
            Value::Duration(duration) => duration_text(*duration),
            Value::Size(size) => size_text(*size),
            Value::Text(text) => text.clone(),
            Value::Path(path) => path.display().to_string(),
            Value::Peers(peers) => peers.iter().map(|(node, address)| format!("{node}={address}")).collect::<Vec<_>>().join(","),
        }
    }
}

/// Digits alone: no sign, no space.
fn parse_number(text: &str) -> Option<u64> {
    Some(text).filter(|t| t.bytes().all(|b| b.is_ascii_digit()))?.parse().ok()
}

/// Splits `100ms` into its number and its unit.
fn split_unit(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    Some((parse_number(&text[..digits])?, text[digits..].trim_start()))
}

/// A whole number and a unit: `us`, `ms`, `s`, `m`, `h`. Zero needs none.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let (number, unit) = split_unit(text)?;
    let micros = match unit {
        "us" => 1,
        "ms" => 1_000,
        "s" => 1_000_000,
        "m" => 60_000_000,
        "h" => 3_600_000_000,
        "" if number == 0 => 0,
        _ => return None,
    };
    number.checked_mul(micros).map(Duration::from_micros)
}

/// In the largest unit that divides it.
pub fn duration_text(duration: Duration) -> String {
    let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    let units = [(3_600_000_000, "h"), (60_000_000, "m"), (1_000_000, "s"), (1_000, "ms"), (1, "us")];
    match units.iter().find(|(unit, _)| micros.is_multiple_of(*unit)) {
        Some((unit, name)) if micros > 0 => format!("{}{name}", micros / unit),
        _ => "0".into(),
    }
}

/// A whole number of bytes, or of `KiB`, `MiB`, `GiB`, `TiB`, `kB`, `MB`, `GB`, `TB`.
pub fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = split_unit(text)?;
    let bytes = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1_u64 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return None,
    };
    number.checked_mul(bytes)
}

/// In the largest binary unit that divides it.
pub fn size_text(bytes: u64) -> String {
    let units = [(1_u64 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.iter().find(|(unit, _)| bytes.is_multiple_of(*unit)) {
        Some((unit, name)) if bytes > 0 => format!("{}{name}", bytes / unit),
        _ => bytes.to_string(),
    }
}

/// `host:port`, where the host is a name, an IPv4 address or an IPv6 address in brackets.
pub fn parse_address(text: &str) -> Option<String> {
    let (host, port) = text.rsplit_once(':')?;
    port.parse::<u16>().ok().filter(|_| port.bytes().all(|b| b.is_ascii_digit()))?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    let bracketed = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let valid = match bracketed {
        Some(inner) => inner.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(plain),
    };
    valid.then(|| text.to_owned())
}

/// Whether the address means every interface of a machine (`0.0.0.0`, `[::]`, `0`): to be listened on, never to be dialled by
/// others.
pub fn is_unspecified(address: &str) -> bool {
    let Some((host, _)) = address.rsplit_once(':') else { return false };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(ip) = host.parse::<IpAddr>() {
        return ip.to_canonical().is_unspecified();
    }
    // Numbers in other forms are what the system makes of them. No name is looked up here.
    let number = host.bytes().all(|b| b.is_ascii_hexdigit() || matches!(b, b'x' | b'X' | b'.'));
    let numeric = number && host.bytes().next().is_some_and(|b| b.is_ascii_digit());
    numeric && address.to_socket_addrs().is_ok_and(|mut all| all.any(|one: SocketAddr| one.ip().is_unspecified()))
}

/// `1=host:port,2=host:port`, sorted by node; `None` also when a node comes twice.
fn parse_peers(text: &str) -> Option<Vec<(NodeId, String)>> {
    let mut peers = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (node, address) = part.split_once('=')?;
        let node = node.trim().parse::<u16>().ok().filter(|node| *node > 0)?;
        peers.push((NodeId(node), parse_address(address.trim())?));
    }
    peers.sort();
    let unique = peers.windows(2).all(|pair| pair[0].0 != pair[1].0);
    unique.then_some(peers)
}

/// The name among `known` that is nearest to `wrong`, if one is near enough to be meant.
pub fn nearest<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let near = |name: &&str| edit_distance(wrong, name);
    let best = known.into_iter().min_by_key(near)?;
    (near(&best) <= (wrong.len() / 3).max(1)).then_some(best)
}

/// Levenshtein's: insertions, deletions and exchanges of one byte.
fn edit_distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let exchanged = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = exchanged.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, micros) in [("100ms", 100_000), ("5s", 5_000_000), ("0", 0), ("0s", 0), ("2m", 120_000_000), ("7us", 7)] {
            assert_eq!(parse_duration(text), Some(Duration::from_micros(micros)), "{text}");
        }
        for text in ["", "5", "-5s", "5 parsecs", "ms", "1.5s", "99999999999999999999s", "9999999999999999h"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
        for text in ["100ms", "5s", "90s", "2m", "1h", "1500us", "0"] {
            let parsed = parse_duration(text).unwrap();
            assert_eq!(parse_duration(&duration_text(parsed)), Some(parsed));
        }
        assert_eq!(duration_text(Duration::from_millis(1_500)), "1500ms");
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [("64MiB", 64 << 20), ("1gib", 1 << 30), ("12", 12), ("3kB", 3_000), ("5 MB", 5_000_000), ("0", 0)] {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        for text in ["", "MiB", "-1", "1.5GiB", "64Mib/s", "99999999999TiB"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
        assert_eq!(size_text(64 << 20), "64MiB");
        assert_eq!(size_text(1_000), "1000");
    }

    #[test]
    fn addresses_and_peers() {
        for text in ["127.0.0.1:80", "localhost:0", "db-1.example.com:7501", "[::1]:7501"] {
            assert_eq!(parse_address(text).as_deref(), Some(text));
        }
        for text in ["", "localhost", ":80", "a:99999", "a:+1", "::1:80", "http://a:1", "a b:1"] {
            assert_eq!(parse_address(text), None, "{text}");
        }
        let peers = Shape::Peers.parse(" 2=b:2, 1=a:1 ").unwrap();
        assert_eq!(peers, Value::Peers(vec![(NodeId(1), "a:1".into()), (NodeId(2), "b:2".into())]));
        assert_eq!(peers.text(), "1=a:1,2=b:2");
        for text in ["1=a:1,1=b:2", "0=a:1", "a:1", "1=a", "70000=a:1"] {
            assert_eq!(Shape::Peers.parse(text), None, "{text}");
        }
    }

    #[test]
    fn the_nearest_name_is_near() {
        let known = ["partitions", "peers", "listen"];
        assert_eq!(nearest("partitons", known), Some("partitions"));
        assert_eq!(nearest("peer", known), Some("peers"));
        assert_eq!(nearest("colour", known), None);
        assert_eq!(edit_distance("kitten", "sitting"), 3);
    }

    #[test]
    fn addresses_that_nobody_can_dial() {
        for address in ["0.0.0.0:1", "[::]:1", "[::ffff:0.0.0.0]:1", "0:7501", "0x0:1"] {
            assert!(is_unspecified(address), "{address}");
        }
        for address in ["127.0.0.1:1", "[::1]:1", "host:1", "dead.beef:1", "10.0.0.0:0"] {
            assert!(!is_unspecified(address), "{address}");
        }
    }
}
