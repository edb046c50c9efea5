//! The heads of the transaction that is shown: fetched on a thread of their own, because a recording is read for them.

use std::{
    sync::{
        Arc,
        mpsc::{self, Receiver, TryRecvError},
    },
    thread,
};

use super::app::App;
use crate::{
    event::ConnId,
    source::heads::{Head, Heads, HeadsError},
    transaction::Transaction,
};

/// Fetches the heads of a transaction from a recording; may take seconds.
pub type FetchHeads = Arc<dyn Fn(&Transaction) -> Result<Heads, HeadsError> + Send + Sync>;

/// What is known of them.
#[derive(Clone, Debug, Default)]
pub enum ShownHeads {
    /// There is no recording to fetch them from.
    #[default]
    NoRecording,
    /// They are on their way.
    Loading,
    /// Here they are.
    Known(Arc<Heads>),
    /// They could not be fetched.
    Failed(String),
}

impl ShownHeads {
    /// At least as many lines as they take on a screen.
    pub(super) fn n_lines(&self) -> usize {
        let lines = |head: &Head| match head {
            Head::NotFound => 0,
            Head::Whole(bytes) | Head::Cut(bytes) => {
                // The narrowest screen has 58 columns for a line, and no character takes more than ten.
                bytes.iter().filter(|byte| **byte == b'\n').count() + bytes.len() / 5
            }
        };
        match self {
            ShownHeads::Known(heads) => lines(&heads.request) + lines(&heads.response),
            _ => 0,
        }
    }
}

/// The heads of what is open, and the one thread that may be on the way for them.
pub(super) struct HeadsDesk {
    fetch: Option<FetchHeads>,
    /// Of which transaction.
    of: Option<(ConnId, u64)>,
    shown: ShownHeads,
    answer: Option<Receiver<ShownHeads>>,
}

impl HeadsDesk {
    pub(super) fn new(fetch: Option<FetchHeads>) -> HeadsDesk {
        HeadsDesk { fetch, of: None, shown: ShownHeads::default(), answer: None }
    }

    /// Looks at what is open and at what has come; whether there is something new to draw.
    pub(super) fn look(&mut self, app: &App) -> bool {
        let Some(fetch) = &self.fetch else { return false };
        let mut is_new = false;
        match self.answer.as_ref().map(Receiver::try_recv) {
            Some(Ok(answer)) => (self.shown, self.answer, is_new) = (answer, None, true),
            Some(Err(TryRecvError::Disconnected)) => {
                let what = "the thread that fetched it ended early".to_owned();
                (self.shown, self.answer, is_new) = (ShownHeads::Failed(what), None, true);
            }
            Some(Err(TryRecvError::Empty)) | None => {}
        }
        let open = app.detail.as_ref();
        let of = open.map(|row| (row.conn, row.ordinal));
        // One at a time: who goes through a list quickly waits for the last one only, and its answer is nobody's.
        if of == self.of || self.answer.is_some() {
            return is_new;
        }
        self.of = of;
        self.shown = ShownHeads::NoRecording;
        if let Some(row) = open.cloned() {
            let (send, receive) = mpsc::sync_channel(1);
            let fetch = fetch.clone();
            let thread = thread::Builder::new().name("heads".to_owned()).spawn(move || {
                let heads = match fetch(&row) {
                    Ok(heads) => ShownHeads::Known(heads.into()),
                    Err(error) => ShownHeads::Failed(error.to_string()),
                };
                // If nobody waits for it any more, it was fetched in vain.
                let _ = send.send(heads);
            });
            match thread {
                Ok(_) => (self.shown, self.answer) = (ShownHeads::Loading, Some(receive)),
                Err(error) => self.shown = ShownHeads::Failed(error.to_string()),
            }
        }
        true
    }

    /// What is known of the heads of what is open.
    pub(super) fn shown(&self, app: &App) -> ShownHeads {
        let is_its_own = self.of == app.detail.as_ref().map(|row| (row.conn, row.ordinal));
        match &self.fetch {
            Some(_) if !is_its_own => ShownHeads::Loading,
            _ => self.shown.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::sink::compliance::transaction;

    #[test]
    fn heads_are_fetched_once_for_each_transaction_that_is_opened_one_at_a_time() {
        let (go, wait) = mpsc::channel::<()>();
        let wait = Mutex::new(wait);
        let (asked, told) = mpsc::channel();
        let fetch: FetchHeads = Arc::new(move |row: &Transaction| {
            asked.send(row.ordinal).unwrap();
            wait.lock().unwrap().recv().unwrap();
            if row.ordinal == 2 { Err(std::io::Error::other("gone").into()) } else { Ok(Heads::default()) }
        });
        let mut desk = HeadsDesk::new(Some(fetch));
        let open = |ordinal| App {
            detail: Some(Transaction { ordinal, ..transaction(0) }.into()),
            ..App::default()
        };
        let until_new = |desk: &mut HeadsDesk, app: &App| {
            while !desk.look(app) {
                thread::yield_now();
            }
        };
        assert!(desk.look(&open(1)) && matches!(desk.shown(&open(1)), ShownHeads::Loading));
        assert!(!desk.look(&open(1)));
        // While the first is on its way, nothing else is fetched, and its answer is not taken for the second's.
        assert!(!desk.look(&open(2)) && matches!(desk.shown(&open(2)), ShownHeads::Loading));
        go.send(()).unwrap();
        until_new(&mut desk, &open(2));
        assert!(matches!(desk.shown(&open(2)), ShownHeads::Loading));
        go.send(()).unwrap();
        until_new(&mut desk, &open(2));
        assert!(matches!(desk.shown(&open(2)), ShownHeads::Failed(what) if what.contains("gone")));
        assert_eq!(told.try_iter().collect::<Vec<_>>(), [1, 2]);
        desk.look(&App::default());
        assert!(matches!(desk.shown(&App::default()), ShownHeads::NoRecording));
        assert!(matches!(HeadsDesk::new(None).shown(&open(1)), ShownHeads::NoRecording));
    }
}
