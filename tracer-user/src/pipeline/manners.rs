//! How sure it is that a request was made for another: by what its process has shown of itself, and by the trace ids that both carry.
//!
//! That a thread was serving one request alone says little by itself: in a runtime that moves tasks between threads, in an event loop and in a pool that
//! hands requests over, it may do something for another one, or for none. None of that shows at that moment; it shows in how the process goes on.
//! So a process has to show first that its threads serve each request from its beginning to its end, and once it has shown anything else, what its
//! threads do is a guess for good.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use tracer_ebpf as abi;

use crate::{
    event::OffCpu,
    metrics::{Counter, Metrics},
    transaction::{
        CallId,
        anatomy::{Link, LinkMethod},
        open::Open,
    },
};

/// Processes of which this is known; beyond it those that serve nothing are forgotten, and then all: they have to show it again.
const MAX_PROCESSES: usize = 16_384;
/// Requests served from beginning to end by one thread, while others were in flight, after which a process is believed. Not measured but chosen: in a
/// pool of two threads that take what either has read, all of so many stay where they were read once in 65,536 times.
const ENOUGH_BESIDE_OTHERS: u32 = 16;
/// The same without others in flight: then nothing but work that no request asked for could be meant, and a loop shows itself at its first wait.
const ENOUGH_ALONE: u32 = 2;
/// Requests in flight that carry trace ids; more are not found by them (`anatomy.forgotten`). As many as are known at all.
const MAX_TRACED: usize = 65_536;
/// Requests with one trace id that are in flight in one process; more are not told apart anyway.
const MAX_ALIKE: usize = 64;

/// What a process has shown.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Manner {
    /// A thread of it did something for several requests, or several threads for one.
    is_mixed: bool,
    /// Requests in flight that it serves.
    n_open: u32,
    /// Requests that one thread served from beginning to end: all, and those that ended while others were in flight.
    n_clean: u32,
    n_beside: u32,
    /// Its calls carry the trace ids of what they are made for.
    hands_on: bool,
}

impl Manner {
    fn is_believed(self) -> bool {
        !self.is_mixed
            && (self.n_beside >= ENOUGH_BESIDE_OTHERS || (self.n_open <= 1 && self.n_clean >= ENOUGH_ALONE))
    }
}

/// The state.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Manners {
    processes: BTreeMap<u32, Manner>,
    /// By process and trace id: the requests that it serves.
    traced: BTreeMap<(u32, Arc<str>), Vec<CallId>>,
    /// All of them.
    carriers: BTreeSet<CallId>,
}

impl Manners {
    /// A process begins to serve a request.
    pub(super) fn begin(&mut self, pid: u32) {
        if self.processes.len() >= MAX_PROCESSES && !self.processes.contains_key(&pid) {
            self.processes.retain(|_, manner| manner.n_open > 0);
            if self.processes.len() >= MAX_PROCESSES {
                self.processes.clear();
            }
        }
        self.processes.entry(pid).or_default().n_open += 1;
    }

    /// It does no longer; `is_clean`: one thread did all of it, and nothing else meanwhile.
    pub(super) fn end(&mut self, pid: u32, is_clean: bool) {
        if let Some(manner) = self.processes.get_mut(&pid) {
            manner.n_open = manner.n_open.saturating_sub(1);
            if is_clean {
                manner.n_clean = manner.n_clean.saturating_add(1);
                manner.n_beside = manner.n_beside.saturating_add(u32::from(manner.n_open > 0));
            }
        }
    }

    /// One thread does not serve one request there.
    pub(super) fn mixed(&mut self, pid: u32) {
        if let Some(manner) = self.processes.get_mut(&pid) {
            manner.is_mixed = true;
        }
    }

    /// A thread that serves something waited.
    pub(super) fn waited(&mut self, off: &OffCpu) {
        // Who waits with these waits for whatever comes first.
        if matches!(off.call, EPOLL_WAIT | EPOLL_PWAIT | EPOLL_PWAIT2 | IO_URING_ENTER)
            && off.flags & abi::OFF_FLAG_RUNNABLE == 0
        {
            self.mixed(off.pid);
        }
    }

    /// A process is gone.
    pub(super) fn end_process(&mut self, pid: u32) {
        self.processes.remove(&pid);
    }

