//! A node in the world: boot, rounds of steps, effects, the disk's answers, and the end.

use super::{Happening, MS, World};
use crate::WorldTime;
use crate::check::Violation;
use crate::check::rot::{self, Taken};
use crate::clock::Clock;
use crate::counters::Kind;
use crate::faults;
use crate::network::{Fate, Parcel, Transit};
use crate::plan::{FaultKind, LossStyle, MessageKind, Rot, Trigger};
use crate::points::{self, Point};
use bytes::Bytes;
use ringseed::base::SegmentId;
use ringseed::base::{ConnId, Epoch, Index, IoId, NodeId};
use ringseed::msg::client::{Request, Response, ResponseBody};
use ringseed::msg::codec;
use ringseed::msg::disk::{DiskError, DiskOp, DiskResult};
use ringseed::msg::peer::{Envelope, PeerMessage, ReplicaMessage};
use ringseed::node::{Effect, Event, LinkState, Node};
use ringseed::wal::{self, RecoverError, Recovered};
use std::collections::BTreeMap;

impl World {
    pub(super) fn boot(&mut self, number: usize, boot: u32) {
        let machine = &mut self.machines[number];
        if machine.node.is_some() || machine.boot != boot || machine.stays_down {
            return;
        }
        if boot > 0 && !self.counters.acts(Kind::Restart) {
            return;
        }
        if machine.boot_at.is_none_or(|at| at > self.now) {
            return;
        }
        machine.disk.failed_at_boot = None;
        let found = wal::restore(&mut machine.disk, machine.id);
        if let Some(error) = machine.disk.failed_at_boot.take() {
            let step = machine.disk.trouble.boot.expect("it has failed");
            self.counters.fired(faults::boot_error(step));
            if found.as_ref().err() != Some(&RecoverError::Device(error.clone())) {
                let what = format!("n{} was told \"{error}\" while it read its log, and does not say so", number + 1);
                return self.safety(Violation { promise: "P8", checker: "boot", what });
            }
            self.counters.mattered(faults::boot_error(step));
        }
        let machine = &mut self.machines[number];
        let tail_rots = matches!(machine.rotten, Some(Rot::Zeros(_) | Rot::Bits(_)));
        if (tail_rots || !machine.disk.rotten.is_empty())
            && let Err(violation) = self.boot_from_rot(number, &found)
        {
            return self.safety(violation);
        }
        let machine = &mut self.machines[number];
        let mut recovered = match found {
            Ok(recovered) => recovered,
            Err(error) => return self.boot_failed(number, &error),
        };
        // It has logged that it starts over, and was ended before it did.
        if machine.disowned == Some(Kind::OldDirectory) && recovered.damage.iter().any(|bad| bad.what.contains("an old copy")) {
            machine.knows_its_directory_is_old();
        }
        if let Some(bad) = recovered.damage.first() {
            self.timeline.note(self.now, || format!("n{} starts from a damaged log: {bad:?}", number + 1));
            machine.was_damaged = true;
            machine.has_unread_rot = false;
            machine.is_whole_again &= !recovered.forgot;
            if machine.rotten.is_some_and(|rot| rot != Rot::Witness) {
                self.counters.mattered(Kind::RotTail);
            }
        }
        if let Err(violation) = machine.judge_recovered(&recovered) {
            return self.safety(violation);
        }
        let lossless = recovered.lossless;
        let up_since = machine.up_since.filter(|_| self.counters.acts(Kind::SameBoot));
        let is_noted = recovered.on_a_machine_up_since(up_since);
        if machine.up_since.is_some() {
            self.counters.fired(Kind::SameBoot);
            if recovered.lossless != lossless {
                self.counters.mattered(Kind::SameBoot);
            }
        }
        for scar in std::mem::take(&mut machine.disk.scars) {
            self.counters.mattered(scar);
        }
        let found = |group| recovered.groups.get(group).map_or(0, |group| group.last_index().0);
        if std::mem::take(&mut machine.had).iter().any(|(group, last)| found(group) < last.0) {
            self.counters.mattered(Kind::Crash);
        }
        // An old copy of the directory lacks what its node held since.
        let relaxed = self.plan.nodes.iter().any(|node| node.wal_sync_ms > 0);
        let whole = machine.disowned.is_none() && (!relaxed || up_since.is_some());
        let earlier_epoch = recovered.epoch > Epoch::ZERO;
        if let Err(violation) = self.watch.recovered(machine.id, &recovered, whole) {
            return self.safety(violation);
        }
        let machine = &mut self.machines[number];
        let options = machine.options(&self.plan);
        let shown = machine.plan.clock_offset_ms * MS;
        let rate_ppm = self.faults.clock_ppm(number).unwrap_or(machine.plan.clock_ppm);
        let void = self.beyond_drift_bound && !self.counters.acts(Kind::ClockBeyond);
        machine.clock = Clock::new(self.now, shown, if void { 0 } else { rate_ppm });
        let now = machine.clock.read(self.now);
        let node = Node::boot(options, recovered, now);
        let epoch = node.epoch();
        machine.node = Some(node);
        machine.boot_at = None;
        if !is_noted {
            machine.up_since = Some(epoch);
        }
        machine.log_busy_at = self.now;
        if machine.rotten.take() == Some(Rot::Witness) {
            self.counters.mattered(Kind::RotWitness);
        }
        if boot > 0 {
            self.counters.fired(Kind::Restart);
            if earlier_epoch {
                self.counters.mattered(Kind::Restart);
            }
        }
        self.timeline.note(self.now, || format!("n{} boots, epoch {epoch}", number + 1));
        self.trace.event(self.now, 3, number, &epoch.0.to_le_bytes(), || format!("n{} boots, epoch {epoch}", number + 1));
        self.apply_disk_trouble(number);
        let wall = 1_700_000_000_000 + self.now / MS + self.machines[number].plan.wall_ahead_ms;
        self.put(number, Event::WallClock(wall));
        self.links(number, LinkState::Up);
    }

