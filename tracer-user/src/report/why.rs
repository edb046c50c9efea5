//! Why a request took as long as it did, in a few lines, each of what was recorded.

use std::fmt::Write as _;

use super::{
    format::{count, duration},
    stacks::{Place, hottest, waited_at},
};
use crate::{
    event::Role,
    text::screen_text,
    transaction::{
        Network, Transaction,
        anatomy::{self, Anatomy, CallSum, Causes, KERNEL, LinkMethod, Lock, Reason, USER, of_reason},
        stacks::StackPart,
    },
};

/// Parts of an anatomy, to people.
pub const RUNQ: &str = "waiting for a CPU";
/// The same.
pub const CALLS: &str = "waiting for answers to its calls";
/// The same.
pub const SENDING: &str = "waiting until its answer is taken";

/// The parts with their names, the largest first; those that are nothing are left out.
pub fn parts(anatomy: &Anatomy) -> Vec<Part> {
    let part = |name, ns, field| Part { name, ns, is_guess: anatomy.is_guess(field) };
    let on_cpu = match anatomy.is_split {
        true => vec![
            part("on a CPU, in the program", anatomy.user_ns, USER),
            part("on a CPU, in the kernel", anatomy.kernel_ns, KERNEL),
        ],
        false => vec![part("on a CPU", anatomy.user_ns, USER)],
    };
    let reasons = Reason::ALL.into_iter().zip(anatomy.off_ns);
    let reasons = reasons.map(|(reason, ns)| part(reason.label(), ns, of_reason(reason)));
    let others = [
        part(RUNQ, anatomy.runq_ns, anatomy::RUNQ),
        part(CALLS, anatomy.calls_ns, anatomy::CALLS),
        part(SENDING, anatomy.sending_ns, anatomy::SENDING),
        Part { name: "not known", ns: anatomy.unattributed_ns, is_guess: false },
    ];
    let mut parts: Vec<_> = on_cpu.into_iter().chain(reasons).chain(others).collect();
    parts.retain(|part| part.ns > 0);
    parts.sort_by_key(|part| std::cmp::Reverse(part.ns));
    parts
}

/// Why some parts are guesses, if any is.
pub fn why_guessed(anatomy: &Anatomy) -> Option<&'static str> {
    let of_thread =
        "its thread had others in flight: whose time a guess was follows from the order of what it received";
    let of_link = "that it waited for a call of its own is a guess";
    anatomy.guesses().next().map(|_| if anatomy.is_shared { of_thread } else { of_link })
}

/// A part of a request's time as people are told it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// What it is.
    pub name: &'static str,
    /// How long.
    pub ns: u64,
    /// Whether some of it is a guess.
    pub is_guess: bool,
}

/// What the largest wait, and the time on a CPU, are told by, where stacks of them are kept: behind the name of the part. The wait by the program's own
/// frame ([`waited_at`]), the time on a CPU by its hottest function.
pub fn places(causes: &Causes) -> Vec<(&'static str, String)> {
    let Some(anatomy) = &causes.anatomy else { return Vec::new() };
    let waits = Reason::ALL.into_iter().zip(anatomy.off_ns).filter(|(_, ns)| *ns > 0);
    // Of equal ones the first.
    let longest = waits.reduce(|best, next| if next.1 > best.1 { next } else { best });
    let wait = longest.and_then(|(reason, _)| {
        let Place { function, ns, .. } = waited_at(&causes.stacks, StackPart::Off(reason))?;
        Some((reason.label(), format!("at {} ({})", function.label(), duration(ns))))
    });
    let on_cpu = hottest(&causes.stacks).and_then(|Place { function, ns, of_ns }| {
        let name =
            parts(anatomy).into_iter().map(|part| part.name).find(|name| name.starts_with("on a CPU"))?;
        let percent = (u128::from(ns) * 100 + u128::from(of_ns) / 2).checked_div(u128::from(of_ns))?;
        Some((name, format!("{percent} % of samples in {}", function.label())))
    });
    wait.into_iter().chain(on_cpu).collect()
}

/// Parts and calls below this share of the whole are summed up, percent.
const LEAST: u64 = 1;
/// Locks that are shown.
const MAX_LOCKS_SHOWN: usize = 3;
/// Calls that are shown one by one.
const MAX_CALLS: usize = 10;