    /// Whether what a thread does is for the one request that it serves.
    pub(super) fn is_believed(&self, pid: u32) -> bool {
        self.processes.get(&pid).is_some_and(|manner| manner.is_believed())
    }

    /// A request that a process serves carries a trace id.
    pub(super) fn carries(&mut self, pid: u32, trace_id: &Arc<str>, id: CallId, metrics: &Metrics) {
        if self.carriers.len() >= MAX_TRACED {
            return metrics.add(Counter::AnatomyForgotten, 1);
        }
        let alike = self.traced.entry((pid, trace_id.clone())).or_default();
        if alike.len() >= MAX_ALIKE {
            metrics.add(Counter::AnatomyForgotten, 1);
        } else if !alike.contains(&id) {
            alike.push(id);
            self.carriers.insert(id);
        }
    }

    /// It has ended.
    pub(super) fn carried(&mut self, pid: u32, trace_id: &Arc<str>, id: CallId) {
        let key = (pid, trace_id.clone());
        let Some(alike) = self.traced.get_mut(&key) else { return };
        alike.retain(|other| *other != id);
        self.carriers.remove(&id);
        if alike.is_empty() {
            self.traced.remove(&key);
        }
    }

    /// Whether no request that is served carries a trace id.
    pub(super) fn is_untraced(&self) -> bool {
        self.traced.is_empty()
    }

    /// What a request of a process was made for, by the trace id that it carries, and by what its thread serves.
    pub(super) fn link(
        &mut self,
        pid: u32,
        call: &Open,
        by_thread: Option<Link>,
        metrics: &Metrics,
    ) -> Option<Link> {
        let trace_id = call.more.trace_id.as_ref();
        let alike = trace_id.and_then(|id| self.traced.get(&(pid, id.clone())));
        match (alike.map(Vec::as_slice), by_thread) {
            (Some(&[parent]), by_thread) => {
                if let Some(manner) = self.processes.get_mut(&pid) {
                    manner.hands_on = true;
                }
                if let Some(other) = by_thread.filter(|other| other.parent != parent) {
                    metrics.add(Counter::LinksOverruled, 1);
                    metrics.add(Counter::LinksContradicted, u64::from(other.method.is_sure()));
                }
                Some(Link { parent, method: LinkMethod::Header })
            }
            // Several: the thread says which, as sure as it is. What the thread alone says, and they do not, is a guess too much.
            (Some(alike), Some(other)) if !alike.is_empty() => {
                Some(other).filter(|other| alike.contains(&other.parent))
            }
            (Some([_, ..]), None) => None,
            // Where ids are handed on, a call without one is not for a request that has one.
            (None, Some(other))
                if trace_id.is_none()
                    && !other.method.is_sure()
                    && CARRY.contains(&call.more.protocol)
                    && self.carriers.contains(&other.parent)
                    && self.processes.get(&pid).is_some_and(|manner| manner.hands_on) =>
            {
                None
            }
            (_, by_thread) => by_thread,
        }
    }
}

/// Registry names of the protocols whose requests can carry a trace id that is looked for.
const CARRY: [&str; 3] = ["http1", "http2", "grpc"];

