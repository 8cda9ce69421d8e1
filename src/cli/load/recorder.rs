//! Writes a load's history while the load goes on.

use super::super::exit::Failure;
use crate::history::{self, Record};
use std::fs::File;
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use tokio::sync::mpsc;

/// Writes a history on a thread of its own, while the load goes on.
#[derive(Debug)]
pub struct Recorder {
    pub records: mpsc::Sender<Record>,
    writer: JoinHandle<io::Result<()>>,
    path: PathBuf,
}

/// Records that wait to be written. At the limit: the clients wait.
const RECORDS_WAITING_MAX: usize = 64 * 1024;

impl Recorder {
    pub fn start(path: &Path) -> Result<Recorder, Failure> {
        let file =
            File::create(path).map_err(|e| Failure::Other(format!("cannot write the history to {}: {e}", path.display())))?;
        let (records, mut waiting) = mpsc::channel(RECORDS_WAITING_MAX);
        let write = move || {
            let mut writer = history::Writer::new(BufWriter::with_capacity(1 << 20, file));
            while let Some(record) = waiting.blocking_recv() {
                writer.write(&record)?;
            }
            writer.finish().map(drop)
        };
        Ok(Recorder { records, writer: std::thread::spawn(write), path: path.to_path_buf() })
    }

    /// Waits until all is written. No other sender may be left.
    pub fn finish(self) -> Result<(), Failure> {
        drop(self.records);
        let written = self.writer.join().map_err(|_| Failure::Other("the history's writer failed".into()))?;
        written.map_err(|e| Failure::Other(format!("cannot write the history to {}: {e}", self.path.display())))
    }
}
