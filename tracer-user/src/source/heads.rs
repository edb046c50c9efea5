//! The heads of a recorded transaction: request and response as they went over the connection, cut out of the recording.
//!
//! The recording's own pipeline is run again from the last checkpoint before the request, with the events of this connection alone: so
//! the numbers of its requests are those of the run, pipelined or not, and where a message begins is where pairing found it. The bytes come
//! from the data records around the transaction, put together by their positions.

use std::{io, path::Path};

use bytes::{Bytes, BytesMut};

use super::{
    Source as _, SourceError,
    recording::Recording,
    replay::{ReplayError, ReplaySource},
};
use crate::{
    event::{Data, Direction, Event},
    metrics::Metrics,
    pipeline::{CheckpointError, NullVerdicts, Pipeline, PipelineConfig, Positions},
    protocol::codec::head::{Parse, find_end, status_line},
    time::WallTime,
    transaction::{Transaction, WallRange},
};

/// Bytes that are given of a head.
pub const MAX_HEAD: usize = 64 << 10;
/// Records are kept from so long before a message to so long behind the transaction, ns.
const AROUND_NS: u64 = 1_000_000_000;
/// A transaction that somebody else ended may leave the pipeline so long behind its end, ns.
const BEHIND_NS: u64 = 10_000_000_000;
/// Captured bytes that are kept of each direction: far above what a request and what is sent with it take.
const MAX_KEPT: usize = 16 << 20;

/// The heads of a transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heads {
    /// Of the request.
    pub request: Head,
    /// Of the response.
    pub response: Head,
}

/// One head.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Head {
    /// The recording does not hold it.
    #[default]
    NotFound,
    /// Its bytes, the empty line included; as they were sent.
    Whole(Bytes),
    /// The first bytes: the rest was not captured, or is beyond [`MAX_HEAD`].
    Cut(Bytes),
}