/// Numbers of system calls (x86-64, arch/x86/entry/syscalls/syscall_64.tbl).
const EPOLL_WAIT: u32 = 232;
const EPOLL_PWAIT: u32 = 281;
const IO_URING_ENTER: u32 = 426;
const EPOLL_PWAIT2: u32 = 441;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        conn::stream::Stamp,
        event::ConnId,
        protocol::Request,
        transaction::{
            Kind,
            open::{Effects, Setting},
            pairing::Pairs,
        },
    };

    fn id(ordinal: u64) -> CallId {
        CallId { conn: ConnId(7), ordinal }
    }

    #[test]
    fn a_process_is_believed_when_it_has_shown_how_it_serves_until_it_shows_something_else() {
        let mut manners = Manners::default();
        let serve = |manners: &mut Manners, n: usize, is_clean| {
            (0..n).for_each(|_| manners.begin(5));
            (0..n).for_each(|_| manners.end(5, is_clean));
        };
        serve(&mut manners, 1, true);
        manners.begin(5);
        assert!(!manners.is_believed(5));
        manners.end(5, true);
        manners.begin(5);
        assert!(manners.is_believed(5), "alone");
        manners.begin(5);
        assert!(!manners.is_believed(5), "beside another");
        serve(&mut manners, 15, true);
        assert!(!manners.is_believed(5));
        serve(&mut manners, 1, true);
        assert!(manners.is_believed(5));
        manners.mixed(5);
        serve(&mut manners, 100, true);
        assert!(!manners.is_believed(5));
        manners.end_process(5);
        serve(&mut manners, 2, false);
        assert!(!manners.is_believed(5));
    }

    /// A call in a protocol, with a trace id or without.
    fn call(protocol: &'static str, trace_id: Option<&str>) -> Open {
        let request = Request { trace_id: trace_id.map(Arc::from), ..Request::default() };
        let setting = Setting { protocol, kind: Kind::Request, server: false, mid_join: false, max_open: 9 };
        let (mut pairs, mut fx) = (Pairs::default(), Effects::default());
        pairs.request_begin(&Stamp::default(), 0, 0, request, setting, &mut fx);
        pairs.open().next().unwrap().clone()
    }

    #[test]
    fn a_trace_id_says_whose_a_call_is_where_one_request_alone_carries_it() {
        let (mut manners, metrics) = (Manners::default(), Metrics::default());
        let ids: [Arc<str>; 2] = ["a".into(), "b".into()];
        [5, 6].into_iter().for_each(|pid| manners.begin(pid));
        manners.carries(5, &ids[0], id(1), &metrics);
        manners.carries(5, &ids[1], id(2), &metrics);
        manners.carries(6, &ids[0], id(3), &metrics);
        let by_thread = |ordinal, method| Some(Link { parent: id(ordinal), method });
        let link = |manners: &mut Manners, trace: Option<&str>, by_thread| {
            let link = manners.link(5, &call("http1", trace), by_thread, &metrics);
            link.map(|link| (link.parent.ordinal, link.method))
        };
        let order = Some((2, LinkMethod::Order));
        assert_eq!(link(&mut manners, None, by_thread(2, LinkMethod::Order)), order);
        let header = Some((1, LinkMethod::Header));
        assert_eq!(link(&mut manners, Some("a"), None), header);
        assert_eq!(link(&mut manners, Some("a"), by_thread(1, LinkMethod::Thread)), header);
        assert_eq!(metrics.get(Counter::LinksOverruled), 0);
        assert_eq!(link(&mut manners, Some("a"), by_thread(2, LinkMethod::Order)), header);
        assert_eq!(link(&mut manners, Some("a"), by_thread(2, LinkMethod::Thread)), header);
        assert_eq!(
            [Counter::LinksOverruled, Counter::LinksContradicted].map(|counter| metrics.get(counter)),
            [2, 1]
        );
        // With one that nothing in flight carries, the thread alone; without any where ids are handed on, it is not that one's unless that is sure, or unless
        // it could carry none.
        assert_eq!(link(&mut manners, Some("c"), by_thread(2, LinkMethod::Order)), order);
        assert_eq!(link(&mut manners, None, by_thread(2, LinkMethod::Order)), None);
        assert_eq!(link(&mut manners, None, by_thread(9, LinkMethod::Order)), Some((9, LinkMethod::Order)));
        let thread = Some((2, LinkMethod::Thread));
        assert_eq!(link(&mut manners, None, by_thread(2, LinkMethod::Thread)), thread);
        let redis = manners.link(5, &call("redis", None), by_thread(2, LinkMethod::Order), &metrics);
        assert_eq!(redis, by_thread(2, LinkMethod::Order));
        // Two with one id.
        manners.carries(5, &ids[0], id(4), &metrics);
        assert_eq!(link(&mut manners, Some("a"), None), None);
        assert_eq!(link(&mut manners, Some("a"), by_thread(2, LinkMethod::Order)), None);
        let thread = Some((4, LinkMethod::Thread));
        assert_eq!(link(&mut manners, Some("a"), by_thread(4, LinkMethod::Thread)), thread);
        manners.carried(5, &ids[0], id(4));
        assert_eq!(link(&mut manners, Some("a"), None), header);
        for (trace, ordinal) in [(0, 1), (1, 2)] {
            manners.carried(5, &ids[trace], id(ordinal));
        }
        manners.carried(6, &ids[0], id(3));
        assert!(manners.is_untraced() && manners.carriers.is_empty());
    }
}
