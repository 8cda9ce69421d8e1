//! `ringseed shell`: the client commands at a prompt, over one connection, with a history and completion.
//!
//! A line is split into words much as a Unix shell would: blanks part words, quotes keep them together, a backslash takes a
//! blank, a quote or a `#` as it stands. Any other backslash stays, so that keys can be given as they are printed (`\n`, `\xff`,
//! `\\`) without quotes. There are no variables, pipes or patterns.
//!
//! Between `begin` and `commit` or `rollback`, `get`, `get-many`, `put`, `delete` and `incr` belong to the transaction: reads see
//! its writes, and nothing is written before the commit. Commands that would not belong to it are refused, but for those that
//! only report.

use super::connection::{self, ConnectionArgs};
use super::exit::{self, EXIT_CODES, Failure};
use super::operations::{AcknowledgeArg, CommonArgs, ConsistencyArg};
use super::show::{json_bytes, put_key};
use super::{DataCommand, folder, run_data, txn, value};
use crate::base::{Duration, Key};
use crate::client::{Client, Consistency, Interactive};
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser};
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{Context, Editor, Helper, Highlighter, Hinter, Validator};
use serde_json::{Value, json};
use std::io::{self, IsTerminal, Write};

#[derive(Debug, Clone, Args)]
pub struct ShellArgs {
    #[command(flatten)]
    pub connection: ConnectionArgs,
}

/// A line of the shell.
#[derive(Debug, Parser)]
#[command(no_binary_name = true, name = "", about = "The client commands, as after `ringseed`", disable_help_flag = true, disable_version_flag = true, after_help = EXIT_CODES)]
struct Line {
    #[command(subcommand)]
    command: LineCommand,
}

#[derive(Debug, clap::Subcommand)]
enum LineCommand {
    #[command(flatten)]
    Data(Box<DataCommand>),
    /// Begin a transaction: what follows is done when it commits, all of it or nothing
    Begin,
    /// Commit the transaction, if all that it read is still so
    #[command(after_help = EXIT_CODES)]
    Commit(CommonArgs),
    /// End the transaction without effect
    Rollback,
    /// Leave (also: Ctrl-D)
    #[command(alias = "quit")]
    Exit,
}

pub fn shell(args: &ShellArgs) -> Result<(), Failure> {
    // Not the caller's thread alone: a connection that breaks while the prompt waits must be noticed then, not by the next write.
    let runtime = connection::background_runtime(1)?;
    let client = runtime.block_on(args.connection.connect())?;
    let interactive = io::stdin().is_terminal();
    if interactive {
        let cluster = client.cluster().map(|cluster| format!(" to cluster {cluster}")).unwrap_or_default();
        eprintln!("Connected{cluster}. `help` lists the commands, Ctrl-D leaves.");
    }
    let other = |error: ReadlineError| Failure::Other(format!("the terminal cannot be used: {error}"));
    let mut editor: Editor<Words, FileHistory> = Editor::new().map_err(other)?;
    editor.set_helper(Some(Words::of(&Line::command(), keys_of(client.clone(), runtime.handle().clone()))));
    let history = folder::find().map(|folder| folder.join("history"));
    if let Some(history) = &history {
        let _ = editor.load_history(history);
        // It holds what was written: values too.
        let _ = crate::server::private::tighten(history);
    }
    if let Some(folder) = history.as_deref().and_then(std::path::Path::parent) {
        let _ = crate::server::private::make_directory(folder);
    }
    let mut open: Option<Interactive> = None;
    let mut failed = Failed::default();
    loop {
        let prompt = match &open {
            _ if !interactive => "",
            None => "ringseed> ",
            Some(_) => "ringseed (transaction)> ",
        };
        let line = match editor.readline(prompt) {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(other(error)),
        };
        // Written at once: a terminal that is closed gives no last chance.
        if let (Ok(true), Some(history)) = (editor.add_history_entry(line.trim()), &history) {
            let _ = editor.append_history(history);
        }
        match parse(&line, &args.connection) {
            Ok(Some(LineCommand::Exit)) => break,
            Ok(Some(command)) => {
                let run = async {
                    tokio::select! {
                        ran = run(&client, &command, &mut open) => ran,
                        () = interrupted(), if interactive => Err(Failure::Other(INTERRUPTED.into())),
                    }
                };
                if let Err(failure) = runtime.block_on(run) {
                    failure.report(command.json());
                    failed.note(failure.code());
                }
            }
            Ok(None) => {}
            Err(NotRun::Help(text)) => eprintln!("{}", text.trim_end()),
            Err(NotRun::Wrong(text)) => {
                eprintln!("{}", text.trim_end());
                failed.note(exit::OTHER);
            }
        }
    }
    if open.is_some() {
        eprintln!("the open transaction was rolled back");
        failed.note(exit::OTHER);
    }
    match failed {
        // The reader at the terminal has seen it.
        Failed { count, code } if count > 0 && !interactive => Err(Failure::Script { failed: count, code }),
        _ => Ok(()),
    }
}

