//! What the screen is narrowed to with one key: errors, long-lived ones, one connection. Together with the filter that is typed.

use super::{
    app::{App, Command, Seen},
    keymap::Action,
    view::{Place, Roles, View},
};
use crate::{
    event::ConnId,
    report::filter::Filter,
    transaction::{Kind, Transaction},
};

/// The toggles. What both are on for has to be both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Only {
    /// Errors only: `err` of the filter language.
    pub errors: bool,
    /// Long-lived ones only: `async` of the filter language.
    pub long_lived: bool,
}

impl Only {
    fn wants(self, row: &Transaction) -> bool {
        (!self.errors || row.error) && (!self.long_lived || row.kind == Kind::LongLived)
    }
}

impl App {
    /// Whether the screen is narrowed to some transactions.
    pub fn is_narrowed(&self) -> bool {
        self.filter.is_some() || self.only != Only::default()
    }

    /// Whether a transaction is among them.
    pub fn wants(&self, row: &Transaction) -> bool {
        self.only.wants(row) && self.filter.as_ref().is_none_or(|filter| filter.matches(row))
    }

    /// To what, in words: not safe to show.
    pub fn narrowed_to(&self) -> String {
        let mut parts = Vec::new();
        if self.only.errors {
            parts.push("only errors");
        }
        if self.only.long_lived {
            parts.push("only long-lived");
        }
        if let Some(filter) = &self.filter {
            parts.push(filter.text());
        }
        parts.join(", ")
    }

    /// What these keys stand for.
    pub(super) fn limit(&mut self, action: Action, seen: &Seen) -> Command {
        match action {
            Action::Axis => self.next_axis(),
            Action::OnlyErrors => self.only.errors ^= true,
            Action::OnlyLongLived => self.only.long_lived ^= true,
            Action::ShowConnection => match seen.conn {
                Some(conn) => self.show_connection(conn),
                None => return Command::Nothing,
            },
            Action::Unfold if self.place() == Place::Detail => self.unfold_detail ^= true,
            Action::Unfold => match seen.call {
                Some(call) if !self.unfolded.remove(&call) => drop(self.unfolded.insert(call)),
                Some(_) => {}
                None => return Command::Nothing,
            },
            _ => return Command::Nothing,
        }
        Command::Draw
    }

    /// Shows the transactions of one connection in the XLog, whichever its role.
    pub(super) fn show_connection(&mut self, conn: ConnId) {
        self.filter = Some(Filter::conn(conn));
        (self.view, self.roles, self.scroll) = (View::Xlog, Roles::Both, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::compliance::transaction;

    #[test]
    fn toggles_and_filter_hold_together_and_say_so() {
        let error = Transaction { error: true, ..transaction(1) };
        let stream = Transaction { kind: Kind::LongLived, ..transaction(2) };
        let both = Transaction { error: true, ..stream.clone() };
        let mut app = App::default();
        let wanted = |app: &App| [&transaction(0), &error, &stream, &both].map(|row| app.wants(row));
        assert_eq!((wanted(&app), app.is_narrowed()), ([true; 4], false));
        app.only.errors = true;
        assert_eq!((wanted(&app), app.is_narrowed()), ([false, true, false, true], true));
        app.only.long_lived = true;
        assert_eq!(wanted(&app), [false, false, false, true]);
        app.filter = Some(Filter::seq(1));
        assert_eq!(wanted(&app), [false; 4]);
        assert_eq!(app.narrowed_to(), "only errors, only long-lived, seq = 1");
    }

    #[test]
    fn a_connection_is_found_by_its_name() {
        let mut app = App::default();
        app.show_connection(transaction(0).conn);
        assert!(app.wants(&transaction(0)));
        assert!(!app.wants(&Transaction { conn: ConnId(1), ..transaction(0) }));
        assert_eq!((app.view, app.roles), (View::Xlog, Roles::Both));
    }
}