/// What the network did, where it matters to a request that took `whole` ns: segments were sent again, or the round trip is no small part of it.
fn network_line(network: Network, whole: u64) -> Option<String> {
    let rtt = network.rtt_ns().filter(|ns| !is_small(*ns, whole));
    let rtt = rtt.map(|ns| format!("a round trip to the peer takes {}", duration(ns)));
    match (network.retransmits, rtt) {
        (0, rtt) => rtt,
        (n, rtt) => {
            let times = if n == 1 {
                "1 segment was".to_owned()
            } else {
                format!("{} segments were", count(n.into()))
            };
            let rtt = rtt.map(|rtt| format!("; {rtt}")).unwrap_or_default();
            Some(format!("{times} sent again on its connection{rtt}"))
        }
    }
}

fn is_small(ns: u64, whole: u64) -> bool {
    u128::from(ns) * 100 < u128::from(whole) * u128::from(LEAST)
}

/// The lines about a transaction; `made` are the requests that were made for it, as far as they are kept.
pub fn lines(shown: &Transaction, made: &[Transaction]) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = why(&mut out, shown, made);
    out
}

fn why(out: &mut String, shown: &Transaction, made: &[Transaction]) -> std::fmt::Result {
    let whole = shown.duration_ns.max(0).unsigned_abs();
    let role = if shown.role == Role::Client { "made" } else { "served" };
    let status = shown.status_code.map_or_else(|| shown.end.as_str().to_owned(), |code| code.to_string());
    writeln!(
        out,
        "{}  {status}  {}  {role} by {}",
        screen_text(&shown.operation),
        duration(whole),
        screen_text(&shown.service)
    )?;
    if let Some(line) = shown.network.and_then(|network| network_line(network, whole)) {
        writeln!(out, "{line}")?;
    }
    let Some(causes) = &shown.causes else {
        let why = match shown.role {
            Role::Client => "it was made by a process that waited for the answer",
            _ => {
                "where its time went was not recorded (--anatomy off, a capture, or a thread that was not followed)"
            }
        };
        return writeln!(out, "not known: {why}");
    };
    if let Some(queue) = shown.queue_ns.filter(|ns| *ns > 0) {
        writeln!(out, "{} before that: waiting in the socket until the process read it", duration(queue))?;
    }
    if let Some(anatomy) = &causes.anatomy {
        let is_small = |ns: u64| is_small(ns, whole);
        let parts = parts(anatomy);
        let places = places(causes);
        for Part { name, ns, is_guess } in parts.iter().filter(|part| !is_small(part.ns)) {
            let place = places.iter().find(|(part, _)| part == name);
            let place = place.map(|(_, place)| format!(", {place}")).unwrap_or_default();
            let guess = if *is_guess { " (a guess)" } else { "" };
            writeln!(out, "{} of {}: {name}{place}{guess}", duration(*ns), duration(whole))?;
        }
        let small: u64 = parts.iter().map(|part| part.ns).filter(|ns| is_small(*ns)).sum();
        if small > 0 {
            writeln!(out, "{} of {}: all else", duration(small), duration(whole))?;
        }
        if let Some(why) = why_guessed(anatomy) {
            writeln!(out, "({why})")?;
        }
    }
    let mut locks: Vec<&Lock> = causes.locks.iter().collect();
    locks.sort_by_key(|lock| std::cmp::Reverse(lock.ns));
    for Lock { address, tid, id, count: n, ns } in locks.into_iter().take(MAX_LOCKS_SHOWN) {
        let by = match (tid, id) {
            (Some(tid), Some(id)) => format!(", until thread {tid}, serving request {id}, let go of it"),
            (Some(tid), None) => format!(", until thread {tid} let go of it"),
            _ => String::new(),
        };
        let lock = if *address == 0 { "other locks".to_owned() } else { format!("lock {address:#x}") };
        writeln!(out, "waited for {lock} {} times, {} in all{by}", count(*n), duration(*ns))?;
    }
    for CallSum { kind, peer, count: n, ns } in &causes.calls {
        let peer = if &**peer == "*" { "others".into() } else { screen_text(peer) };
        writeln!(out, "asked {peer} ({kind}) {} times, {} in all", count(*n), duration(*ns))?;
    }
    let mut slowest: Vec<&Transaction> = made.iter().collect();
    slowest.sort_by_key(|one| std::cmp::Reverse((one.duration_ns, one.seq)));
    for call in slowest.iter().take(MAX_CALLS) {
        writeln!(
            out,
            "  {}  {}  {}",
            duration(call.duration_ns.max(0).unsigned_abs()),
            screen_text(&call.operation),
            call.id()
        )?;
    }
    if slowest.len() > MAX_CALLS {
        writeln!(out, "  and {} more", count((slowest.len() - MAX_CALLS) as u64))?;
    }
    if let Some(link) = &causes.link {
        let what = if link.method == LinkMethod::Socket { "asked by" } else { "made for request" };
        writeln!(out, "{what} {} ({})", link.parent, link.method.why())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::StackEnd,
        transaction::{
            CallId,
            anatomy::Link,
            stacks::{StackSum, frames_text},
        },
    };

    #[test]
    fn parts_are_named_and_the_largest_comes_first() {
        let mut anatomy =
            Anatomy { user_ns: 5, kernel_ns: 3, calls_ns: 40, is_split: true, ..Anatomy::default() };
        anatomy.off_ns[Reason::Futex.index()] = 7;
        let parts = |anatomy: &Anatomy| -> Vec<_> {
            parts(anatomy).into_iter().map(|part| (part.name, part.ns)).collect()
        };
        assert_eq!(
            parts(&anatomy),
            [
                ("waiting for answers to its calls", 40),
                ("waiting for a lock", 7),
                ("on a CPU, in the program", 5),
                ("on a CPU, in the kernel", 3),
            ]
        );
        anatomy = Anatomy { user_ns: 8, is_split: false, ..Anatomy::default() };
        assert_eq!(parts(&anatomy), [("on a CPU", 8)]);
    }

    #[test]
    fn the_lines_are_what_was_recorded() {
        let mut off_ns = [0; crate::transaction::anatomy::N_REASONS];
        off_ns[Reason::Futex.index()] = 3_900_000_000;
        let anatomy = Anatomy { user_ns: 99_000_000, runq_ns: 1_000_000, off_ns, ..Anatomy::default() };
        let calls = vec![CallSum { kind: "postgres", peer: "10.0.0.9:5432".into(), count: 2, ns: 7_000_000 }];
        let locked =
            ["futex_wait+0x1 (kernel)", "pthread_mutex_lock+0x1 (libc.so.6)", "cart::lock\u{1b}+0x1 (shop)"];
        let stack = |part, ns, frames: &[&str]| StackSum {
            part,
            ns,
            count: 1,
            frames: frames_text(frames),
            end: StackEnd::Complete,
        };
        let parent = CallId { conn: crate::event::ConnId(16), ordinal: 3 };
        let shown = Transaction {
            operation: "GET /cart".into(),
            service: "shop".into(),
            role: Role::Server,
            duration_ns: 4_000_000_000,
            queue_ns: Some(20_000),
            status_code: Some(200),
            network: Some(Network { rtt_us: 80_000, retransmits: 2 }),
            causes: Some(Box::new(Causes {
                anatomy: Some(anatomy),
                calls,
                link: Some(Link { parent, method: LinkMethod::Thread }),
                stacks: vec![
                    stack(StackPart::Off(Reason::Disk), 9_000_000_000, &["read+0x1 (shop)"]),
                    stack(StackPart::Off(Reason::Futex), 3_800_000_000, &locked),
                    stack(StackPart::OnCpu, 70_000_000, &["render+0x1 (shop)"]),
                    stack(StackPart::OnCpu, 27_000_000, &["memcpy+0x1 (libc.so.6)", "render+0x1 (shop)"]),
                ],
                locks: vec![Lock {
                    address: 0x7f00_0010,
                    tid: Some(4712),
                    id: Some(CallId { conn: crate::event::ConnId(32), ordinal: 0 }),
                    count: 3,
                    ns: 3_899_000_000,
                }],
            })),
            ..Transaction::default()
        };
        let made = [Transaction {
            operation: "SELECT shop".into(),
            duration_ns: 6_000_000,
            ..Transaction::default()
        }];
        insta::assert_snapshot!(lines(&shown, &made));
        assert!(lines(&Transaction::default(), &[]).contains("not known"));
        for (rtt_us, retransmits, line) in [
            (9_999, 0, None),
            (10_000, 0, Some("a round trip to the peer takes 10.0ms")),
            (300, 1, Some("1 segment was sent again on its connection")),
            (0, 1_200, Some("1,200 segments were sent again on its connection")),
        ] {
            let found = network_line(Network { rtt_us, retransmits }, 1_000_000_000);
            assert_eq!(found.as_deref(), line);
        }
    }
}
