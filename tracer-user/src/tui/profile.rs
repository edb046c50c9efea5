//! What the transaction that is shown did, one thing after the other: asked for with a key, and made on a thread of its own, because a recording is read again for it.

use std::{
    sync::{
        Arc,
        mpsc::{self, Receiver, TryRecvError},
    },
    thread,
};

use super::{app::App, flight::Flight};
use crate::{
    report::profile::Row,
    transaction::{CallId, Transaction},
};

/// Lines of it that are shown: those that take longest; others are added up where they are.
pub const MAX_ROWS: usize = 200;

/// Makes the profile of a transaction from a recording; may take seconds. An error says why there is none.
pub type FetchProfile = Arc<dyn Fn(&Transaction) -> Result<Steps, String> + Send + Sync>;

/// What it did, at most [`MAX_ROWS`] lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Steps {
    /// In order of time.
    pub rows: Vec<Row>,
    /// All of it was seen again.
    pub is_whole: bool,
}

/// What is known of it.
#[derive(Clone, Debug, Default)]
pub enum ShownProfile {
    /// Nobody has asked.
    #[default]
    Closed,
    /// There is no recording to make it from.
    NoRecording,
    /// It has not ended: what it does is still to come.
    InFlight,
    /// It is being made.
    Loading,
    /// Here it is.
    Known(Arc<Steps>),
    /// It could not be made.
    Failed(String),
}

impl ShownProfile {
    /// What is said where there is no recording.
    pub const HOW_TO_HAVE_IT: &str =
        "what it did one after the other is in a recording: txray record --out DIR";

    /// At least as many lines as it takes on a screen.
    pub(super) fn n_lines(&self) -> usize {
        match self {
            ShownProfile::Closed => 0,
            ShownProfile::Known(steps) => steps.rows.len() + 3,
            _ => 2,
        }
    }
}

impl App {
    /// Whose profile is asked for, if that is what is shown.
    fn wanted(&self) -> Option<CallId> {
        let shown = self.opened()?;
        let id = CallId { conn: shown.conn, ordinal: shown.ordinal };
        self.profile_of.filter(|of| *of == id)
    }

    /// Asks for the profile of what is shown, or closes it.
    pub(super) fn toggle_profile(&mut self) {
        let shown = self.opened().map(|shown| CallId { conn: shown.conn, ordinal: shown.ordinal });
        self.profile_of = if self.wanted().is_some() { None } else { shown };
    }
}

/// The profile of what is open, and the one thread that may be on the way for it.
pub(super) struct ProfileDesk {
    fetch: Option<FetchProfile>,
    /// Of which transaction.
    of: Option<CallId>,
    shown: ShownProfile,
    answer: Option<Receiver<ShownProfile>>,
}

impl ProfileDesk {
    pub(super) fn new(fetch: Option<FetchProfile>) -> ProfileDesk {
        ProfileDesk { fetch, of: None, shown: ShownProfile::Closed, answer: None }
    }

    /// Looks at what is asked for and at what has come; whether there is something new to draw.
    pub(super) fn look(&mut self, app: &App) -> bool {
        let Some(fetch) = &self.fetch else { return false };
        let mut is_new = false;
        match self.answer.as_ref().map(Receiver::try_recv) {
            Some(Ok(answer)) => (self.shown, self.answer, is_new) = (answer, None, true),
            Some(Err(TryRecvError::Disconnected)) => {
                let what = "the thread that made it ended early".to_owned();
                (self.shown, self.answer, is_new) = (ShownProfile::Failed(what), None, true);
            }
            Some(Err(TryRecvError::Empty)) | None => {}
        }
        let of = app.wanted().filter(|_| app.followed().is_none());
        // One at a time: who goes through a list quickly waits for the last one only.
        if self.answer.is_some() || of == self.of {
            return is_new;
        }
        (self.of, self.shown) = (of, ShownProfile::Closed);
        let Some(row) = app.opened().filter(|_| of.is_some()).cloned() else { return true };
        let (send, receive) = mpsc::sync_channel(1);
        let fetch = fetch.clone();
        let thread = thread::Builder::new().name("profile".to_owned()).spawn(move || {
            let steps =
                fetch(&row).map_or_else(ShownProfile::Failed, |steps| ShownProfile::Known(steps.into()));
            // If nobody waits for it any more, it was made in vain.
            let _ = send.send(steps);
        });
        match thread {
            Ok(_) => (self.shown, self.answer) = (ShownProfile::Loading, Some(receive)),
            Err(error) => self.shown = ShownProfile::Failed(error.to_string()),
        }
        true
    }

    /// What is known of the profile of what is open.
    pub(super) fn shown(&self, app: &App) -> ShownProfile {
        let Some(of) = app.wanted() else { return ShownProfile::Closed };
        match app.followed() {
            _ if self.fetch.is_none() => ShownProfile::NoRecording,
            Some(Flight { .. }) => ShownProfile::InFlight,
            None if self.of != Some(of) => ShownProfile::Loading,
            None => self.shown.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::sink::compliance::transaction;

    #[test]
    fn it_is_made_when_it_is_asked_for_one_at_a_time_and_closed_again() {
        let (go, wait) = mpsc::channel::<()>();
        let wait = std::sync::Mutex::new(wait);
        let fetch: FetchProfile = Arc::new(move |row: &Transaction| {
            wait.lock().unwrap().recv().unwrap();
            match row.ordinal {
                1 => Err("gone".to_owned()),
                n => Ok(Steps { rows: vec![Row { ns: n, ..Row::default() }], is_whole: true }),
            }
        });
        let mut desk = ProfileDesk::new(Some(fetch));
        let open = |app: &mut App, ordinal| {
            let row = Transaction { ordinal, ..transaction(0) };
            app.detail = Some(row.into());
        };
        let mut app = App::default();
        open(&mut app, 0);
        assert!(!desk.look(&app) && matches!(desk.shown(&app), ShownProfile::Closed), "nobody has asked");
        app.toggle_profile();
        assert!(desk.look(&app) && matches!(desk.shown(&app), ShownProfile::Loading));
        // Another one is opened meanwhile: it is not asked for there, and then it is.
        open(&mut app, 1);
        assert!(!desk.look(&app) && matches!(desk.shown(&app), ShownProfile::Closed));
        app.toggle_profile();
        assert!(matches!(desk.shown(&app), ShownProfile::Loading));
        let until_new = |desk: &mut ProfileDesk, app: &App| {
            while !desk.look(app) {
                thread::sleep(Duration::from_millis(1));
            }
        };
        go.send(()).unwrap();
        until_new(&mut desk, &app);
        assert!(matches!(desk.shown(&app), ShownProfile::Loading), "the first one's answer is not its");
        go.send(()).unwrap();
        until_new(&mut desk, &app);
        assert!(matches!(desk.shown(&app), ShownProfile::Failed(why) if why == "gone"));
        open(&mut app, 2);
        app.toggle_profile();
        desk.look(&app);
        go.send(()).unwrap();
        until_new(&mut desk, &app);
        assert!(matches!(desk.shown(&app), ShownProfile::Known(steps) if steps.rows[0].ns == 2));
        app.toggle_profile();
        assert!(matches!(desk.shown(&app), ShownProfile::Closed));
        let without = ProfileDesk::new(None);
        app.toggle_profile();
        assert!(matches!(without.shown(&app), ShownProfile::NoRecording));
    }
}
