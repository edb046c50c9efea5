//! What databases and caches are asked: the operations of such protocols, by service, statement and where they go. Pure.

use std::{cmp::Reverse, sync::Arc};

use rustc_hash::FxHashMap;

use super::edges::address;
use crate::{
    event::Role,
    protocol::{Family, REGISTRY},
    text::{data_text, screen_text},
    time::WallTime,
    transaction::Transaction,
};

/// What is asked again and again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// Who asks (client) or answers (server), safe to show.
    pub service: String,
    /// Its part.
    pub role: Role,
    /// Registry name of the protocol.
    pub protocol: &'static str,
    /// The statement without its values, safe to show.
    pub digest: String,
    /// Where it goes, safe to show.
    pub target: String,
    /// Transactions.
    pub count: u64,
    /// Errors among them.
    pub errors: u64,
    /// Those of the last completed seconds.
    pub recent: u64,
    /// p50, p99 and longest of the measured ones, ns: exact.
    pub times_ns: Option<[u64; 3]>,
    /// Time of the measured ones together, ns.
    pub total_ns: u64,
}

/// Order of the statements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StatementSort {
    /// Most time in all first.
    #[default]
    Total,
    /// Most transactions first.
    Count,
    /// Most errors first.
    Errors,
    /// Longest p99 first.
    P99,
    /// Longest first.
    Max,
}

impl StatementSort {
    /// Heading of the column it sorts by.
    pub fn column(self) -> &'static str {
        match self {
            StatementSort::Total => "total",
            StatementSort::Count => "count",
            StatementSort::Errors => "errors",
            StatementSort::P99 => "p99",
            StatementSort::Max => "max",
        }
    }

    /// The order that comes next.
    pub fn next(self) -> StatementSort {
        match self {
            StatementSort::Total => StatementSort::Count,
            StatementSort::Count => StatementSort::Errors,
            StatementSort::Errors => StatementSort::P99,
            StatementSort::P99 => StatementSort::Max,
            StatementSort::Max => StatementSort::Total,
        }
    }
}

/// The family of a protocol of the registry.
pub fn family(protocol: &str) -> Option<Family> {
    REGISTRY.iter().find(|known| known.name() == protocol).map(|known| known.family())
}

