//! Planted bugs: proof that the simulator and its checkers bite.
//!
//! Each file under [`PATCHES`] is a patch that plants one bug, kept as a patch so that the real source holds none. It opens with
//! lines that say what it is:
//!
//! ```text
//! # breaks: a vote is sent before it is durable, so a node can vote twice in one term
//! # promise: P1
//! # where: core
//! # command: cargo test -q -p ringseed-sim --lib check::        (optional)
//! diff --git a/src/replica/...
//! ```
//!
//! `promise` is the promise that should be seen to break. `where` is `core`, or `simulator` for bugs in the simulator itself,
//! which show that a fault does something and that a checker looks. Normally seeds are run until one fails. With a `command` (run
//! at the root of the copy, by a shell) the bug is caught when that fails; it must pass without the bug, and build with it.
//!
//! The tool copies the sources to `target/mutants/tree`, applies one patch at a time, and builds into one target directory, so
//! that only what is touched is built again. First it runs everything without a bug: were that to fail, every bug would seem
//! caught.
//!
//! A patch that does not apply any more is mended by hand: apply it with `git apply --reject`, repair, and save `git diff -U2`
//! behind its opening lines.

use crate::runner::FAULT_NEVER_FIRED;
use ringseed::base::hash;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Where the patches are, from the repository's root.
pub const PATCHES: &str = "sim/mutants";

/// What `ringseed-sim mutants` is asked.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// Only those whose name contains this.
    #[arg(long)]
    only: Option<String>,
    /// Only so many of them: which, the commit says.
    #[arg(long, value_name = "COUNT")]
    some: Option<usize>,
    /// Seeds until a bug counts as not caught.
    #[arg(long, default_value_t = 2_000)]
    seeds: u64,
    /// Seeds run at once.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Do not run the source without a bug first.
    #[arg(long)]
    trust: bool,
}

/// One planted bug.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mutant {
    /// The patch's file name without `.patch`.
    pub name: String,
    pub patch: PathBuf,
    pub breaks: String,
    pub promise: String,
    pub place: Place,
    pub command: Option<String>,
}

/// Where a bug is planted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Core,
    Simulator,
}

/// All planted bugs, by name.
///
/// # Errors
/// A patch cannot be read, or its opening lines are not as documented.
pub fn all() -> Result<Vec<Mutant>, String> {
    let folder = root().join(PATCHES);
    let entries = fs::read_dir(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let paths = entries.map(|entry| entry.map(|entry| entry.path()).map_err(|e| e.to_string()));
    let mut paths: Vec<PathBuf> = paths.collect::<Result<_, _>>()?;
    paths.retain(|path| path.extension().is_some_and(|end| end == "patch"));
    paths.sort();
    paths.iter().map(|path| read(path).map_err(|e| format!("{}: {e}", path.display()))).collect()
}

/// Checks that every patch is documented, touches only source, and applies to the source as it is.
///
/// # Errors
/// Which patches do not, and why.
pub fn all_apply() -> Result<(), String> {
    let mut wrong = String::new();
    for mutant in all()? {
        if let Err(error) = apply(&root(), &mutant.patch, true) {
            writeln!(wrong, "{}: {error}", mutant.name).expect("writing into memory");
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong) }
}

/// Plants each bug, runs it, and prints what caught it. Returns the process's exit code: 0 when all were caught.
#[must_use]
pub fn run(arguments: &Arguments) -> u8 {
    match try_run(arguments) {
        Ok(true) => 0,
        Ok(false) => 1,
        Err(error) => {
            eprintln!("error: {error}");
            2
        }
    }
}

fn try_run(arguments: &Arguments) -> Result<bool, String> {
    let mut mutants: Vec<Mutant> =
        all()?.into_iter().filter(|mutant| arguments.only.as_ref().is_none_or(|part| mutant.name.contains(part))).collect();
    if let Some(count) = arguments.some {
        some_by_commit(&mut mutants, count, |mutant| &mutant.name)?;
    }
    if mutants.is_empty() {
        return Err(format!("no patch under {PATCHES} has such a name"));
    }
    let scratch = Scratch::new(arguments)?;
    if !arguments.trust {
        scratch.baseline(&mutants)?;
    }
    let mut table = comfy_table::Table::new();
    table.set_header(["mutant", "breaks", "should break", "caught by", "after seeds", "seconds"]);
    let mut all_caught = true;
    for mutant in &mutants {
        let begun = Instant::now();
        let (caught, seeds) = match scratch.judge(mutant)? {
            Finding::Caught { by, seeds } => (by, seeds.map_or_else(|| "-".into(), |seeds| seeds.to_string())),
            Finding::Survived => {
                all_caught = false;
                ("NOT CAUGHT".into(), format!("{}", arguments.seeds))
            }
        };
        let seconds = begun.elapsed().as_secs();
        eprintln!("{}: {caught}, after {seeds} seeds, {seconds} s", mutant.name);
        table.add_row([&mutant.name, &mutant.breaks, &mutant.promise, &caught, &seeds, &seconds.to_string()]);
    }
    println!("{table}");
    Ok(all_caught)
}

/// Keeps `count` of what has names: which, the commit says.
pub(crate) fn some_by_commit<T>(all: &mut Vec<T>, count: usize, name: impl Fn(&T) -> &str) -> Result<(), String> {
    let commit = Command::new("git").args(["rev-parse", "HEAD"]).current_dir(root()).output();
    let commit = commit.map_err(|e| format!("git, which says what the commit is: {e}"))?.stdout;
    all.sort_by_key(|one| hash::checksum(hash::checksum(0, &commit), name(one).as_bytes()));
    all.truncate(count);
    Ok(())
}

/// What came of one bug.
enum Finding {
    Caught { by: String, seeds: Option<u64> },
    Survived,
}

/// The copy that bugs are planted in.
struct Scratch<'a> {
    tree: PathBuf,
    build: PathBuf,
    log: PathBuf,
    arguments: &'a Arguments,
}

