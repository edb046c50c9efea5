//! What is typed into the last line: a filter, a command, a name.

use super::{
    app::{App, Command, Purpose, Rows, Seen},
    command,
    errand::Errand,
    keymap::Key,
};
use crate::report::filter::Filter;

/// Longest value that is typed, and longest filter.
pub(super) const MAX_TYPED: [usize; 2] = [16, 512];
/// Longest number and name of a layout that are typed.
const MAX_LAYOUT: usize = 40;

impl App {
    pub(super) fn prompt_key(&mut self, key: Key, seen: &Seen) -> Command {
        let Some(prompt) = &mut self.prompt else { return Command::Nothing };
        prompt.fault = None;
        self.complaint = None;
        match (key, prompt.purpose) {
            (Key::Char(c), Purpose::Top) if c.is_ascii_graphic() && prompt.text.len() < MAX_TYPED[0] => {
                prompt.text.push(c);
            }
            (Key::Char(c), Purpose::Filter | Purpose::Command | Purpose::Export)
                if !c.is_control() && prompt.text.len() < MAX_TYPED[1] =>
            {
                prompt.text.push(c);
            }
            (Key::Char(c), Purpose::Layout) if !c.is_control() && prompt.text.len() < MAX_LAYOUT => {
                prompt.text.push(c);
            }
            (Key::Enter, Purpose::Layout) => return self.keep_typed(),
            (Key::Backspace, _) => drop(prompt.text.pop()),
            // As shells have it.
            (Key::Ctrl('u'), _) => prompt.text.clear(),
            (Key::Ctrl('w'), _) => {
                let rest = prompt.text.trim_end().trim_end_matches(|c: char| !c.is_whitespace()).len();
                prompt.text.truncate(rest);
            }
            (Key::Tab, Purpose::Filter) => {
                let (text, names) = complete(&prompt.text);
                (prompt.text, self.complaint) = (text, (!names.is_empty()).then_some(names));
            }
            (Key::Escape, _) => self.prompt = None,
            (Key::Enter, Purpose::Top) => {
                let text = std::mem::take(&mut prompt.text);
                self.prompt = None;
                match self.axis.parse(&text) {
                    Ok(top) => self.y_max_ns = top,
                    Err(complaint) => self.complaint = Some(complaint),
                }
            }
            (Key::Enter, Purpose::Command) if prompt.text.trim().is_empty() => self.prompt = None,
            (Key::Enter, Purpose::Command) => {
                match command::parse(&prompt.text, seen.instant(), self.settings.thresholds()) {
                    Ok(typed) => {
                        self.prompt = None;
                        return self.obey(typed, seen);
                    }
                    Err((at, what)) => {
                        prompt.fault = Some(at);
                        self.complaint = Some(what);
                    }
                }
            }
            (Key::Enter, Purpose::Filter) => {
                if prompt.text.trim().is_empty() {
                    (self.filter, self.prompt) = (None, None);
                    return Command::Draw;
                }
                match Filter::parse(&prompt.text, self.settings.thresholds()) {
                    Ok(filter) => {
                        (self.filter, self.prompt) = (Some(filter), None);
                        (self.operations, self.list) = (Rows::default(), Rows::default());
                    }
                    // It stays, to be mended.
                    Err(error) => {
                        prompt.fault = Some(error.column.saturating_sub(1));
                        self.complaint = Some(format!("column {}: {}", error.column, error.message));
                    }
                }
            }
            (Key::Enter, Purpose::Export) => {
                self.errand = Some(Errand::Export(std::mem::take(&mut prompt.text)));
                self.prompt = None;
            }
            _ => return Command::Nothing,
        }
        Command::Draw
    }
}

/// A filter with its last word completed to what all fields that begin with it have in common, and those if there is more than one.
fn complete(text: &str) -> (String, String) {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let begun = text.trim_end_matches(is_name);
    let word = &text[begun.len()..];
    let names: Vec<&str> = Filter::names().filter(|name| name.starts_with(word)).collect();
    let Some(first) = names.first() else { return (text.to_owned(), "no field begins like that".to_owned()) };
    let in_common =
        |n: &usize| names.iter().all(|name| name.as_bytes().get(..*n) == first.as_bytes().get(..*n));
    let n = (word.len()..=first.len()).rev().find(in_common).unwrap_or(word.len());
    let several = if names.len() > 1 { names.join(" ") } else { String::new() };
    (format!("{begun}{}", &first[..n]), several)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn press(app: &mut App, keys: &[Key]) {
        for key in keys {
            app.key(*key, &Seen::default());
        }
    }

    fn typed(text: &str) -> Vec<Key> {
        text.chars().map(Key::Char).collect()
    }

    fn prompt(app: &App) -> &str {
        app.prompt.as_ref().map_or("", |prompt| &prompt.text)
    }

    #[test]
    fn a_word_and_all_that_was_typed_are_taken_back_as_in_a_shell() {
        let mut app = App::default();
        press(&mut app, &typed("/err and  status_code = 주문 "));
        for left in ["err and  status_code = ", "err and  status_code ", "err and  ", "err ", "", ""] {
            press(&mut app, &[Key::Ctrl('w')]);
            assert_eq!(prompt(&app), left);
        }
        press(&mut app, &typed("err or slow"));
        press(&mut app, &[Key::Ctrl('u')]);
        assert_eq!((prompt(&app), app.prompt.is_some()), ("", true));
    }

    #[test]
    fn a_field_is_completed_and_where_several_begin_alike_they_are_named() {
        for (begun, completed, named) in [
            ("err and dur", "err and duration", ""),
            ("st", "sta", "status_code start_time stack stack_end stacks"),
            ("(client_", "(client_", "client_addr client_port"),
            ("resp", "response_", "response_start response_bytes response_messages"),
            ("xyz", "xyz", "no field begins like that"),
            ("duration > 1m", "duration > 1m", "no field begins like that"),
        ] {
            let mut app = App::default();
            press(&mut app, &typed(&format!("/{begun}")));
            press(&mut app, &[Key::Tab]);
            assert_eq!((prompt(&app), app.complaint.as_deref().unwrap_or("")), (completed, named), "{begun}");
        }
        let (_, all) = complete("");
        assert!(all.starts_with("duration status_code ") && all.ends_with("async"), "{all}");
    }
}
