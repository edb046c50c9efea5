//! The profile of a request: what it did, one thing after the other, each with the time it took.

use std::fmt::Write as _;

use serde_json::json;

use super::{
    format::{clock, count, duration},
    why,
};
use crate::{
    event::{Direction, Role},
    text::screen_text,
    time::WallTime,
    transaction::{
        End, Transaction,
        anatomy::{Anatomy, Reason},
        profile::{Profile, Seen},
    },
};

/// A line of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// When it began, ns behind the beginning of the request in the socket's queue.
    pub at_ns: u64,
    /// How long it took, ns; 0 = an instant.
    pub ns: u64,
    /// How much of that on a CPU, ns.
    pub cpu_ns: u64,
    /// What it was.
    pub what: String,
    /// How many lines it stands for, where those that take least are not shown each.
    pub n: usize,
}

/// All lines of a request: one behind the other, and together as long as it took, its time in the queue included. `made`: what was made for it.
pub fn rows(shown: &Transaction, profile: &Profile, made: &[Transaction]) -> Vec<Row> {
    let queue = shown.queue_ns.unwrap_or(0);
    let whole = queue + shown.duration_ns.max(0).unsigned_abs();
    let end = if shown.end == End::Answered { "has answered" } else { shown.end.as_str() };
    let mut rows = Rows { end, ..Rows::default() };
    rows.take(queue, 0, "waiting in the socket until the process reads it");
    // What was not seen where it was, and is told at the end.
    let mut n_unseen = 0;
    for step in &profile.steps {
        let mut parts = step.parts;
        let known = parts.total() - parts.unattributed_ns;
        let until = queue + step.until.0.saturating_sub(profile.since.0);
        if step.seen == Seen::Ended {
            parts.unattributed_ns = parts.unattributed_ns.saturating_sub(n_unseen);
        }
        let behind = rows.at_ns + known + parts.unattributed_ns;
        let gap = until.saturating_sub(behind);
        parts.unattributed_ns += gap;
        // What shows to be its doing only now was not known before.
        n_unseen = (n_unseen + gap).saturating_sub(rows.make_room(behind.saturating_sub(until)));
        rows.step(&parts, step.seen);
    }
    let (n_more, more) = profile.more;
    if n_more > 0 {
        // What is not known of them may have been told where it was.
        let ns = more.total().min(whole.saturating_sub(rows.at_ns));
        rows.take(ns, more.on_cpu_ns().min(ns), &format!("{} more steps", count(n_more)));
    }
    rows.take(whole.saturating_sub(rows.at_ns), 0, UNKNOWN);
    for call in made {
        let at_ns = queue.saturating_add_signed(call.start_time.0.wrapping_sub(shown.start_time.0) as i64);
        let port = call.server_port.map(|port| format!(":{port}")).unwrap_or_default();
        let what = format!(
            "asks {}{port} ({}): {}, {} after {}, {}",
            screen_text(&call.server_addr),
            call.protocol,
            screen_text(&call.operation),
            call.end.as_str(),
            duration(call.duration_ns.max(0).unsigned_abs()),
            call.id()
        );
        rows.cut(at_ns, what);
    }
    rows.rows
}

const UNKNOWN: &str = "not known";

#[derive(Default)]
struct Rows {
    rows: Vec<Row>,
    at_ns: u64,
    /// What is told of the end.
    end: &'static str,
}

impl Rows {
    /// A stretch; the same thing again goes on with the line before.
    fn take(&mut self, ns: u64, cpu_ns: u64, what: &str) {
        if ns == 0 {
            return;
        }
        match self.rows.last_mut().filter(|last| last.what == what && last.ns > 0) {
            Some(last) => {
                last.ns += ns;
                last.cpu_ns += cpu_ns;
            }
            None => {
                self.rows.push(Row { at_ns: self.at_ns, ns, cpu_ns, what: what.to_owned(), n: 1 });
            }
        }
        self.at_ns += ns;
    }

    /// An instant between what is there.
    fn cut(&mut self, at_ns: u64, what: String) {
        // Behind what ended then.
        let mut place = self.rows.partition_point(|row| row.at_ns + row.ns <= at_ns);
        if let Some(row) = self.rows.get_mut(place).filter(|row| row.at_ns < at_ns) {
            let mut rest = row.clone();
            row.ns = at_ns - row.at_ns;
            row.cpu_ns = row.cpu_ns.min(row.ns);
            (rest.at_ns, rest.ns, rest.cpu_ns) = (at_ns, rest.ns - row.ns, rest.cpu_ns - row.cpu_ns);
            self.rows.insert(place + 1, rest);
            place += 1;
        }
        self.rows.insert(place, Row { at_ns, what, n: 1, ..Row::default() });
    }

