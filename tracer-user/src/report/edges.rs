//! Who calls whom: transactions gathered by their two ends. Pure.

use std::{mem, net::IpAddr, sync::Arc};

use hdrhistogram::Histogram;
use rustc_hash::FxHashMap;

use super::filter::quoted;
use crate::{
    event::{ConnId, Role},
    report::summary::QUANTILES,
    sink::histogram::{HIGHEST_NS, OVERFLOW},
    text::screen_text,
    time::WallTime,
    transaction::{Transaction, anatomy::LinkMethod},
};

/// Edges that are told apart; what comes beyond is gathered at an end called `(others)`.
const MAX_EDGES: usize = 65_536;
/// Durations that are kept one by one before a histogram takes them: most edges of a crowd of clients are small, and a histogram
/// has 13 KB.
const FEW: usize = 256;
/// Client connections that are remembered, in two halves: when the younger one is full, the older one is forgotten. Seven eighths of a
/// power of two, which is what a hash table of 131,072 places holds; both take some 45 MB, texts included.
const MAX_MADE: usize = 2 * 114_688;
/// Addresses that somebody listens on, of which it is remembered who. Some 8 MB.
const MAX_SERVERS: usize = 65_536;
/// A call's two ends may tell of its end so long one after the other, ns of event time: a client that reads slowly is done late.
pub const APART_NS: u64 = 10_000_000_000;
/// Addresses of the answering end that an edge remembers, for its filter.
const MAX_ENDPOINTS: usize = 16;

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
        screen_text(self.raw()).into_owned()
    }

    /// Its name as it was seen: not safe to show.
    pub fn raw(&self) -> &str {
        match self {
            Peer::Service(name) => name,
            Peer::Address(address) => address,
        }
    }

    /// Whether nothing is known of it but its address.
    pub fn is_unseen(&self) -> bool {
        matches!(self, Peer::Address(_))
    }

    fn others() -> Peer {
        Peer::Address(OVERFLOW.to_owned())
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
    /// Bytes of requests and of responses.
    pub bytes: [u64; 2],
    /// Transactions seen at the asking end and at the answering end. The calls are those of one of them.
    pub seen: [u64; 2],
    /// Where it was answered: address and port, in their order; no more than are remembered.
    endpoints: Vec<(Arc<str>, Option<u16>)>,
    /// There are more.
    endpoints_cut: bool,
}

impl Edge {
    /// The filter that matches the transactions of this edge, as the end that tells of it saw them. `None`: the edge stands for what
    /// could not be told apart.
    pub fn filter(&self) -> Option<String> {
        let protocol = quoted(self.protocol);
        if self.from == Peer::others() || self.to == Peer::others() {
            return None;
        }
        let text = |field: &str, value: &str| match value {
            "" => format!("{field} = null"),
            value => format!("{field} = {}", quoted(value)),
        };
        match (&self.from, &self.to) {
            (Peer::Service(from), _) => {
                let service = quoted(from);
                let mut filter = format!("role = client and service = {service} and protocol = {protocol}");
                if self.endpoints_cut {
                    return None;
                }
                let places: Vec<String> = self
                    .endpoints
                    .iter()
                    .map(|(address, port)| {
                        let port = port.map_or_else(|| "null".to_owned(), |port| port.to_string());
                        format!("{} and server_port = {port}", text("server_addr", address))
                    })
                    .collect();
                match places.as_slice() {
                    [] => {}
                    [place] => filter.push_str(&format!(" and {place}")),
                    places => filter.push_str(&format!(" and ({})", places.join(" or "))),
                }
                Some(filter)
            }
            (Peer::Address(from), to) => {
                let from = if from == UNKNOWN { "" } else { from };
                let (service, client) = (quoted(to.raw()), text("client_addr", from));
                Some(format!("role != client and service = {service} and protocol = {protocol} and {client}"))
            }
        }
    }

    /// Whether the asking end tells of it.
    pub fn is_told_by_client(&self) -> bool {
        !self.from.is_unseen()
    }
}

/// Address and port of both ends of a connection.
type Ends = (Arc<str>, Option<u16>, Arc<str>, Option<u16>);

fn ends(row: &Transaction) -> Ends {
    (row.client_addr.clone(), row.client_port, row.server_addr.clone(), row.server_port)
}

