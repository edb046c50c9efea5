//! What is known of a row group before its rows are decoded: ranges from the footer, and the dictionaries in front of its
//! pages, which hold every value of a column and nothing else.
//!
//! A dictionary says more than a range (a port either is in it or is not) and costs no byte beyond what compresses the
//! column anyway. It stands in the body, so that the body has to be read, and its checksum to match, first.

use std::{
    cell::RefCell,
    ops::{Range, RangeInclusive},
    rc::Rc,
    sync::Arc,
};

use bytes::{Buf as _, Bytes};
use parquet::{
    basic::{Encoding, Type},
    column::page::{Page, PageReader as _},
    file::{
        metadata::{ColumnChunkMetaData, RowGroupMetaData},
        serialized_reader::SerializedPageReader,
        statistics::Statistics,
    },
};

use super::{
    file::guarded,
    transaction_rows::{SINCE_VERSION_2, SINCE_VERSION_4, SINCE_VERSION_5, is_since_version_3},
};

/// Whether a row group is to be read. Asked twice of the same group: by the footer alone, then with its dictionaries.
pub type GroupTest = dyn Fn(&Group<'_>) -> bool + Send;

/// What is known of a column's values in a group of rows: never less than what is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnFacts {
    /// Values that are not null.
    pub values: Values,
    /// Whether a value may be null.
    pub nulls: bool,
}

/// The values of a column that are not null.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Values {
    /// Nothing is known.
    Unknown,
    /// There is none.
    None,
    /// None outside of this range.
    Integers(RangeInclusive<i64>),
    /// None but these.
    IntegerSet(Vec<i64>),
    /// None outside of this range; `false` comes first.
    Booleans(RangeInclusive<bool>),
    /// None outside of this range, in the order of their bytes.
    TextRange(RangeInclusive<String>),
    /// None but these.
    Texts(Vec<String>),
}

impl ColumnFacts {
    /// Nothing is known.
    pub const UNKNOWN: ColumnFacts = ColumnFacts { values: Values::Unknown, nulls: true };
    /// All are missing.
    const NONE: ColumnFacts = ColumnFacts { values: Values::None, nulls: true };
}

/// A row group.
pub struct Group<'a> {
    metadata: &'a RowGroupMetaData,
    /// The whole file, verified. `None`: only the footer was read.
    file: Option<&'a Arc<Bytes>>,
    /// What was looked up: an expression may name a column many times. At most one entry per column.
    known: RefCell<Vec<(String, Rc<ColumnFacts>)>>,
}

impl<'a> Group<'a> {
    pub(super) fn new(metadata: &'a RowGroupMetaData, file: Option<&'a Arc<Bytes>>) -> Group<'a> {
        Group { metadata, file, known: RefCell::default() }
    }

    /// What is known of a column.
    pub fn column(&self, name: &str) -> Rc<ColumnFacts> {
        let known =
            self.known.borrow().iter().find(|(known, _)| known == name).map(|(_, facts)| facts.clone());
        known.unwrap_or_else(|| {
            let facts = Rc::new(self.look(name));
            self.known.borrow_mut().push((name.to_owned(), facts.clone()));
            facts
        })
    }

    /// Between which times its transactions end, if the footer says so.
    pub fn end_times(&self) -> Option<RangeInclusive<i64>> {
        self.chunk("end_time_ns").and_then(|chunk| match range_of(chunk) {
            Values::Integers(times) => Some(times),
            _ => None,
        })
    }

    /// Whether it may hold rollups of this length that begin in `range`, ns.
    pub fn may_hold_rollups(&self, length_ns: u64, range: &Range<u64>) -> bool {
        let length_ns = i64::try_from(length_ns).unwrap_or(i64::MAX);
        let lengths = match &self.column("interval_ns").values {
            Values::Integers(lengths) => lengths.contains(&length_ns),
            Values::IntegerSet(lengths) => lengths.contains(&length_ns),
            _ => true,
        };
        lengths
            && match self.chunk("interval_start_ns").map(range_of) {
                Some(Values::Integers(starts)) => {
                    let start = |time: i64| u64::try_from(time).unwrap_or(0);
                    start(*starts.end()) >= range.start && start(*starts.start()) < range.end
                }
                _ => true,
            }
    }

    /// Whether it may hold a row of this ordinal or a later one.
    pub fn may_reach(&self, ordinal: u64) -> bool {
        match self.chunk("ordinal").map(range_of) {
            Some(Values::Integers(ordinals)) => {
                u64::try_from(*ordinals.end()).is_ok_and(|last| last >= ordinal)
            }
            _ => true,
        }
    }

    fn chunk(&self, name: &str) -> Option<&'a ColumnChunkMetaData> {
        self.metadata
            .columns()
            .iter()
            .find(|chunk| matches!(chunk.column_path().parts(), [only] if only == name))
    }

    fn look(&self, name: &str) -> ColumnFacts {
        let Some(chunk) = self.chunk(name) else {
            let is_later = SINCE_VERSION_2.contains(&name)
                || is_since_version_3(name)
                || SINCE_VERSION_4.contains(&name)
                || SINCE_VERSION_5.contains(&name);
            return if is_later { ColumnFacts::NONE } else { ColumnFacts::UNKNOWN };
        };
        let may_be_null = chunk.column_descr().max_def_level() > 0;
        let n_nulls = chunk.statistics().and_then(Statistics::null_count_opt);
        let n_rows = u64::try_from(self.metadata.num_rows()).unwrap_or(u64::MAX);
        if may_be_null && n_nulls == Some(n_rows) {
            return ColumnFacts::NONE;
        }
        let dictionary = self.file.and_then(|file| dictionary(chunk, file, self.metadata.num_rows()));
        ColumnFacts {
            values: dictionary.unwrap_or_else(|| range_of(chunk)),
            nulls: may_be_null && n_nulls != Some(0),
        }
    }
}

