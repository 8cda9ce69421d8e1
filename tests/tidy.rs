//! What the compiler does not hold: who may import whom, names that the core must not know, and what may be in the repository.
//!
//! Reads source text with comments and literals blanked, so it needs no parser. A rule that gets in the way is changed here, with
//! its reason, or not at all.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The modules of the core, and what each may import beside itself. Imports run one way; siblings do not import each other: what
/// they share is a message, or a view in `actor`.
const IMPORTS: &[(&str, &[&str])] = &[
    ("base", &[]),
    ("msg", &["base"]),
    ("history", &["base", "msg"]),
    ("state", &["base", "msg"]),
    ("actor", &["base", "msg", "state"]),
    ("wal", SHARED),
    ("liveness", SHARED),
    ("ring", SHARED),
    ("replica", SHARED),
    ("store", SHARED),
    ("txn", SHARED),
    ("gateway", SHARED),
    ("node", &["base", "msg", "state", "actor", "wal", "liveness", "ring", "replica", "store", "txn", "gateway"]),
];
const SHARED: &[&str] = &["base", "msg", "state", "actor"];

/// Exceptions to [`IMPORTS`]: who, whom, and why.
const EXCEPTIONS: &[(&str, &str, &str)] = &[];

/// The modules around the core. They see the node and what it is told, never an actor of it.
const OUTSIDE: &[(&str, &[&str])] = &[
    // `wal` and `ring` for what is pure there: recovery before the node lives, and the placement of a key.
    ("wire", &["base", "msg"]),
    ("server", &["base", "msg", "node", "wal", "ring", "wire"]),
    ("client", &["base", "msg", "ring", "wire"]),
    ("cli", &["base", "msg", "history", "node", "wal", "ring", "server", "client"]),
];

/// Modules of one folder that import each other all the same: the folder, the modules, and why.
const CIRCLES: &[(&str, &[&str], &str)] = &[(
    "sim/src",
    &["faults", "plan", "world"],
    "one file draws a kind of fault into a plan and does it to a world, and both hold faults",
)];

/// Licences under which something may be depended on; one of the alternatives is enough. `.deny.toml` has the same list.
const LICENCES: &[&str] = &["MIT", "Apache-2.0", "BSL-1.0", "BlueOak-1.0.0", "Unicode-3.0"];

/// Crates that are built in two versions, and why.
const TWICE: &[(&str, &str)] = &[("syn", "derives are compiled with the one or the other; neither is in the program")];

/// Words that the core must not use, and why.
const BANNED: &[(&str, &str)] = &[
    ("Instant", "time comes in with the event"),
    ("SystemTime", "time comes in with the event"),
    ("HashMap", "its order differs between runs"),
    ("HashSet", "its order differs between runs"),
    ("RandomState", "its order differs between runs"),
    ("thread_rng", "randomness is seeded"),
    ("OsRng", "randomness is seeded"),
    ("ThreadRng", "randomness is seeded"),
    ("tokio", "the core does no I/O"),
    ("println", "the core does no I/O"),
    ("eprintln", "the core does no I/O"),
    ("dbg", "the core does no I/O"),
    ("Mutex", "one node is one thread"),
    ("Condvar", "one node is one thread"),
    ("thread_local", "an actor's state is its own"),
    ("unsafe", "no"),
];

/// Where the core may use such a word all the same, and why.
const ALLOWED: &[(&str, &str, &str)] =
    &[("src/base/sometimes.rs", "thread_local", "counts what was reached, for the simulator alone, and nothing rests on them")];

/// Modules of `std` that the core must not use.
const BANNED_STD: &[&str] = &["fs", "net", "thread", "process", "env", "os"];

/// What may stand at the top of the repository, beside dot files.
const TOP_LEVEL: &[&str] = &[
    "Cargo.toml",
    "Cargo.lock",
    "README.md",
    "SEEDS.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "src",
    "sim",
    "tests",
    "fuzz",
];

/// Lines of a file without its tests. About 800 is the aim.
const LINES_MAX: usize = 900;

