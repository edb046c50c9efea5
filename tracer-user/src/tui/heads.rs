//! The heads of the transaction that is shown: fetched on a thread of their own, because a recording is read for them.

use std::{
    sync::{
        Arc,
        mpsc::{self, Receiver, TryRecvError},
    },
    thread,
};

use super::{app::App, flight::Progress, profile::FetchProfile};
use crate::{
    protocol::{Protocol, REGISTRY},
    source::heads::{Head, Heads, HeadsError},
    transaction::Transaction,
};

/// Fetches the heads of a transaction from a recording; may take seconds.
pub type FetchHeads = Arc<dyn Fn(&Transaction) -> Result<Heads, HeadsError> + Send + Sync>;

/// What is fetched from a recording for the transaction that is shown.
#[derive(Clone)]
pub struct Fetches {
    /// Its heads.
    pub heads: FetchHeads,
    /// What it did.
    pub profile: FetchProfile,
}

/// So old, ns, a request is in the recording: what is recorded is handed to the kernel four times a second.
const RECORDED_NS: u64 = 2_000_000_000;

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
    /// Its protocol has none that may be shown.
    NotText,
}

impl ShownHeads {
    /// What is said where there is no recording.
    pub const HOW_TO_HAVE_THEM: &str = "heads are kept in a recording: txray record --out DIR";

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
    /// Of which transaction; of one in flight, how far it was.
    of: Option<Progress>,
    /// How old one in flight was then, ns.
    age_ns: u64,
    shown: ShownHeads,
    answer: Option<Receiver<ShownHeads>>,
}

