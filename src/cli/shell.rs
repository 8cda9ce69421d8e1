//! `ringseed shell`: the client commands at a prompt, over one connection, with a history and completion.
//!
//! A line is split into words as a Unix shell would: blanks part words, quotes keep them together, a backslash takes the next
//! character as it stands. There are no variables, pipes or patterns.

use super::connection::{self, ConnectionArgs};
use super::exit::{EXIT_CODES, Failure};
use super::{DataCommand, folder, run_data};
use clap::{Args, CommandFactory, Parser};
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{Context, Editor, Helper, Highlighter, Hinter, Validator};
use std::io::{self, IsTerminal};

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
        eprintln!("Connected. `help` lists the commands, Ctrl-D leaves.");
    }
    let other = |error: ReadlineError| Failure::Other(format!("the terminal cannot be used: {error}"));
    let mut editor: Editor<Words, FileHistory> = Editor::new().map_err(other)?;
    editor.set_helper(Some(Words::of(&Line::command())));
    let history = folder::find().map(|folder| folder.join("history"));
    if let Some(history) = &history {
        let _ = editor.load_history(history);
    }
    if let Some(folder) = history.as_deref().and_then(std::path::Path::parent) {
        let _ = std::fs::create_dir_all(folder);
    }
    loop {
        let line = match editor.readline(if interactive { "ringseed> " } else { "" }) {
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
            Ok(Some(LineCommand::Data(command))) => {
                let run = async {
                    tokio::select! {
                        ran = run_data(&client, &command, true) => ran,
                        () = interrupted(), if interactive => Err(Failure::Other(INTERRUPTED.into())),
                    }
                };
                if let Err(failure) = runtime.block_on(run) {
                    failure.report(command.common().json);
                }
            }
            Ok(None) => {}
            Err(text) => eprintln!("{}", text.trim_end()),
        }
    }
    Ok(())
}

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
fn parse(line: &str, connection: &ConnectionArgs) -> Result<Option<LineCommand>, String> {
    let words = split(line)?;
    if words.is_empty() {
        return Ok(None);
    }
    let says_timeout = words.iter().any(|word| word == "--timeout" || word.starts_with("--timeout="));
    let mut parsed = Line::try_parse_from(words).map_err(|error| error.render().to_string())?;
    if let LineCommand::Data(command) = &mut parsed.command
        && !says_timeout
    {
        command.common_mut().connection.timeout = connection.timeout;
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
                Some(next) => word.get_or_insert_default().push(next),
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

/// Completes commands, then their flags.
#[derive(Helper, Highlighter, Hinter, Validator)]
struct Words {
    /// Each command with its flags.
    commands: Vec<(String, Vec<String>)>,
}

impl Words {
    fn of(command: &clap::Command) -> Words {
        let flags = |command: &clap::Command| -> Vec<String> {
            command.get_arguments().filter_map(|argument| argument.get_long()).map(|long| format!("--{long}")).collect()
        };
        let mut commands: Vec<_> = command.get_subcommands().map(|sub| (sub.get_name().to_owned(), flags(sub))).collect();
        commands.push(("help".into(), Vec::new()));
        Words { commands }
    }

    /// Where the word to complete begins, and what it may become.
    fn candidates(&self, typed: &str) -> (usize, Vec<String>) {
        let start = typed.rfind(char::is_whitespace).map_or(0, |at| at + 1);
        let word = &typed[start..];
        let first = typed.split_whitespace().next().unwrap_or_default();
        let names = || self.commands.iter().map(|(name, _)| name);
        let begun: Vec<&String> = if start == 0 || (first == "help" && !word.starts_with('-')) {
            names().collect()
        } else {
            self.commands.iter().filter(|(name, _)| name == first).flat_map(|(_, flags)| flags).collect()
        };
        let matching = begun
            .into_iter()
            .filter(|candidate| candidate.starts_with(word) && (start == 0 || !word.is_empty() || first == "help"));
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
        assert_eq!(words(""), [""; 0]);
        assert!(split("put \"a").is_err() && split("put \\").is_err());
    }

    #[test]
    fn commands_and_flags_are_completed() {
        let words = Words::of(&Line::command());
        assert_eq!(words.candidates("ge"), (0, vec!["get ".into()]));
        assert_eq!(words.candidates("cas k --if-v"), (6, vec!["--if-version ".into()]));
        assert_eq!(words.candidates("get k"), (4, vec![]));
        assert!(words.candidates("help sc").1.contains(&"scan ".into()));
        assert!(words.candidates("").1.len() >= 9);
    }

    #[test]
    fn the_shell_reads_the_commands_of_the_command_line() {
        let connection = ConnectionArgs { servers: Vec::new(), timeout: crate::base::Duration::from_millis(1_234) };
        let parsed = parse("incr counter -5 --json", &connection).unwrap();
        let Some(LineCommand::Data(command)) = parsed else { panic!("{parsed:?}") };
        assert!(command.common().json);
        assert_eq!(command.common().connection.timeout, connection.timeout);
        assert!(matches!(parse("quit", &connection), Ok(Some(LineCommand::Exit))));
        assert!(parse("frobnicate", &connection).unwrap_err().contains("frobnicate"));
        assert!(parse("help", &connection).unwrap_err().contains("scan"));
        assert!(parse("   ", &connection).unwrap().is_none());
    }
}