impl Scratch<'_> {
    fn new(arguments: &Arguments) -> Result<Scratch<'_>, String> {
        let base = root().join("target/mutants");
        let scratch = Scratch { tree: base.join("tree"), build: base.join("build"), log: base.join("log"), arguments };
        fs::create_dir_all(&scratch.log).map_err(|e| format!("{}: {e}", scratch.log.display()))?;
        let settings = base.join(".cargo/config.toml");
        let written = fs::create_dir_all(base.join(".cargo")).and_then(|()| fs::write(&settings, TESTS_BUILT_FAST));
        written.map_err(|e| format!("{}: {e}", settings.display()))?;
        scratch.restore()?;
        Ok(scratch)
    }

    /// Makes the copy equal to the source again. Files that are equal are left alone, so that nothing is built without need.
    fn restore(&self) -> Result<(), String> {
        let mut wanted = Vec::new();
        for top in ["Cargo.toml", "Cargo.lock", "SEEDS.md", "src", "sim", "tests"] {
            list(&root(), Path::new(top), &mut wanted).map_err(|e| format!("{top}: {e}"))?;
        }
        let mut there = Vec::new();
        if self.tree.exists() {
            list(&self.tree, Path::new(""), &mut there).map_err(|e| format!("{}: {e}", self.tree.display()))?;
        }
        for file in &wanted {
            let bytes = fs::read(root().join(file)).map_err(|e| format!("{}: {e}", file.display()))?;
            let copy = self.tree.join(file);
            if fs::read(&copy).is_ok_and(|old| old == bytes) {
                continue;
            }
            let written =
                fs::create_dir_all(copy.parent().expect("a file is in a folder")).and_then(|()| fs::write(&copy, bytes));
            written.map_err(|e| format!("{}: {e}", copy.display()))?;
        }
        for file in there.iter().filter(|file| !wanted.contains(file)) {
            fs::remove_file(self.tree.join(file)).map_err(|e| format!("{}: {e}", file.display()))?;
        }
        Ok(())
    }

    /// Without a bug nothing may fail.
    fn baseline(&self, mutants: &[Mutant]) -> Result<(), String> {
        eprintln!("without a bug: building and running");
        let mut commands: Vec<&String> = mutants.iter().filter_map(|mutant| mutant.command.as_ref()).collect();
        commands.sort();
        commands.dedup();
        if mutants.iter().any(|mutant| mutant.command.is_none())
            && let Finding::Caught { by, seeds } = self.run_seeds("none", Place::Simulator)?
        {
            return Err(format!("the source without a bug fails: {by}, after {seeds:?} seeds"));
        }
        for command in commands {
            if !self.run_command("none", command)? {
                return Err(format!("without a bug this fails: {command}"));
            }
        }
        Ok(())
    }

    fn judge(&self, mutant: &Mutant) -> Result<Finding, String> {
        self.restore()?;
        apply(&self.tree, &mutant.patch, false).map_err(|e| format!("{}: {e}", mutant.name))?;
        let finding = match &mutant.command {
            None => self.run_seeds(&mutant.name, mutant.place),
            Some(command) => self.run_command(&mutant.name, command).map(|passed| match passed {
                true => Finding::Survived,
                false => Finding::Caught { by: command.clone(), seeds: None },
            }),
        };
        self.restore()?;
        finding
    }

    fn run_seeds(&self, name: &str, place: Place) -> Result<Finding, String> {
        let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        self.prepare(&mut build);
        build.args(["build", "--quiet", "--release", "-p", "ringseed-sim", "--bin", "ringseed-sim"]);
        // Each is built once and run for seconds: what the linker could optimise takes longer than it saves.
        build.envs([("CARGO_PROFILE_RELEASE_LTO", "off"), ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")]);
        let (built, text) = self.execute(build, &format!("{name}.build"), BUILD_MAX)?;
        if built != Some(0) {
            return Err(format!("{name} does not build:\n{text}"));
        }
        let mut command = Command::new(self.build.join("release/ringseed-sim"));
        command.current_dir(&self.tree).args(["--seeds", &format!("0..{}", self.arguments.seeds), "--stop-at-failure"]);
        command.args(["--jobs", &self.arguments.jobs.to_string()]);
        let (code, text) = self.execute(command, name, RUN_MAX)?;
        match code {
            Some(0) => Ok(Finding::Survived),
            // That something never happened catches a bug of the simulator. Of the core that is no promise broken.
            Some(code) if code == i32::from(FAULT_NEVER_FIRED) && place == Place::Core => Ok(Finding::Survived),
            Some(code) => {
                let (by, seeds) = failure(&text).unwrap_or_else(|| (format!("exit code {code}"), None));
                Ok(Finding::Caught { by, seeds })
            }
            None => Ok(Finding::Caught { by: format!("no end within {} s", RUN_MAX.as_secs()), seeds: None }),
        }
    }

    /// Whether the command passed.
    fn run_command(&self, name: &str, command: &str) -> Result<bool, String> {
        // Built first: how long that takes says nothing of the bug.
        let mut build = Command::new("sh");
        build.args(["-c", &command.replacen("cargo test", "cargo test --no-run", 1)]);
        self.prepare(&mut build);
        let (built, text) = self.execute(build, &format!("{name}.build"), BUILD_MAX)?;
        if built != Some(0) {
            return Err(format!("{name} does not build:\n{text}"));
        }
        let mut shell = Command::new("sh");
        shell.args(["-c", command]);
        self.prepare(&mut shell);
        let (code, _) = self.execute(shell, name, RUN_MAX)?;
        Ok(code == Some(0))
    }

    fn prepare(&self, command: &mut Command) {
        command.current_dir(&self.tree).env("CARGO_TARGET_DIR", &self.build);
        // What is built once per bug should be built fast.
        command.env("CARGO_INCREMENTAL", "1").env("CARGO_PROFILE_RELEASE_DEBUG", "0").env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "2");
    }

    /// Runs a program with its output in a file. Its exit code (`None`: it was ended for taking too long, or by a signal) and the
    /// output.
    fn execute(&self, mut command: Command, name: &str, time_max: Duration) -> Result<(Option<i32>, String), String> {
        let path = self.log.join(format!("{name}.txt"));
        let file = File::create(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let errors = file.try_clone().map_err(|e| e.to_string())?;
        let mut child =
            command.stdin(Stdio::null()).stdout(file).stderr(errors).spawn().map_err(|e| format!("{command:?}: {e}"))?;
        let begun = Instant::now();
        let code = loop {
            if let Some(status) = child.try_wait().map_err(|e| e.to_string())? {
                break status.code();
            }
            if begun.elapsed() > time_max {
                child.kill().map_err(|e| e.to_string())?;
                child.wait().map_err(|e| e.to_string())?;
                break None;
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let text = fs::read(&path).map_err(|e| e.to_string())?;
        Ok((code, String::from_utf8_lossy(&text).into_owned()))
    }
}

/// Cargo's settings for all below their folder. A test of one bug runs for a second and is built for a minute, if its crate is
/// optimised: 28 s a bug instead of 70.
const TESTS_BUILT_FAST: &str = "\
[profile.dev.package.ringseed]
opt-level = 0
debug = false
[profile.dev.package.ringseed-sim]
opt-level = 0
debug = false
";

/// The longest that a build, and the seeds of one bug, may take.
const BUILD_MAX: Duration = Duration::from_secs(1_800);
const RUN_MAX: Duration = Duration::from_secs(600);

/// The line with which `--stop-at-failure` says what failed first; see the command line.
const FAILURE: &str = "first failure: ";

/// What failed, and after how many seeds, from the output of a run: `first failure: seed 17, after 18 seeds: P1 by linear`.
fn failure(output: &str) -> Option<(String, Option<u64>)> {
    let line = output.lines().find_map(|line| line.strip_prefix(FAILURE))?;
    let (counts, what) = line.split_once(": ")?;
    let seeds = counts.split_once("after ").and_then(|(_, rest)| rest.split(' ').next()).and_then(|seeds| seeds.parse().ok());
    Some((what.to_owned(), seeds))
}

fn read(path: &Path) -> Result<Mutant, String> {
    let text = fs::read_to_string(path).map_err(|e| e.to_string())?;
    let field = |name: &str| {
        let mark = format!("# {name}: ");
        text.lines()
            .take_while(|line| line.starts_with('#'))
            .find_map(|line| line.strip_prefix(&mark).map(|rest| rest.trim().to_owned()))
    };
    let required = |name: &str| field(name).ok_or_else(|| format!("it does not say \"# {name}: \""));
    let place = match required("where")?.as_str() {
        "core" => Place::Core,
        "simulator" => Place::Simulator,
        other => return Err(format!("\"{other}\" is neither core nor simulator")),
    };
    let touched = text.lines().filter_map(|line| line.strip_prefix("+++ b/"));
    let folder = if place == Place::Core { "src/" } else { "sim/src/" };
    if let Some(other) = touched.clone().find(|file| !file.starts_with(folder)) {
        return Err(format!("it touches {other}, which is not under {folder}"));
    }
    if touched.count() == 0 {
        return Err("it changes nothing".into());
    }
    let promise = required("promise")?;
    if !matches!(promise.as_bytes(), [b'P', b'1'..=b'8']) {
        return Err(format!("\"{promise}\" is not a promise"));
    }
    let name = path.file_stem().and_then(|stem| stem.to_str()).ok_or("its name is not UTF-8")?.to_owned();
    Ok(Mutant { name, patch: path.to_owned(), breaks: required("breaks")?, promise, place, command: field("command") })
}

/// Applies a patch in `tree`, or only checks that it would apply.
fn apply(tree: &Path, patch: &Path, only_check: bool) -> Result<(), String> {
    let mut command = Command::new("git");
    // The copy lies inside a repository that ignores it; git must not look for that one.
    command.current_dir(tree).env("GIT_CEILING_DIRECTORIES", tree.parent().unwrap_or(tree)).args(["apply", "-C1"]);
    if only_check {
        command.arg("--check");
    }
    let output = command.arg(patch).output().map_err(|e| format!("git: {e}"))?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()) }
}

/// The files under `base`/`path`, by their paths from `base`.
fn list(base: &Path, path: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    if !base.join(path).is_dir() {
        if base.join(path).exists() {
            files.push(path.to_owned());
        }
        return Ok(());
    }
    for entry in fs::read_dir(base.join(path))? {
        list(base, &path.join(entry?.file_name()), files)?;
    }
    Ok(())
}

/// The repository's root.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("the simulator's crate lies in the repository").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failure_is_read() {
        let text = "seeds\nfirst failure: seed 17, after 18 seeds: P1 by linear\nmore";
        assert_eq!(failure(text), Some(("P1 by linear".into(), Some(18))));
        assert_eq!(failure("nothing"), None);
    }
}
