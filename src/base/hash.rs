//! The one hash: XXH3, 64 bits, whose specification is fixed.

use super::Token;

/// The checksum of `bytes`, salted with `salt`: bytes that are right but in the wrong place do not pass.
pub fn checksum(salt: u64, bytes: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64_with_seed(bytes, salt)
}

/// The checksum of a value alone, as kept in a partition's index: the low 32 bits of XXH3.
pub fn value_checksum(value: &[u8]) -> u32 {
    xxhash_rust::xxh3::xxh3_64(value) as u32
}

/// The token of a key: XXH3-64 of the partition key, seeded with the table's number (0: the built-in table). Fixed for ever: it
/// decides where an item is placed.
pub fn token(table: u32, partition_key: &[u8]) -> Token {
    Token(xxhash_rust::xxh3::xxh3_64_with_seed(partition_key, u64::from(table)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_of_a_key_is_fixed_for_ever() {
        assert_eq!(token(0, b"alpha"), Token(0xbe69_03b5_f625_ab5a));
    }
}