/// The statements among some transactions, in an order. `family`: of a protocol; `recent`: the time that counts as recent. As many as
/// there are different ones: no more than transactions that are kept.
pub fn statements<'a>(
    rows: impl Iterator<Item = &'a Arc<Transaction>>,
    family: impl Fn(&str) -> Option<Family>,
    recent: std::ops::Range<WallTime>,
    by: StatementSort,
) -> Vec<Statement> {
    type Key<'a> = (&'a str, Role, &'static str, &'a [u8], &'a str, Option<u16>);
    #[derive(Default)]
    struct Sum {
        count: u64,
        errors: u64,
        recent: u64,
        durations: Vec<u64>,
    }
    let mut sums: FxHashMap<Key<'a>, Sum> = FxHashMap::default();
    for row in rows {
        // What a database is asked is told by the statement without its literals; of a cache that would name each key.
        let statement = match family(row.protocol) {
            Some(Family::Database) => row.target.as_deref(),
            Some(Family::Cache) => None,
            _ => continue,
        };
        let statement = statement.unwrap_or(row.operation.as_bytes());
        let key: Key<'a> =
            (&row.service, row.role, row.protocol, statement, &row.server_addr, row.server_port);
        let sum = sums.entry(key).or_default();
        sum.count += 1;
        sum.errors += u64::from(row.error);
        sum.recent += u64::from(recent.contains(&row.end_time));
        if row.is_measured() {
            sum.durations.push(row.duration_ns.unsigned_abs());
        }
    }
    let mut statements: Vec<Statement> = sums
        .into_iter()
        .map(|((service, role, protocol, digest, server, port), mut sum)| {
            sum.durations.sort_unstable();
            let n = sum.durations.len();
            // The smallest value that so many hundredths are not above.
            let quantile = |hundredths: usize| sum.durations.get((n * hundredths).div_ceil(100).max(1) - 1);
            let times = quantile(50).zip(quantile(99)).zip(sum.durations.last());
            Statement {
                service: screen_text(service).into_owned(),
                role,
                protocol,
                digest: screen_text(&data_text(digest)).into_owned(),
                target: screen_text(&address(server, port)).into_owned(),
                count: sum.count,
                errors: sum.errors,
                recent: sum.recent,
                times_ns: times.map(|((p50, p99), max)| [*p50, *p99, *max]),
                total_ns: sum.durations.iter().sum(),
            }
        })
        .collect();
    statements.sort_by(|a, b| {
        let key = |row: &Statement| {
            Reverse(match by {
                StatementSort::Total => row.total_ns,
                StatementSort::Count => row.count,
                StatementSort::Errors => row.errors,
                StatementSort::P99 => row.times_ns.map_or(0, |[_, p99, _]| p99),
                StatementSort::Max => row.times_ns.map_or(0, |[.., max]| max),
            })
        };
        let name = |row: &Statement| {
            (row.service.clone(), row.role, row.protocol, row.digest.clone(), row.target.clone())
        };
        key(a).cmp(&key(b)).then_with(|| name(a).cmp(&name(b)))
    });
    statements
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::compliance::transaction;

    #[test]
    fn statements_are_those_of_databases_and_caches_with_figures_that_a_scan_finds() {
        let made_up = |protocol: &str| match protocol {
            "rows" => Some(Family::Database),
            "keys" => Some(Family::Cache),
            "http1" => Some(Family::Http),
            _ => None,
        };
        let rows: Vec<_> = (0..1_000_u64)
            .map(|i| {
                Arc::new(Transaction {
                    protocol: ["rows", "keys", "http1", "unheard of"][i as usize % 4],
                    role: Role::Client,
                    operation: format!("SELECT {}", i % 3).into(),
                    target: (i % 4 == 1).then(|| format!("SELECT {i}").into()),
                    error: i % 10 == 0,
                    duration_ns: (i * 7_919 % 1_000) as i64 - 5,
                    ..transaction(i)
                })
            })
            .collect();
        let recent = transaction(500).end_time..WallTime(u64::MAX);
        for by in [StatementSort::Total, StatementSort::Count, StatementSort::P99] {
            let found = statements(rows.iter(), made_up, recent.clone(), by);
            assert_eq!(found.len(), 6);
            for statement in &found {
                let own: Vec<_> = rows
                    .iter()
                    .filter(|row| row.protocol == statement.protocol && *row.operation == *statement.digest)
                    .collect();
                let mut times: Vec<u64> =
                    own.iter().filter(|row| row.duration_ns > 0).map(|row| row.duration_ns as u64).collect();
                times.sort_unstable();
                let at = |share: f64| times[(times.len() as f64 * share).ceil() as usize - 1];
                assert_eq!(statement.count, own.len() as u64);
                assert_eq!(statement.errors, own.iter().filter(|row| row.error).count() as u64);
                let n_recent = own.iter().filter(|row| recent.contains(&row.end_time)).count();
                assert_eq!(statement.recent, n_recent as u64);
                assert_eq!(statement.times_ns, Some([at(0.5), at(0.99), times[times.len() - 1]]));
                assert_eq!(statement.total_ns, times.iter().sum::<u64>());
            }
            let sorted = match by {
                StatementSort::Total => found.is_sorted_by_key(|row| Reverse(row.total_ns)),
                StatementSort::Count => found.is_sorted_by_key(|row| Reverse(row.count)),
                _ => found.is_sorted_by_key(|row| Reverse(row.times_ns.map(|[_, p99, _]| p99))),
            };
            assert!(sorted, "{by:?}");
        }
    }

    #[test]
    fn the_registry_knows_the_family_of_each_protocol() {
        assert_eq!(family("http1"), Some(Family::Http));
        assert_eq!(family("no such"), None);
    }
}