#[derive(Default)]
struct Sum {
    count: u64,
    errors: u64,
    recent: u64,
    few: Vec<u64>,
    latency: Option<Histogram<u32>>,
    max_ns: u64,
    bytes: [u64; 2],
    seen: [u64; 2],
    endpoints: Vec<(Arc<str>, Option<u16>)>,
    endpoints_cut: bool,
}

impl Sum {
    fn record(&mut self, duration: u64) {
        self.max_ns = self.max_ns.max(duration);
        match &mut self.latency {
            Some(latency) => latency.saturating_record(duration),
            None if self.few.len() < FEW => self.few.push(duration),
            None => {
                self.latency = histogram(self.few.drain(..).chain([duration]));
                self.few = Vec::new();
            }
        }
    }

    fn endpoint(&mut self, row: &Transaction) {
        let endpoint = (row.server_addr.clone(), row.server_port);
        if let Err(at) = self.endpoints.binary_search(&endpoint) {
            if self.endpoints.len() < MAX_ENDPOINTS {
                self.endpoints.insert(at, endpoint);
            } else {
                self.endpoints_cut = true;
            }
        }
    }

    fn edge(self, from: Peer, to: Peer, protocol: &'static str) -> Edge {
        let latency = match self.latency {
            Some(latency) => Some(latency),
            None if self.few.is_empty() => None,
            None => histogram(self.few.into_iter()),
        };
        Edge {
            from,
            to,
            protocol,
            count: self.count,
            errors: self.errors,
            recent: self.recent,
            quantiles_ns: latency.map(|latency| {
                QUANTILES.map(|quantile| latency.value_at_quantile(quantile).min(self.max_ns))
            }),
            max_ns: self.max_ns,
            bytes: self.bytes,
            seen: self.seen,
            endpoints: self.endpoints,
            endpoints_cut: self.endpoints_cut,
        }
    }
}

fn histogram(values: impl Iterator<Item = u64>) -> Option<Histogram<u32>> {
    let mut histogram = Histogram::new_with_bounds(8, HIGHEST_NS, 2).ok()?;
    values.for_each(|value| histogram.saturating_record(value));
    Some(histogram)
}

/// What did not fit into the bounds of [`Calls`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GivenUp {
    /// Client connections that were forgotten while their other end could still come: its calls count twice, the second time as an
    /// address's.
    pub connections: u64,
    /// Times that somebody listened on an address beyond those that are remembered: calls to it are calls to an address.
    pub listeners: u64,
}

/// Client connections, and whose they are.
#[derive(Default)]
struct Made {
    /// Those that were used last, and those before. Each at most half of the bound.
    young: FxHashMap<Ends, (Arc<str>, WallTime)>,
    old: FxHashMap<Ends, (Arc<str>, WallTime)>,
}

impl Made {
    fn get(&self, ends: &Ends) -> Option<&Arc<str>> {
        self.young.get(ends).or_else(|| self.old.get(ends)).map(|(service, _)| service)
    }

    /// Remembers one; `passed`: calls that ended before this have been counted. How many were forgotten too early.
    fn insert(
        &mut self,
        ends: Ends,
        service: &Arc<str>,
        at: WallTime,
        bound: usize,
        passed: WallTime,
    ) -> u64 {
        if let Some(known) = self.young.get_mut(&ends) {
            *known = (service.clone(), at.max(known.1));
            return 0;
        }
        let is_full = self.young.len() >= bound / 2;
        let forgotten = if is_full { self.turn() } else { Default::default() };
        self.old.remove(&ends);
        self.young.insert(ends, (service.clone(), at));
        let early = |(_, last): &&(Arc<str>, WallTime)| last.0.saturating_add(APART_NS) >= passed.0;
        forgotten.values().filter(early).count() as u64
    }

    fn turn(&mut self) -> FxHashMap<Ends, (Arc<str>, WallTime)> {
        mem::replace(&mut self.old, mem::take(&mut self.young))
    }

    /// Whether another one can be remembered without one being forgotten.
    fn has_room(&self, bound: usize) -> bool {
        self.young.len() < bound / 2 || self.old.is_empty()
    }
}

