//! A request in flight that is opened: followed until it ends, and then the transaction that it became.

use std::sync::Arc;

use super::{app::App, feed::Feed};
use crate::{
    event::ConnId,
    pipeline::{OpenRequest, Step},
    time::WallTime,
    transaction::Transaction,
};

/// A request in flight.
#[derive(Clone, Debug, PartialEq)]
pub struct Flight {
    /// What was known of it last.
    pub open: OpenRequest,
    /// The same as a record without an end.
    pub so_far: Arc<Transaction>,
    /// It is no longer in flight, and its transaction is not among the rows that are kept.
    pub is_gone: bool,
}

/// What is shown of a transaction changes with this: which it is, and how far it was when it was looked at.
pub(super) type Progress = (ConnId, u64, Option<Step>);

impl Flight {
    /// Of what is known of a request.
    pub fn of(open: &OpenRequest) -> Flight {
        Flight { open: open.clone(), so_far: Arc::new(open.so_far()), is_gone: false }
    }

    /// Whether its answer has begun.
    pub fn is_answered(&self) -> bool {
        self.open.response_start.is_some()
    }
}

impl App {
    /// The transaction that is shown: one that ended, or what there is so far of one in flight.
    pub fn opened(&self) -> Option<&Arc<Transaction>> {
        self.detail.as_ref().or(self.flight.as_ref().map(|flight| &flight.so_far))
    }

    /// The request in flight that is shown.
    pub fn followed(&self) -> Option<&Flight> {
        self.flight.as_ref().filter(|_| self.detail.is_none())
    }

    /// Which transaction is shown, and how far it is; `None` for the step of one that ended.
    pub(super) fn progress(&self) -> Option<Progress> {
        let step = self.followed().filter(|_| self.link_of.is_none()).map(|flight| flight.open.step);
        self.heads_of().map(|row| (row.conn, row.ordinal, step))
    }

    /// Looks at what became of the request that is open. On a frozen screen it stays as it was.
    pub fn follow(&mut self, feed: &Feed) {
        let Some(flight) = self.flight.as_mut().filter(|_| self.paused.is_none()) else { return };
        let is_it = |conn, ordinal| (conn, ordinal) == (flight.open.conn, flight.open.ordinal);
        let status = feed.status.lock();
        if let Some(open) = status.snapshot.open.iter().find(|open| is_it(open.conn, open.ordinal)) {
            if *open != flight.open || flight.is_gone {
                *flight = Flight::of(open);
            }
            return;
        }
        drop(status);
        // It cannot have ended before it began, by more than clocks are set.
        let from = WallTime(flight.open.start.0.saturating_sub(1_000_000_000));
        let recent = feed.recent.lock();
        let mut ended = recent.rows(from, WallTime(u64::MAX));
        match ended.find(|row| is_it(row.conn, row.ordinal)) {
            Some(row) => (self.detail, self.flight) = (Some(row.clone()), None),
            None => flight.is_gone = true,
        }
    }
}
