//! The tables, and the definition.

use crate::base::NodeId;
use crate::msg::configuration::Configuration;
use std::fmt::Write as _;

/// A block of a table: a command, a line `----`, and what is computed. `RINGSEED_REWRITE=1` writes that down; it is then read
/// like any other change.
///
/// | command | prints a row for every case |
/// |---|---|
/// | `elects` | of each voter: no vote, a vote, or one of a lossy replica |
/// | `commits 3` | of each voter: the last entry that it holds durably, from 0 to 3 |
/// | `leases 100 200 300` | of each voter: no promise, or when the promise under which it accepted the leader ends |
///
/// Behind the command: `voters=1,2,3`, and, if there are any, `outgoing=`, `learners=`; `leader=1` for leases, which needs no
/// promise of its own.
#[test]
fn the_tables_hold_what_is_computed() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/replica/quorum");
    let mut wrong = String::new();
    for name in ["elections.txt", "commits.txt", "leases.txt"] {
        let path = folder.join(name);
        let expected = std::fs::read_to_string(&path).expect("the table is there");
        let found: Vec<String> = expected.trim_end().split("\n\n").map(compute).collect();
        let found = found.join("\n");
        if std::env::var_os("RINGSEED_REWRITE").is_some() {
            std::fs::write(&path, found).expect("writable");
        } else if found != expected {
            let same = found.lines().zip(expected.lines()).take_while(|(a, b)| a == b).count();
            let _ = writeln!(wrong, "{name} differs from line {} on", same + 1);
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// A block with what its command gives.
fn compute(block: &str) -> String {
    let head: Vec<&str> = block.lines().take_while(|line| *line != "----").collect();
    let Some(command) = head.iter().find(|line| !line.starts_with('#')) else { return format!("{block}\n") };
    let words: Vec<&str> = command.split_whitespace().collect();
    let list = |name: &str| -> Vec<NodeId> {
        let found = words.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        found.map_or(Vec::new(), |ids| ids.split(',').map(|id| NodeId(id.parse().expect("a node"))).collect())
    };
    let numbers = || words[1..].iter().filter_map(|word| word.parse::<u64>().ok());
    let configuration = Configuration::new(list("voters"), list("outgoing"), list("learners")).expect("sound");
    let members: Vec<NodeId> = configuration.members().collect();
    let leader = list("leader").first().copied();
    let values: Vec<u64> = match words[0] {
        "elects" => vec![0, 1, 2],
        "commits" => (0..=numbers().next().expect("the last entry")).collect(),
        "leases" => [0].into_iter().chain(numbers()).collect(),
        other => panic!("no such command: {other}"),
    };
    let mut rows = String::new();
    let cell = |value: u64| match (words[0], value) {
        ("elects", 0) | ("leases", 0) => "-".into(),
        ("elects", 1) => "yes".into(),
        ("elects", _) => "lossy".into(),
        (_, value) => value.to_string(),
    };
    let row = |rows: &mut String, cells: Vec<String>, result: String| {
        cells.iter().for_each(|cell| write!(rows, "{cell:>6}").expect("a string takes all"));
        writeln!(rows, "   {result}").expect("a string takes all");
    };
    row(&mut rows, members.iter().map(|node| format!("n{node}")).collect(), words[0].trim_end_matches('s').into());
    for case in cases(&values, members.len()) {
        let of = |node: NodeId| case[members.iter().position(|member| *member == node).expect("a member")];
        let result = match words[0] {
            "elects" => if configuration.elects(|node| of(node) == 1, |node| of(node) == 2) { "yes" } else { "no" }.into(),
            "commits" => configuration.reached(of).to_string(),
            _ => match configuration.reached(|node| if Some(node) == leader { u64::MAX } else { of(node) }) {
                0 => "none".into(),
                end => format!("until {end}"),
            },
        };
        if words[0] == "leases" && leader.is_some_and(|leader| of(leader) != 0) {
            continue;
        }
        row(&mut rows, case.iter().map(|value| cell(*value)).collect(), result);
    }
    format!("{}\n----\n{rows}", head.join("\n"))
}

/// Every row of so many of these values.
fn cases(values: &[u64], columns: usize) -> impl Iterator<Item = Vec<u64>> + '_ {
    let count = values.len();
    (0..count.pow(columns as u32))
        .map(move |case| (0..columns).map(|at| values[case / count.pow((columns - 1 - at) as u32) % count]).collect())
}

/// All pairs of sets of voters out of four nodes, the second possibly empty.
fn configurations() -> impl Iterator<Item = Configuration> {
    let set = |mask: u16| (1..=4).filter(|id| mask >> (id - 1) & 1 == 1).map(NodeId).collect::<Vec<_>>();
    (1..16)
        .flat_map(move |voters| (0..16).map(move |outgoing| (set(voters), set(outgoing))))
        .map(|(voters, outgoing)| Configuration::new(voters, outgoing, Vec::new()).expect("sound"))
}

/// By definition: more than half of the voters, of each set.
fn is_quorum(configuration: &Configuration, nodes: &[NodeId]) -> bool {
    let sets = [configuration.voters(), configuration.outgoing()];
    sets.iter().filter(|set| !set.is_empty()).all(|set| 2 * set.iter().filter(|node| nodes.contains(node)).count() > set.len())
}

#[test]
fn what_is_computed_is_what_is_defined_for_every_configuration_of_four_nodes() {
    let all: Vec<NodeId> = (1..=4).map(NodeId).collect();
    for configuration in configurations() {
        for case in cases(&[0, 1, 2], 4) {
            let of = |node: NodeId| case[usize::from(node.0) - 1];
            let at_least = |least: u64| all.iter().copied().filter(|node| of(*node) >= least).collect::<Vec<_>>();
            let best = (0..=2).rev().find(|least| is_quorum(&configuration, &at_least(*least))).expect("all have at least 0");
            assert_eq!(configuration.reached(of), best, "{configuration:?}, {case:?}");
            assert_eq!(configuration.has_quorum(|node| of(node) == 2), is_quorum(&configuration, &at_least(2)));
            let every = configuration.members().all(|node| of(node) > 0);
            assert_eq!(configuration.has_all(|node| of(node) > 0), every);
            let elects = is_quorum(&configuration, &at_least(2)) || every;
            assert_eq!(configuration.elects(|node| of(node) == 2, |node| of(node) == 1), elects);
        }
    }
}

/// What Raft rests on: two quorums share a voter, also one of a configuration and one of what the group comes to by a single
/// step.
#[test]
fn quorums_of_one_step_share_a_voter() {
    let all: Vec<NodeId> = (1..=4).map(NodeId).collect();
    let subsets: Vec<Vec<NodeId>> =
        (0..16u16).map(|mask| all.iter().copied().filter(|node| mask >> (node.0 - 1) & 1 == 1).collect()).collect();
    let is_step = |from: &Configuration, to: &Configuration| {
        let changed = all.iter().filter(|node| from.voters().contains(node) != to.voters().contains(node)).count();
        let enters = !from.is_joint() && to.is_joint() && to.outgoing() == from.voters();
        let leaves = from.is_joint() && !to.is_joint() && to.voters() == from.voters();
        from == to || enters || leaves || !from.is_joint() && !to.is_joint() && changed == 1
    };
    let mut steps = 0;
    for from in configurations() {
        for to in configurations().filter(|to| is_step(&from, to)) {
            steps += 1;
            for a in subsets.iter().filter(|nodes| is_quorum(&from, nodes)) {
                for b in subsets.iter().filter(|nodes| is_quorum(&to, nodes)) {
                    assert!(a.iter().any(|node| b.contains(node)), "{from:?} {a:?}, {to:?} {b:?}");
                }
            }
        }
    }
    // To itself, into a joint configuration, out of one, and by one voter.
    assert_eq!(steps, 15 * 16 + 15 * 15 + 15 * 15 + 56);
}
