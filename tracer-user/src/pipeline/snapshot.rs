//! What the pipeline holds at one instant of event time.

use std::{collections::BTreeMap, sync::Arc};

use super::{AgeSteps, InFlight, MAX_OPEN_LISTED, OpenRequest, Pipeline, Snapshot};
use crate::{
    event::ConnId,
    time::BootTime,
    transaction::{CallId, Kind, Unpaired},
};

impl Pipeline {
    /// What is in flight and lost at this instant of event time.
    pub fn snapshot(&self) -> Snapshot {
        let state = &self.rest.state;
        let frontier = self.order.frontier();
        let (_, anchor) = state.line.at(frontier);
        let mut lost = state.lost;
        let (mut n_open, mut n_long_lived, mut n_left_out) = (0, 0, 0);
        let age_steps = self.rest.config.age_steps;
        let mut by_service: BTreeMap<Arc<str>, [u64; AgeSteps::MAX_CLASSES]> = BTreeMap::new();
        let mut listed: BTreeMap<(BootTime, ConnId, u64), OpenRequest> = BTreeMap::new();
        for entry in self.tracker.iter().filter(|entry| !self.rest.is_excluded(entry)) {
            lost.add(self.rest.lost_on(entry, false));
            for open in entry.exchange.open() {
                if !self.rest.keeps(entry, open) {
                    n_left_out += 1;
                    continue;
                }
                let key = (open.start, entry.conn.id, open.ordinal);
                let full = listed.len() >= MAX_OPEN_LISTED;
                if !full || listed.last_key_value().is_some_and(|(last, _)| key < *last) {
                    listed.insert(key, self.open_request(entry, open, frontier, anchor));
                    if full {
                        listed.pop_last();
                    }
                }
                if open.kind == Kind::LongLived {
                    n_long_lived += 1;
                    continue;
                }
                n_open += 1;
                let class = age_steps.class(frontier.0.saturating_sub(open.start.0));
                by_service.entry(self.rest.service_of(entry, open.pid, &open.comm)).or_default()[class] += 1;
            }
        }
        for open in self.open_calls() {
            let CallId { conn, ordinal } = open.id();
            let key = (open.enter.time, conn, ordinal);
            let full = listed.len() >= MAX_OPEN_LISTED;
            if !full || listed.last_key_value().is_some_and(|(last, _)| key < *last) {
                listed.insert(key, self.open_call(open, frontier, anchor));
                if full {
                    listed.pop_last();
                }
            }
            n_open += 1;
            let class = age_steps.class(frontier.0.saturating_sub(open.enter.time.0));
            let service = self.rest.processes.service_of(open.enter.pid, &open.enter.comm);
            by_service.entry(service).or_default()[class] += 1;
        }
        lost.high = lost.high.saturating_add(state.residual);
        Snapshot {
            time: frontier,
            wall: anchor.wall(frontier),
            watermark: self.rest.watermark.reached(),
            n_conns: self.tracker.len() - self.n_inside(),
            connections: self.connections(frontier),
            n_open,
            n_long_lived,
            n_left_out,
            n_unended: state.n_unended,
            n_waiting: (self.rest.watermark.n_waiting() + self.rest.functions.n_waiting()) as u64,
            age_steps,
            in_flight: by_service
                .into_iter()
                .map(|(service, by_age)| InFlight {
                    service,
                    by_age: by_age[..age_steps.n_classes()].to_vec(),
                })
                .collect(),
            open: listed.into_values().collect(),
            unpaired: Unpaired::ALL.iter().map(|&reason| (reason, state.unpaired[reason as usize])).collect(),
            lost_requests: lost,
            counters: state.counters.clone(),
        }
    }
}