#[test]
fn imports_run_one_way() {
    let mut wrong = Vec::new();
    for (module, allowed) in IMPORTS.iter().chain(OUTSIDE) {
        for file in module_files(module) {
            let code = code_of(&file);
            for imported in imports(&code, &file) {
                let excepted = EXCEPTIONS.iter().any(|(who, whom, _)| who == module && *whom == imported);
                if imported != *module && !allowed.contains(&imported) && !excepted {
                    wrong.push(format!("{}: `{module}` imports `{imported}`", show(&file)));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "imports against the rule:\n{}", wrong.join("\n"));
}

#[test]
fn siblings_do_not_import_each_other_in_a_circle() {
    let mut wrong = Vec::new();
    for folder in ["src", "sim/src"].iter().flat_map(|top| folders(&root().join(top))) {
        let name = show(&folder);
        let all = siblings(&folder);
        let mut mended = all.clone();
        for (_, modules, _) in CIRCLES.iter().filter(|(at, ..)| *at == name) {
            assert!(circle(&all).is_some(), "{name}: nothing is left of the circle of {modules:?}; take the exception out");
            for module in *modules {
                mended.get_mut(*module).expect("an exception names modules").retain(|other| !modules.contains(&other.as_str()));
            }
        }
        wrong.extend(circle(&mended).map(|circle| format!("{name}: {}", circle.join(" -> "))));
    }
    let advice = "Move what they share down into one of them, or into a third module";
    assert!(wrong.is_empty(), "modules import each other in a circle. {advice}.\n{}", wrong.join("\n"));
}

#[test]
fn the_simulator_and_the_server_never_meet() {
    let outside: Vec<&str> = OUTSIDE.iter().map(|(module, _)| *module).collect();
    for file in rust_files(&root().join("sim/src")) {
        for imported in first_segments(&code_of(&file), "ringseed") {
            assert!(!outside.contains(&imported.as_str()), "{}: the simulator imports `{imported}`", show(&file));
        }
    }
    for file in rust_files(&root().join("src")) {
        assert!(words(&code_of(&file)).all(|word| word != "ringseed_sim"), "{}: the library imports the simulator", show(&file));
    }
}

#[test]
fn the_core_touches_nothing_outside() {
    let mut wrong = Vec::new();
    for file in IMPORTS.iter().flat_map(|(module, _)| module_files(module)) {
        let code = without_tests(&code_of(&file)).to_owned();
        for (word, why) in BANNED {
            let allowed = ALLOWED.iter().any(|(path, allowed, _)| *path == show(&file) && allowed == word);
            if !allowed && words(&code).any(|found| found == *word) {
                wrong.push(format!("{}: `{word}`: {why}", show(&file)));
            }
        }
        for segment in first_segments(&code, "std") {
            if BANNED_STD.contains(&segment.as_str()) {
                wrong.push(format!("{}: `std::{segment}`", show(&file)));
            }
        }
        if first_segments(&code, "rand").iter().any(|segment| segment == "rng" || segment == "random") {
            wrong.push(format!("{}: randomness is seeded", show(&file)));
        }
    }
    assert!(wrong.is_empty(), "names the core must not use:\n{}", wrong.join("\n"));
}

#[test]
fn the_simulator_is_deterministic_by_its_names() {
    for file in rust_files(&root().join("sim/src")) {
        let code = code_of(&file);
        for banned in ["HashMap", "HashSet", "RandomState", "thread_rng", "ThreadRng", "OsRng"] {
            assert!(words(&code).all(|word| word != banned), "{}: `{banned}` differs between runs", show(&file));
        }
    }
}

#[test]
fn nothing_is_left_undone() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    for file in ["src", "sim/src", "tests"].iter().flat_map(|folder| rust_files(&root().join(folder))) {
        let code = code_of(&file);
        assert!(words(&code).all(|word| !matches!(word, "todo" | "unimplemented")), "{}: left undone", show(&file));
        // One that takes minutes, if its users are told how to run it.
        let name = file.file_stem().unwrap_or_default().to_string_lossy();
        let is_told = readme.contains(&format!("cargo test --release --test {name} -- --ignored"));
        assert!(!code.contains("#[ignore") || is_told, "{}: an ignored test", show(&file));
        let lines = without_tests(&code).lines().count();
        assert!(lines <= LINES_MAX, "{}: {lines} lines; a file is one idea", show(&file));
    }
}

#[test]
fn the_top_level_is_fixed() {
    let allowed: BTreeSet<&str> = TOP_LEVEL.iter().copied().collect();
    for file in tracked() {
        let top = file
            .components()
            .next()
            .and_then(|part| part.as_os_str().to_str().map(str::to_owned))
            .expect("a tracked file has a name");
        assert!(top.starts_with('.') || allowed.contains(top.as_str()), "{top}: not among the entries of the top level");
    }
}

#[test]
fn no_path_of_one_machine_is_tracked() {
    // Put together here, so that this file passes.
    let machines = [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/")];
    for file in tracked() {
        let Ok(text) = std::fs::read_to_string(root().join(&file)) else { continue };
        for machine in machines {
            assert!(!text.contains(machine), "{}: names {machine}, a path of one machine", file.display());
        }
    }
}

#[test]
fn what_the_design_names_is_there() {
    let read = |path: &str| std::fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    let design = read("src/DESIGN.md").split_whitespace().collect::<Vec<&str>>().join(" ");
    let files: Vec<PathBuf> = ["src", "sim/src", "tests"].iter().flat_map(|folder| rust_files(&root().join(folder))).collect();
    let code: String = files.iter().map(|file| std::fs::read_to_string(file).expect("a source is text")).collect();
    let mut wrong = Vec::new();
    for name in design.split('`').skip(1).step_by(2) {
        let is_name = |mark: char| name.contains(mark) && name.chars().all(|c| c.is_ascii_lowercase() || c == mark);
        let exists = if name.contains('/') && !name.contains(' ') {
            root().join(name).exists()
        } else if is_name('-') {
            root().join(format!("sim/mutants/{name}.patch")).exists()
        } else {
            !is_name('_') || code.contains(&format!("fn {name}("))
        };
        wrong.extend((!exists).then_some(name));
    }
    let scenarios = design.split("cenario \"").skip(1).filter_map(|rest| rest.split('"').next());
    wrong.extend(scenarios.filter(|name| !code.contains(&format!("name: \"{name}\""))));
    assert!(wrong.is_empty(), "src/DESIGN.md names what is not there:\n{}", wrong.join("\n"));
    let scripts = std::fs::read_dir(root().join("tests/scripts")).expect("the scripts' folder is there");
    for script in scripts.map(|entry| entry.expect("a readable folder").path()) {
        let name = show(&script);
        assert!(!name.ends_with(".txt") || design.contains(&name), "{name}: src/DESIGN.md does not say which hazard it plays");
    }
}

#[test]
fn dependencies_are_licensed_single_and_from_the_registry() {
    let mut wrong = Vec::new();
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let text = |package: &serde_json::Value, field: &str| package[field].as_str().unwrap_or_default().to_owned();
    for package in dependencies() {
        let (name, licence, source) = (text(&package, "name"), text(&package, "license"), text(&package, "source"));
        if !is_allowed(&licence) {
            wrong.push(format!("{name}: licence {licence:?}"));
        }
        if !source.is_empty() && source != "registry+https://github.com/rust-lang/crates.io-index" {
            wrong.push(format!("{name}: comes from {source}"));
        }
        versions.entry(name).or_default().insert(text(&package, "version"));
    }
    assert!(versions.len() > 50, "only {} crates are known", versions.len());
    for (name, versions) in versions.iter().filter(|(_, versions)| versions.len() > 1) {
        if !TWICE.iter().any(|(twice, _)| twice == name) {
            wrong.push(format!("{name}: built in versions {versions:?}"));
        }
    }
    for (twice, _) in TWICE {
        assert!(versions.get(*twice).is_some_and(|all| all.len() > 1), "{twice} is built in one version; take the exception out");
    }
    let deny = std::fs::read_to_string(root().join(".deny.toml")).expect("it is tracked");
    let quoted: Vec<String> = LICENCES.iter().map(|licence| format!("{licence:?}")).collect();
    assert!(deny.contains(&format!("allow = [{}]", quoted.join(", "))), ".deny.toml allows other licences");
    assert!(wrong.is_empty(), "dependencies against the rule (see also .deny.toml):\n{}", wrong.join("\n"));
}

#[test]
fn the_rules_themselves_bite() {
    let code = blank(
        "use crate::{base::Time, wal}; // crate::node\nlet a = \"crate::store\"; let c = '\"'; crate::ring::x(); 'a: loop {}",
    );
    assert_eq!(first_segments(&code, "crate"), ["base", "wal", "ring"]);
    assert_eq!(imports("use super::super::gateway::X;", Path::new("src/node/a.rs")), ["gateway"]);
    assert_eq!(imports("use super::gateway::X;", Path::new("src/node/mod.rs")), ["gateway"]);
    assert!(imports("use super::gateway::X;", Path::new("src/node/a.rs")).is_empty());
    assert_eq!(first_segments("use std::{collections::BTreeMap, fs::{self, File}};", "std"), ["collections", "fs"]);
    assert_eq!(first_segments("a(my_std::fs::x)", "std"), Vec::<String>::new());
    assert!(is_allowed("GPL-3.0 OR MIT") && is_allowed("MIT/Unlicense") && is_allowed("(MIT OR GPL-3.0) AND Unicode-3.0"));
    assert!(!is_allowed("GPL-3.0") && !is_allowed("MIT AND GPL-3.0") && !is_allowed(""));
    let imports = |all: &[(&str, &[&str])]| {
        let own = |others: &[&str]| others.iter().map(|other| (*other).to_owned()).collect();
        all.iter().map(|(module, others)| ((*module).to_owned(), own(others))).collect::<BTreeMap<String, BTreeSet<String>>>()
    };
    assert_eq!(circle(&imports(&[("a", &["b"]), ("b", &["c"]), ("c", &[])])), None);
    let found = circle(&imports(&[("a", &["b"]), ("b", &["c", "d"]), ("c", &["b"]), ("d", &[])])).expect("b and c");
    assert_eq!(found, ["b", "c", "b"]);
    assert!(words(&blank("/* HashMap */ r#\"HashMap\"# b'\\'' x")).all(|word| word != "HashMap"));
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn show(file: &Path) -> String {
    file.strip_prefix(root()).unwrap_or(file).display().to_string()
}

/// The files of a module of the library: its file, or all in its folder, but not those that are tests throughout, which may use
/// what they like. None when it is not there yet.
fn module_files(module: &str) -> Vec<PathBuf> {
    let folder = root().join("src").join(module);
    let file = folder.with_extension("rs");
    let mut files = rust_files(&folder);
    files.extend(file.exists().then_some(file));
    files.retain(|file| !file.file_stem().is_some_and(|stem| stem == "tests" || stem.to_string_lossy().starts_with("test_")));
    files
}

/// The folder, and all folders in it.
fn folders(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a readable folder").map(|entry| entry.expect("a readable folder").path());
    let inner = entries.filter(|path| path.is_dir()).flat_map(|path| folders(&path));
    [folder.to_owned()].into_iter().chain(inner).collect()
}

/// The modules of a folder, each with the others that it imports, tests left out.
fn siblings(folder: &Path) -> BTreeMap<String, BTreeSet<String>> {
    let mut files: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for file in rust_files(folder) {
        let inner = file.strip_prefix(folder).expect("a file of the folder");
        let is_test = |part: &str| part == "tests" || part.starts_with("test_");
        let parts: Vec<String> = inner.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
        let is_root = parts.len() == 1 && matches!(parts[0].as_str(), "mod" | "lib" | "main");
        if !is_root && !parts.iter().any(|part| is_test(part)) {
            files.entry(parts[0].clone()).or_default().push(file);
        }
    }
    let source = folder.ancestors().find(|path| path.ends_with("src")).expect("a folder of sources");
    let path = folder.strip_prefix(source).expect("its ancestor");
    let absolute: String = path.iter().fold("crate".into(), |path, part| format!("{path}::{}", part.to_string_lossy()));
    let mut imports: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (module, own) in &files {
        let found = imports.entry(module.clone()).or_default();
        for file in own {
            let depth = file.strip_prefix(folder).expect("a file of the folder").iter().count();
            let ups = depth - usize::from(file.ends_with("mod.rs"));
            let code = code_of(file);
            for prefix in [&absolute, &vec!["super"; ups].join("::")] {
                found.extend(first_segments(without_tests(&code), prefix));
            }
        }
        found.retain(|other| other != module && files.contains_key(other));
    }
    imports
}

/// Modules that import one another in turn, the first once more at the end; `None` when there is no circle.
fn circle(imports: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
    let mut left = imports.clone();
    // What imports nothing that is left is in no circle.
    while let Some(free) = left.iter().find(|(_, others)| others.is_empty()).map(|(module, _)| module.clone()) {
        left.remove(&free);
        left.values_mut().for_each(|others| _ = others.remove(&free));
    }
    let mut way = vec![left.keys().next()?.clone()];
    loop {
        let next = left[way.last().expect("it has a beginning")].first().expect("only such are left").clone();
        if let Some(at) = way.iter().position(|module| *module == next) {
            way.push(next);
            return Some(way.split_off(at));
        }
        way.push(next);
    }
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("a readable folder").path()).collect();
    paths.sort();
    let nested = |path: PathBuf| if path.is_dir() { rust_files(&path) } else { vec![path] };
    paths.into_iter().flat_map(nested).filter(|path| path.extension().is_some_and(|end| end == "rs")).collect()
}

/// All crates that are built here on Linux, tests included, as `cargo metadata` describes them.
fn dependencies() -> Vec<serde_json::Value> {
    let arguments = ["metadata", "--format-version", "1", "--locked", "--filter-platform", "x86_64-unknown-linux-gnu"];
    let output = Command::new(env!("CARGO")).current_dir(root()).args(arguments).output().expect("cargo runs");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let mut metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("cargo writes JSON");
    serde_json::from_value(metadata["packages"].take()).expect("a list")
}

/// Whether the licence's expression allows the use under [`LICENCES`].
fn is_allowed(expression: &str) -> bool {
    let alternatives = |part: &str| {
        let names = part.trim_matches(['(', ')']).replace('/', " OR ");
        names.split(" OR ").any(|name| LICENCES.contains(&name.trim()))
    };
    expression.split(" AND ").all(alternatives)
}

/// What git tracks; where there is no git, all files but built ones.
fn tracked() -> Vec<PathBuf> {
    let listed = Command::new("git").arg("-C").arg(root()).args(["ls-files", "-z", "--cached"]).output();
    if let Ok(output) = listed
        && output.status.success()
        && !output.stdout.is_empty()
    {
        let names = String::from_utf8(output.stdout).expect("tracked names are UTF-8");
        return names.split('\0').filter(|name| !name.is_empty()).map(PathBuf::from).collect();
    }
    let entries = std::fs::read_dir(root()).expect("the root is readable");
    let names = entries.map(|entry| PathBuf::from(entry.expect("a readable folder").file_name()));
    names.filter(|name| !name.starts_with("target") && !name.to_string_lossy().starts_with('.')).collect()
}

fn code_of(file: &Path) -> String {
    blank(&std::fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display())))
}

/// What stands before the unit tests.
fn without_tests(code: &str) -> &str {
    code.find("#[cfg(test)]\nmod ").map_or(code, |at| &code[..at])
}

/// The text with comments and the insides of literals blanked. Line breaks stay.
fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = literal_end(bytes, at);
        match end {
            Some(end) => {
                out[at..end].iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
                at = end;
            }
            None => at += 1,
        }
    }
    String::from_utf8(out).expect("only whole literals were blanked")
}