/// Commands that failed, and the code of the first.
#[derive(Debug, Default)]
struct Failed {
    count: u64,
    code: u8,
}

impl Failed {
    fn note(&mut self, code: u8) {
        if self.count == 0 {
            self.code = code;
        }
        self.count += 1;
    }
}

/// Why a line is no command.
#[derive(Debug)]
enum NotRun {
    /// It asked for help, which is this.
    Help(String),
    Wrong(String),
}

impl LineCommand {
    fn common_mut(&mut self) -> Option<&mut CommonArgs> {
        match self {
            LineCommand::Data(command) => Some(command.common_mut()),
            LineCommand::Commit(common) => Some(common),
            LineCommand::Begin | LineCommand::Rollback | LineCommand::Exit => None,
        }
    }

    fn json(&self) -> bool {
        match self {
            LineCommand::Data(command) => command.common().json,
            LineCommand::Commit(common) => common.json,
            LineCommand::Begin | LineCommand::Rollback | LineCommand::Exit => false,
        }
    }
}

/// One command, in the transaction that is open or by itself.
async fn run(client: &Client, command: &LineCommand, open: &mut Option<Interactive>) -> Result<(), Failure> {
    match (command, open.as_ref()) {
        (LineCommand::Data(command), None) => run_data(client, command, true).await,
        (LineCommand::Data(command), Some(transaction)) => run_inside(client, command, transaction).await,
        (LineCommand::Begin, Some(_)) => {
            Err(Failure::Other("a transaction is open already: `commit` or `rollback` ends it".into()))
        }
        (LineCommand::Begin, None) => {
            *open = Some(client.begin());
            Ok(())
        }
        (LineCommand::Commit(_) | LineCommand::Rollback, None) => {
            Err(Failure::Other("no transaction is open: `begin` begins one".into()))
        }
        (LineCommand::Commit(common), Some(transaction)) => {
            // Over, whatever comes of it.
            let transaction = transaction.clone();
            *open = None;
            commit(&transaction, common).await
        }
        (LineCommand::Rollback, Some(_)) => {
            *open = None;
            Ok(())
        }
        (LineCommand::Exit, _) => Ok(()),
    }
}

async fn commit(transaction: &Interactive, common: &CommonArgs) -> Result<(), Failure> {
    transaction.set_timeout(common.connection.timeout);
    let written = transaction.commit().await?;
    if common.json {
        let results = written.iter().map(|(key, result)| {
            let mut object = json!({ "version": result.version.0 });
            put_key(&mut object, key);
            if let Some(number) = result.number {
                object["number"] = number.into();
            }
            object
        });
        writeln!(io::stdout(), "{}", json!({ "outcome": "ok", "results": results.collect::<Vec<Value>>() }))?;
        return Ok(());
    }
    for (key, result) in &written {
        eprintln!("{}: version {}", key, result.version);
    }
    eprintln!("committed");
    Ok(())
}

