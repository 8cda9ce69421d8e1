//! Calls on one item, and pages: each is made, given options where the defaults do not do, and awaited. Nothing is sent before
//! that.
//!
//! ```no_run
//! # async fn example() -> Result<(), ringseed::client::Error> {
//! use ringseed::client::{Acknowledge, Client, ClientOptions, Condition, Consistency};
//!
//! let client = Client::connect(&["127.0.0.1:7501".into()], ClientOptions::default()).await?;
//! client.put("user/7", "ann").await?;
//! client.put("user/8", "bob").only_if(Condition::Absent).acknowledge(Acknowledge::All).await?;
//! let got = client.get("user/7").await?;
//! let perhaps_older = client.get("user/8").consistency(Consistency::Eventual).await?;
//! client.increment("visits", 1).await?;
//! client.delete("user/7").only_if(Condition::Version(got.version)).await?;
//! let page = client.scan().prefix("user/").limit(20).await?;
//! # let _ = (perhaps_older, page);
//! # Ok(())
//! # }
//! ```

use super::{Client, Error, Got, Written, out_of_place};
use crate::base::limits::SCAN_ITEMS_MAX;
use crate::base::{Duration, Key};
use crate::msg::client::{RequestBody, ResponseBody, Scan, Scanned};
use crate::msg::operation::{Acknowledge, Condition, Consistency, Operation, Single};
use bytes::Bytes;
use core::pin::Pin;

/// What awaiting a call waits for.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>;

impl Client {
    /// Reads an item.
    pub fn get(&self, key: impl Into<Key>) -> Get<'_> {
        Get { client: self, key: key.into(), consistency: Consistency::Strong, timeout: self.timeout() }
    }

    /// Writes an item.
    pub fn put(&self, key: impl Into<Key>, value: impl Into<Bytes>) -> Put<'_> {
        Put(self.write(Operation::put(key, value)))
    }

    /// Deletes an item; also one that is not there, unless [`Delete::only_if`] says otherwise.
    pub fn delete(&self, key: impl Into<Key>) -> Delete<'_> {
        Delete(self.write(Operation::delete(key)))
    }

    /// Adds `by` to a number; an absent item counts as 0.
    pub fn increment(&self, key: impl Into<Key>, by: i64) -> Increment<'_> {
        Increment(self.write(Operation::increment(key, by)))
    }

    /// One page of items in the order of their keys. [`Scanned::next`] says from where to ask for the next.
    pub fn scan(&self) -> Page<'_> {
        let scan =
            Scan { prefix: Key::default(), from: Key::default(), limit: SCAN_ITEMS_MAX as u32, consistency: Consistency::Strong };
        Page { client: self, scan, timeout: self.timeout() }
    }

    fn write(&self, operation: Operation) -> Write<'_> {
        Write { client: self, single: operation.alone(), timeout: self.timeout() }
    }
}

/// [`Client::get`].
#[must_use = "nothing is sent before it is awaited"]
#[derive(Debug, Clone)]
pub struct Get<'a> {
    client: &'a Client,
    key: Key,
    consistency: Consistency,
    timeout: Duration,
}

impl Get<'_> {
    /// [`Consistency::Strong`] unless it is said.
    pub fn consistency(self, consistency: Consistency) -> Self {
        Get { consistency, ..self }
    }

    /// The client's unless it is said.
    pub fn timeout(self, timeout: Duration) -> Self {
        Get { timeout, ..self }
    }
}

impl<'a> IntoFuture for Get<'a> {
    type Output = Result<Got, Error>;
    type IntoFuture = Answer<'a, Got>;

    fn into_future(self) -> Answer<'a, Got> {
        let single = Operation::read(self.key).alone().consistency(self.consistency);
        Box::pin(async move {
            match self.client.call_within(RequestBody::Operation(single), self.timeout).await? {
                ResponseBody::Value { value, version } => Ok(Got { value, version }),
                other => Err(out_of_place(&other)),
            }
        })
    }
}

#[derive(Debug, Clone)]
struct Write<'a> {
    client: &'a Client,
    single: Single,
    timeout: Duration,
}

impl<'a> Write<'a> {
    fn only_if(mut self, only_if: Condition) -> Self {
        self.single.operation.condition = only_if;
        self
    }

    fn acknowledge(mut self, by: Acknowledge) -> Self {
        self.single.acknowledge = by;
        self
    }

    fn answer(self) -> Answer<'a, Written> {
        Box::pin(async move {
            match self.client.call_within(RequestBody::Operation(self.single), self.timeout).await? {
                ResponseBody::Written { version, number } => Ok(Written { version, number }),
                other => Err(out_of_place(&other)),
            }
        })
    }
}