impl HeadsDesk {
    pub(super) fn new(fetch: Option<FetchHeads>) -> HeadsDesk {
        HeadsDesk { fetch, of: None, age_ns: 0, shown: ShownHeads::default(), answer: None }
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
        let open = app.heads_of();
        let of = app.progress();
        // One at a time: who goes through a list quickly waits for the last one only, and its answer is nobody's.
        if self.answer.is_some() || (of == self.of && !self.is_due(app)) {
            return is_new;
        }
        // What is known of the request stays in sight while its answer is fetched.
        let is_further = of.zip(self.of).is_some_and(|(new, old)| (new.0, new.1) == (old.0, old.1));
        let before = std::mem::take(&mut self.shown);
        self.of = of;
        self.age_ns = app.followed().map_or(0, |flight| flight.open.age_ns);
        if let Some(row) = open.cloned() {
            let has_text_heads = |it: &&dyn Protocol| it.name() == row.protocol && it.has_text_heads();
            if !REGISTRY.iter().any(has_text_heads) {
                self.shown = ShownHeads::NotText;
                return true;
            }
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
                Ok(_) => {
                    let shown = if is_further { before } else { ShownHeads::Loading };
                    (self.shown, self.answer) = (shown, Some(receive));
                }
                Err(error) => self.shown = ShownHeads::Failed(error.to_string()),
            }
        }
        true
    }

    /// Whether the head of a request in flight was not yet on the disk when it was looked for, and may be by now.
    fn is_due(&self, app: &App) -> bool {
        let Some(flight) = app.followed() else { return false };
        let is_missing = match &self.shown {
            ShownHeads::Known(heads) => matches!(heads.request, Head::NotFound),
            // Of a recording that has just begun there may be nothing to read.
            ShownHeads::Failed(_) => true,
            _ => false,
        };
        let now = flight.open.age_ns;
        is_missing && self.age_ns < RECORDED_NS && now >= self.age_ns.saturating_add(RECORDED_NS)
    }

    /// What is known of the heads of what is open.
    pub(super) fn shown(&self, app: &App) -> ShownHeads {
        let which = |shown: Option<Progress>| shown.map(|(conn, ordinal, _)| (conn, ordinal));
        let is_its_own = which(self.of) == which(app.progress());
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
    use crate::{
        event::ConnId,
        pipeline::{OpenRequest, Step},
        sink::compliance::transaction,
        tui::flight::Flight,
    };

    #[test]
    fn heads_of_a_request_in_flight_are_fetched_again_when_it_is_further_and_once_when_they_were_not_there_yet()
     {
        let (asked, told) = mpsc::channel();
        let is_first = std::sync::atomic::AtomicBool::new(true);
        let fetch: FetchHeads = Arc::new(move |row: &Transaction| {
            asked.send((row.ordinal, row.end_time)).unwrap();
            if is_first.swap(false, std::sync::atomic::Ordering::Relaxed) {
                // The recording has just begun.
                return Err(std::io::Error::from(std::io::ErrorKind::NotFound).into());
            }
            let is_recorded = row.response_start.is_some();
            let request = if is_recorded { Head::Whole("GET / HTTP/1.1".into()) } else { Head::NotFound };
            Ok(Heads { request, response: Head::NotFound })
        });
        let mut desk = HeadsDesk::new(Some(fetch));
        let open = |age_ns: u64, step: Step| {
            let open = OpenRequest { age_ns, ..open_request(step) };
            App { flight: Some(Flight::of(&open)), ..App::default() }
        };
        let mut look = |app: &App| {
            desk.look(app);
            while desk.answer.is_some() {
                desk.look(app);
                thread::yield_now();
            }
            (told.try_iter().count(), desk.shown(app))
        };
        let second = 1_000_000_000;
        let is_missing = |shown| matches!(shown, ShownHeads::Known(heads) if heads.request == Head::NotFound);
        let (n, shown) = look(&open(second / 10, Step::Waiting));
        assert!(n == 1 && matches!(shown, ShownHeads::Failed(_)));
        assert_eq!(look(&open(second, Step::Waiting)).0, 0);
        // Once it must be on the disk it is looked for again, and then no more.
        let (n, shown) = look(&open(3 * second, Step::Waiting));
        assert_eq!((n, is_missing(shown)), (1, true));
        assert_eq!(look(&open(9 * second, Step::Waiting)).0, 0);
        let (n, shown) = look(&open(10 * second, Step::Sending));
        assert_eq!((n, is_missing(shown)), (1, false));
        assert_eq!(look(&open(20 * second, Step::Sending)).0, 0);
        // It ended.
        let row = Transaction { conn: ConnId(7), ordinal: 7, ..transaction(0) };
        assert_eq!(look(&App { detail: Some(row.into()), ..App::default() }).0, 1);
    }

    fn open_request(step: Step) -> OpenRequest {
        let row = transaction(0);
        OpenRequest {
            age_ns: 0,
            step,
            kind: row.kind,
            role: row.role,
            service: row.service,
            pid: 1,
            tid: 1,
            comm: [0; 16],
            conn: ConnId(7),
            carrier: None,
            ordinal: 7,
            method: "GET".into(),
            path: "/".into(),
            target: None,
            namespace: None,
            protocol: row.protocol,
            start: row.start_time,
            request_end: row.request_end,
            response_start: row.response_start.filter(|_| step == Step::Sending),
            queue_ns: None,
            status_code: None,
            bytes: [0; 2],
            messages: [None; 2],
            tuple: Default::default(),
            unix_path: Default::default(),
            tls: row.tls,
            trace_id: None,
            network: None,
            confidence: row.confidence,
            time_basis: row.time_basis,
        }
    }

    /// Statements have literals in them, sessions passwords.
    #[test]
    fn what_is_no_text_head_is_not_fetched() {
        let fetch: FetchHeads = Arc::new(|_: &Transaction| panic!("nobody wants them"));
        let mut desk = HeadsDesk::new(Some(fetch));
        for protocol in REGISTRY.iter().map(|protocol| protocol.name()).filter(|name| *name != "http1") {
            let row = Transaction { protocol, ..transaction(0) };
            let app = App { detail: Some(row.into()), ..App::default() };
            desk.look(&App::default());
            assert!(desk.look(&app) && !desk.look(&app));
            assert!(matches!(desk.shown(&app), ShownHeads::NotText), "{protocol}");
        }
    }

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