    /// Takes so much from what is not known, the latest first; how much that was.
    fn make_room(&mut self, ns: u64) -> u64 {
        let mut left = ns;
        for i in (0..self.rows.len()).rev() {
            if left == 0 {
                break;
            }
            if self.rows[i].what == UNKNOWN {
                let taken = self.rows[i].ns.min(left);
                self.rows[i].ns -= taken;
                self.rows[i + 1..].iter_mut().for_each(|row| row.at_ns -= taken);
                left -= taken;
            }
        }
        self.rows.retain(|row| row.what != UNKNOWN || row.ns > 0);
        self.at_ns -= ns - left;
        ns - left
    }

    fn instant(&mut self, what: String) {
        self.rows.push(Row { at_ns: self.at_ns, what, n: 1, ..Row::default() });
    }

    /// In the order in which a thread does it: what it did before it waited, the wait, and waiting for a CPU behind that.
    fn step(&mut self, parts: &Anatomy, seen: Seen) {
        self.take(parts.unattributed_ns, 0, UNKNOWN);
        let on_cpu = parts.on_cpu_ns();
        self.take(on_cpu, on_cpu, "on a CPU");
        let lock = match seen {
            Seen::Waited { reason: Some(Reason::Futex), address } if address != 0 => Some(address),
            _ => None,
        };
        for (reason, ns) in Reason::ALL.into_iter().zip(parts.off_ns) {
            match lock.filter(|_| reason == Reason::Futex) {
                Some(address) => self.take(ns, 0, &format!("{} ({address:#x})", reason.label())),
                None => self.take(ns, 0, reason.label()),
            }
        }
        self.take(parts.calls_ns, 0, why::CALLS);
        self.take(parts.sending_ns, 0, why::SENDING);
        self.take(parts.runq_ns, 0, why::RUNQ);
        match seen {
            Seen::Moved { direction: Direction::Ingress, bytes } => {
                self.instant(format!("has read {} bytes", count(bytes)))
            }
            Seen::Moved { direction: Direction::Egress, bytes } => {
                self.instant(format!("has sent {} bytes", count(bytes)))
            }
            Seen::Ended => self.instant(self.end.to_owned()),
            Seen::Waited { .. } | Seen::Called => {}
        }
    }
}

/// At most so many lines: those that take longest, and in the place of others one that adds them up.
pub fn longest(rows: Vec<Row>, most: usize) -> Vec<Row> {
    if rows.len() <= most {
        return rows;
    }
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(rows[i].ns), i));
    let mut is_shown = vec![false; rows.len()];
    order.iter().take(most).for_each(|&i| is_shown[i] = true);
    let mut out: Vec<Row> = Vec::new();
    let mut is_sum = false;
    for (row, is_shown) in rows.into_iter().zip(is_shown) {
        match out.last_mut().filter(|_| is_sum && !is_shown) {
            Some(sum) => {
                sum.n += row.n;
                sum.ns += row.ns;
                sum.cpu_ns += row.cpu_ns;
            }
            None => out.push(row),
        }
        is_sum = !is_shown;
    }
    for sum in out.iter_mut().filter(|row| row.n > 1) {
        sum.what = format!("+ {} more", count(sum.n as u64));
    }
    out
}

/// Colours, where there are any: parts above 50, 20 and 10 % of the whole, and the end of one.
#[derive(Clone, Copy, Debug)]
pub struct Paint {
    /// For each of both, most first.
    pub on: [&'static str; 3],
    /// The end.
    pub off: &'static str,
}

impl Paint {
    /// Bold red, blue, green.
    pub const COLOURS: Paint = Paint { on: ["\u{1b}[1;31m", "\u{1b}[34m", "\u{1b}[32m"], off: "\u{1b}[0m" };
    /// None.
    pub const NONE: Paint = Paint { on: [""; 3], off: "" };
}

/// The table.
pub fn text(shown: &Transaction, rows: &[Row], is_whole: bool, paint: Paint) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_text(&mut out, shown, rows, is_whole, paint);
    out
}

