//! A folder of one test over the built binary.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Removed at the test's end; also the user's home as the binary sees it.
pub struct Home(PathBuf);

impl Home {
    pub fn new(name: &str) -> Home {
        let path = std::env::temp_dir().join(format!("ringseed-test-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Home(path)
    }

    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.join(name)
    }

    /// The binary with this home and no other setting from outside.
    pub fn ringseed(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringseed"));
        std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("RINGSEED_")).for_each(|(name, _)| {
            command.env_remove(name);
        });
        command.args(arguments).env("XDG_DATA_HOME", &self.0).current_dir(&self.0).stdin(Stdio::null());
        command
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
