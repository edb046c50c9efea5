//! Holding what txray printed against what both ends logged. The rules are exact: no tolerance but a microsecond for
//! reading one clock in two ways.

use std::collections::{BTreeMap, HashMap};

use workload::{load, serve};

use super::tracer::{Capture, Transaction};

/// The kernel's fast accessor and the vDSO may differ by so much, ns.
const CLOCK_SLACK_NS: i64 = 1_000;
/// Most that the wall clock of the anchor may be off from the tests' own reading, ns.
const ANCHOR_SLACK_NS: i64 = 1_000_000;

/// What differs from the plain case.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expect {
    /// Confidences that a finished transaction may have.
    pub(super) confidence: &'static [&'static str],
    /// Interim responses (`100 Continue`) were sent: their bytes may count as the response's.
    pub(super) interim_bytes: u64,
    /// The load is light: nothing may be lost.
    pub(super) nothing_lost: bool,
    /// Heads may be left out, and known to be (a turn of many messages beyond the budget, a full queue): a request whose
    /// response was in such a gap stays open, a response that only partly was says so.
    pub(super) gaps: bool,
}

impl Default for Expect {
    fn default() -> Self {
        Expect { confidence: &["complete"], interim_bytes: 0, nothing_lost: true, gaps: false }
    }
}

/// txray prints wall times; both ends log boot times. Every stamp between two others bounds the difference of the
/// clocks: if no difference fits all of them, some interval does not contain what it must.
#[derive(Debug)]
pub(super) struct Clocks {
    low: (i64, String),
    high: (i64, String),
    own: i64,
}

impl Clocks {
    pub(super) fn new() -> Clocks {
        Clocks {
            low: (i64::MIN, String::new()),
            high: (i64::MAX, String::new()),
            own: workload::clock::wall_minus_boot_ns(),
        }
    }

    /// `wall_ns`, printed, lies between two boot times (0 = that side is open).
    pub(super) fn between(&mut self, wall_ns: u64, after_ns: u64, before_ns: u64, what: impl Fn() -> String) {
        if before_ns != 0 {
            let difference = wall_ns as i64 - before_ns as i64;
            if difference > self.low.0 {
                self.low = (difference, what());
            }
        }
        if after_ns != 0 {
            let difference = wall_ns as i64 - after_ns as i64;
            if difference < self.high.0 {
                self.high = (difference, what());
            }
        }
    }

    #[track_caller]
    pub(super) fn finish(self) {
        let (low, high) = (self.low.0, self.high.0);
        assert!(
            low <= high.saturating_add(CLOCK_SLACK_NS),
            "no difference of wall and boot clock explains both of these ({} ns apart):\n  {}\n  {}",
            low - high,
            self.low.1,
            self.high.1
        );
        if low != i64::MIN && high != i64::MAX {
            assert!(
                low - ANCHOR_SLACK_NS <= self.own && self.own <= high + ANCHOR_SLACK_NS,
                "the printed wall times are {} ns off: wall minus boot is {}, they say {low}..{high}",
                (self.own - high).max(low - self.own),
                self.own
            );
        }
    }
}

/// One per id, each of the protocol and kind that was asked for.
#[track_caller]
pub(super) fn by_stamp<'a>(transactions: &[&'a Transaction]) -> HashMap<String, &'a Transaction> {
    let mut all = HashMap::new();
    for &transaction in transactions {
        let stamp = transaction.stamp().unwrap_or_else(|| panic!("no id in the target: {transaction:?}"));
        assert_eq!(
            (transaction.protocol.as_str(), transaction.kind.as_str()),
            ("http1", "request"),
            "{stamp}"
        );
        if let Some(other) = all.insert(stamp.to_owned(), transaction) {
            panic!("{stamp} came twice:\n  {other:?}\n  {transaction:?}");
        }
    }
    all
}

