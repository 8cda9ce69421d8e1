//! Keys and values as they are given on a command line.
//!
//! A key is text in the form in which keys are printed ([`crate::base::key`]). A value may be text, `-` (all of standard input)
//! or `@FILE` (all of a file); `--literal` takes it as it stands.

use super::exit::Failure;
use crate::base::Key;
use crate::base::limits::VALUE_SIZE_MAX;
use crate::client::Error;
use crate::msg::operation::validate_value;
use bytes::Bytes;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The key that an argument stands for.
///
/// # Errors
/// A backslash that begins no escape.
pub fn key(argument: &OsStr) -> Result<Key, Failure> {
    Key::read(argument.as_bytes()).map_err(Failure::Other)
}

/// The bytes of an argument as it stands.
pub fn literal(argument: &OsStr) -> Bytes {
    Bytes::copy_from_slice(argument.as_bytes())
}

/// Reads what a value argument names.
///
/// # Errors
/// A file that cannot be read; a value above the limit is rejected here, before all of it is in memory.
pub fn read(argument: &OsStr, as_it_stands: bool) -> Result<Bytes, Failure> {
    match argument.as_bytes() {
        _ if as_it_stands => Ok(literal(argument)),
        b"-" => limited(io::stdin().lock(), "standard input"),
        [b'@', path @ ..] => {
            let path = Path::new(OsStr::from_bytes(path));
            let file =
                File::open(path).map_err(|e| Failure::Other(format!("cannot read the value from {}: {e}", path.display())))?;
            limited(file, &path.display().to_string())
        }
        _ => Ok(literal(argument)),
    }
}

fn limited(from: impl Read, name: &str) -> Result<Bytes, Failure> {
    let mut bytes = Vec::new();
    let most = VALUE_SIZE_MAX as u64 + 1;
    let read = from.take(most).read_to_end(&mut bytes);
    read.map_err(|e| Failure::Other(format!("cannot read the value from {name}: {e}")))?;
    validate_value(&bytes).map_err(Error::Rejected)?;
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_files_and_literals() {
        let path = std::env::temp_dir().join(format!("ringseed-value-{}", std::process::id()));
        std::fs::write(&path, b"\x00from a file\n").unwrap();
        let named = format!("@{}", path.display());
        assert_eq!(read(OsStr::new(&named), false).unwrap().as_ref(), b"\x00from a file\n");
        assert_eq!(read(OsStr::new("@x"), true).unwrap().as_ref(), b"@x");
        assert_eq!(read(OsStr::new("text"), false).unwrap().as_ref(), b"text");
        std::fs::remove_file(&path).unwrap();
        let missing = read(OsStr::new(&named), false).unwrap_err();
        assert!(missing.to_string().contains(&path.display().to_string()), "{missing}");
    }

    #[test]
    fn a_value_above_the_limit_is_not_read_whole() {
        assert_eq!(limited(io::repeat(0), "x").unwrap_err().code(), super::super::exit::REJECTED);
        assert_eq!(limited(io::repeat(0).take(VALUE_SIZE_MAX as u64), "x").unwrap().len(), VALUE_SIZE_MAX);
    }
}
