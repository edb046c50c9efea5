//! What the pipeline was told about processes. Pure: it learns from events only.

use std::{collections::VecDeque, sync::Arc};

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use crate::{event::ProcessFacts, time::BootTime};

/// Processes known; beyond it the ones told first are forgotten (their transactions are named by thread).
pub const MAX_PROCESSES: usize = 65_536;
/// How long an ended process stays known: its transactions may end later than it does.
const KEEP_NS: u64 = 10_000_000_000;
/// Thread names kept as text; beyond it all are made anew.
const MAX_NAMES: usize = 4_096;

/// Services by process.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct ProcessTable {
    by_pid: FxHashMap<u32, ProcessFacts>,
    /// In the order in which they were told: pid and start, to tell a reused pid.
    told: VecDeque<(u32, u64)>,
    ended: VecDeque<(BootTime, u32, u64)>,
    #[serde(skip)]
    names: FxHashMap<[u8; 16], Arc<str>>,
}

impl ProcessTable {
    /// Whether anything is known of a process.
    pub fn knows(&self, pid: u32) -> bool {
        self.by_pid.contains_key(&pid)
    }

    /// Takes over facts.
    pub fn learn(&mut self, facts: ProcessFacts) {
        let id = (facts.pid, facts.start_ticks);
        let old = self.by_pid.insert(facts.pid, facts);
        if old.is_none_or(|old| old.start_ticks != id.1) {
            self.told.push_back(id);
        }
        while self.told.len() > MAX_PROCESSES {
            if let Some((pid, start)) = self.told.pop_front() {
                self.forget(pid, start);
            }
        }
    }

    /// A process ended.
    pub fn end(&mut self, pid: u32, now: BootTime) {
        if let Some(facts) = self.by_pid.get(&pid) {
            self.ended.push_back((now, pid, facts.start_ticks));
        }
        while let Some(&(at, pid, start)) = self.ended.front() {
            if at.0.saturating_add(KEEP_NS) > now.0 && self.ended.len() <= MAX_PROCESSES {
                break;
            }
            self.ended.pop_front();
            self.forget(pid, start);
        }
    }

    fn forget(&mut self, pid: u32, start: u64) {
        if self.by_pid.get(&pid).is_some_and(|facts| facts.start_ticks == start) {
            self.by_pid.remove(&pid);
        }
    }

    /// The service of a process; the thread's name where nothing is known.
    pub fn service(&mut self, pid: u32, comm: &[u8; 16]) -> Arc<str> {
        match self.by_pid.get(&pid) {
            Some(facts) if !facts.service.is_empty() => facts.service.clone(),
            _ => self.name(comm),
        }
    }

    /// The same without remembering the text.
    pub fn service_of(&self, pid: u32, comm: &[u8; 16]) -> Arc<str> {
        match self.by_pid.get(&pid) {
            Some(facts) if !facts.service.is_empty() => facts.service.clone(),
            _ => text(comm).into(),
        }
    }

    /// A thread's name as text.
    pub fn name(&mut self, comm: &[u8; 16]) -> Arc<str> {
        if let Some(name) = self.names.get(comm) {
            return name.clone();
        }
        if self.names.len() >= MAX_NAMES {
            self.names.clear();
        }
        let name: Arc<str> = text(comm).into();
        self.names.insert(*comm, name.clone());
        name
    }
}

fn text(comm: &[u8; 16]) -> String {
    let end = comm.iter().position(|&byte| byte == 0).unwrap_or(comm.len());
    escape(&comm[..end])
}

/// Bytes as text; what is not UTF-8 as `\xNN`.
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(pid: u32, start_ticks: u64, service: &str) -> ProcessFacts {
        ProcessFacts { pid, start_ticks, service: service.into(), ..ProcessFacts::default() }
    }

    #[test]
    fn an_ended_process_is_forgotten_later_and_a_reused_pid_is_not() {
        let mut table = ProcessTable::default();
        table.learn(facts(1, 10, "old"));
        table.learn(facts(2, 11, "other"));
        table.end(1, BootTime(0));
        table.end(2, BootTime(0));
        assert_eq!(&*table.service(1, b"comm\0\0\0\0\0\0\0\0\0\0\0\0"), "old");
        table.learn(facts(1, 99, "new"));
        table.learn(facts(3, 12, "third"));
        table.end(3, BootTime(KEEP_NS));
        assert_eq!(&*table.service(1, &[0; 16]), "new");
        assert_eq!(&*table.service(2, b"co\xffm\0\0\0\0\0\0\0\0\0\0\0\0"), "co\\xffm");
    }

    #[test]
    fn churn_does_not_grow_the_table() {
        let mut table = ProcessTable::default();
        for n in 0..200_000 {
            table.learn(facts(n, u64::from(n), "s"));
        }
        assert_eq!(table.by_pid.len(), MAX_PROCESSES);
        assert!(table.told.len() <= MAX_PROCESSES);
    }
}
