//! Every limit that a client meets, from both sides: the largest legal and the smallest illegal of every request, sent through
//! the real client to a real cluster; and that what is legal fits into the frames that carry it.
//!
//! While the table is gone through, other requests of the same client, on the same connections, go on: none of them may be
//! disturbed, whatever becomes of a row. The same rows go to a node by a connection that checks nothing before it sends: the node
//! itself answers them, and the connection lives on.
#![cfg(feature = "server")]

#[path = "limits/cluster.rs"]
mod cluster;
#[path = "limits/largest.rs"]
mod largest;
#[path = "limits/table.rs"]
mod table;

use cluster::{Cluster, PATIENCE, Raw, Steady, put};
use ringseed::base::limits::*;
use ringseed::client::{Client, Error};
use ringseed::msg::client::RequestBody;
use ringseed::msg::operation::{Operation, Rejection};
use ringseed::msg::transaction::Transaction;
use std::process::{Command, Stdio};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_limit_is_kept_from_both_sides_and_nothing_else_is_disturbed() {
    let mut cluster = Cluster::start("table");
    let client = cluster.client().await;
    let steady = Steady::begin(&client);
    let mut raw = Raw::dial(&cluster.addresses[0], client.cluster()).await;
    for (name, body, expected) in table::rows() {
        expected.check(&name, "the client", &client.call(body.clone()).await);
        expected.check(&name, "a node itself", &raw.call(body).await);
    }
    for (name, body, expected) in table::longer_than_a_frame() {
        expected.check(&name, "the client", &client.call(body).await);
    }
    timeouts(&client).await;
    many_in_flight(&client).await;
    commands(&cluster);
    a_replica_that_was_away_gets_the_largest(&mut cluster, &client).await;
    let least = steady.end().await;
    assert!(least >= 10, "each writer was to be at work all the time: {least} writes");
    // Only now: while anybody writes, some entry is always on its way.
    cluster.caught_up(&client).await;
}

async fn timeouts(client: &Client) {
    // Certainly not begun: it is not even sent.
    let late = client.call_within(put("late", "x"), Duration::ZERO).await;
    assert_eq!(late, Err(Error::Rejected(Rejection::DeadlineExceeded)));
    for long in [TIMEOUT_MAX, Duration::MAX] {
        client.call_within(put("long", "x"), long).await.expect("a longer timeout is cut to the longest");
    }
}

/// More requests at once than a connection may have in progress: the others wait, and all are answered.
async fn many_in_flight(client: &Client) {
    let get = || RequestBody::Operation(Operation::read("long").alone());
    let gets: Vec<_> = (0..3 * REQUESTS_PER_CONNECTION_MAX).map(|_| client.call(get())).collect();
    for answer in futures::future::join_all(gets).await {
        answer.expect("it has its turn");
    }
}

/// What lagged gets entries that are as large as they become, from the disks of the others.
async fn a_replica_that_was_away_gets_the_largest(cluster: &mut Cluster, client: &Client) {
    cluster.stop(2);
    for alone in [true, false] {
        let items = table::sized(TRANSACTION_SIZE_MAX, alone);
        client.transact_within(Transaction { items, token: None }, PATIENCE).await.expect("two of three are there");
    }
    cluster.run(2);
}

/// The command line, where it has limits of its own or reads what is limited.
fn commands(cluster: &Cluster) {
    let servers = cluster.addresses.join(",");
    let file = |name: &str, bytes: Vec<u8>| {
        let path = cluster.folder.join(name);
        std::fs::write(&path, bytes).expect("a file");
        path.display().to_string()
    };
    let run = |arguments: &[&str], code: i32, says: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringseed"));
        command.args(arguments).stdin(Stdio::null()).env("RINGSEED_SERVERS", &servers);
        if !arguments.contains(&"--timeout") {
            command.env("RINGSEED_TIMEOUT", "50s");
        }
        let ended = command.output().expect("the binary runs");
        let said = String::from_utf8_lossy(&ended.stderr);
        let shown: String = arguments.join(" ").chars().take(80).collect();
        assert!(ended.status.code() == Some(code) && said.contains(says), "{shown}: {:?} {said}", ended.status);
    };
    let key = |size: usize| "k".repeat(size);
    for command in ["get", "delete", "incr"] {
        run(&[command, ""], 5, "the key is empty");
        run(&[command, &key(KEY_SIZE_MAX + 1)], 5, "the key has 2049 bytes; at most 2048 are allowed");
    }
    run(&["put", &key(KEY_SIZE_MAX), "1"], 0, "version");
    run(&["get", &key(KEY_SIZE_MAX)], 0, "version");
    let largest = format!("@{}", file("largest", vec![0; VALUE_SIZE_MAX]));
    let larger = format!("@{}", file("larger", vec![0; VALUE_SIZE_MAX + 1]));
    run(&["put", "value", &largest], 0, "version");
    run(&["put", "value", &larger], 5, "the value has 409601 bytes; at most 409600 are allowed");
    run(&["cas", "value", "--if", &largest, &largest], 0, "version");
    run(&["cas", "value", "--if", &larger, ""], 5, "the value has 409601 bytes");
    run(&["incr", "n", "9223372036854775808"], 1, "9223372036854775808");
    run(&["scan", "--limit", "0"], 0, "");
    run(&["scan", "--limit", "18446744073709551615", "--prefix", &key(KEY_SIZE_MAX)], 0, "");
    run(&["scan", "--prefix", &key(KEY_SIZE_MAX + 1)], 5, "the key has 2049 bytes");
    let names: Vec<String> = (0..=TRANSACTION_ITEMS_MAX).map(|n| format!("name{n}")).collect();
    let get_many = |count: usize| [vec!["get-many"], names[..count].iter().map(String::as_str).collect()].concat();
    run(&get_many(TRANSACTION_ITEMS_MAX), 0, "not found");
    run(&get_many(TRANSACTION_ITEMS_MAX + 1), 5, "101 keys are named; at most 100");
    let text = |items| ringseed::cli::transaction_text::to_text(&Transaction { items, token: None }).into_bytes();
    run(&["txn", &file("txn", text(table::sized(TRANSACTION_SIZE_MAX, false)))], 0, "committed");
    run(&["txn", &file("txn", text(table::sized(TRANSACTION_SIZE_MAX + 1, false)))], 5, "4194305 bytes");
    let operations: String = names.iter().map(|name| format!("put {name} v\n")).collect();
    run(&["txn", &file("txn", operations.into_bytes())], 1, "at most 100 are allowed");
    let one = file("txn", b"put k v\n".to_vec());
    run(&["txn", &one, "--token", &key(TOKEN_SIZE_MAX)], 0, "committed");
    run(&["txn", &one, "--token", &key(TOKEN_SIZE_MAX + 1)], 5, "the token has 65 bytes");
    run(&["get", "value", "--timeout", "60s"], 0, "version");
    run(&["get", "value", "--timeout", "61s"], 1, "up to 60s");
    run(&["get", "value", "--timeout", "0"], 1, "up to 60s");
}