    /// A log of which something rotted was read.
    fn boot_from_rot(&mut self, number: usize, found: &Result<Recovered, RecoverError>) -> Result<(), Violation> {
        let machine = &self.machines[number];
        if machine.was_damaged {
            // What it had forgotten is on the disk without the rot.
            return Ok(());
        }
        let sound = wal::recover(&mut machine.disk.sound(), machine.id);
        let kinds: &[Kind] = match rot::check_boot(machine.id, found, &sound)? {
            Taken::Refused | Taken::Salvaged => &[Kind::RotSynced, Kind::LostSynced, Kind::Misdirected],
            Taken::Whole => &[Kind::RotHeader, Kind::Misdirected],
            Taken::Unknown => &[],
        };
        for &kind in kinds.iter().filter(|kind| machine.disk.rotten.contains(kind)) {
            self.counters.mattered(kind);
        }
        Ok(())
    }

    /// A directory that the simulator left intact must be read; where a read fails now, the boot is retried. A directory that
    /// rotted may be called damaged: that node is lost.
    fn boot_failed(&mut self, number: usize, error: &RecoverError) {
        self.timeline.note(self.now, || format!("n{} does not boot: {error}", number + 1));
        let machine = &mut self.machines[number];
        if let RecoverError::Damaged { .. } = error
            && wal::walk::walk::<DiskError>(&mut machine.disk.as_it_is(), &mut |_| Ok(())).is_ok_and(|log| log.node.is_some())
        {
            let what = format!("n{} does not start from a log of which it knows whose it is: {error}", number + 1);
            return self.safety(Violation { promise: "P3", checker: "recovery", what });
        }
        if matches!(error, RecoverError::Damaged { .. }) && (machine.has_lost_its_log() || machine.has_rotten_values()) {
            if machine.rotten.is_some_and(|rot| rot != Rot::Witness) {
                self.counters.mattered(Kind::RotTail);
            }
            machine.stays_down = true;
            return;
        }
        let trouble = self.machines[number].disk.trouble;
        if trouble.read_errors_permille == 0 && trouble.boot.is_none() {
            let what = format!("n{} cannot read its own log, which only crashes have touched: {error}", number + 1);
            return self.safety(Violation { promise: "P3", checker: "recovery", what });
        }
        self.machines[number].boot_at = Some(self.now + 100 * MS);
        let boot = self.machines[number].boot;
        self.after(100 * MS, Happening::Boot(number, boot));
    }

    /// An event for the node, if there is one.
    pub fn put(&mut self, number: usize, event: Event) {
        let machine = &mut self.machines[number];
        if machine.node.is_none() {
            return;
        }
        machine.heard_at = self.now;
        let beats = matches!(&event, Event::Net(_, envelope) if is_heartbeats(envelope));
        machine.inbox.push_back(event);
        if machine.pauses > 0 {
            machine.kept_waiting += u64::from(!beats);
        } else if !machine.running {
            machine.running = true;
            let boot = machine.boot;
            let delay = self.schedule.between(1_000, 30_000);
            self.after(delay, Happening::Round(number, boot));
        }
    }