/// Where the comment or literal that begins at `at` ends; `None` when none begins there.
fn literal_end(bytes: &[u8], at: usize) -> Option<usize> {
    let rest = &bytes[at..];
    let until = |mark: &[u8], from: usize| {
        rest[from..]
            .windows(mark.len())
            .position(|window| window == mark)
            .map_or(bytes.len(), |found| at + from + found + mark.len())
    };
    if rest.starts_with(b"//") {
        return Some(at + rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len()));
    }
    if rest.starts_with(b"/*") {
        return Some(until(b"*/", 2));
    }
    let in_word = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    if rest[0] == b'r' && !in_word {
        let hashes = rest[1..].iter().take_while(|byte| **byte == b'#').count();
        if rest.get(1 + hashes) == Some(&b'"') {
            let mark = [&b"\""[..], &vec![b'#'; hashes]].concat();
            return Some(until(&mark, 2 + hashes));
        }
    }
    if rest[0] == b'"' {
        return Some(at + quoted(rest, b'"'));
    }
    // A quote that opens a character, not a lifetime.
    let is_char = rest[0] == b'\''
        && (rest.get(1) == Some(&b'\\')
            || rest.iter().skip(2).take(4).position(|byte| *byte == b'\'').is_some_and(|n| n == 0 || !rest[1].is_ascii()));
    is_char.then(|| at + quoted(rest, b'\''))
}

fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// The modules of this crate that a file's paths lead to.
fn imports(code: &str, file: &Path) -> Vec<&'static str> {
    let modules = || IMPORTS.iter().chain(OUTSIDE).map(|(module, _)| *module);
    let mut found = first_segments(code, "crate");
    found.extend(first_segments(code, "super::super"));
    if file.ends_with("mod.rs") {
        found.extend(first_segments(code, "super"));
    }
    found.iter().filter_map(|segment| modules().find(|module| module == segment)).collect()
}

/// The first segment behind `prefix::`, for each path that begins with it, braces included.
fn first_segments(code: &str, prefix: &str) -> Vec<String> {
    let mark = format!("{prefix}::");
    let mut found = Vec::new();
    for (at, _) in code.match_indices(&mark) {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
            continue;
        }
        let rest = &code[at + mark.len()..];
        if !rest.starts_with('{') {
            found.extend(words(rest).next().map(str::to_owned));
            continue;
        }
        let (mut depth, mut fresh) = (0, true);
        for (place, c) in rest.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 1 => fresh = true,
                c if fresh && depth == 1 && (c.is_alphabetic() || c == '_') => {
                    found.extend(words(&rest[place..]).next().map(str::to_owned));
                    fresh = false;
                }
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }
    found
}