/// What the footer says of a column's values.
fn range_of(chunk: &ColumnChunkMetaData) -> Values {
    match chunk.statistics() {
        Some(Statistics::Int64(statistics)) => match (statistics.min_opt(), statistics.max_opt()) {
            (Some(&min), Some(&max)) if min <= max => Values::Integers(min..=max),
            _ => Values::Unknown,
        },
        Some(Statistics::Boolean(statistics)) => match (statistics.min_opt(), statistics.max_opt()) {
            (Some(&min), Some(&max)) if min <= max => Values::Booleans(min..=max),
            _ => Values::Unknown,
        },
        Some(Statistics::ByteArray(statistics)) => {
            let whole = statistics.min_is_exact() && statistics.max_is_exact();
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok().filter(|_| whole);
            match (statistics.min_bytes_opt().and_then(text), statistics.max_bytes_opt().and_then(text)) {
                (Some(min), Some(max)) if min <= max => Values::TextRange(min..=max),
                _ => Values::Unknown,
            }
        }
        _ => Values::Unknown,
    }
}

/// The dictionary of a column, where every page of it is written by its dictionary.
fn dictionary(chunk: &ColumnChunkMetaData, file: &Arc<Bytes>, n_rows: i64) -> Option<Values> {
    let pages = chunk.page_encoding_stats_mask()?;
    let all = pages.is_only(Encoding::RLE_DICTIONARY) || pages.is_only(Encoding::PLAIN_DICTIONARY);
    if !all || chunk.dictionary_page_offset().is_none() {
        return None;
    }
    let n_rows = usize::try_from(n_rows).ok()?;
    let page = guarded(|| Ok(SerializedPageReader::new(file.clone(), chunk, n_rows, None)?.get_next_page()?));
    let Ok(Some(Page::DictionaryPage { mut buf, num_values, .. })) = page else { return None };
    match chunk.column_type() {
        // Only nulls.
        _ if num_values == 0 => Some(Values::None),
        Type::INT64 => {
            let values = (0..num_values).map(|_| buf.try_get_i64_le().ok());
            values.collect::<Option<_>>().map(Values::IntegerSet)
        }
        Type::BYTE_ARRAY => {
            let mut text = || {
                let length = buf.try_get_u32_le().ok()? as usize;
                let bytes = (length <= buf.remaining()).then(|| buf.split_to(length))?;
                String::from_utf8(bytes.into()).ok()
            };
            (0..num_values).map(|_| text()).collect::<Option<_>>().map(Values::Texts)
        }
        _ => None,
    }
}
