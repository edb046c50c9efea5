//! HPACK (RFC 7541): what a block of header fields says, for a reader that may have missed some of them.
//!
//! A reader that did not see every block does not know what the dynamic table holds. Its indexes count from the newest
//! entry, so that entries added since the loss are known by their places, and whatever an index names beyond them is an
//! unknown field: never an error, and never a guess. The static table, and all literals, are always known.
//!
//! **Bounds.** A table holds what the encoder may use by `SETTINGS_HEADER_TABLE_SIZE`, at most [`MAX_TABLE`] (sizes as the RFC
//! counts them); of an encoder that uses more the oldest entries are unknown. Names and values are kept only where
//! the caller asks for them, of all others the size alone. A list of fields adds up to [`MAX_LIST`] at most.

use std::collections::VecDeque;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::huffman;

/// Most bytes of a dynamic table, as the RFC counts them: what browsers and nghttp2 announce at most.
pub const MAX_TABLE: u32 = 64 << 10;
/// Most bytes of one list of fields, names and values and 32 for each: what Chrome takes.
pub const MAX_LIST: usize = 256 << 10;
/// The table's size until a setting says otherwise.
pub const DEFAULT_TABLE: u32 = 4096;
/// What an entry costs beside its name and value.
const ENTRY: u32 = 32;

/// The static table, from index 1 on.
#[rustfmt::skip]
static STATIC: [(&str, &str); 61] = [
    (":authority", ""), (":method", "GET"), (":method", "POST"), (":path", "/"), (":path", "/index.html"),
    (":scheme", "http"), (":scheme", "https"), (":status", "200"), (":status", "204"), (":status", "206"),
    (":status", "304"), (":status", "400"), (":status", "404"), (":status", "500"), ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"), ("accept-language", ""), ("accept-ranges", ""), ("accept", ""),
    ("access-control-allow-origin", ""), ("age", ""), ("allow", ""), ("authorization", ""), ("cache-control", ""),
    ("content-disposition", ""), ("content-encoding", ""), ("content-language", ""), ("content-length", ""),
    ("content-location", ""), ("content-range", ""), ("content-type", ""), ("cookie", ""), ("date", ""),
    ("etag", ""), ("expect", ""), ("expires", ""), ("from", ""), ("host", ""), ("if-match", ""),
    ("if-modified-since", ""), ("if-none-match", ""), ("if-range", ""), ("if-unmodified-since", ""),
    ("last-modified", ""), ("link", ""), ("location", ""), ("max-forwards", ""), ("proxy-authenticate", ""),
    ("proxy-authorization", ""), ("range", ""), ("referer", ""), ("refresh", ""), ("retry-after", ""), ("server", ""),
    ("set-cookie", ""), ("strict-transport-security", ""), ("transfer-encoding", ""), ("user-agent", ""), ("vary", ""),
    ("via", ""), ("www-authenticate", ""),
];

/// A field as a block gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Field<'a> {
    /// Name and value. `shared` is the value where the table holds it: to be kept without a copy.
    Known {
        /// Name.
        name: &'a [u8],
        /// Value.
        value: &'a [u8],
        /// The value again.
        shared: Option<&'a Bytes>,
    },
    /// What it is was in bytes that were not seen.
    Unknown,
}

/// Decodes the blocks of one direction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decoder {
    /// Newest first.
    entries: VecDeque<Entry>,
    /// Sum of the entries' sizes.
    size: u32,
    /// The encoder's bound.
    max: u32,
    /// The most that the encoder may use, by the settings of its peer.
    limit: u32,
    /// Older entries than these may be there.
    lost: bool,
}

/// An entry of the dynamic table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    /// `None`: not known.
    name: Option<Bytes>,
    /// `None`: of no interest.
    value: Option<Bytes>,
    size: u32,
}

impl Default for Decoder {
    /// Of a connection that was seen from its start.
    fn default() -> Self {
        Decoder { entries: VecDeque::new(), size: 0, max: DEFAULT_TABLE, limit: DEFAULT_TABLE, lost: false }
    }
}

impl Decoder {
    /// Of a connection of which some was missed: nothing is known of the table, nor of its bound.
    pub fn lost() -> Decoder {
        Decoder { entries: VecDeque::new(), size: 0, max: MAX_TABLE, limit: MAX_TABLE, lost: true }
    }

    /// Some blocks were not seen.
    pub fn lose(&mut self) {
        self.entries.clear();
        self.size = 0;
        // What was not seen may have held a larger bound; with one that is too large no entry is forgotten that is still in use.
        self.max = self.limit;
        self.lost = true;
    }

    /// Whether some blocks were not seen.
    pub fn is_lost(&self) -> bool {
        self.lost
    }

    /// The peer lets the encoder use so many bytes. A smaller bound than before only counts once the encoder says so.
    pub fn allow(&mut self, bytes: u32) {
        self.limit = self.limit.max(bytes.min(MAX_TABLE));
    }

    /// Bytes of the dynamic table, as the RFC counts them.
    pub fn size(&self) -> u32 {
        self.size
    }

    /// Entries in the dynamic table.
    pub fn n_entries(&self) -> usize {
        self.entries.len()
    }

    /// A state that decoding can lead to.
    pub fn is_sound(&self) -> bool {
        let sum = self.entries.iter().map(|entry| u64::from(entry.size)).sum::<u64>();
        let length = |part: &Option<Bytes>| part.as_ref().map_or(0, Bytes::len);
        let fits = |entry: &Entry| {
            entry
                .size
                .checked_sub(ENTRY)
                .is_some_and(|n| length(&entry.name) + length(&entry.value) <= n as usize)
        };
        self.limit <= MAX_TABLE
            && self.max <= self.limit
            && self.size <= self.max
            && sum == u64::from(self.size)
            && self.entries.iter().all(fits)
    }

