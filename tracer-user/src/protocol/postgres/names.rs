//! Statements and portals that were named.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{MAX_NAME, MAX_STATEMENT_BYTES, MAX_STATEMENTS};

/// A statement that was named.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Prepared {
    pub(super) summary: Cow<'static, str>,
    pub(super) text: Bytes,
    /// `COPY … FROM STDIN`.
    pub(super) copies: bool,
}

/// Statements or portals by name.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Names {
    by_name: BTreeMap<Box<[u8]>, (u64, Arc<Prepared>)>,
    n_bytes: usize,
    n_born: u64,
}

impl Names {
    pub(super) fn get(&self, name: &[u8]) -> Option<&Arc<Prepared>> {
        self.by_name.get(name).map(|(_, prepared)| prepared)
    }

    pub(super) fn insert(&mut self, name: &[u8], prepared: Arc<Prepared>) {
        self.remove(name);
        if name.len() > MAX_NAME {
            return;
        }
        self.n_bytes += prepared.text.len();
        self.n_born += 1;
        self.by_name.insert(name.into(), (self.n_born, prepared));
        while self.by_name.len() > MAX_STATEMENTS || self.n_bytes > MAX_STATEMENT_BYTES {
            // The oldest; rare, so that looking for it may cost something.
            let oldest = self.by_name.iter().min_by_key(|(_, (born, _))| *born).map(|(name, _)| name.clone());
            let Some(oldest) = oldest else { return };
            self.remove(&oldest);
        }
    }

    pub(super) fn remove(&mut self, name: &[u8]) {
        if let Some((_, prepared)) = self.by_name.remove(name) {
            self.n_bytes = self.n_bytes.saturating_sub(prepared.text.len());
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Names { n_born: self.n_born, ..Names::default() };
    }

    /// No more than is remembered, also when it comes from a saved state.
    pub(super) fn is_bounded(&self) -> bool {
        self.by_name.len() <= MAX_STATEMENTS
    }
}