    pub(super) fn round(&mut self, number: usize, boot: u32) {
        let machine = &mut self.machines[number];
        if machine.boot != boot || machine.pauses > 0 {
            return;
        }
        let Some(node) = machine.node.as_mut() else { return };
        let steps = self.schedule.between(1, u64::from(machine.plan.steps_max.max(1)));
        let now = machine.clock.read(self.now);
        for _ in 0..steps {
            let Some(event) = machine.inbox.pop_front() else { break };
            self.trace.event(self.now, 4, number, &now.0.to_le_bytes(), || format!("n{} {event:?}", number + 1));
            node.step(now, event);
        }
        let mut effects = std::mem::take(&mut self.effects);
        node.flush(now, &mut effects);
        if self.checks_rounds {
            node.check();
        }
        machine.running = !machine.inbox.is_empty();
        if machine.running {
            let delay = self.schedule.between(1_000, 20_000);
            self.after(delay, Happening::Round(number, boot));
        }
        self.rounds += 1;
        for effect in effects.drain(..) {
            self.effect(number, boot, effect);
        }
        self.effects = effects;
        let machine = &self.machines[number];
        if machine.inbox.is_empty() {
            if let Err(violation) = rot::check_reads(machine.id, machine.met_rot.first().map(|met| met.0)) {
                self.safety(violation);
            } else if let Some((_, error)) = &machine.failed {
                let what = format!("n{} was told \"{error}\", and goes on", number + 1);
                self.safety(Violation { promise: "P8", checker: "halt", what });
            }
        }
        self.pull_triggers(number);
        self.plan_wake(number);
    }

    /// Schedules the wake-up that the node asks for, unless an earlier one is already.
    pub(super) fn plan_wake(&mut self, number: usize) {
        let machine = &mut self.machines[number];
        let Some(node) = &machine.node else { return };
        let Some((time, _)) = node.deadline() else { return };
        let lateness = if self.schedule.chance(20) { self.schedule.below(5 * MS) } else { self.schedule.below(100_000) };
        let due = machine.clock.when(time, self.now);
        let at = due.saturating_add(lateness);
        if at == WorldTime::MAX || machine.wake.is_some_and(|wake| wake <= at && wake >= self.now) {
            return;
        }
        machine.wake = Some(at);
        machine.misjudged = self.faults.clock_ppm(number).is_some() && {
            let unchanged = Clock::new(self.now, machine.clock.read(self.now).0, machine.plan.clock_ppm);
            unchanged.when(time, self.now).abs_diff(due) > MS
        };
        let boot = machine.boot;
        self.at(at, Happening::Wake(number, boot));
    }

    pub(super) fn wake(&mut self, number: usize, boot: u32) {
        let machine = &mut self.machines[number];
        if machine.boot != boot || machine.wake != Some(self.now) {
            return;
        }
        machine.wake = None;
        if machine.misjudged && !self.beyond_drift_bound {
            self.counters.mattered(Kind::ClockRate);
        }
        self.put(number, Event::Timer);
    }

