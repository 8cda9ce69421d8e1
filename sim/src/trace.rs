//! What happened, for machines (a hash over every event: promise P7) and for people (the full text on demand; a short timeline
//! always).

use crate::WorldTime;
use xxhash_rust::xxh3::Xxh3;

/// A hash over every event of a run, in order, and their text if it was asked for.
pub struct Trace {
    hash: Xxh3,
    events: u64,
    text: Option<String>,
}

impl std::fmt::Debug for Trace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Trace({} events, {:016x})", self.events, self.hash())
    }
}

impl Trace {
    pub fn new(with_text: bool) -> Trace {
        Trace { hash: Xxh3::new(), events: 0, text: with_text.then(String::new) }
    }

    /// One event: what kind (a number of its own), at which node or client, and the bytes that tell it from others.
    pub fn event(&mut self, at: WorldTime, kind: u8, place: usize, bytes: &[u8], text: impl FnOnce() -> String) {
        let mut head = [0_u8; 16];
        head[..8].copy_from_slice(&at.to_le_bytes());
        head[8] = kind;
        head[9..13].copy_from_slice(&(place as u32).to_le_bytes());
        self.hash.update(&head);
        self.hash.update(bytes);
        self.events += 1;
        if let Some(lines) = &mut self.text {
            lines.push_str(&format!("{} {}\n", clock_face(at), text()));
        }
    }

    pub fn hash(&self) -> u64 {
        self.hash.digest()
    }

    pub fn events(&self) -> u64 {
        self.events
    }

    pub fn take_text(&mut self) -> Option<String> {
        self.text.take()
    }
}

/// The few lines of a run that a reader wants first.
#[derive(Debug, Default)]
pub struct Timeline {
    lines: Vec<String>,
}

/// Lines beyond this are not kept.
const LINES_MAX: usize = 1_000;

impl Timeline {
    pub fn note(&mut self, at: WorldTime, what: impl FnOnce() -> String) {
        if self.lines.len() < LINES_MAX {
            self.lines.push(format!("{} {}", clock_face(at), what()));
        }
    }

    pub fn take(&mut self) -> Vec<String> {
        std::mem::take(&mut self.lines)
    }
}

/// Seconds with microseconds, right-aligned.
pub fn clock_face(at: WorldTime) -> String {
    format!("{:>4}.{:06}", at / 1_000_000_000, at / 1_000 % 1_000_000)
}

#[cfg(test)]
mod tests {
    use crate::run_seed;
    use std::path::Path;

    const HEAD: &str = "\
# What the first seeds do: the seed, a hash over every event, how many events, how many operations were asked.
# A change that should change no behaviour leaves this as it is. After one that should:
#     RINGSEED_REWRITE=1 cargo test -p ringseed-sim --lib pinned
";

    #[test]
    fn what_the_first_seeds_do_is_as_pinned() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("traces.txt");
        let mut now = HEAD.to_owned();
        for seed in 0..8 {
            let run = run_seed(seed);
            now += &format!("{seed} {:016x} {} {}\n", run.trace_hash, run.events, run.operations.len());
        }
        if std::env::var_os("RINGSEED_REWRITE").is_some() {
            std::fs::write(&path, now).expect("sim/traces.txt can be written");
            return;
        }
        let pinned = std::fs::read_to_string(&path).expect("sim/traces.txt is there");
        assert!(
            now == pinned,
            "The first seeds do something else than before. If no behaviour should have changed, something did change it. If it \
             should, renew sim/traces.txt and say in the commit what changed:\n    \
             RINGSEED_REWRITE=1 cargo test -p ringseed-sim --lib pinned\npinned:\n{pinned}\nnow:\n{now}"
        );
    }
}
