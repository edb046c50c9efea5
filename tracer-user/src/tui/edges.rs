//! Who calls whom: transactions gathered by their two ends. Pure.

use std::{net::IpAddr, sync::Arc};

use hdrhistogram::Histogram;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::{
    event::Role, report::summary::QUANTILES, sink::histogram::HIGHEST_NS, text::screen_text, time::WallTime,
    transaction::Transaction,
};

/// An end of an edge.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Peer {
    /// A service that is traced.
    Service(Arc<str>),
    /// An address that is not.
    Address(String),
}

impl Peer {
    /// Its name, safe to show.
    pub fn name(&self) -> String {
        match self {
            Peer::Service(name) => screen_text(name).into_owned(),
            Peer::Address(address) => screen_text(address).into_owned(),
        }
    }
}

/// Calls from one end to another.
#[derive(Clone, Debug)]
pub struct Edge {
    /// Who asks.
    pub from: Peer,
    /// Who answers.
    pub to: Peer,
    /// In which protocol.
    pub protocol: &'static str,
    /// Calls.
    pub count: u64,
    /// Errors among them.
    pub errors: u64,
    /// Those of the last completed seconds.
    pub recent: u64,
    /// p50, p90, p99, p99.9 of the measured ones, ns.
    pub quantiles_ns: Option<[u64; 4]>,
    /// Longest, ns.
    pub max_ns: u64,
}

/// Address and port of both ends of a connection.
type Ends<'a> = (&'a str, Option<u16>, &'a str, Option<u16>);

fn ends(row: &Transaction) -> Ends<'_> {
    (&row.client_addr, row.client_port, &row.server_addr, row.server_port)
}

#[derive(Default)]
struct Sum {
    count: u64,
    errors: u64,
    recent: u64,
    latency: Option<Histogram<u32>>,
    max_ns: u64,
}

/// The edges of some transactions, most calls first. A call that both ends of are traced counts once, as its client saw it. `recent`:
/// the time that counts as recent.
pub fn edges<'a>(
    rows: impl Iterator<Item = &'a Arc<Transaction>> + Clone,
    recent: std::ops::Range<WallTime>,
) -> Vec<Edge> {
    let mut servers: FxHashMap<(&str, Option<u16>), &Arc<str>> = FxHashMap::default();
    let mut made: FxHashSet<Ends<'_>> = FxHashSet::default();
    for row in rows.clone() {
        match row.role {
            Role::Client => drop(made.insert(ends(row))),
            Role::Server | Role::Unknown => {
                servers.insert((&row.server_addr, row.server_port), &row.service);
            }
        }
    }
    let mut sums: FxHashMap<(Peer, Peer, &'static str), Sum> = FxHashMap::default();
    for row in rows {
        let (from, to) = match row.role {
            Role::Client => {
                let to = match servers.get(&(&*row.server_addr, row.server_port)) {
                    Some(service) => Peer::Service((*service).clone()),
                    None => Peer::Address(address(&row.server_addr, row.server_port)),
                };
                (Peer::Service(row.service.clone()), to)
            }
            // Its client tells of it.
            _ if made.contains(&ends(row)) => continue,
            // A client's port says nothing.
            _ => (Peer::Address(address(&row.client_addr, None)), Peer::Service(row.service.clone())),
        };
        let sum = sums.entry((from, to, row.protocol)).or_default();
        sum.count += 1;
        sum.errors += u64::from(row.error);
        sum.recent += u64::from(recent.contains(&row.end_time));
        if row.is_measured() {
            let duration = row.duration_ns.unsigned_abs();
            sum.max_ns = sum.max_ns.max(duration);
            if sum.latency.is_none() {
                sum.latency = Histogram::new_with_bounds(8, HIGHEST_NS, 2).ok();
            }
            if let Some(latency) = &mut sum.latency {
                latency.saturating_record(duration);
            }
        }
    }
    let mut edges: Vec<Edge> = sums
        .into_iter()
        .map(|((from, to, protocol), sum)| Edge {
            from,
            to,
            protocol,
            count: sum.count,
            errors: sum.errors,
            recent: sum.recent,
            quantiles_ns: sum
                .latency
                .map(|latency| QUANTILES.map(|quantile| latency.value_at_quantile(quantile).min(sum.max_ns))),
            max_ns: sum.max_ns,
        })
        .collect();
    edges.sort_by(|a, b| {
        b.count.cmp(&a.count).then_with(|| (&a.from, &a.to, a.protocol).cmp(&(&b.from, &b.to, b.protocol)))
    });
    edges
}

/// An address with its port.
pub(super) fn address(address: &str, port: Option<u16>) -> String {
    match (address, port) {
        ("", _) => "not known".to_owned(),
        (address, None) => address.to_owned(),
        (address, Some(port)) if address.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6()) => {
            format!("[{address}]:{port}")
        }
        (address, Some(port)) => format!("{address}:{port}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::compliance::transaction;

    fn call(i: u64, role: Role, service: &str, client: (&str, u16), server: (&str, u16)) -> Arc<Transaction> {
        Arc::new(Transaction {
            role,
            service: service.into(),
            client_addr: client.0.into(),
            client_port: Some(client.1),
            server_addr: server.0.into(),
            server_port: Some(server.1),
            error: i.is_multiple_of(10),
            ..transaction(i)
        })
    }

    #[test]
    fn a_call_seen_from_both_ends_counts_once_and_remote_peers_are_named_by_their_address() {
        let (shop, stock, far) = (("127.0.0.1", 80), ("127.0.0.1", 81), ("10.0.0.9", 5432));
        let mut rows = Vec::new();
        for i in 0..100 {
            let from = ("127.0.0.1", 40_000 + (i % 4) as u16);
            rows.push(call(i, Role::Client, "shop", from, stock));
            rows.push(call(i, Role::Server, "stock", from, stock));
            rows.push(call(i, Role::Server, "shop", ("192.168.7.7", 50_000 + i as u16), shop));
            if i < 30 {
                rows.push(call(i, Role::Client, "stock", ("127.0.0.1", 41_000), far));
            }
        }
        let edges = edges(rows.iter(), transaction(50).end_time..WallTime(u64::MAX));
        let seen: Vec<(String, String, u64, u64)> =
            edges.iter().map(|edge| (edge.from.name(), edge.to.name(), edge.count, edge.errors)).collect();
        let want = |from: &str, to: &str, count, errors| (from.to_owned(), to.to_owned(), count, errors);
        assert_eq!(
            seen,
            [
                want("shop", "stock", 100, 10),
                want("192.168.7.7", "shop", 100, 10),
                want("stock", "10.0.0.9:5432", 30, 3)
            ]
        );
        assert!(edges[0].recent < 100 && edges[0].recent > 0);
        assert!(edges[0].quantiles_ns.is_some_and(|[p50, .., p999]| p50 <= p999 && p999 <= edges[0].max_ns));
    }

    #[test]
    fn addresses_are_written_as_they_are_typed() {
        assert_eq!(address("::1", Some(80)), "[::1]:80");
        assert_eq!(address("10.0.0.1", Some(80)), "10.0.0.1:80");
        assert_eq!(address("unix:/run/a:b", None), "unix:/run/a:b");
        assert_eq!(address("", None), "not known");
    }
}