    fn effect(&mut self, number: usize, boot: u32, effect: Effect) {
        if self.machines[number].boot != boot {
            return;
        }
        match effect {
            Effect::Send(to, envelope) => self.send(number, to, &envelope),
            Effect::Reply(connection, response) => self.reply(number, connection, response),
            Effect::Disk(io, op) => self.disk_op(number, io, op),
            Effect::Rot(rot) => {
                self.timeline.note(self.now, || format!("n{} finds rot: {rot:?}", number + 1));
                let machine = &mut self.machines[number];
                if let Some(at) = machine.met_rot.iter().position(|(place, _)| *place == rot.place)
                    && let (_, Some(kind)) = machine.met_rot.swap_remove(at)
                {
                    self.counters.mattered(kind);
                }
            }
            Effect::Lost(loss) => {
                self.timeline.note(self.now, || format!("n{} says that no replica has a value: {loss:?}", number + 1));
            }
            Effect::StartOver => {
                let machine = &mut self.machines[number];
                if machine.disowned != Some(Kind::OldDirectory) {
                    let what = format!("n{} starts over, and its directory is its own", number + 1);
                    return self.safety(Violation { promise: "P3", checker: "old directory", what });
                }
                machine.knows_its_directory_is_old();
                self.timeline.note(self.now, || format!("n{} starts over: its directory is an old copy", number + 1));
                self.crash(number, None, 20, None);
            }
            Effect::Stopped => {
                self.timeline.note(self.now, || format!("n{} has stopped", number + 1));
                self.floods_stop(number);
                self.stopped(number);
            }
            Effect::Halt(fatal) => {
                self.timeline.note(self.now, || format!("n{} halts: {}", number + 1, fatal.0));
                if let Some((kind, error)) = &self.machines[number].failed {
                    self.counters.mattered(*kind);
                    if !fatal.0.contains(error) {
                        let what = format!("n{} halts and does not say that \"{error}\": {}", number + 1, fatal.0);
                        return self.safety(Violation { promise: "P8", checker: "halt", what });
                    }
                }
                if !self.machines[number].may_halt {
                    let what = format!("n{} halts, and its disk had failed nothing: {}", number + 1, fatal.0);
                    return self.safety(Violation { promise: "P8", checker: "halt", what });
                }
                let down_ms = self.schedule.between(50, 500);
                self.crash(number, None, down_ms, None);
            }
        }
    }

    fn send(&mut self, from: usize, to: NodeId, envelope: &Envelope) {
        let to_number = usize::from(to.0).wrapping_sub(1);
        if to_number >= self.machines.len() || to_number == from {
            let what = format!("n{} sends to {to:?}", from + 1);
            return self.safety(Violation { promise: "P8", checker: "addressing", what });
        }
        if let Err(violation) = self.watch.sent(self.machines[from].id, to, envelope, &mut self.triggers) {
            self.safety(violation);
        }
        for _ in 0..std::mem::take(&mut self.watch.succeeded) {
            self.counters.mattered(Kind::Crash);
        }
        self.judge_calm(from, envelope);
        let bytes = Bytes::from(codec::encode(envelope));
        self.trace.event(self.now, 5, from, &bytes, || format!("n{} -> n{to}: {envelope:?}", from + 1));
        if self.faults_befall(from, to_number, envelope, &bytes) {
            return;
        }
        if self.network.tells_kinds_apart(from, to_number) {
            return self.send_apart(from, to_number, envelope);
        }
        self.ship(from, to_number, envelope, bytes, 0, None);
    }

    /// Gives an envelope to the network. `again_ms`: it arrives once more, so much later.
    fn ship(&mut self, from: usize, to: usize, envelope: &Envelope, bytes: Bytes, late_ms: u64, again_ms: Option<u64>) {
        let parcel = Parcel { lane: envelope.lane(), size: bytes.len(), late_ms };
        match self.network.send(from, to, self.now, parcel, &mut self.counters) {
            // A heartbeat that is lost is followed by the next.
            Fate::Lost(kind) if !is_heartbeats(envelope) => self.counters.mattered(kind),
            Fate::Lost(_) => {}
            Fate::Arrives(transit, copy) => {
                let boot = self.machines[to].boot;
                for transit in std::iter::once(transit).chain(copy) {
                    for again in [Some(0), again_ms].into_iter().flatten() {
                        let (transit, envelope) = (transit.clone(), bytes.clone());
                        self.at(transit.at + again * MS, Happening::Arrival { to, from, boot, transit, envelope });
                    }
                }
            }
        }
    }

    /// While every link is whole and every node runs, no replica campaigns unless its leader asked for that: whatever else is
    /// under way between the nodes does not cost a leader its office.
    fn judge_calm(&mut self, from: usize, envelope: &Envelope) {
        let calm = self.plan.calm_from_ms.is_some_and(|calm| self.now >= calm * MS && self.now < self.plan.faults_ms * MS);
        if !calm {
            return;
        }
        for message in &envelope.messages {
            if let PeerMessage::Replica(group, ReplicaMessage::Vote(request)) = message
                && request.released.is_none()
            {
                let text = format!(
                    "n{} campaigns for term {} of {group:?}, while every link and every node is whole",
                    from + 1,
                    request.term
                );
                self.liveness(text);
            }
        }
    }