/// What must hold of every capture, whatever was asked.
#[track_caller]
pub(super) fn check_order_and_sums(capture: &Capture) {
    let mut ids = HashMap::new();
    for (place, transaction) in capture.transactions.iter().enumerate() {
        assert_eq!(transaction.seq, place as u64, "seq is contiguous from 0: {transaction:?}");
        assert!(ids.insert(&transaction.id, ()).is_none(), "id {} came twice", transaction.id);
        // What TLS carries is numbered by itself, and has the connection that others see.
        let is_carried = transaction.tls.as_ref().is_some_and(|tls| tls.library.is_some());
        assert!(is_carried || transaction.id.starts_with(&transaction.conn_id), "{transaction:?}");
    }
    for pair in capture.transactions.windows(2) {
        // `tracer_stopped` ones leave together at the end, with the time of the stop.
        assert!(
            pair[0].end_time_ns <= pair[1].end_time_ns,
            "out of order:\n  {:?}\n  {:?}",
            pair[0],
            pair[1]
        );
    }
    let open = capture.transactions.iter().filter(|transaction| transaction.end == "tracer_stopped").count();
    assert_eq!(capture.summary.open, open as u64, "open in the summary; stderr:\n{}", capture.stderr);
    assert_eq!(capture.summary.transactions + capture.summary.open, capture.transactions.len() as u64);
    let mut counts: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for transaction in &capture.transactions {
        if transaction.end != "tracer_stopped" {
            *counts.entry((&transaction.service, &transaction.operation)).or_default() += 1;
        }
    }
    // The two roles of a local call are two rows of one name: never added there, so added here.
    let mut told: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for operation in &capture.summary.operations {
        *told.entry((&operation.service, &operation.operation)).or_default() += operation.count;
    }
    for (name, n_told) in &told {
        assert_eq!(counts.get(name), Some(n_told), "{name:?} in the summary; printed: {counts:?}");
    }
}

/// captured + lost = true. `lost` is txray's own figure, an interval.
#[track_caller]
pub(super) fn check_conserved(capture: &Capture, n_captured: usize, n_true: usize, nothing_lost: bool) {
    let lost = capture.summary.lost_requests;
    let (captured, truth) = (n_captured as u64, n_true as u64);
    println!("captured {captured} + lost {}..{} = true {truth}", lost.low, lost.high);
    let describe = || {
        format!(
            "captured {captured} + lost {lost:?} ≠ true {truth}; lost {:?}, unpaired {:?}; stderr:\n{}",
            capture.summary.lost, capture.summary.unpaired, capture.stderr
        )
    };
    assert!(captured + lost.low <= truth && truth <= captured + lost.high, "{}", describe());
    if nothing_lost {
        // A softirq can meet a probe in the middle of itself; then the kernel counts what it left out, and no more may be said.
        let is_told = capture.summary.lost.get("probe_not_run").is_some_and(|&n| n > 0);
        assert_eq!(captured, truth, "a light load was not captured in full: {}", describe());
        assert!(
            lost.high == 0 || is_told,
            "a light load was captured in full and called lost: {}",
            describe()
        );
    }
}

/// Every transaction of the server role is what the server logged under that id; captured + lost = what it logged.
#[track_caller]
pub(super) fn check_server(capture: &Capture, served: &[serve::Row], expect: Expect) {
    let captured = by_stamp(&capture.role("server"));
    let n = check_server_rows(&captured, served, expect);
    check_conserved(capture, n, served.len(), expect.nothing_lost);
}

/// The part of [`check_server`] that compares. Returns how many were captured.
#[track_caller]
pub(super) fn check_server_rows(
    captured: &HashMap<String, &Transaction>,
    served: &[serve::Row],
    expect: Expect,
) -> usize {
    let rows: HashMap<&str, &serve::Row> = served.iter().map(|row| (row.id.as_str(), row)).collect();
    let mut clocks = Clocks::new();
    for (stamp, &transaction) in captured {
        let row = *rows
            .get(stamp.as_str())
            .unwrap_or_else(|| panic!("the server never saw {stamp}: {transaction:?}"));
        check_server_row(transaction, row, expect, &mut clocks);
    }
    clocks.finish();
    captured.len()
}

