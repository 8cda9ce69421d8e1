//! What the clients ask, as data: the operations of a run, one by one.
//!
//! A seed's clients draw what they ask while the run goes on, and every run notes what they asked. A plan that holds such notes
//! is performed as it says: each operation at its time, of its node, whatever became of the others. So any of them can be taken
//! out, and the rest stay what they were.
//!
//! What depends on what a client has seen is noted as what the client *means*: to write unless the item has changed, to append,
//! to ask again. With all operations in place that comes to the same request as in the run that was noted, byte by byte.

use bytes::Bytes;
use ringseed::base::Key;
use serde::{Deserialize, Serialize};

/// One request of one client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// From 0.
    pub client: u32,
    /// The client's own number for it. How long it is under way, and its answers, is drawn from a stream of this number.
    pub number: u64,
    /// Not before the client's previous one is over.
    pub at_us: u64,
    /// Asked of this node, from 1. If it takes no connections then, the operation is left out.
    pub node: u16,
    /// The client breaks its connection to the node first, and makes a new one.
    #[serde(default, skip_serializing_if = "is_false")]
    pub reconnects: bool,
    pub intent: Intent,
}

/// What a client means to do. `all`: it waits for every replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Intent {
    Get {
        key: Key,
        #[serde(default, skip_serializing_if = "is_false")]
        eventual: bool,
    },
    Put {
        key: Key,
        value: Value,
        #[serde(rename = "if", default, skip_serializing_if = "Expected::is_anything")]
        expected: Expected,
        #[serde(default, skip_serializing_if = "is_false")]
        all: bool,
    },
    Delete {
        key: Key,
        #[serde(rename = "if", default, skip_serializing_if = "Expected::is_anything")]
        expected: Expected,
        #[serde(default, skip_serializing_if = "is_false")]
        all: bool,
    },
    Increment {
        key: Key,
        by: i64,
        #[serde(default, skip_serializing_if = "is_false")]
        all: bool,
    },
    Scan {
        prefix: Key,
        from: Key,
        limit: u32,
        #[serde(default, skip_serializing_if = "is_false")]
        eventual: bool,
    },
    GetMany {
        keys: Vec<Key>,
    },
    Transact {
        items: Vec<Item>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        token: Option<Value>,
    },
    /// Puts each of these lists as the client has seen it, with the element behind the others, unless a list has changed since.
    Append {
        lists: Vec<Key>,
        element: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        token: Option<Value>,
    },
    /// Puts the balances as the client has seen them, `amount` less and more, unless one has changed since.
    Transfer {
        from: Key,
        to: Key,
        amount: i64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        token: Option<Value>,
    },
    /// The transaction that the client has asked for with this token, once more, with so many of its first items.
    Again {
        token: Value,
        items: u32,
    },
    /// The token is not used again.
    Release {
        token: Value,
    },
}

/// One item of a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    pub key: Key,
    pub action: ItemAction,
    #[serde(rename = "if", default, skip_serializing_if = "Expected::is_anything")]
    pub expected: Expected,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ItemAction {
    Check,
    Read,
    Put(Value),
    Delete,
    Increment(i64),
}

/// The condition of a write. "Seen" is by the client that writes, last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expected {
    #[default]
    Anything,
    Absent,
    Present,
    /// The version that was seen; absent, if nothing was.
    Unchanged,
    /// The value that was seen; absent, if nothing was.
    SameValue,
}

impl Expected {
    pub fn is_anything(&self) -> bool {
        *self == Expected::Anything
    }
}

/// The bytes of a value or a token: a text, whose last character is repeated until it is so long.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    Text(String),
    Long { text: String, size: usize },
}

impl Value {
    pub fn text(text: impl Into<String>) -> Value {
        Value::Text(text.into())
    }

    /// The text alone, if it is as long as that.
    pub fn long(text: String, size: usize) -> Value {
        if text.len() >= size { Value::Text(text) } else { Value::Long { text, size } }
    }

    pub fn bytes(&self) -> Bytes {
        match self {
            Value::Text(text) => Bytes::from(text.clone()),
            Value::Long { text, size } => {
                let mut bytes = text.clone().into_bytes();
                let last = bytes.last().copied().unwrap_or(b'.');
                bytes.resize(*size, last);
                Bytes::from(bytes)
            }
        }
    }

    pub fn size(&self) -> usize {
        match self {
            Value::Text(text) => text.len(),
            Value::Long { size, .. } => *size,
        }
    }
}

fn is_false(flag: &bool) -> bool {
    !*flag
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Plan;
    use crate::run::{RunOptions, run_plan};

    #[test]
    fn values_are_as_long_as_they_say() {
        assert_eq!(Value::text("7").bytes(), "7");
        assert_eq!(Value::long("2-14 f".into(), 9).bytes(), "2-14 ffff");
        assert_eq!(Value::long("2-14 f".into(), 3).bytes(), "2-14 f");
        assert_eq!(Value::text("").bytes(), "");
    }

    #[test]
    fn operations_are_short_as_text() {
        let put = |value| Intent::Put { key: Key::from("r1"), value, expected: Expected::Unchanged, all: false };
        for (value, text) in [
            (Value::text("2-14"), r#"{"put":{"key":"r1","value":"2-14","if":"unchanged"}}"#),
            (Value::long("a".into(), 90), r#"{"put":{"key":"r1","value":{"text":"a","size":90},"if":"unchanged"}}"#),
        ] {
            let intent = put(value);
            assert_eq!(serde_json::to_string(&intent).unwrap(), text);
            assert_eq!(serde_json::from_str::<Intent>(text).unwrap(), intent);
        }
    }

    /// With every operation given as it was noted, the run is the same, event by event.
    #[test]
    fn a_run_is_performed_again_from_what_was_asked() {
        for seed in 0..16 {
            let mut plan = Plan::generate(seed);
            let drawn = run_plan(&plan, RunOptions::default());
            plan.operations = Some(drawn.operations.clone());
            let text = serde_json::to_string(&plan).unwrap();
            let given = run_plan(&serde_json::from_str(&text).unwrap(), RunOptions::default());
            assert_eq!(
                given.trace_hash,
                drawn.trace_hash,
                "seed {seed}, {}: {} operations",
                plan.scenario,
                drawn.operations.len()
            );
            assert_eq!(given.operations, drawn.operations, "seed {seed}");
        }
    }

    #[test]
    fn an_operation_that_is_taken_out_leaves_the_others_as_they_were() {
        let mut plan = Plan::generate(0);
        let mut operations = run_plan(&plan, RunOptions::default()).operations;
        operations.retain(|operation| operation.number % 3 == 0);
        plan.operations = Some(operations.clone());
        let asked = run_plan(&plan, RunOptions::default()).operations;
        assert!(asked.len() * 10 > operations.len() * 9, "{} of {}", asked.len(), operations.len());
        for one in asked {
            assert!(operations.iter().any(|other| (&other.intent, other.number) == (&one.intent, one.number)), "{one:?}");
        }
    }
}