/// A command of the open transaction.
async fn run_inside(client: &Client, command: &DataCommand, transaction: &Interactive) -> Result<(), Failure> {
    let refused = |why: &str| Err(Failure::Other(format!("{why}; the transaction is still open")));
    transaction.set_timeout(command.common().connection.timeout);
    match command {
        DataCommand::Get(args) if args.read.consistency == ConsistencyArg::Eventual => {
            refused("within a transaction all reads are strong")
        }
        DataCommand::Put(put) if put.write.acknowledge == AcknowledgeArg::All => refused(NO_ALL),
        DataCommand::Delete(delete) if delete.write.acknowledge == AcknowledgeArg::All => refused(NO_ALL),
        DataCommand::Incr(incr) if incr.write.acknowledge == AcknowledgeArg::All => refused(NO_ALL),
        DataCommand::Get(args) => {
            let key = value::key(&args.key)?;
            match transaction.get(key.clone()).await? {
                Some(value) if args.common.json => {
                    let mut object = json!({ "outcome": "ok", "value": json_bytes(&value) });
                    put_key(&mut object, &key);
                    Ok(writeln!(io::stdout(), "{object}")?)
                }
                Some(value) => {
                    let mut out = io::stdout().lock();
                    out.write_all(&value)?;
                    Ok(out.write_all(b"\n")?)
                }
                None => Err(Failure::NotFound(None)),
            }
        }
        DataCommand::GetMany(args) => {
            let mut items = Vec::new();
            for key in &args.keys {
                let key = value::key(key)?;
                let value = transaction.get(key.clone()).await?;
                items.push((key, value, None));
            }
            txn::write_items(items.into_iter(), args.common.json)
        }
        DataCommand::Put(args) => Ok(transaction.put(value::key(&args.key)?, value::read(&args.value, args.literal)?)?),
        DataCommand::Delete(args) => {
            let condition = &args.condition;
            if condition.if_present || condition.if_value.is_some() || condition.if_version.is_some() {
                return refused(NO_CONDITIONS);
            }
            let Some(key) = &args.key else { return refused("a prefix is not deleted within a transaction") };
            Ok(transaction.delete(value::key(key)?)?)
        }
        DataCommand::Incr(args) => Ok(transaction.increment(value::key(&args.key)?, args.by)?),
        DataCommand::Cas(_) => refused(NO_CONDITIONS),
        DataCommand::Txn(_) | DataCommand::Scan(_) | DataCommand::Count(_) => {
            refused("this would not be part of the open transaction: `commit` or `rollback` first")
        }
        DataCommand::Txns(_) | DataCommand::Damage(_) | DataCommand::Scrub(_) | DataCommand::Status(_) | DataCommand::Ring(_) => {
            run_data(client, command, true).await
        }
    }
}

const NO_ALL: &str = "a transaction is acknowledged by quorums; --acknowledge all is for single items";
const NO_CONDITIONS: &str =
    "within a transaction, read the item and decide: the commit writes only if all that was read is still so";

const INTERRUPTED: &str = "interrupted; a write that was under way may have been applied, or may yet be";

/// Ctrl-C while a command runs: it ends the command, not the shell.
async fn interrupted() {
    if tokio::signal::ctrl_c().await.is_err() {
        // It cannot be caught, and so still ends the process.
        std::future::pending().await
    }
    // The terminal has shown `^C`.
    eprintln!();
}

/// The command of a line; nothing for an empty one; or what is to be said instead: help, or what is wrong.
fn parse(line: &str, connection: &ConnectionArgs) -> Result<Option<LineCommand>, NotRun> {
    let words = split(line).map_err(NotRun::Wrong)?;
    if words.is_empty() {
        return Ok(None);
    }
    let says_timeout = words.iter().any(|word| word == "--timeout" || word.starts_with("--timeout="));
    let mut parsed = Line::try_parse_from(words).map_err(|error| {
        let text = error.render().to_string();
        if error.kind() == ErrorKind::DisplayHelp { NotRun::Help(text) } else { NotRun::Wrong(text) }
    })?;
    if let Some(common) = parsed.command.common_mut().filter(|_| !says_timeout) {
        common.connection.timeout = connection.timeout;
    }
    Ok(Some(parsed.command))
}

