//! One step of one connection: what it may do now, and what came of it.

use std::cmp::Reverse;

use tracer_ebpf as abi;

use super::{Entry, LostRequests, QUIET_NS, Rest, State, peers::Here};
use crate::{
    conn::{connection::Connection, stream::Place, turns::Around},
    event::{Data, Direction, Role},
    metrics::Counter,
    protocol::Capture,
    time::{Anchor, BootTime},
    transaction::{
        CallId, End, Transaction,
        anatomy::Causes,
        exchange::{ByTurn, Exchange, Limits, Turnover},
        finish::{Ends, finish, is_captured},
        open::{Effects, Open},
        pairing::Pairs,
        stacks,
        watermark::end_key,
    },
};

impl Entry {
    /// Requests lost on this connection; `closed`: its close was seen.
    pub(super) fn lost(&self, state: &State, closed: bool) -> LostRequests {
        if self.has_datagrams() || self.exchange.is_mute() {
            // The socket's account, or that of the clear text.
            return LostRequests::default();
        }
        let lossy = state.n_lost > 0;
        let around = Around {
            most: state.most,
            continued: state.continued,
            tunnel: self.exchange.pairs().is_tunnel(),
            half_a_head: lossy && self.exchange.has_half_a_head(),
            open_end: lossy && !closed,
        };
        match self.exchange.requests() {
            Some(requests) => self.conn.turns.lost(requests, &around),
            None if self.exchange.is_opaque() => LostRequests::default(),
            None => {
                let turns = self.conn.turns.unseen_of_unknown() + u64::from(around.half_a_head);
                LostRequests { low: 0, high: turns.saturating_mul(u64::from(state.most.max(1))) }
            }
        }
    }

    /// Turns of this connection that the kernel counted as requests, and as unknown.
    pub(super) fn known_turns(&self) -> (u64, u64) {
        let turns = &self.conn.turns;
        if self.has_datagrams() {
            return (0, 0);
        }
        if !self.conn.role_by_kernel {
            return (0, u64::from(turns.last()));
        }
        let requests = match self.conn.role {
            Role::Client => Direction::Egress,
            _ => Direction::Ingress,
        };
        (turns.known(requests).unwrap_or_else(|| u64::from(turns.last()).div_ceil(2)), 0)
    }
}

impl Rest {
    /// Whether nothing that is looked for can come on a connection. What was in flight when it changed its protocol is read to its end.
    pub(super) fn is_excluded(&self, entry: &Entry) -> bool {
        self.is_of_no_interest(entry) && entry.exchange.pairs().n_open() == 0
    }

    /// What is inside of a carrier says whether that is.
    fn is_of_no_interest(&self, entry: &Entry) -> bool {
        let is_read = |name: &str| self.looked_for.reads(name) || entry.exchange.is_carrier();
        entry.exchange.protocol().is_some_and(|name| !is_read(name))
    }

    /// Whether a request in flight is one of those looked for, as far as it has come.
    pub(super) fn keeps(&self, entry: &Entry, open: &Open) -> bool {
        let own = Some(open.more.protocol).filter(|name| !name.is_empty());
        own.or(entry.exchange.protocol()).is_none_or(|name| self.looked_for.keeps(name))
    }

    /// Requests lost on a connection, of those looked for. Where it only leads there, none of them need have been one.
    pub(super) fn lost_on(&self, entry: &Entry, closed: bool) -> LostRequests {
        if self.is_excluded(entry) {
            return LostRequests::default();
        }
        let mut lost = entry.lost(&self.state, closed);
        if entry.exchange.protocol().is_some_and(|name| !self.looked_for.keeps(name)) {
            lost.low = 0;
        }
        lost
    }

    /// Whether what no parser knows is followed turn by turn: on ports of the server that were asked for.
    fn by_turn(&self, entry: &Entry) -> ByTurn {
        let is_asked_for = !self.config.opaque_ports.is_empty() && self.has_opaque_port(entry);
        match entry.carrier() {
            _ if is_asked_for => ByTurn::FromStart,
            Some(_) => ByTurn::Unrecognised,
            None => ByTurn::Never,
        }
    }

    fn has_opaque_port(&self, entry: &Entry) -> bool {
        let ports = &self.config.opaque_ports;
        let abi::Tuple { local_port, remote_port, .. } = entry.conn.tuple;
        match entry.conn.role {
            Role::Server => ports.contains(&local_port),
            Role::Client => ports.contains(&remote_port),
            Role::Unknown => ports.contains(&local_port) || ports.contains(&remote_port),
        }
    }