fn write_text(
    out: &mut String,
    shown: &Transaction,
    rows: &[Row],
    is_whole: bool,
    paint: Paint,
) -> std::fmt::Result {
    let queue = shown.queue_ns.unwrap_or(0);
    let whole = queue + shown.duration_ns.max(0).unsigned_abs();
    let status = shown.status_code.map_or_else(|| shown.end.as_str().to_owned(), |code| code.to_string());
    writeln!(
        out,
        "{}  {status}  {}  served by {}",
        screen_text(&shown.operation),
        duration(whole),
        screen_text(&shown.service)
    )?;
    if let Some(why) = why_not(shown) {
        return writeln!(out, "{why}");
    }
    if !is_whole {
        writeln!(out, "not all of it was seen again")?;
    }
    writeln!(out, "{HEADING}")?;
    for (n, row) in rows.iter().enumerate() {
        let (on, off) = share(row.ns, whole).map_or(("", ""), |at| (paint.on[at], paint.off));
        let [number, clock, gap, cpu] = cells(shown, n, row);
        writeln!(out, "{number} {clock} {on}{gap}{off} {cpu}  {}", row.what)?;
    }
    Ok(())
}

/// The heads of the columns.
pub const HEADING: &str = "   #            TIME     T-GAP       CPU  CONTENTS";

/// Number, instant, T-GAP and time on a CPU of line `n`, as wide as below [`HEADING`].
pub fn cells(shown: &Transaction, n: usize, row: &Row) -> [String; 4] {
    let at = WallTime(shown.start_time.0.saturating_sub(shown.queue_ns.unwrap_or(0)) + row.at_ns);
    let time = |ns: u64| if ns == 0 { String::new() } else { duration(ns) };
    let clock = format!("{}.{:06}", clock(at), at.0 % 1_000_000_000 / 1_000);
    let (gap, cpu) = (time(row.ns), time(row.cpu_ns));
    [format!("{n:>4}"), format!("{clock:>15}"), format!("{gap:>9}"), format!("{cpu:>9}")]
}

/// How much a line is of the whole, ns: above 50 % (0), 20 % (1), 10 % (2), or less.
pub fn share(ns: u64, whole: u64) -> Option<usize> {
    let is_above = |percent: u64| u128::from(ns) * 100 > u128::from(whole) * u128::from(percent);
    [50, 20, 10].iter().position(|percent| is_above(*percent))
}

/// Why a transaction has no profile.
pub fn why_not(shown: &Transaction) -> Option<&'static str> {
    if shown.role == Role::Client {
        return Some(
            "it was made by a process that waited for the answer: only what is served has a profile",
        );
    }
    let is_known = shown.causes.as_ref().is_some_and(|causes| causes.anatomy.is_some());
    (!is_known).then_some(
        "what it did was not recorded (--anatomy off, a capture, or a thread that was not followed)",
    )
}

/// A line for each row. `is_whole`: all of it was seen again.
pub fn json(shown: &Transaction, rows: &[Row], is_whole: bool) -> String {
    let queue = shown.queue_ns.unwrap_or(0);
    let mut out = String::new();
    for row in rows {
        let start = shown.start_time.0.saturating_sub(queue) + row.at_ns;
        let line = json!({"id": shown.id().to_string(), "start_time_ns": start, "gap_ns": row.ns, "cpu_ns": row.cpu_ns, "contents": row.what, "n": row.n, "is_whole": is_whole});
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{line}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(ns: u64) -> Row {
        Row { ns, cpu_ns: ns / 2, what: format!("{ns}"), n: 1, ..Row::default() }
    }

    #[test]
    fn lines_that_are_left_out_are_added_up_where_they_are() {
        let rows: Vec<Row> = [5, 1, 2, 9, 3, 8].map(row).into();
        let shown = longest(rows.clone(), 3);
        let told: Vec<_> = shown.iter().map(|row| (&*row.what, row.ns, row.cpu_ns, row.n)).collect();
        assert_eq!(
            told,
            [("5", 5, 2, 1), ("+ 2 more", 3, 1, 2), ("9", 9, 4, 1), ("3", 3, 1, 1), ("8", 8, 4, 1)]
        );
        assert_eq!(longest(rows.clone(), 6), rows);
        // Of equal ones the first.
        assert_eq!(longest([4, 4, 4].map(row).into(), 1).iter().map(|row| row.n).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn parts_of_the_whole_are_painted() {
        let shares = [51, 50, 21, 20, 11, 10].map(|ns| share(ns, 100));
        assert_eq!(shares, [Some(0), Some(1), Some(1), Some(2), Some(2), None]);
        for (on, code) in Paint::COLOURS.on.iter().zip(["31", "34", "32"]) {
            assert!(on.contains(code));
        }
    }
}
