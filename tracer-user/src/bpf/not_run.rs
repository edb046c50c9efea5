//! Hits for which the kernel ran no program, as it counts them for each.

use std::{
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd},
    sync::PoisonError,
};

use super::{load::Loaded, probes::ARRIVALS};

/// Hits for which no program ran, by what they cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NotRun {
    /// Of the program that only notes arrivals: times, and no request.
    pub arrivals: u64,
    /// Of all others: a request may be missing for each.
    pub others: u64,
}

impl Loaded {
    /// The programs of the object that was loaded first, by name.
    pub fn programs(&self) -> impl Iterator<Item = (&str, BorrowedFd<'_>)> {
        // One that this kernel has no use for is not loaded.
        self.ebpf.programs().filter_map(|(name, program)| Some((name, program.fd().ok()?.as_fd())))
    }

    /// Hits for which the kernel ran no program because the same program was already running on that processor, preempted or
    /// interrupted; 0 where the kernel does not say (before 5.12). A softirq meets `data_ready` in the middle of itself on an ordinary
    /// host: up to 6 times in a run of 30 endless answers that were reset (Linux 6.18).
    pub fn not_run(&self) -> NotRun {
        let of = |fd: BorrowedFd<'_>| -> Option<u64> {
            let fd = fd.as_raw_fd();
            let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?;
            text.lines().find_map(|line| line.strip_prefix("recursion_misses:")?.trim().parse().ok())
        };
        let mut sum = NotRun::default();
        for (name, program) in self.programs() {
            let n = of(program).unwrap_or(0);
            if name == ARRIVALS {
                sum.arrivals += n;
            } else {
                sum.others += n;
            }
        }
        let others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        sum.others += others.iter().filter_map(|(_, fd)| of(fd.as_fd())).sum::<u64>();
        sum
    }
}
