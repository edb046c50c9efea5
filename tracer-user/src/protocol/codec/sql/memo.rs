//! Fingerprints that a connection needs again and again.

use std::{fmt, hash::Hasher as _};

use super::{Dialect, Statement, fingerprint_in};

/// Statements kept. A power of two; applications use more, but a few of them most of the time.
const N_SLOTS: usize = 16;
/// Bytes of the longest text kept: with its fingerprint, 16 of them take 36 KiB on a connection at most, and 2 KiB are written in.
const MAX_KEPT: usize = 1024;

/// A bounded memory of fingerprints: of a text that comes twice in a row to its slot the fingerprint is kept. Texts with literals in
/// them come once and are not copied. It changes nothing but the cost, and is no part of a parser's state.
#[derive(Default)]
pub struct Memo {
    slots: Vec<Slot>,
    /// Where texts are written.
    room: Vec<u8>,
}

#[derive(Clone, Default)]
struct Slot {
    /// Hash of the text seen last.
    seen: u64,
    kept: Option<(Box<[u8]>, Dialect, Statement)>,
}

impl Memo {
    /// What [`super::fingerprint`] gives.
    pub fn fingerprint(&mut self, sql: &[u8], dialect: Dialect) -> Statement {
        if sql.len() > MAX_KEPT {
            return fingerprint_in(&mut self.room, sql, dialect);
        }
        if self.slots.is_empty() {
            self.slots.resize(N_SLOTS, Slot::default());
        }
        let mut hasher = rustc_hash::FxHasher::default();
        hasher.write(sql);
        let hash = hasher.finish();
        let slot = &mut self.slots[(hash >> 32) as usize % N_SLOTS];
        if let Some((text, with, statement)) = &slot.kept
            && **text == *sql
            && *with == dialect
        {
            return statement.clone();
        }
        let statement = fingerprint_in(&mut self.room, sql, dialect);
        if std::mem::replace(&mut slot.seen, hash) == hash {
            slot.kept = Some((sql.into(), dialect, statement.clone()));
        }
        statement
    }
}

impl fmt::Debug for Memo {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Memo").field("n_slots", &self.slots.len()).finish()
    }
}