#[track_caller]
fn check_server_row(transaction: &Transaction, row: &serve::Row, expect: Expect, clocks: &mut Clocks) {
    let describe = || format!("\n  printed {transaction:?}\n  server  {row:?}");
    let what = |name: &'static str| move || format!("{name} of{}", describe());
    assert_eq!((transaction.pid, transaction.tid), (row.pid, row.tid), "pid, tid{}", describe());
    assert_eq!(transaction.client_port.unwrap_or(0), row.peer_port, "client_port{}", describe());
    assert_eq!(transaction.target.as_deref(), Some(row.target.as_str()), "target{}", describe());
    assert!(transaction.operation.starts_with(&format!("{} ", row.method)), "operation{}", describe());
    clocks.between(transaction.start_time_ns, row.read_before_ns, row.read_after_ns, what("start_time_ns"));
    if expect.gaps && transaction.confidence == "gap" {
        // What was seen of it is right; what was not is not told.
        assert!(
            transaction.status_code.is_none_or(|status| status == i32::from(row.status)),
            "status{}",
            describe()
        );
        return;
    }
    if transaction.end == "tracer_stopped" {
        assert_ne!(row.outcome, serve::Outcome::Answered, "end{}", describe());
        return;
    }
    if row.outcome != serve::Outcome::Answered {
        assert!(matches!(transaction.end.as_str(), "reset" | "closed"), "end{}", describe());
        return;
    }
    assert_eq!(transaction.end, "answered", "end{}", describe());
    assert!(expect.confidence.contains(&transaction.confidence.as_str()), "confidence{}", describe());
    assert_eq!(transaction.status_code, Some(row.status.into()), "status_code{}", describe());
    assert_eq!(transaction.error, row.status >= 500, "error{}", describe());
    let beyond = transaction.response_bytes.wrapping_sub(row.response_bytes);
    assert!(beyond == 0 || beyond == expect.interim_bytes, "response_bytes{}", describe());
    clocks.between(
        transaction.end_time_ns,
        row.write_last_before_ns,
        row.write_last_after_ns,
        what("end_time_ns"),
    );
    // The same without the wall clock: the interval contains the server's own and is inside its outermost stamps.
    let inner = row.write_last_before_ns as i64 - row.read_after_ns as i64;
    let outer = row.write_last_after_ns as i64 - row.read_before_ns as i64;
    assert!(
        (inner - CLOCK_SLACK_NS..=outer + CLOCK_SLACK_NS).contains(&transaction.duration_ns),
        "duration_ns is not within {inner}..={outer}{}",
        describe()
    );
    if let (Some(response_start_ns), 0) = (transaction.response_start_ns, expect.interim_bytes) {
        clocks.between(
            response_start_ns,
            row.write_first_ns,
            row.write_last_after_ns,
            what("response_start_ns"),
        );
    }
    if row.request_end_ns != 0 {
        assert_eq!(transaction.request_bytes, row.request_bytes, "request_bytes{}", describe());
        if let Some(request_end_ns) = transaction.request_end_ns {
            clocks.between(request_end_ns, row.read_before_ns, row.request_end_ns, what("request_end_ns"));
        }
    }
}

/// Every transaction of the client role is what the client logged under that id. Returns how many were captured.
#[track_caller]
pub(super) fn check_client_rows(
    captured: &HashMap<String, &Transaction>,
    asked: &[load::Row],
    pid: u32,
    expect: Expect,
) -> usize {
    let rows: HashMap<&str, &load::Row> = asked.iter().map(|row| (row.id.as_str(), row)).collect();
    let mut clocks = Clocks::new();
    for (stamp, &transaction) in captured {
        let row = *rows
            .get(stamp.as_str())
            .unwrap_or_else(|| panic!("the client never sent {stamp}: {transaction:?}"));
        let describe = || format!("\n  printed {transaction:?}\n  client  {row:?}");
        let what = |name: &'static str| move || format!("{name} of{}", describe());
        assert_eq!(transaction.pid, pid, "pid{}", describe());
        assert_eq!(transaction.client_port.unwrap_or(0), row.local_port, "client_port{}", describe());
        assert_eq!(transaction.target.as_deref(), Some(row.target.as_str()), "target{}", describe());
        clocks.between(transaction.start_time_ns, row.send_ns, row.sent_ns, what("start_time_ns"));
        if row.outcome != load::Outcome::Ok || transaction.end == "tracer_stopped" {
            assert_ne!(transaction.end, "answered", "end{}", describe());
            continue;
        }
        assert_eq!(transaction.end, "answered", "end{}", describe());
        assert!(expect.confidence.contains(&transaction.confidence.as_str()), "confidence{}", describe());
        assert_eq!(transaction.status_code, Some(row.status.into()), "status_code{}", describe());
        assert_eq!(transaction.error, row.status >= 400, "error{}", describe());
        assert_eq!(transaction.request_bytes, row.request_bytes, "request_bytes{}", describe());
        assert_eq!(transaction.response_bytes, row.response_bytes, "response_bytes{}", describe());
        clocks.between(transaction.end_time_ns, row.send_ns, row.receive_last_ns, what("end_time_ns"));
        if let Some(response_start_ns) = transaction.response_start_ns {
            clocks.between(response_start_ns, row.send_ns, row.receive_first_ns, what("response_start_ns"));
        }
    }
    clocks.finish();
    captured.len()
}