/// What all writes have.
macro_rules! write_call {
    ($name:ident, $method:literal) => {
        #[doc = concat!("[`Client::", $method, "`].")]
        #[must_use = "nothing is sent before it is awaited"]
        #[derive(Debug, Clone)]
        pub struct $name<'a>(Write<'a>);

        impl $name<'_> {
            /// [`Acknowledge::Quorum`] unless it is said.
            pub fn acknowledge(self, acknowledge: Acknowledge) -> Self {
                $name(self.0.acknowledge(acknowledge))
            }

            /// The client's unless it is said.
            pub fn timeout(self, timeout: Duration) -> Self {
                $name(Write { timeout, ..self.0 })
            }
        }

        impl<'a> IntoFuture for $name<'a> {
            type Output = Result<Written, Error>;
            type IntoFuture = Answer<'a, Written>;

            fn into_future(self) -> Answer<'a, Written> {
                self.0.answer()
            }
        }
    };
}

write_call!(Put, "put");
write_call!(Delete, "delete");
write_call!(Increment, "increment");

impl Put<'_> {
    /// Nothing is written unless this holds of the item: [`Error::ConditionFailed`].
    pub fn only_if(self, condition: Condition) -> Self {
        Put(self.0.only_if(condition))
    }
}

impl Delete<'_> {
    /// Nothing is deleted unless this holds of the item: [`Error::ConditionFailed`].
    pub fn only_if(self, condition: Condition) -> Self {
        Delete(self.0.only_if(condition))
    }
}

/// [`Client::scan`].
#[must_use = "nothing is sent before it is awaited"]
#[derive(Debug, Clone)]
pub struct Page<'a> {
    client: &'a Client,
    scan: Scan,
    timeout: Duration,
}

impl Page<'_> {
    /// Only keys that begin with this.
    pub fn prefix(mut self, prefix: impl Into<Key>) -> Self {
        self.scan.prefix = prefix.into();
        self
    }

    /// Only keys at or after this: what [`Scanned::next`] said.
    pub fn from(mut self, from: impl Into<Key>) -> Self {
        self.scan.from = from.into();
        self
    }

    /// At most so many items; [`SCAN_ITEMS_MAX`] at most, and unless it is said.
    pub fn limit(mut self, limit: u32) -> Self {
        self.scan.limit = limit;
        self
    }

    /// [`Consistency::Strong`] unless it is said.
    pub fn consistency(mut self, consistency: Consistency) -> Self {
        self.scan.consistency = consistency;
        self
    }

    /// The client's unless it is said.
    pub fn timeout(self, timeout: Duration) -> Self {
        Page { timeout, ..self }
    }
}

impl<'a> IntoFuture for Page<'a> {
    type Output = Result<Scanned, Error>;
    type IntoFuture = Answer<'a, Scanned>;

    fn into_future(self) -> Answer<'a, Scanned> {
        Box::pin(async move {
            match self.client.call_within(RequestBody::Scan(self.scan), self.timeout).await? {
                ResponseBody::Scanned(page) => Ok(page),
                other => Err(out_of_place(&other)),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Version;

    #[test]
    fn options_reach_the_request_and_the_rest_are_defaults() {
        let client = super::super::transaction::tests::alone();
        let Put(Write { single, timeout, .. }) = client.put("k", "v");
        assert_eq!(single, Operation::put("k", "v").alone());
        assert_eq!(timeout, client.timeout());
        let condition = Condition::Version(Version(3));
        let second = Duration::from_secs(1);
        let Put(put) = client.put("k", "v").only_if(condition.clone()).acknowledge(Acknowledge::All).timeout(second);
        let by_all = |operation: Operation| operation.alone().acknowledge(Acknowledge::All);
        assert_eq!(put.single, by_all(Operation::put("k", "v").only_if(condition.clone())));
        assert_eq!(put.timeout, second);
        let Delete(delete) = client.delete("k").acknowledge(Acknowledge::All).only_if(condition.clone());
        assert_eq!(delete.single, by_all(Operation::delete("k").only_if(condition)));
        let Increment(increment) = client.increment("k", 5).acknowledge(Acknowledge::All);
        assert_eq!(increment.single, by_all(Operation::increment("k", 5)));
        assert_eq!(client.get("k").consistency(Consistency::Eventual).consistency, Consistency::Eventual);
        let page = client.scan().prefix("p").from("q").limit(7).consistency(Consistency::Eventual).scan;
        let expected = Scan { prefix: "p".into(), from: "q".into(), limit: 7, consistency: Consistency::Eventual };
        assert_eq!(page, expected);
    }
}
