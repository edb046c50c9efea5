//! Where the messages of a transaction lie in the streams: for whoever wants their bytes back.

use super::Pipeline;
use crate::{
    event::{ConnId, Direction},
    transaction::open::Ended,
};

/// Where one transaction's messages begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Positions {
    /// Number on the connection.
    pub ordinal: u64,
    /// The direction of the request.
    pub requests: Direction,
    /// Of the first request byte.
    pub request: u64,
    /// Of the first byte of the final response, if there was one.
    pub response: Option<u64>,
}

/// What is noted, on one connection.
#[derive(Debug)]
pub(super) struct Noted {
    conn: ConnId,
    ordinal: u64,
    found: Option<Positions>,
}

impl Noted {
    pub(super) fn look(&mut self, conn: ConnId, requests: Direction, ended: &Ended) {
        let open = &ended.open;
        if (conn, open.ordinal) == (self.conn, self.ordinal) {
            let response = open.response.is_some().then_some(open.response_from);
            let (ordinal, request) = (open.ordinal, open.request_from);
            self.found = Some(Positions { ordinal, requests, request, response });
        }
    }
}

impl Pipeline {
    /// From now on notes where the messages of this transaction lie. Changes nothing else, and is no part of a checkpoint.
    pub fn note(&mut self, conn: ConnId, ordinal: u64) {
        self.rest.noted = Some(Noted { conn, ordinal, found: None });
    }

    /// What was noted, once the transaction has ended.
    pub fn noted(&self) -> Option<Positions> {
        self.rest.noted.as_ref()?.found
    }
}