/// Gathers edges from transactions that are looked at twice: first who they are of, then what they were. A call that both ends of are
/// traced counts once, as its client saw it.
pub struct Calls {
    /// Whose an address is. At most [`MAX_SERVERS`].
    servers: FxHashMap<(Arc<str>, Option<u16>), Arc<str>>,
    /// Whose a client's connection is. At most [`MAX_MADE`].
    made: Made,
    /// The same by the connection's own name, for calls that are linked to it. At most half of [`MAX_MADE`]; then it begins anew.
    by_conn: FxHashMap<ConnId, Arc<str>>,
    max_made: usize,
    max_servers: usize,
    /// Calls that ended before this have been counted.
    passed: WallTime,
    given_up: GivenUp,
    /// At most [`MAX_EDGES`], one more for each service up to as many again, and one for all others.
    sums: FxHashMap<(Peer, Peer, &'static str), Sum>,
}

impl Default for Calls {
    fn default() -> Self {
        Calls::bounded(MAX_MADE, MAX_SERVERS)
    }
}

impl Calls {
    /// With bounds of its own: client connections and listeners that are remembered.
    pub fn bounded(max_made: usize, max_servers: usize) -> Calls {
        Calls {
            servers: FxHashMap::default(),
            made: Made::default(),
            by_conn: FxHashMap::default(),
            max_made,
            max_servers,
            passed: WallTime(0),
            given_up: GivenUp::default(),
            sums: FxHashMap::default(),
        }
    }

    /// Learns from a transaction whose an address is. Also from those whose edge is not wanted.
    pub fn learn(&mut self, row: &Transaction) {
        if row.role == Role::Client {
            return;
        }
        let address = (row.server_addr.clone(), row.server_port);
        if self.servers.len() < self.max_servers || self.servers.contains_key(&address) {
            self.servers.insert(address, row.service.clone());
        } else {
            self.given_up.listeners += 1;
        }
    }

    /// Learns from a wanted transaction which calls its client tells of.
    pub fn learn_wanted(&mut self, row: &Transaction) {
        if row.role == Role::Client {
            let (ends, bound) = (ends(row), self.max_made);
            if self.by_conn.len() >= bound / 2 && !self.by_conn.contains_key(&row.conn) {
                self.by_conn.clear();
            }
            self.by_conn.insert(row.conn, row.service.clone());
            self.given_up.connections +=
                self.made.insert(ends, &row.service, row.end_time, bound, self.passed);
        }
    }

    /// Whether a further connection can be remembered without an older one being forgotten.
    pub fn has_room(&self) -> bool {
        self.made.has_room(self.max_made)
    }

    /// Forgets the connections of clients: they are learned again, along with what is counted.
    pub fn forget_made(&mut self) {
        (self.made, self.given_up.connections) = (Made::default(), 0);
        self.by_conn.clear();
    }

    /// What did not fit.
    pub fn given_up(&self) -> GivenUp {
        self.given_up
    }

    /// Counts a wanted transaction, when all have been learned from. `recent`: the time that counts as recent.
    pub fn add(&mut self, row: &Transaction, recent: &std::ops::Range<WallTime>) {
        self.passed = row.end_time;
        let is_client = row.role == Role::Client;
        let (from, to) = if is_client {
            let to = match self.servers.get(&(row.server_addr.clone(), row.server_port)) {
                Some(service) => Peer::Service(service.clone()),
                None => Peer::Address(address(&row.server_addr, row.server_port)),
            };
            (Peer::Service(row.service.clone()), to)
        } else if let Some(client) = self.linked(row).or_else(|| self.made.get(&ends(row))) {
            // Its client tells of it.
            let service = self.servers.get(&(row.server_addr.clone(), row.server_port));
            let to = service.unwrap_or(&row.service).clone();
            let key = (Peer::Service(client.clone()), Peer::Service(to), row.protocol);
            let sum = self.sum(key);
            sum.seen[1] += 1;
            return;
        } else {
            // A client's port says nothing.
            (Peer::Address(address(&row.client_addr, None)), Peer::Service(row.service.clone()))
        };
        let sum = self.sum((from, to, row.protocol));
        sum.count += 1;
        sum.errors += u64::from(row.error);
        sum.recent += u64::from(recent.contains(&row.end_time));
        sum.bytes[0] += row.request_bytes;
        sum.bytes[1] += row.response_bytes;
        sum.seen[usize::from(!is_client)] += 1;
        sum.endpoint(row);
        if row.is_measured() {
            sum.record(row.duration_ns.unsigned_abs());
        }
    }

    /// Whose call it is at the other end, by its link: ports may have been another connection's.
    fn linked(&self, row: &Transaction) -> Option<&Arc<str>> {
        let link = row.causes.as_ref()?.link.filter(|link| link.method == LinkMethod::Socket)?;
        self.by_conn.get(&link.parent.conn)
    }