    /// Passes the points of the protocol at which this envelope leaves. Whether a fault decides what becomes of it.
    fn faults_befall(&mut self, from: usize, to: usize, envelope: &Envelope, bytes: &Bytes) -> bool {
        let mut befallen = None;
        for message in &envelope.messages {
            for point in points::appended(message) {
                self.triggers.push(Trigger::Passes(point));
                befallen = befallen.or_else(|| self.message_fault(from, point));
                self.machines[from].unsynced.extend(point.durable());
            }
            if let Some((point, _)) = points::spoken(message) {
                self.triggers.push(Trigger::Passes(point));
                befallen = befallen.or_else(|| self.message_fault(from, point));
            }
            if points::acknowledges(message) {
                let acknowledged = std::mem::take(&mut self.machines[from].unacknowledged);
                self.triggers.extend(acknowledged.into_iter().map(Trigger::Passes));
            }
        }
        let (late_ms, again_ms) = match befallen {
            None => return false,
            Some(FaultKind::HoldMessage { by_ms }) => (by_ms, None),
            Some(FaultKind::RepeatMessage { after_ms }) => (0, Some(after_ms)),
            Some(_) => return true,
        };
        self.ship(from, to, envelope, bytes.clone(), late_ms, again_ms);
        true
    }

    /// As if what is late had been sent in an envelope of its own.
    fn send_apart(&mut self, from: usize, to: usize, envelope: &Envelope) {
        let mut by_lateness: BTreeMap<u64, Vec<PeerMessage>> = BTreeMap::new();
        for message in &envelope.messages {
            let late = self.network.late_ms(from, to, MessageKind::of(message));
            by_lateness.entry(late).or_default().push(message.clone());
        }
        for (late, messages) in by_lateness {
            let part = Envelope { messages, ..envelope.clone() };
            let bytes = Bytes::from(codec::encode(&part));
            self.ship(from, to, &part, bytes, late, None);
        }
    }

    pub(super) fn arrival(&mut self, to: usize, from: usize, boot: u32, transit: &Transit, envelope: &Bytes) {
        if self.machines[to].node.is_none() {
            return;
        }
        match codec::decode::<Envelope>(envelope) {
            Ok(envelope) => {
                self.judge_transit(to, from, boot, transit, &envelope);
                let from = self.machines[from].id;
                let arrived: Vec<Point> = envelope.messages.iter().filter_map(|m| points::spoken(m)?.1).collect();
                let durable = envelope.messages.iter().flat_map(points::appended).filter_map(Point::durable);
                self.machines[to].unsynced.extend(durable);
                self.put(to, Event::Net(from, envelope));
                arrived.into_iter().for_each(|point| self.pass(to, point));
            }
            Err(error) => {
                let what = format!("an envelope of n{} does not decode: {error}", from + 1);
                self.safety(Violation { promise: "P8", checker: "codec", what });
            }
        }
    }

    /// Which faults mattered to an envelope that arrives.
    fn judge_transit(&mut self, to: usize, from: usize, boot: u32, transit: &Transit, envelope: &Envelope) {
        let machine = &mut self.machines[to];
        // Another event reached the node between the time when the envelope should have come and the time when it comes.
        let overtaken = machine.heard_at > transit.due;
        let latest = machine.heard.entry(from).or_default();
        let overtaken_by_sender = *latest > transit.number;
        *latest = transit.number.max(*latest);
        if is_heartbeats(envelope) {
            return;
        }
        for &kind in &transit.delayed_by {
            let mattered = match kind {
                Kind::Reordering | Kind::SlowMessages => overtaken_by_sender,
                _ => overtaken,
            };
            if mattered {
                self.counters.mattered(kind);
            }
        }
        // Within an epoch a forward is refused as a repeat.
        let handled = envelope.messages.iter().any(|message| matches!(message, PeerMessage::Replica(..)));
        if transit.is_copy && (handled || machine.boot != boot) {
            self.counters.mattered(Kind::Duplication);
        }
    }

    pub(super) fn request(&mut self, number: usize, boot: u32, connection: ConnId, request: Request) {
        let is_known = self.machines[number].boot == boot
            && (self.machines[number].connections.contains_key(&connection) || self.flood_asks(number, connection, request.id));
        if !is_known {
            // A machine that is up resets what it does not know: a client may hear of a loss of power only now.
            let client = self.workload.clients.iter().position(|client| client.connection == Some((number, connection)));
            if let Some(client) = client.filter(|_| self.machines[number].node.is_some()) {
                self.after(MS, Happening::Broken { client, connection, by: None });
            }
            return;
        }
        let bytes = Bytes::from(codec::encode(&request));
        let decoded = codec::decode::<Request>(&bytes).expect("a request decodes");
        assert_eq!(decoded, request, "a request means the same after its journey");
        self.put(number, Event::Client(connection, decoded));
    }