    /// Decodes a whole block. `keep` says of a name whether its values are of interest later; `sink` takes the fields, but for
    /// those of the dynamic table that nobody wanted to keep. `false`: the bytes are no block, and the table is not
    /// known any more.
    pub fn decode(
        &mut self,
        block: &[u8],
        keep: impl Fn(&[u8]) -> bool,
        mut sink: impl FnMut(Field<'_>),
    ) -> bool {
        let mut rest = block;
        let mut scratch = Vec::new();
        let mut list = 0usize;
        while let Some(&first) = rest.first() {
            if first & 0x80 != 0 {
                let Some(index) = integer(&mut rest, 7) else { return false };
                let Some(n) = self.indexed(index, &mut sink) else { return false };
                list += n;
            } else if first & 0x60 == 0x20 {
                let Some(max) = integer(&mut rest, 5) else { return false };
                // Entries that there is no room for here are unknown; a bound of 0 empties the table, and it is known again.
                self.lost = max > 0 && (self.lost || max > self.limit);
                self.max = max.min(self.limit);
                self.evict(0);
            } else {
                let with_indexing = first & 0x40 != 0;
                let Some(index) = integer(&mut rest, if with_indexing { 6 } else { 4 }) else { return false };
                scratch.clear();
                if index == 0 && !string(&mut rest, &mut scratch) {
                    return false;
                }
                let n_literal = scratch.len();
                if !string(&mut rest, &mut scratch) {
                    return false;
                }
                let (literal, value) = scratch.split_at(n_literal);
                // Holds the entry's name, which may be evicted by this very field.
                let of_entry: Option<Bytes>;
                let name = match index {
                    0 => Some(literal),
                    1..=61 => Some(STATIC[index as usize - 1].0.as_bytes()),
                    _ => {
                        let Some(place) = self.place(index) else { return false };
                        of_entry = place.and_then(|at| self.entries[at].name.clone());
                        of_entry.as_deref()
                    }
                };
                match name {
                    Some(name) => sink(Field::Known { name, value, shared: None }),
                    None => sink(Field::Unknown),
                }
                list += scratch.len() + ENTRY as usize;
                if with_indexing {
                    self.add(name, value, &keep);
                }
            }
            if list > MAX_LIST {
                return false;
            }
        }
        true
    }

    /// A field that the tables hold. Its size; `None`: there is no such entry.
    fn indexed(&self, index: u32, sink: &mut impl FnMut(Field<'_>)) -> Option<usize> {
        if let 1..=61 = index {
            let (name, value) = STATIC[index as usize - 1];
            sink(Field::Known { name: name.as_bytes(), value: value.as_bytes(), shared: None });
            return Some(name.len() + value.len() + ENTRY as usize);
        }
        let Some(at) = self.place(index)? else {
            sink(Field::Unknown);
            return Some(ENTRY as usize);
        };
        let Entry { name, value, size } = &self.entries[at];
        match (name, value) {
            (None, _) => sink(Field::Unknown),
            (Some(_), None) => {}
            (Some(name), Some(value)) => sink(Field::Known { name, value, shared: Some(value) }),
        }
        Some(*size as usize)
    }

    /// Adds a field to the dynamic table.
    fn add(&mut self, name: Option<&[u8]>, value: &[u8], keep: &impl Fn(&[u8]) -> bool) {
        // Of a name that is not known neither is the length: the entry is taken for smaller than it is, and none is forgotten
        // too early.
        let n_bytes = name.map_or(0, <[u8]>::len) + value.len();
        let size = ENTRY.saturating_add(u32::try_from(n_bytes).unwrap_or(u32::MAX));
        self.evict(size);
        if size <= self.max {
            self.size += size;
            let value = name.is_some_and(keep).then(|| Bytes::copy_from_slice(value));
            self.entries.push_front(Entry { name: name.map(Bytes::copy_from_slice), value, size });
        }
    }

    /// Makes room for an entry of `size`.
    fn evict(&mut self, size: u32) {
        while self.size.saturating_add(size) > self.max {
            let Some(oldest) = self.entries.pop_back() else { return };
            self.size -= oldest.size;
        }
    }

    /// Place of an entry of the dynamic table; `Some(None)`: one that is not known; `None`: there is none.
    fn place(&self, index: u32) -> Option<Option<usize>> {
        let at = (index as usize).checked_sub(STATIC.len() + 1)?;
        match at < self.entries.len() {
            true => Some(Some(at)),
            false => self.lost.then_some(None),
        }
    }
}

/// An integer with a prefix of so many bits (RFC 7541 §5.1). `None`: cut off, or beyond 2³² (nothing here is that long).
fn integer(rest: &mut &[u8], prefix: u32) -> Option<u32> {
    let (&first, mut bytes) = rest.split_first()?;
    let most = (1u32 << prefix) - 1;
    let mut value = u32::from(first) & most;
    if value == most {
        let mut shift = 0;
        loop {
            let (&byte, behind) = bytes.split_first()?;
            bytes = behind;
            let part = u32::from(byte & 0x7f).checked_mul(1u32.checked_shl(shift)?)?;
            value = value.checked_add(part)?;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
    }
    *rest = bytes;
    Some(value)
}

/// Appends a string (RFC 7541 §5.2). `false`: cut off, or no valid code.
fn string(rest: &mut &[u8], out: &mut Vec<u8>) -> bool {
    let Some(&first) = rest.first() else { return false };
    let Some(len) = integer(rest, 7) else { return false };
    let Some((text, behind)) = rest.split_at_checked(len as usize) else { return false };
    *rest = behind;
    if first & 0x80 != 0 {
        return huffman::decode(text, out);
    }
    out.extend_from_slice(text);
    true
}