    /// Counts a connection whose bytes nobody looks at, once.
    fn note_opaque(&mut self, entry: &mut Entry, is_excluded: bool) {
        if !entry.opaque && (is_excluded || entry.exchange.is_opaque()) {
            entry.opaque = true;
            self.metrics.add(Counter::OpaqueConns, 1);
            if is_excluded && !entry.has_datagrams() {
                let verdict = abi::Verdict {
                    conn_id: entry.conn.id.0,
                    resume: [0; 2],
                    mode: abi::VERDICT_NOTHING,
                    budget: abi::DEFAULT_BUDGET,
                };
                self.verdicts.set(entry.conn.id, verdict);
            }
        }
    }

    /// Lets the exchange do something, and takes in what came of it.
    pub(super) fn with(
        &mut self,
        entry: &mut Entry,
        act: impl FnOnce(&mut Exchange, &mut Connection, &mut Turnover<'_>),
    ) {
        self.act(entry, act);
        let is_excluded = self.is_excluded(entry);
        self.note_opaque(entry, is_excluded);
    }

    /// The same for the last time: a connection of which something was looked for is not opaque because it has ended.
    pub(super) fn with_last(
        &mut self,
        entry: &mut Entry,
        act: impl FnOnce(&mut Exchange, &mut Connection, &mut Turnover<'_>),
    ) {
        let is_nobodys = self.act(entry, act);
        self.note_opaque(entry, is_nobodys);
    }

    /// Says whether what came of it is nobody's: of a connection that was never of interest, or is so no longer.
    fn act(
        &mut self,
        entry: &mut Entry,
        act: impl FnOnce(&mut Exchange, &mut Connection, &mut Turnover<'_>),
    ) -> bool {
        let limits = Limits {
            max_in_flight: self.config.max_in_flight_per_conn,
            max_held_bytes: self.config.max_held_bytes,
            reorder_window_ns: self.config.reorder_window_ns,
            keep_target: self.config.keep_target,
            by_turn: self.by_turn(entry),
        };
        let (was_known, was_excluded) = (entry.exchange.protocol().is_some(), self.is_excluded(entry));
        let mut turnover = Turnover { limits, marks: &mut self.marks, fx: &mut self.fx };
        act(&mut entry.exchange, &mut entry.conn, &mut turnover);
        let is_nobodys = was_excluded || (!was_known && self.is_of_no_interest(entry));
        if is_nobodys {
            // So is what was read of it until it was recognised, but for its TLS: there may be something inside.
            let tls = entry.exchange.pairs().tls().cloned();
            *entry.exchange.pairs_mut() = Pairs::default();
            entry.exchange.pairs_mut().restore_tls(tls);
            self.fx = Effects::default();
        } else {
            self.collect(entry);
        }
        if !is_nobodys && self.is_excluded(entry) {
            // It has changed its protocol: what was lost before is told now, and nothing is from here on.
            let lost = entry.lost(&self.state, true);
            self.state.lost.add(lost);
        }
        is_nobodys
    }

    pub(super) fn collect(&mut self, entry: &mut Entry) {
        if std::mem::take(&mut self.fx.tls) && entry.exchange.is_carrier() {
            self.told.push(entry.conn.id);
        }
        if self.fx.counted {
            self.fx.counted = false;
            for (sum, n) in self.state.unpaired.iter_mut().zip(&mut self.fx.unpaired) {
                *sum += std::mem::take(n);
            }
            for (counter, n) in [
                (Counter::RequestsSeen, &mut self.fx.requests_seen),
                (Counter::InFlightFull, &mut self.fx.in_flight_full),
                (Counter::ParserGap, &mut self.fx.gaps),
                (Counter::ParserInvalid, &mut self.fx.invalid),
            ] {
                self.metrics.add(counter, std::mem::take(n));
            }
            self.state.most = self.state.most.max(entry.conn.turns.most());
            self.state.continued |= entry.conn.turns.is_continued();
            if let Some(since) = entry.exchange.pairs().waiting_since() {
                let due = BootTime(since.0.saturating_add(self.config.stuck_after_ns));
                self.state.next_stuck = Some(self.state.next_stuck.map_or(due, |next| next.min(due)));
            }
        }
        if self.fx.ended.is_empty() {
            return;
        }
        let mut ended = std::mem::take(&mut self.fx.ended);
        let role = entry.exchange.role();
        if role == Role::Client {
            ended.iter().for_each(|ended| self.note_ended(entry, &ended.open));
        }
        let here = Here::of(entry);
        let (guessed, carrier) = (entry.is_guessed(), entry.carrier());
        let ends = entry.ends.get_or_insert_with(|| Ends::of(&entry.conn, role));
        let protocol = entry.exchange.protocol().unwrap_or_default();
        let requests = entry.exchange.requests();
        for ended in ended.drain(..) {
            if self.functions.is_used() {
                self.functions.answered(entry.conn.id, &ended);
            }
            if let (Some(noted), Some(requests)) = (&mut self.noted, requests) {
                noted.look(entry.conn.id, requests, &ended);
            }
            let (mut causes, keeps_stacks) = match role {
                Role::Server => {
                    let (causes, keeps) = self.threads.ended(entry.conn.id, &ended, &self.metrics);
                    (Causes { link: self.asked_by(here, &ended.open), ..causes }, keeps)
                }
                Role::Client => {
                    let kind =
                        if ended.open.more.protocol.is_empty() { protocol } else { ended.open.more.protocol };
                    let link = self
                        .threads
                        .asked(entry.conn.id, &ended, kind, || ends.server_name(&entry.conn, role));
                    (Causes { link, ..Causes::default() }, false)
                }
                Role::Unknown => Default::default(),
            };
            let (epoch, anchor): (u32, Anchor) = self.state.line.at(ended.at);
            let network = entry.path.between(ended.open.start, ended.at);
            let service = if is_captured(ended.open.pid, &ended.open.comm) && entry.conn.opened {
                ends.server_name(&entry.conn, role)
            } else {
                self.processes.service(ended.open.pid, &ended.open.comm)
            };
            let comm = self.processes.name(&ended.open.comm);
            let (mut transaction, operation) =
                finish(ended, anchor, entry.conn.id, role, protocol, guessed, ends, service, comm);
            (transaction.carrier, transaction.network) = (carrier, network);
            if role == Role::Server && transaction.end == End::Answered {
                entry.path.served(end_key(epoch, &transaction));
            }
            let id = CallId { conn: transaction.conn, ordinal: transaction.ordinal };
            if !keeps_stacks && !stacks::is_sampled(id, transaction.duration_ns, transaction.error) {
                causes.stacks = Vec::new();
            }
            transaction.causes = (causes != Causes::default()).then(|| Box::new(causes));
            entry.tally.ended(&transaction);
            self.count(&transaction);
            self.watermark.push(epoch, transaction, operation);
        }
        self.fx.ended = ended;
    }

    pub(super) fn count(&self, transaction: &Transaction) {
        if transaction.duration_ns <= 0 {
            self.metrics.add(Counter::DurationNotPositive, 1);
        }
        if transaction
            .response_start
            .is_some_and(|start| transaction.request_end.is_none_or(|end| start < end))
            && transaction.end == End::Answered
        {
            self.metrics.add(Counter::EarlyResponse, 1);
        }
    }

    /// Applies bytes whatever comes before them.
    pub(super) fn apply_data(&mut self, entry: &mut Entry, data: &Data) {
        if entry.has_datagrams() {
            return self.apply_datagram(entry, data.clone());
        }
        if data.has(abi::FLAG_ERROR) {
            let client = entry.exchange.requests() == Some(Direction::Egress);
            if client && data.direction() == Direction::Egress {
                // The answer to what was sent before may still come.
                return;
            }
            return self.with(entry, |exchange, _, turnover| exchange.fail(data.turn, data.time, turnover));
        }
        if data.bytes == 0 {
            if data.has(abi::FLAG_EOF) {
                self.with(entry, |exchange, conn, turnover| {
                    exchange.shut(conn, data.direction(), data.time, turnover);
                });
            }
            return;
        }
        let stream = entry.conn.streams[data.direction().index()];
        if stream.is_shifted(data) {
            let of_request = entry.exchange.requests() == Some(data.direction());
            entry.exchange.pairs_mut().shift(of_request);
        }
        let (missing, seen) = match stream.place_of(data) {
            Place::Next => (0, 0),
            Place::Ahead { missing } => (missing, 0),
            Place::Behind { seen } if seen >= data.bytes => return,
            Place::Behind { seen } => (0, seen),
        };
        self.threads.moved(data);
        entry.tally.data(data, !entry.conn.streams[data.direction().index()].started);
        self.with(entry, |exchange, conn, turnover| exchange.data(conn, data, missing, seen, turnover));
        if self.functions.is_used() {
            self.note_served(entry, data);
        }
        // Before its protocol is known, only the connection knows.
        let role = Some(entry.exchange.role()).filter(|role| *role != Role::Unknown);
        match role.unwrap_or(entry.conn.role) {
            Role::Server if !entry.exchange.is_carrier() => {
                // Where there are streams beside each other, one reads and others serve.
                let goroutine = if entry.exchange.pairs().is_by_stream() { 0 } else { data.goroutine };
                self.threads.serves(entry.conn.id, data, goroutine, entry.exchange.open(), &self.metrics);
            }
            Role::Client => {
                self.threads.asks(entry.conn.id, data, entry.exchange.open(), &self.metrics);
                self.threads.seen_call(data.time);
                if data.direction() == Direction::Egress {
                    self.note_made(entry);
                }
            }
            Role::Server | Role::Unknown => {}
        }
        if !entry.port_told
            && let Some(capture) = entry.exchange.wants_captured()
        {
            let is_whole = capture == Capture::Everything;
            entry.port_told = true;
            let abi::Tuple { local_port, remote_port, .. } = entry.conn.tuple;
            let is_more = match entry.conn.role {
                // What is spoken inside says more.
                _ if capture == Capture::Turns => false,
                Role::Server => self.verdicts.learn(local_port, is_whole),
                Role::Client => self.verdicts.learn(remote_port, is_whole),
                Role::Unknown => false,
            };
            let is_more = is_more || (!is_whole && self.carriers.is_inside(entry.conn.id));
            if is_more {
                let (conn_id, budget) = (entry.conn.id.0, abi::DEFAULT_BUDGET);
                let heads = abi::Verdict { conn_id, resume: [0; 2], mode: abi::VERDICT_HEADS, budget };
                self.verdicts.set(entry.conn.id, heads);
            }
        }
        self.give_verdict(entry);
        if !entry.quiet_armed
            && let Some(since) = entry.exchange.quiet_since()
        {
            entry.quiet_armed = true;
            self.timers.push(Reverse((BootTime(since.0.saturating_add(QUIET_NS)), entry.conn.id)));
        }
    }

    /// Tells the kernel what to capture from here on, if that is news.
    pub(super) fn give_verdict(&mut self, entry: &mut Entry) {
        if !self.is_excluded(entry)
            && let Some(verdict) = entry.exchange.verdict(&entry.conn)
        {
            self.verdicts.set(entry.conn.id, verdict);
        }
    }

    /// Applies what no longer has to wait.
    pub(super) fn settle(&mut self, entry: &mut Entry) {
        let window = self.config.reorder_window_ns;
        if entry.has_datagrams() {
            self.settle_datagrams(entry);
            return self.arm(entry);
        }
        while let Some(data) = {
            let question =
                entry.conn.first_held().and_then(|first| entry.exchange.question(&entry.conn, first));
            entry.conn.release(question, window)
        } {
            self.apply_data(entry, &data);
        }
        self.arm(entry);
    }

    fn arm(&mut self, entry: &mut Entry) {
        if entry.conn.is_holding() && !entry.hold_armed {
            entry.hold_armed = true;
            self.timers.push(Reverse((entry.conn.held_until(), entry.conn.id)));
        }
    }

    /// Applies all that waits.
    pub(super) fn flush_held(&mut self, entry: &mut Entry) {
        while entry.conn.is_holding() {
            self.settle(entry);
            if let Some(first) = entry.conn.release_first(self.config.reorder_window_ns) {
                self.apply_data(entry, &first);
            }
        }
    }

    /// Something about a connection is due.
    pub(super) fn timer(&mut self, entry: &mut Entry, now: BootTime) {
        if entry.hold_armed && entry.conn.held_until() <= now {
            entry.hold_armed = false;
            while entry.conn.is_holding() && entry.conn.held_until() <= now {
                if let Some(first) = entry.conn.release_first(self.config.reorder_window_ns) {
                    self.apply_data(entry, &first);
                }
                self.settle(entry);
            }
        } else if entry.hold_armed {
            // Rearmed since.
            self.timers.push(Reverse((entry.conn.held_until(), entry.conn.id)));
        }
        if entry.quiet_armed {
            let due = entry.exchange.quiet_since().map(|since| BootTime(since.0.saturating_add(QUIET_NS)));
            match due {
                Some(due) if due > now => self.timers.push(Reverse((due, entry.conn.id))),
                Some(due) => {
                    entry.quiet_armed = false;
                    self.with(entry, |exchange, conn, turnover| {
                        exchange.give_up_turn(conn, due, turnover.fx);
                    });
                }
                None => entry.quiet_armed = false,
            }
        }
    }
}