    pub(super) fn closed(&mut self, number: usize, boot: u32, connection: ConnId) {
        if self.machines[number].boot == boot {
            self.flood_leaves(number, connection);
            self.put(number, Event::ClientClosed(connection));
        }
    }

    fn reply(&mut self, number: usize, connection: ConnId, response: Response) {
        let bytes = Bytes::from(codec::encode(&response));
        self.trace.event(self.now, 6, number, &bytes, || format!("n{} answers {connection:?}: {response:?}", number + 1));
        if matches!(response.body, ResponseBody::Written { .. }) {
            self.triggers.push(Trigger::Answers);
            if self.faults.all_slow && std::mem::take(&mut self.faults.slowed) {
                self.counters.mattered(Kind::SlowDisks);
            }
        }
        if matches!(response.body, ResponseBody::Transacted(_)) {
            self.triggers.push(Trigger::Passes(Point::AnswerLeaves));
        }
        let Some(&client) = self.machines[number].connections.get(&connection) else {
            return self.flood_answered(number, connection, &response);
        };
        if let ResponseBody::Written { version, .. } = response.body
            && let Some(key) = self.workload.asked_all(client, response.id)
        {
            self.all_must_hold(key.partition(self.plan.cluster.partitions).group(), Index(version.0));
        }
        match codec::decode::<Response>(&bytes) {
            Ok(decoded) => {
                let latency = self.workload.latency(client);
                self.after(latency, Happening::Answer { client, connection, response: decoded });
            }
            Err(error) => {
                let what = format!("an answer of n{} does not decode: {error}", number + 1);
                self.safety(Violation { promise: "P8", checker: "codec", what });
            }
        }
    }

    fn disk_op(&mut self, number: usize, io: IoId, op: DiskOp) {
        let digest = digest(&op);
        self.trace.event(self.now, 7, number, &digest.to_le_bytes(), || format!("n{} {io:?} {}", number + 1, brief(&op)));
        let machine = &mut self.machines[number];
        if matches!(op, DiskOp::Read { .. }) {
            machine.reads.insert(io, op);
            if machine.disk.trouble.stalled {
                machine.stalled_since.get_or_insert(self.now);
                return;
            }
            let (boot, latency) = (machine.boot, self.plan.disk.read_us * 1000);
            let jitter = self.disk_latency.below(self.plan.disk.jitter_us * 1000 + 1);
            return self.after(latency + jitter, Happening::ReadDone(number, boot, io));
        }
        machine.queue.push_back((io, op));
        self.start_disk(number);
    }

    /// Begins the first operation of the queue, if none is in progress and the disk does not stall.
    pub(super) fn start_disk(&mut self, number: usize) {
        let machine = &mut self.machines[number];
        let Some((_, op)) = machine.queue.front() else { return };
        if machine.disk_busy {
            return;
        }
        if machine.disk.trouble.stalled {
            machine.stalled_since.get_or_insert(self.now);
            return;
        }
        let us = match op {
            DiskOp::Write { .. } => self.plan.disk.write_us,
            DiskOp::Sync { .. } => self.plan.disk.sync_us + machine.disk.trouble.slow_ms * 1000,
            DiskOp::SyncDirectory | DiskOp::Recycle { .. } | DiskOp::Remove { .. } => self.plan.disk.sync_us,
            DiskOp::Create { .. } => self.plan.disk.sync_us * 3,
            DiskOp::Read { .. } => self.plan.disk.read_us,
        };
        let trigger = match op {
            DiskOp::Write { .. } => Some(Trigger::Writes),
            DiskOp::Sync { .. } => Some(Trigger::Syncs),
            DiskOp::Create { .. } | DiskOp::SyncDirectory => Some(Trigger::Creates),
            DiskOp::Recycle { .. } | DiskOp::Remove { .. } => Some(Trigger::Frees),
            DiskOp::Read { .. } => None,
        };
        machine.disk_busy = true;
        machine.began_at = self.now;
        let slows = if self.faults.all_slow { Kind::SlowDisks } else { Kind::SlowDisk };
        machine.slowed_by = (machine.disk.trouble.slow_ms > 0).then_some(slows);
        machine.slowest_ms = machine.slowest_ms.max(machine.disk.trouble.slow_ms);
        let boot = machine.boot;
        let latency = us * 1000 + self.disk_latency.below(self.plan.disk.jitter_us * 1000 + 1);
        // What is lost of the first write to a segment may leave a header without its batch.
        let fresh = matches!(op, DiskOp::Sync { segment } if !machine.disk.is_used(*segment));
        self.after(latency, Happening::DiskDone(number, boot));
        if let Some(trigger) = trigger {
            self.disk_trigger(number, trigger, latency);
        }
        if fresh {
            self.disk_trigger(number, Trigger::UsesNewSegment, latency + 2 * MS);
        }
    }