/// A server's interval lies inside its client's: the client saw its own first byte leave before the server could read
/// it, and the last byte arrive after the server wrote it.
#[track_caller]
pub(super) fn check_server_inside_client(
    servers: &HashMap<String, &Transaction>,
    asked: &[load::Row],
    served: &[serve::Row],
) {
    let rows: HashMap<&str, &serve::Row> = served.iter().map(|row| (row.id.as_str(), row)).collect();
    for client in asked.iter().filter(|row| row.outcome == load::Outcome::Ok) {
        let (Some(transaction), Some(row)) = (servers.get(&client.id), rows.get(client.id.as_str())) else {
            continue;
        };
        if transaction.end != "answered" {
            continue;
        }
        // The server's log ties txray's duration to the boot clock: it starts at or after `read_before_ns`.
        let outer = client.receive_last_ns.max(row.write_last_after_ns) as i64 - client.send_ns as i64;
        assert!(
            transaction.duration_ns <= outer + CLOCK_SLACK_NS,
            "longer than its client waited ({outer}):\n  {transaction:?}\n  {client:?}"
        );
    }
}

/// The checks themselves: what is right passes, each thing that may be wrong is found.
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::{
        super::tracer::{Lost, Summary},
        *,
    };

    /// A server's rows, 1 ms apart, each 500 µs long.
    fn rows() -> Vec<serve::Row> {
        let now = workload::clock::boot_ns();
        (0..20)
            .map(|n| {
                let start = now + n * 1_000_000;
                serve::Row {
                    id: format!("r-{n}"),
                    method: "GET".into(),
                    pid: 7,
                    tid: 8,
                    peer_port: 40_000 + n as u16,
                    read_before_ns: start,
                    read_after_ns: start + 20_000,
                    request_end_ns: start + 20_000,
                    write_first_ns: start + 480_000,
                    write_last_before_ns: start + 480_000,
                    write_last_after_ns: start + 500_000,
                    status: 200 + n as u16,
                    request_bytes: 100,
                    response_bytes: 1000 + n,
                    target: format!("/bytes/{n}?id=r-{n}"),
                    ..serve::Row::default()
                }
            })
            .collect()
    }

    /// What a perfect tracer prints of them.
    fn capture(rows: &[serve::Row]) -> Capture {
        let difference = workload::clock::wall_minus_boot_ns();
        let wall = |boot: u64| boot.wrapping_add_signed(difference);
        let transactions: Vec<Transaction> = rows
            .iter()
            .enumerate()
            .map(|(place, row)| Transaction {
                start_time_ns: wall(row.read_before_ns + 10_000),
                request_end_ns: Some(wall(row.request_end_ns - 10_000)),
                response_start_ns: Some(wall(row.write_first_ns + 5_000)),
                end_time_ns: wall(row.write_last_before_ns + 10_000),
                duration_ns: 480_000,
                ttfb_ns: Some(1),
                queue_ns: None,
                time_basis: "exit".into(),
                kind: "request".into(),
                role: "server".into(),
                protocol: "http1".into(),
                operation: "GET /bytes/{id}".into(),
                target: Some(row.target.clone()),
                namespace: None,
                status_code: Some(row.status.into()),
                error: false,
                error_type: None,
                error_message: None,
                rows: None,
                pid: row.pid,
                tid: row.tid,
                comm: "exchange".into(),
                service: "workload".into(),
                client_addr: Some("127.0.0.1".into()),
                client_port: Some(row.peer_port),
                server_addr: Some("127.0.0.1".into()),
                server_port: Some(80),
                tls: None,
                request_bytes: row.request_bytes,
                response_bytes: row.response_bytes,
                request_messages: None,
                response_messages: None,
                rtt_ns: None,
                retransmits: None,
                function: None,
                arguments: None,
                returned: None,
                parent_id: None,
                root_id: None,
                self_ns: None,
                stack: None,
                stack_end: None,
                anatomy: None,
                calls: None,
                parent: None,
                link: None,
                trace_id: None,
                stacks: None,
                locks: None,
                end: "answered".into(),
                confidence: "complete".into(),
                conn_id: format!("{place:016x}"),
                id: format!("{place:016x}-0"),
                seq: place as u64,
            })
            .collect();
        let summary = Summary {
            events: 40,
            transactions: transactions.len() as u64,
            open: 0,
            unpaired: BTreeMap::new(),
            lost: BTreeMap::new(),
            lost_requests: Lost { low: 0, high: 0 },
            filtered: 0,
            duration_s: 1.0,
            operations: Vec::new(),
        };
        let folder = tempfile::TempDir::new().unwrap();
        Capture { transactions, summary, stdout: String::new(), stderr: String::new(), folder }
    }

    fn passes(rows: &[serve::Row], capture: &Capture) -> bool {
        let checked = catch_unwind(AssertUnwindSafe(|| {
            check_order_and_sums(capture);
            check_server(capture, rows, Expect::default());
        }));
        checked.is_ok()
    }

    #[test]
    fn what_is_right_passes() {
        let rows = rows();
        assert!(passes(&rows, &capture(&rows)));
    }

    #[test]
    fn what_is_wrong_is_found() {
        type Spoil = fn(&mut Capture);
        let wrongs: &[(&str, Spoil)] = &[
            ("responses swapped", |capture| {
                let (a, b) = (capture.transactions[3].clone(), capture.transactions[4].clone());
                capture.transactions[3].status_code = b.status_code;
                capture.transactions[4].status_code = a.status_code;
            }),
            ("response lengths swapped", |capture| {
                capture.transactions[3].response_bytes = 1004;
                capture.transactions[4].response_bytes = 1003;
            }),
            ("ids swapped", |capture| {
                let a = capture.transactions[3].target.clone();
                capture.transactions[3].target = capture.transactions[4].target.clone();
                capture.transactions[4].target = a;
            }),
            ("one missing and not lost", |capture| {
                capture.transactions.pop();
                capture.summary.transactions -= 1;
            }),
            ("one there and said to be lost", |capture| {
                capture.summary.lost_requests = Lost { low: 1, high: 1 }
            }),
            ("one twice", |capture| {
                let again = Transaction { seq: 20, id: "x".into(), ..capture.transactions[19].clone() };
                capture.transactions.push(again);
                capture.summary.transactions += 1;
            }),
            ("one invented", |capture| capture.transactions[5].target = Some("/x?id=nobody".into())),
            ("one start too early", |capture| capture.transactions[5].start_time_ns -= 30_000),
            ("one end too late", |capture| capture.transactions[5].end_time_ns += 40_000),
            ("too short", |capture| capture.transactions[5].duration_ns -= 30_000),
            ("too long", |capture| capture.transactions[5].duration_ns += 40_000),
            ("all times off by a second", |capture| {
                for transaction in &mut capture.transactions {
                    for time in [&mut transaction.start_time_ns, &mut transaction.end_time_ns] {
                        *time += 1_000_000_000;
                    }
                    transaction.response_start_ns = transaction.response_start_ns.map(|t| t + 1_000_000_000);
                    transaction.request_end_ns = transaction.request_end_ns.map(|t| t + 1_000_000_000);
                }
            }),
            ("another thread", |capture| capture.transactions[5].tid += 1),
            ("out of order", |capture| capture.transactions[5].seq = 6),
            ("not answered", |capture| capture.transactions[5].end = "closed".into()),
            ("a guess", |capture| capture.transactions[5].confidence = "guessed".into()),
        ];
        let rows = rows();
        for (wrong, spoil) in wrongs {
            let mut capture = capture(&rows);
            spoil(&mut capture);
            assert!(!passes(&rows, &capture), "not found: {wrong}");
        }
    }

    #[test]
    fn stamps_that_fit_no_difference_of_the_clocks_are_found() {
        let own = workload::clock::wall_minus_boot_ns();
        let wall = |boot: u64| boot.wrapping_add_signed(own);
        let mut clocks = Clocks::new();
        clocks.between(wall(1_000_000), 900_000, 1_100_000, || "fits".into());
        clocks.between(wall(5_000_000), 4_900_000, 5_100_000, || "fits".into());
        clocks.finish();
        let mut clocks = Clocks::new();
        clocks.between(wall(1_000_000), 900_000, 1_100_000, || "fits".into());
        clocks.between(wall(5_000_000), 5_200_000, 5_300_000, || "too early".into());
        assert!(catch_unwind(|| clocks.finish()).is_err());
    }
}
