//! Keys that are not plain, in the log.

use super::*;
use crate::wal::format::{RECORD_KEY_FORM, RecordHeader};

#[test]
fn a_key_of_any_form_is_found_again_and_a_plain_one_is_its_bytes() {
    let mut rig = Rig::new(options(1 << 16), 1);
    let keys = ["plain", "\\{7}of a table", "with\\|a sort key", "\\{7}both\\|of them"];
    for (index, key) in (1..).zip(keys) {
        rig.append(write(5, index, 1, key, Some(b"value"), 0));
        rig.append(write(6, index, 1, key, None, 0));
    }
    rig.settle();
    let recovered = recover(&mut rig.disk, ME).expect("nothing is damaged");
    assert_eq!(Model::of_recovered(&recovered), Model::of(&rig.records));
    for (entry, key) in recovered.groups[&GroupId(5)].entries.iter().zip(keys) {
        rig.handle(In::ReadEntry(ReadFor { group: GroupId(5), tag: 1 }, entry.record));
        rig.settle();
        let read = rig.entries.pop().expect("it was asked for").1.expect("it is whole");
        let fact = Fact::Write { key: Key::read(key.as_bytes()).expect("a key"), value: Some(Bytes::from("value")) };
        assert_eq!(read.fact, fact);
    }
    let header = |flags| RecordHeader { flags, ..RecordHeader::default() };
    let form = RECORD_KEY_FORM;
    assert_eq!(header(0).written_key(Bytes::from("\x41a")), Some(Key::from("\x41a")));
    assert_eq!(header(form).written_key(Bytes::from("\x41a")), None, "a plain key has one form");
    assert_eq!(header(form).written_key(Bytes::from("a")), None);
}