    pub(super) fn disk_done(&mut self, number: usize, boot: u32) {
        if self.machines[number].boot != boot {
            return;
        }
        let machine = &mut self.machines[number];
        let (io, op) = machine.queue.pop_front().expect("the operation in progress is the first");
        machine.disk_busy = false;
        if matches!(op, DiskOp::Write { segment, .. } | DiskOp::Sync { segment } if segment != SegmentId::ZERO) {
            machine.log_busy_at = self.now;
        }
        let due = machine.began_at + (self.plan.disk.sync_us + self.plan.disk.jitter_us) * 1000;
        if matches!(op, DiskOp::Sync { .. }) && self.now > due {
            match machine.slowed_by {
                Some(Kind::SlowDisks) => self.faults.slowed = true,
                // Something else reached the node before, which should have come after.
                Some(kind) if machine.heard_at > due => self.counters.mattered(kind),
                _ => {}
            }
        }
        let result = machine.disk.execute(&op, &mut self.counters);
        self.note_failure(number, &op, &result);
        self.put(number, Event::Disk(io, result));
        if matches!(op, DiskOp::Sync { .. }) && self.machines[number].node.is_some() {
            let durable = std::mem::take(&mut self.machines[number].unsynced);
            self.machines[number].unacknowledged.extend(durable.iter().filter_map(|point| point.acknowledged()));
            durable.into_iter().for_each(|point| self.pass(number, point));
        }
        self.start_disk(number);
    }

    pub(super) fn read_done(&mut self, number: usize, boot: u32, io: IoId) {
        if self.machines[number].boot != boot {
            return;
        }
        let Some(op) = self.machines[number].reads.remove(&io) else { return };
        let result = self.machines[number].disk.execute(&op, &mut self.counters);
        let machine = &mut self.machines[number];
        // Of a block that is swept what counts is what is moved: that is judged at the next boot.
        let swept = machine.node.as_ref().and_then(Node::block_read);
        if let DiskOp::Read { place } = op
            && swept != Some(place)
        {
            let disk = &machine.disk;
            match &result {
                DiskResult::Data(answer) => {
                    let counts = |kind: &Kind| *kind == Kind::WrongRead || disk.rotten.contains(kind);
                    machine.met_rot.extend(disk.spoilt_by(place, answer).map(|kind| (place, Some(kind).filter(counts))));
                }
                DiskResult::Failed(_) | DiskResult::Done => {
                    self.counters.mattered(Kind::ReadError);
                    machine.met_rot.push((place, None));
                }
            }
        }
        self.put(number, Event::Disk(io, result));
    }

    fn note_failure(&mut self, number: usize, op: &DiskOp, result: &DiskResult) {
        if let DiskResult::Failed(error) = result {
            self.timeline.note(self.now, || format!("n{}: {} fails: {error}", number + 1, brief(op)));
            if matches!(error, DiskError::Full { .. }) {
                self.counters.mattered(Kind::Full);
            } else {
                let machine = &mut self.machines[number];
                if let Some(kind) = machine.disk.failed_by.take() {
                    machine.failed.get_or_insert_with(|| (kind, error.to_string()));
                }
                machine.may_halt = true;
                machine.up_since = None;
            }
        }
    }

    /// The node stopped by itself: all that it acknowledged is durable.
    fn stopped(&mut self, number: usize) {
        if self.machines[number].stopping_led {
            self.counters.mattered(Kind::Stop);
        }
        let down_ms = self.schedule.between(20, 300);
        let power = self.schedule.chance(400).then_some(LossStyle::Sectors);
        self.crash(number, power, down_ms, None);
    }

