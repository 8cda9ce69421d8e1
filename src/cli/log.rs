//! Standard error: the log, and all that is said there besides.
//!
//! - With `log_format` `json`, *every* line is a JSON object of the log's form: remarks, wrong arguments and settings, and panics
//!   as well. The form is decided first of all, by a look at arguments, environment and file that cannot fail; what is wrong with
//!   them is said later, and in that form.
//! - Standard error may have no reader. One that is closed makes no panic and ends nothing: what is said then is lost.
//! - Colours are for terminals, and for users that have not set `NO_COLOR`.

use super::exit::Failure;
use core::fmt;
use serde_json::json;
use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

/// Every line is JSON.
static JSON: AtomicBool = AtomicBool::new(false);

/// Decides the form of every line from now on. `arguments`: of the process, its name first.
pub fn decide(arguments: impl Iterator<Item = OsString>) {
    let arguments: Vec<String> = arguments.skip(1).map(|argument| argument.to_string_lossy().into_owned()).collect();
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let file = flag(&arguments, "--config").or_else(|| variable("RINGSEED_CONFIG"));
    if is_json(&arguments, variable("RINGSEED_LOG_FORMAT"), file.as_deref()) {
        speak_json();
    }
}

fn is_json(arguments: &[String], variable: Option<String>, file: Option<&str>) -> bool {
    // The others have no log.
    let command = arguments.first().map(String::as_str);
    if !matches!(command, Some("server" | "up")) {
        return false;
    }
    let of_file = || {
        let text = std::fs::read_to_string(Path::new(file.filter(|_| command == Some("server"))?)).ok()?;
        // Were it no TOML, this would still tell.
        let line = text.lines().find(|line| line.trim_start().starts_with("log_format"))?;
        Some(line.split('=').nth(1)?.trim().trim_matches(['"', '\'']).to_owned())
    };
    flag(arguments, "--log-format").or(variable).or_else(of_file).as_deref() == Some("json")
}

/// The value of a flag, given as `--flag value` or `--flag=value`.
fn flag(arguments: &[String], name: &str) -> Option<String> {
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.strip_prefix(name) {
            Some("") => return rest.next().cloned(),
            Some(value) if value.starts_with('=') => return Some(value[1..].to_owned()),
            _ => {}
        }
    }
    None
}

fn speak_json() {
    if !JSON.swap(true, Ordering::Relaxed) {
        std::panic::set_hook(Box::new(|info| {
            let message = info.payload_as_str().unwrap_or("a panic without words");
            let place = info.location().map(ToString::to_string).unwrap_or_default();
            let thread = std::thread::current();
            say(&object("ERROR", &format!("thread '{}' panicked at {place}: {message}", thread.name().unwrap_or("unnamed"))));
        }));
    }
}

pub fn is_in_json() -> bool {
    JSON.load(Ordering::Relaxed)
}

/// What `eprintln!` says, in every module of the command line.
pub fn remark(arguments: fmt::Arguments<'_>) {
    let text = arguments.to_string();
    if !is_in_json() {
        return say(&text);
    }
    match text.trim().strip_prefix("error: ") {
        Some(error) => say(&object("ERROR", error)),
        None => say(&object("INFO", text.trim())),
    }
}

/// A line of the form that the log's lines have.
fn object(level: &str, message: &str) -> String {
    let mut timestamp = String::new();
    let _ = SystemTime.format_time(&mut Writer::new(&mut timestamp));
    json!({ "timestamp": timestamp, "level": level, "fields": { "message": message }, "target": "ringseed" }).to_string()
}

fn say(line: &str) {
    let _ = Loud.write_all(format!("{line}\n").as_bytes());
}

/// Standard error, to which everything can be written, heard or not.
struct Loud;

impl Write for Loud {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = io::stderr().write_all(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Logs to standard error from now on.
pub fn start(filter: &str, format: &str) -> Result<(), Failure> {
    let wrong = |e: &dyn fmt::Display| {
        Failure::Other(format!("`{filter}` is no value for `log`: {e}; try off, error, warn, info, debug or trace"))
    };
    let filter = EnvFilter::try_new(filter).map_err(|e| wrong(&e))?;
    let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| Loud).with_ansi(colours);
    // A second call in one process (tests) keeps the first log.
    let _ = if format == "json" {
        speak_json();
        subscriber.json().try_init()
    } else {
        subscriber.with_target(true).try_init()
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_is_known_before_anything_is_parsed() {
        let json = |line: &str, variable: Option<&str>| {
            let arguments: Vec<String> = line.split(' ').map(str::to_owned).collect();
            is_json(&arguments, variable.map(str::to_owned), flag(&arguments, "--config").as_deref())
        };
        assert!(json("server --log-format json --no-such-flag", None));
        assert!(json("up --log-format=json", Some("text")));
        assert!(!json("server --log-format text", Some("json")), "a flag goes before the environment");
        assert!(json("server", Some("json")));
        assert!(!json("get k", Some("json")), "a command's remarks are for people");
        let file = std::env::temp_dir().join(format!("ringseed-log-{}.toml", std::process::id()));
        std::fs::write(&file, "node = = 7\n log_format = \"json\"\n").unwrap();
        assert!(json(&format!("server --config {}", file.display()), None));
        assert!(!json(&format!("server --config {}", file.display()), Some("text")));
        let _ = std::fs::remove_file(file);
    }

    #[test]
    fn a_line_is_one_object_with_time_and_level() {
        let line = object("ERROR", "two\nlines and a \"quote\"");
        assert!(!line.contains('\n'), "{line}");
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&value["level"], &value["fields"]["message"]), (&json!("ERROR"), &json!("two\nlines and a \"quote\"")));
        assert!(value["timestamp"].as_str().unwrap().starts_with("20"), "{line}");
    }
}
