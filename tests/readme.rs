//! Every command in the README works when it is pasted: its blocks are run one after the other, in a fresh home, as a new user
//! would.
//!
//! What is changed for the test: ports and directories are free ones, a load runs for a fraction of a second. Blocks of `cargo`
//! commands are the project's own tools, which `.ci/run` calls.

#![cfg(feature = "server")]

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A block of commands, and the line of the README that it begins on.
struct Block {
    line: usize,
    text: String,
}

fn blocks() -> Vec<Block> {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).expect("the README is there");
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for (at, line) in readme.lines().enumerate() {
        match (&mut open, line) {
            (None, "```sh") => open = Some(Block { line: at + 2, text: String::new() }),
            (Some(_), "```") => blocks.extend(open.take()),
            (Some(block), line) => block.text += &format!("{line}\n"),
            (None, _) => {}
        }
    }
    blocks
}

/// What the README names, and what stands for it in the test.
fn in_this_home(home: &Path, text: &str, ports: &[u16]) -> String {
    let mut text = text.replace("/tmp/ringseed-", &format!("{}/ringseed-", home.display()));
    for (at, port) in ports.iter().enumerate() {
        text = text.replace(&format!(":760{}", at + 1), &format!(":{port}"));
    }
    let short = |line: &str| match line.starts_with("ringseed load") {
        true => format!("{} --seconds 0.3", line.split(" --seconds").next().unwrap_or(line)),
        false => line.to_owned(),
    };
    text.lines().map(|line| short(line) + "\n").collect()
}

/// A shell with the binary on its path and nothing else from outside.
fn shell(home: &Path, script: &str) -> Command {
    let mut command = Command::new("bash");
    let binary = Path::new(env!("CARGO_BIN_EXE_ringseed")).parent().expect("it is in a folder");
    let path = format!("{}:{}", binary.display(), std::env::var("PATH").unwrap_or_default());
    let ours = |name: &std::ffi::OsStr| name.to_string_lossy().starts_with("RINGSEED_");
    std::env::vars_os().filter(|(name, _)| ours(name)).for_each(|(name, _)| _ = command.env_remove(name));
    command
        .args(["-e", "-o", "pipefail", "-c", script])
        .env("PATH", path)
        .env("HOME", home)
        .env("XDG_DATA_HOME", home.join("data"));
    command.current_dir(home).stdin(Stdio::null());
    command
}

/// `ringseed up`, ended at the end of the test.
struct Up(Child, PathBuf);

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
        let _ = std::fs::remove_dir_all(&self.1);
    }
}

#[test]
fn every_command_in_the_readme_works_when_it_is_pasted() {
    let home = std::env::temp_dir().join(format!("ringseed-readme-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&home);
    std::fs::create_dir_all(&home).expect("a fresh home");
    // Taken from the system's free ones, and given back: nothing else asks for them so soon.
    let listeners: Vec<TcpListener> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
    let ports: Vec<u16> = listeners.iter().map(|listener| listener.local_addr().expect("bound").port()).collect();
    drop(listeners);

    let mut up: Option<Up> = None;
    let mut ran = 0;
    for Block { line, text } in blocks() {
        let script = in_this_home(&home, &text, &ports);
        if script.lines().all(|line| line.starts_with("cargo ")) {
            continue;
        }
        ran += 1;
        if script.starts_with("ringseed up") {
            // "In one terminal". The commands of the next block wait for it by themselves.
            let log = std::fs::File::create(home.join("up.log")).expect("a log");
            let child = shell(&home, &format!("exec {script}")).stdout(log).stderr(Stdio::null()).spawn().expect("bash runs");
            up = Some(Up(child, home.clone()));
            let begun = Instant::now();
            while !home.join("data/ringseed/clusters.json").exists() {
                assert!(begun.elapsed() < Duration::from_secs(20), "`up` does not say where it is");
                std::thread::sleep(Duration::from_millis(10));
            }
            continue;
        }
        // Servers that a block starts run until it has ended.
        let output = shell(&home, &format!("trap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT\n{script}"))
            .output()
            .expect("bash runs");
        assert!(
            output.status.success(),
            "the commands from line {line} of the README end with {}:\n{script}{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    assert!(up.is_some() && ran >= 6, "{ran} blocks were found");
}