    /// The process ends, or (`power`) the machine. It starts again after `down_ms`. `by`: the kind of fault for which the end
    /// counts.
    pub fn crash(&mut self, number: usize, power: Option<LossStyle>, down_ms: u64, by: Option<Kind>) {
        if power.is_some() {
            self.machines[number].up_since = None;
        }
        if self.machines[number].node.is_none() {
            let machine = &mut self.machines[number];
            machine.boot_at = machine.boot_at.map(|at| at.max(self.now + down_ms * MS));
            let (at, boot) = (machine.boot_at.unwrap_or(self.now), machine.boot);
            self.at(at, Happening::Boot(number, boot));
            return self.lose_power(number, power, by);
        }
        self.note_interrupted(number, by);
        let machine = &mut self.machines[number];
        if machine.disk_busy
            && let Some((_, op)) = machine.queue.front()
        {
            machine.disk.interrupt(op, &mut self.counters);
        }
        machine.end_life();
        self.lose_power(number, power, by);
        let machine = &mut self.machines[number];
        let boot = machine.boot;
        let at = self.now + down_ms * MS;
        machine.boot_at = Some(at);
        // After the end of a process its connections are reset at once; after a power loss its peers are told nothing.
        if power.is_none() || self.schedule.chance(500) {
            self.break_connections(number, MS, by);
        } else {
            self.machines[number].connections.clear();
        }
        self.links(number, LinkState::Down);
        self.at(at, Happening::Boot(number, boot));
        self.trace.event(self.now, 8, number, &boot.to_le_bytes(), || format!("n{} is down", number + 1));
    }

    /// What the node's next epoch reads otherwise counts for `by`, too.
    fn lose_power(&mut self, number: usize, power: Option<LossStyle>, by: Option<Kind>) {
        let disk = &mut self.machines[number].disk;
        if power.is_some_and(|style| disk.lose_power(style, &mut self.counters)) {
            disk.scars.extend(by);
        }
    }

    /// A crash takes what the node leads, and entries that are on their way to its disk. Whether they are missed is seen later.
    fn note_interrupted(&mut self, number: usize, by: Option<Kind>) {
        let machine = &mut self.machines[number];
        let Some(node) = machine.node.as_mut().filter(|_| by == Some(Kind::Crash)) else { return };
        let replicas = node.replicas(machine.clock.read(self.now));
        machine.had = replicas.iter().map(|replica| (replica.group, replica.last)).collect();
        self.watch.interrupted.extend(replicas.iter().filter(|replica| replica.leads).map(|replica| replica.group));
    }

    /// The other nodes are told that the link to this one changed. A hint: it may not come.
    pub(super) fn links(&mut self, number: usize, state: LinkState) {
        for other in 0..self.machines.len() {
            if other != number && self.machines[other].node.is_some() && self.schedule.chance(800) {
                let node = self.machines[number].id;
                self.put(other, Event::Link(node, state));
            }
        }
    }
}

/// Whether it holds nothing but heartbeats and their answers.
fn is_heartbeats(envelope: &Envelope) -> bool {
    envelope.messages.iter().all(|message| matches!(message, PeerMessage::Heartbeat(_) | PeerMessage::HeartbeatReply(_)))
}

/// What tells operations of the disk apart, in a few bytes.
fn digest(op: &DiskOp) -> u64 {
    match op {
        DiskOp::Write { segment, offset, data } => {
            let mut hash = xxhash_rust::xxh3::Xxh3::with_seed(u64::from(segment.0) << 32 | u64::from(*offset));
            data.iter().for_each(|part| hash.update(part));
            hash.digest()
        }
        DiskOp::Create { segment, size } => u64::from(segment.0) << 32 | u64::from(*size),
        DiskOp::SyncDirectory => 1,
        DiskOp::Recycle { segment, to } => u64::from(segment.0) << 32 | u64::from(to.0) << 3 | 5,
        DiskOp::Remove { segment } => u64::from(segment.0) << 8 | 6,
        DiskOp::Sync { segment } => u64::from(segment.0) << 8 | 2,
        DiskOp::Read { place } => u64::from(place.segment.0) << 32 | u64::from(place.offset),
    }
}

fn brief(op: &DiskOp) -> String {
    match op {
        DiskOp::Write { segment, offset, data } => {
            format!("write of {} bytes to {segment:?}@{offset}", data.iter().map(Bytes::len).sum::<usize>())
        }
        other => format!("{other:?}"),
    }
}