/// Why there are no heads.
#[derive(Debug, thiserror::Error)]
pub enum HeadsError {
    /// The folder.
    #[error("the recording cannot be read: {0}")]
    Folder(#[from] io::Error),
    /// What it holds.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// Its events.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Its checkpoints.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}

/// The heads of a transaction of the recording in `dir`, made by a pipeline of these settings.
pub fn heads(dir: &Path, shown: &Transaction, config: &PipelineConfig) -> Result<Heads, HeadsError> {
    let recording = Recording::open(dir)?;
    let until = WallTime(shown.end_time.0.saturating_add(BEHIND_NS));
    let range = WallRange { from: shown.start_time, to: until };
    let mut source = ReplaySource::open(&recording, range, Metrics::default())?;
    source = source.only(shown.conn, shown.carrier);
    let config = PipelineConfig { list_connections: false, ..config.clone() };
    let new = || Pipeline::new(config.clone(), Metrics::default(), Box::new(NullVerdicts));
    let mut pipeline = new();
    pipeline.note(shown.conn, shown.ordinal);
    let mut kept = Kept::default();
    while let Some(batch) = source.next_batch()? {
        if let Some(restart) = source.restart() {
            pipeline = match &restart.checkpoint[..] {
                [] => new(),
                checkpoint => {
                    Pipeline::restore(checkpoint, config.clone(), Metrics::default(), Box::new(NullVerdicts))?
                }
            };
            pipeline.note(shown.conn, shown.ordinal);
        }
        pipeline.push_batch(&batch);
        let mut wall = WallTime(0);
        for event in &batch.events {
            let time = crate::conn::order::time(event);
            wall = pipeline.line().at(time).1.wall(time);
            if let Event::Data(data) = event
                && data.conn == shown.conn
            {
                kept.take(data, wall, shown);
            }
        }
        // Nobody reads them.
        pipeline.drain();
        if pipeline.noted().is_some() && wall.0 > shown.end_time.0.saturating_add(AROUND_NS) || wall > until {
            break;
        }
    }
    pipeline.finish();
    let found = pipeline.noted();
    Ok(found.map_or_else(Heads::default, |positions| kept.heads(&positions)))
}

/// Captured bytes of both directions, by position.
#[derive(Default)]
struct Kept {
    records: [Vec<(u64, Bytes)>; 2],
    n_bytes: [usize; 2],
}

impl Kept {
    fn take(&mut self, data: &Data, wall: WallTime, shown: &Transaction) {
        let at = data.direction().index();
        let from = shown.start_time.0.saturating_sub(AROUND_NS);
        let is_near = (from..=shown.end_time.0.saturating_add(AROUND_NS)).contains(&wall.0);
        let have = data.payload.len().min(usize::try_from(data.bytes).unwrap_or(usize::MAX));
        if is_near && have != 0 && self.n_bytes[at] < MAX_KEPT {
            self.n_bytes[at] += have;
            // A copy: the payload shares its memory with thousands of others.
            self.records[at].push((data.position, Bytes::copy_from_slice(&data.payload[..have])));
        }
    }

    fn heads(mut self, positions: &Positions) -> Heads {
        let Positions { requests, request, response, ordinal: _ } = *positions;
        Heads {
            request: self.cut(requests, request),
            response: response.map_or(Head::NotFound, |response| self.response(requests.flip(), response)),
        }
    }

    /// The head of the final response; `from` may be that of an interim one before it.
    fn response(&mut self, direction: Direction, mut from: u64) -> Head {
        loop {
            match self.cut(direction, from) {
                // 101 is the last thing that is said in HTTP.
                Head::Whole(bytes)
                    if matches!(status_line(&bytes), Parse::Done(100 | 102..=199, _))
                        && !bytes.is_empty() =>
                {
                    from = from.wrapping_add(bytes.len() as u64);
                }
                head => return head,
            }
        }
    }

    /// The head that begins at a position.
    fn cut(&mut self, direction: Direction, from: u64) -> Head {
        let records = &mut self.records[direction.index()];
        // Positions may wrap: what counts is how far behind the first byte they lie.
        let distance = |position: u64| position.wrapping_sub(from) as i64;
        records.sort_by_key(|(position, _)| distance(*position));
        let mut head = BytesMut::new();
        for (position, bytes) in records.iter() {
            let have = head.len() as i64;
            let begin = distance(*position);
            if begin > have {
                // A gap: what comes behind it is no part of what lies before it.
                break;
            }
            let Ok(seen) = usize::try_from(have - begin) else { break };
            let Some(more) = bytes.get(seen..) else { continue };
            let searched = head.len();
            head.extend_from_slice(&more[..more.len().min(MAX_HEAD + 4 - head.len())]);
            if let Some(end) = find_end(&head, searched) {
                head.truncate(end);
                return if end <= MAX_HEAD { Head::Whole(head.freeze()) } else { cut_off(head) };
            }
            if head.len() > MAX_HEAD {
                break;
            }
        }
        if head.is_empty() { Head::NotFound } else { cut_off(head) }
    }
}

fn cut_off(mut head: BytesMut) -> Head {
    head.truncate(MAX_HEAD);
    Head::Cut(head.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(records: &[(u64, &[u8])], from: u64) -> Head {
        let mut kept = Kept::default();
        kept.records[0] =
            records.iter().map(|(position, bytes)| (*position, Bytes::copy_from_slice(bytes))).collect();
        kept.cut(Direction::Ingress, from)
    }

    const HEAD: &[u8] = b"GET /1 HTTP/1.1\r\nHost: x\r\n\r\n";

    #[test]
    fn a_head_is_put_together_from_its_pieces_and_ends_with_its_empty_line() {
        let body = [HEAD, b"body"].concat();
        // Out of order, overlapping, and behind the end of another message.
        for (a, b) in [(1, 1), (9, 5), (HEAD.len() - 1, HEAD.len() - 3)] {
            for from in [100, 0, u64::MAX - 7] {
                let at = |offset: usize| u64::wrapping_add(from, offset as u64);
                let other = [b"before", &body[..a]].concat();
                let records: [(u64, &[u8]); 2] = [(at(b), &body[b..]), (from.wrapping_sub(6), &other)];
                assert_eq!(cut(&records, from), Head::Whole(HEAD.to_vec().into()), "{a} {b} {from}");
            }
        }
    }

    #[test]
    fn what_is_missing_cuts_a_head_and_what_is_not_there_is_not_found() {
        let cut_at = |n: usize| Head::Cut(HEAD[..n].to_vec().into());
        assert_eq!(cut(&[(7, &HEAD[..9])], 7), cut_at(9));
        assert_eq!(cut(&[(7, &HEAD[..9]), (17, &HEAD[10..])], 7), cut_at(9), "behind a gap");
        assert_eq!(cut(&[(8, HEAD)], 7), Head::NotFound);
        assert_eq!(cut(&[(0, b"before")], 7), Head::NotFound);
        assert_eq!(cut(&[], 7), Head::NotFound);
    }

    #[test]
    fn no_more_of_a_head_is_given_than_its_bound() {
        let long = |n: usize| [b"GET /1 HTTP/1.1\r\nA: ", &vec![b'x'; n][..], b"\r\n\r\n"].concat();
        let rest = long(0).len();
        for (n, is_whole) in [(MAX_HEAD - rest, true), (MAX_HEAD - rest + 1, false), (10 * MAX_HEAD, false)] {
            let head = long(n);
            let (first, second) = head.split_at(MAX_HEAD - 2);
            for records in [vec![(0, &head[..])], vec![(0, first), (first.len() as u64, second)]] {
                match cut(&records, 0) {
                    Head::Whole(bytes) => assert!(is_whole && bytes == head),
                    Head::Cut(bytes) => assert!(!is_whole && bytes == head[..MAX_HEAD], "{n}"),
                    Head::NotFound => panic!("{n}"),
                }
            }
        }
    }
}
