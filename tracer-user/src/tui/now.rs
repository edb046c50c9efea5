//! Where the threads of requests in flight are at this moment: looked at while they are shown, and nowhere else.

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use super::{app::App, model::Model, view::View};
use crate::{
    pipeline::OpenRequest,
    source::now::{Doing, Looker},
    transaction::CallStack,
};

/// How often is looked.
const EVERY: Duration = Duration::from_millis(500);
/// Requests of the list that are looked at: more than a terminal has lines. Each takes some 30 µs.
const MAX_LOOKED_AT: usize = 100;

/// What was seen last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// By process and thread.
    pub doing: BTreeMap<(u32, u32), Doing>,
    /// The stack of the one that is open.
    pub stack: Option<CallStack>,
}

/// Looks when it is due.
#[derive(Debug)]
pub struct NowDesk {
    /// `None`: what is shown was recorded.
    looker: Option<Looker>,
    last: Option<Instant>,
    now: Now,
}

impl NowDesk {
    /// Of a run that is live, or of none.
    pub fn new(is_live: bool) -> NowDesk {
        let looker = is_live.then(|| Looker::new(Path::new("/proc")));
        NowDesk { looker, last: None, now: Now::default() }
    }

    /// Adds what there is to see to a frame.
    pub fn fill(&mut self, mut model: Model, app: &App) -> Model {
        let Some(looker) = &mut self.looker else { return model };
        let flight = app.followed().filter(|flight| !flight.is_gone).map(|flight| &flight.open);
        let listed =
            if app.view == View::Active { &model.open[..model.open.len().min(MAX_LOOKED_AT)] } else { &[] };
        let is_due = self.last.is_none_or(|last| last.elapsed() >= EVERY);
        if app.paused.is_none() && is_due {
            self.last = Some(Instant::now());
            let key = |open: &OpenRequest| (open.pid, open.tid);
            let threads = listed.iter().chain(flight).map(key);
            self.now.doing = threads.map(|(pid, tid)| ((pid, tid), looker.doing(pid, tid))).collect();
            self.now.stack = flight.and_then(|open| looker.stack(open.pid, open.tid));
        }
        model.threads = Some(self.now.clone());
        model
    }
}
