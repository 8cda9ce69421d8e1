//! Any bytes, read as a transaction in the text form and in JSON: an error with a place or a transaction, never a panic; and what
//! was read is written in both forms such that it is read the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringseed::base::limits::TRANSACTION_ITEMS_MAX;
use ringseed::cli::transaction_text::{ParseError, parse, parse_json, parse_text, to_json, to_text};

fuzz_target!(|input: &[u8]| {
    for read in [parse(input), parse_text(input), parse_json(input)] {
        match read {
            Ok(transaction) => {
                assert!(transaction.items.len() <= TRANSACTION_ITEMS_MAX);
                assert_eq!(parse_text(to_text(&transaction).as_bytes()).as_ref(), Ok(&transaction));
                assert_eq!(parse_json(to_json(&transaction).as_bytes()).as_ref(), Ok(&transaction));
                // Whatever it says: it is total.
                let _ = transaction.validate();
            }
            Err(ParseError { line, column, what }) => {
                assert!(line > 0 && column > 0 && !what.is_empty());
                assert!(line <= input.len() + 1 && column <= input.len() + 1);
            }
        }
    }
});