/// The words of a line.
fn split(line: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut characters = line.chars();
    while let Some(c) = characters.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some('\''), c) => word.get_or_insert_default().push(c),
            (_, '\\') => match characters.next() {
                Some(next) if next.is_whitespace() || matches!(next, '"' | '\'' | '#') => word.get_or_insert_default().push(next),
                // Of an escape in a key, or a backslash in a value. The pair is one: the second begins nothing.
                Some(next) => word.get_or_insert_default().extend(['\\', next]),
                None => return Err("the line ends with a backslash that escapes nothing".into()),
            },
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '"' | '\'') => {
                // An empty pair of quotes is an empty word.
                word.get_or_insert_default();
                quote = Some(c);
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    match quote {
        Some(open) => Err(format!("the line ends within {open}quotes{open}")),
        None => {
            words.extend(word);
            Ok(words)
        }
    }
}

/// The keys that begin with what is typed, as they are typed.
type Keys = Box<dyn Fn(&str) -> Vec<String>>;

/// Keys offered at once.
const KEYS_OFFERED: u32 = 20;
/// For how long the cluster is asked for keys.
const KEYS_WITHIN: Duration = Duration::from_millis(300);

/// Completes commands, then keys, flags and what these take.
#[derive(Helper, Highlighter, Hinter, Validator)]
struct Words {
    commands: Vec<Completed>,
    keys: Keys,
}

/// A command, as far as it can be completed.
struct Completed {
    name: String,
    /// Each with the words that it takes; none: it takes anything, or nothing.
    flags: Vec<(String, Vec<String>)>,
    /// How many of the words behind it are keys.
    keys: usize,
}

impl Completed {
    fn of(command: &clap::Command) -> Completed {
        let values = |argument: &clap::Arg| -> Vec<String> {
            argument.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect()
        };
        let flags = command.get_arguments().filter_map(|argument| Some((format!("--{}", argument.get_long()?), argument)));
        let keys = command.get_positionals().next().map_or(0, |first| match first.get_id().as_str() {
            "key" => 1,
            "keys" => usize::MAX,
            _ => 0,
        });
        Completed {
            name: command.get_name().to_owned(),
            flags: flags
                .map(|(flag, argument)| (flag, if argument.get_action().takes_values() { values(argument) } else { Vec::new() }))
                .collect(),
            keys,
        }
    }
}

/// Asks the cluster for keys that begin with what is typed. Those that a shell would have to quote are left out.
fn keys_of(client: Client, runtime: tokio::runtime::Handle) -> Keys {
    Box::new(move |typed| {
        let Ok(prefix) = Key::read(typed.as_bytes()) else { return Vec::new() };
        let page = client.scan().prefix(prefix).limit(KEYS_OFFERED).consistency(Consistency::Eventual).timeout(KEYS_WITHIN);
        let Ok(page) = runtime.block_on(async { page.await }) else { return Vec::new() };
        let plain = |text: &String| !text.contains(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '#'));
        page.items.iter().map(|item| item.key.to_string()).filter(plain).collect()
    })
}

impl Words {
    fn of(command: &clap::Command, keys: Keys) -> Words {
        let mut commands: Vec<Completed> = command.get_subcommands().map(Completed::of).collect();
        commands.push(Completed { name: "help".into(), flags: Vec::new(), keys: 0 });
        Words { commands, keys }
    }