    fn sum(&mut self, key: (Peer, Peer, &'static str)) -> &mut Sum {
        let is_full = self.sums.len() >= MAX_EDGES && !self.sums.contains_key(&key);
        let key = match key {
            key if !is_full => key,
            (_, _, protocol) if self.sums.len() >= 2 * MAX_EDGES => {
                (Peer::others(), Peer::others(), protocol)
            }
            (from @ Peer::Service(_), _, protocol) => (from, Peer::others(), protocol),
            (_, to, protocol) => (Peer::others(), to, protocol),
        };
        self.sums.entry(key).or_default()
    }

    /// The edges, most calls first.
    pub fn edges(self) -> Vec<Edge> {
        let sums = self.sums.into_iter().filter(|(_, sum)| sum.count != 0);
        let mut edges: Vec<Edge> =
            sums.map(|((from, to, protocol), sum)| sum.edge(from, to, protocol)).collect();
        edges.sort_by(|a, b| {
            b.count
                .cmp(&a.count)
                .then_with(|| (&a.from, &a.to, a.protocol).cmp(&(&b.from, &b.to, b.protocol)))
        });
        edges
    }
}

/// The edges of some transactions, most calls first. `recent`: the time that counts as recent.
pub fn edges<'a>(
    rows: impl Iterator<Item = &'a Arc<Transaction>> + Clone,
    recent: std::ops::Range<WallTime>,
) -> Vec<Edge> {
    edges_among(rows.clone(), rows, recent)
}

/// The edges of wanted transactions; whose an address is, all that are `known` tell.
pub fn edges_among<'a>(
    known: impl Iterator<Item = &'a Arc<Transaction>>,
    wanted: impl Iterator<Item = &'a Arc<Transaction>> + Clone,
    recent: std::ops::Range<WallTime>,
) -> Vec<Edge> {
    let mut calls = Calls::default();
    known.for_each(|row| calls.learn(row));
    wanted.clone().for_each(|row| calls.learn_wanted(row));
    wanted.for_each(|row| calls.add(row, &recent));
    calls.edges()
}

/// What stands for an address that is not known.
const UNKNOWN: &str = "not known";

/// An address with its port.
pub fn address(address: &str, port: Option<u16>) -> String {
    match (address, port) {
        ("", _) => UNKNOWN.to_owned(),
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
    use crate::{
        sink::compliance::transaction,
        transaction::{
            CallId,
            anatomy::{Causes, Link},
        },
    };

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

    /// A port that another process has used again, and an end that is known by another address.
    #[test]
    fn a_link_says_whose_a_call_is_before_the_ports_do() {
        let link = |i: u64, client: u64| {
            let parent = CallId { conn: ConnId(client), ordinal: i };
            let link = Some(Link { parent, method: LinkMethod::Socket });
            Some(Box::new(Causes { link, ..Causes::default() }))
        };
        let (port, other) = (("127.0.0.1", 40_000), ("10.0.0.1", 40_000));
        let stock = ("127.0.0.1", 81);
        let made = |i, service, conn| {
            let row = call(i, Role::Client, service, port, stock);
            Arc::new(Transaction { conn: ConnId(conn), ..(*row).clone() })
        };
        let served = |i, client, conn| {
            let row = call(i, Role::Server, "stock", client, stock);
            Arc::new(Transaction { conn: ConnId(conn + 100), causes: link(0, conn), ..(*row).clone() })
        };
        let rows = [made(1, "shop", 1), served(2, port, 1), made(3, "cart", 2), served(4, other, 2)];
        let edges = edges(rows.iter(), WallTime(0)..WallTime(0));
        let mut seen: Vec<_> = edges.iter().map(|edge| (edge.from.name(), edge.count, edge.seen)).collect();
        seen.sort();
        assert_eq!(seen, [("cart".to_owned(), 1, [1, 1]), ("shop".to_owned(), 1, [1, 1])]);
    }

    #[test]
    fn addresses_are_written_as_they_are_typed() {
        assert_eq!(address("::1", Some(80)), "[::1]:80");
        assert_eq!(address("10.0.0.1", Some(80)), "10.0.0.1:80");
        assert_eq!(address("unix:/run/a:b", None), "unix:/run/a:b");
        assert_eq!(address("", None), "not known");
    }
}
