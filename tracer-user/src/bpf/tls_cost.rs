//! What probes on its TLS library cost a process, as a share of its own processor time. One that would pay more than the limit is left opaque.
//!
//! An estimate on the high side: each call of a library that the kernel side met, at what the trial at the start measured and [`RECORD_NS`], against all the time
//! that the process spent on processors, probes included.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

/// What telling a call costs beside meeting its probes, as measured on functions of which both ends are told: 2.7 µs, of which the probes are 1.7 (Linux
/// 6.18, AMD EPYC, two virtual processors). Of TLS libraries it was not measured by itself.
const RECORD_NS: u64 = 1000;
/// The shortest time between two looks that says anything: a process' time is counted in ticks of 10 ms.
const LEAST: Duration = Duration::from_millis(500);
/// The least processor time to judge by, ten ticks: a look before it is none.
const LEAST_CPU_NS: u64 = 100_000_000;
/// Looks in a row that have to be over the limit: three seconds or more. A burst is no reason.
const LOOKS: u32 = 3;

/// A process' last look.
#[derive(Debug)]
pub(super) struct Cost {
    at: Instant,
    n_calls: u64,
    cpu_ns: u64,
    n_over: u32,
}

impl Cost {
    /// Begins to count.
    pub(super) fn begin(at: Instant, n_calls: u64, cpu_ns: u64) -> Cost {
        Cost { at, n_calls, cpu_ns, n_over: 0 }
    }

    /// A look at `at`: `n_calls` and `cpu_ns` so far. The share in percent, when it has been over `limit` for long enough.
    pub(super) fn look(
        &mut self,
        at: Instant,
        (n_calls, cpu_ns): (u64, u64),
        ns_per_call: u64,
        limit: u32,
    ) -> Option<u64> {
        let own_ns = cpu_ns.saturating_sub(self.cpu_ns);
        if at.saturating_duration_since(self.at) < LEAST || own_ns < LEAST_CPU_NS {
            return None;
        }
        let probes_ns = n_calls.saturating_sub(self.n_calls).saturating_mul(ns_per_call + RECORD_NS);
        let is_over = probes_ns / u64::from(limit.max(1)) > own_ns / 100;
        let n_over = if is_over { self.n_over + 1 } else { 0 };
        *self = Cost { at, n_calls, cpu_ns, n_over };
        (n_over >= LOOKS).then(|| (probes_ns * 100).checked_div(own_ns).unwrap_or(0).min(100))
    }
}

/// Processor time of a process so far, all its threads; `None`: it is gone.
pub(super) fn cpu_ns(proc_root: &Path, pid: u32) -> Option<u64> {
    /// A tick as `/proc` counts, whatever the kernel's own is (proc_pid_stat(5): `sysconf(_SC_CLK_TCK)`).
    const TICK_NS: u64 = 10_000_000;
    let stat = fs::read_to_string(proc_root.join(format!("{pid}/stat"))).ok()?;
    // Its name, in parentheses, may hold anything.
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace();
    let user: u64 = fields.nth(11)?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((user + system) * TICK_NS)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks a second apart: calls and CPU time of each second.
    fn looks(limit: u32, seconds: &[(u64, u64)]) -> Vec<Option<u64>> {
        let began = Instant::now();
        let mut cost = Cost::begin(began, 7, 9);
        let (mut calls, mut cpu) = (7, 9);
        let look = |(n, second): (u64, &(u64, u64))| {
            (calls, cpu) = (calls + second.0, cpu + second.1);
            cost.look(began + Duration::from_secs(n), (calls, cpu), 2000, limit)
        };
        (1..).zip(seconds).map(look).collect()
    }

    #[test]
    fn who_pays_too_much_for_seconds_is_over() {
        // 100,000 calls of 3 µs are 300 ms.
        let dear = (100_000, 1_000_000_000);
        assert_eq!(looks(29, &[dear; 4]), [None, None, Some(30), Some(30)]);
        assert_eq!(looks(30, &[dear; 4]), [None; 4]);
        // A burst.
        assert_eq!(looks(29, &[dear, dear, (0, 1_000_000_000), dear, dear]), [None; 5]);
        // Of a process that hardly runs every second look says something.
        assert_eq!(looks(29, &[(100_000, 90_000_000); 6]), [None, None, None, None, None, Some(100)]);
        assert_eq!(looks(29, &[(200_000, 100_000_000); 4])[3], Some(100));
    }

    #[test]
    fn looks_too_close_to_each_other_say_nothing() {
        let began = Instant::now();
        let mut cost = Cost::begin(began, 0, 0);
        for n in 1..50 {
            let so_far = (n * 1_000_000, n * 1_000_000_000);
            assert_eq!(cost.look(began + Duration::from_millis(10 * n), so_far, 2000, 1), None, "{n}");
        }
    }

    #[test]
    fn time_is_read_behind_a_name_of_any_kind() {
        let root = tempfile::TempDir::new().unwrap();
        fs::create_dir(root.path().join("5")).unwrap();
        let stat = "5 (a) 9 (b c) S 1 5 5 0 -1 4194560 100 0 0 0 12 30 0 0 20 0 1 0 100 1000 10";
        fs::write(root.path().join("5/stat"), stat).unwrap();
        assert_eq!(cpu_ns(root.path(), 5), Some(420_000_000));
        assert_eq!(cpu_ns(root.path(), 6), None);
        assert!(cpu_ns(Path::new("/proc"), std::process::id()).is_some());
    }
}
