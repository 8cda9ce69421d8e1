//! The files of nodes that do not run, damaged as disks and operators damage them.

use std::fs::{self, OpenOptions};
use std::net::TcpListener;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Addresses that were free a moment ago, all different.
pub fn free_addresses(count: usize) -> Vec<String> {
    let listeners: Vec<TcpListener> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    listeners.iter().map(|listener| listener.local_addr().unwrap().to_string()).collect()
}

pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// The newest file of the log with anything in it, and where that ends.
pub fn end_of_log(directory: &Path) -> (PathBuf, usize) {
    let files = fs::read_dir(directory.join("log")).unwrap().map(|entry| entry.unwrap().path());
    let end = |path: &Path| Some(fs::read(path).unwrap().iter().rposition(|byte| *byte != 0)? + 1);
    let mut written: Vec<(PathBuf, usize)> = files.filter_map(|path| Some((path.clone(), end(&path)?))).collect();
    written.sort();
    written.pop().unwrap()
}

pub fn zero(path: &Path, from: usize, until: usize) {
    write_at(path, &vec![0; until - from], from);
}

/// In place: a server may have the file open.
pub fn write_at(path: &Path, bytes: &[u8], at: usize) {
    OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, at as u64).unwrap();
}