    /// Where the word to complete begins, and what it may become.
    fn candidates(&self, typed: &str) -> (usize, Vec<String>) {
        let start = typed.rfind(char::is_whitespace).map_or(0, |at| at + 1);
        let word = &typed[start..];
        let before: Vec<&str> = typed[..start].split_whitespace().collect();
        let names = || self.commands.iter().map(|command| command.name.clone()).collect();
        let begun: Vec<String> = match (before.as_slice(), word) {
            ([], _) => names(),
            (["help"], word) if !word.starts_with('-') => names(),
            ([name, rest @ ..], word) => match self.commands.iter().find(|command| command.name == *name) {
                None => Vec::new(),
                Some(command) => {
                    let values = rest.last().and_then(|last| command.flags.iter().find(|(flag, _)| flag == last));
                    match values.filter(|(_, values)| !values.is_empty()) {
                        Some((_, values)) => values.clone(),
                        None if word.starts_with('-') => command.flags.iter().map(|(flag, _)| flag.clone()).collect(),
                        None if rest.len() < command.keys && rest.iter().all(|word| !word.starts_with('-')) => (self.keys)(word),
                        None => Vec::new(),
                    }
                }
            },
        };
        let matching = begun.into_iter().filter(|candidate| candidate.starts_with(word));
        (start, matching.map(|candidate| format!("{candidate} ")).collect())
    }
}

impl Completer for Words {
    type Candidate = String;

    fn complete(&self, line: &str, position: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        Ok(self.candidates(&line[..position]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_split_as_a_shell_would() {
        let words = |line| split(line).unwrap();
        assert_eq!(words("  put  k v "), ["put", "k", "v"]);
        assert_eq!(words(r#"put "a b" 'c "d"' e\ f ''"#), ["put", "a b", "c \"d\"", "e f", ""]);
        assert_eq!(words(r#"put "a\"b" 'c\d'"#), ["put", "a\"b", "c\\d"]);
        assert_eq!(words(r#"get a\x00\\b\n"c\td" 'e\\f'"#), ["get", r"a\x00\\b\nc\td", r"e\\f"]);
        assert_eq!(words(""), [""; 0]);
        assert!(split("put \"a").is_err() && split("put \\").is_err());
    }

    #[test]
    fn commands_and_flags_are_completed() {
        let words = Words::of(&Line::command(), Box::new(|typed| vec![format!("{typed}ey"), "other".into()]));
        assert_eq!(words.candidates("ge"), (0, vec!["get ".into(), "get-many ".into()]));
        assert_eq!(words.candidates("cas k --if-v"), (6, vec!["--if-version ".into()]));
        assert_eq!(words.candidates("get k"), (4, vec!["key ".into()]));
        assert_eq!(words.candidates("get "), (4, vec!["ey ".into(), "other ".into()]), "all that there are");
        assert_eq!(words.candidates("put key v"), (8, vec![]), "a value is no key");
        assert_eq!(words.candidates("get-many a b k"), (13, vec!["key ".into()]));
        assert_eq!(words.candidates("get k --consistency e"), (20, vec!["eventual ".into()]));
        assert_eq!(words.candidates("put k v --acknowledge "), (22, vec!["quorum ".into(), "all ".into()]));
        assert!(words.candidates("help sc").1.contains(&"scan ".into()));
        assert!(words.candidates("").1.len() >= 9);
    }

    #[test]
    fn the_shell_reads_the_commands_of_the_command_line() {
        let connection =
            ConnectionArgs { servers: Vec::new(), cluster: None, timeout: crate::base::Duration::from_millis(1_234) };
        let parsed = parse("incr counter -5 --json", &connection).unwrap();
        let Some(LineCommand::Data(command)) = parsed else { panic!("{parsed:?}") };
        assert!(command.common().json);
        assert_eq!(command.common().connection.timeout, connection.timeout);
        assert!(matches!(parse("begin", &connection), Ok(Some(LineCommand::Begin))));
        let Ok(Some(LineCommand::Commit(common))) = parse("commit --json", &connection) else { panic!("commit") };
        assert_eq!((common.json, common.connection.timeout), (true, connection.timeout));
        assert!(matches!(parse("quit", &connection), Ok(Some(LineCommand::Exit))));
        assert!(matches!(parse("frobnicate", &connection), Err(NotRun::Wrong(text)) if text.contains("frobnicate")));
        assert!(matches!(parse("help", &connection), Err(NotRun::Help(text)) if text.contains("scan")));
        assert!(parse("   ", &connection).unwrap().is_none());
    }
}
