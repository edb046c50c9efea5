//! The key map in use: the table of [`BINDINGS`] with what the settings change of it.

use std::fmt;

use super::{
    keymap::{Action, BINDINGS, Key},
    view::Place,
};

/// Keys of one action at most: what fits the help.
const MAX_KEYS: usize = 4;
/// Presets, each with a key of its own.
pub const PRESETS: usize = 9;

/// Keys that do one thing in some places.
#[derive(Clone, Debug)]
pub struct Bound {
    /// The keys; none = it is not to be had.
    pub keys: Vec<Key>,
    /// Where.
    pub places: &'static [Place],
    /// What they do.
    pub action: Action,
    /// The same in words, for the help.
    pub what: &'static str,
    /// In a word, for the footer; empty = not there.
    pub hint: &'static str,
}

impl Bound {
    /// Its keys as the help shows them.
    pub fn keys_text(&self) -> String {
        match (self.keys.as_slice(), self.action) {
            ([first, .., last], Action::Preset(_)) => format!("{}…{}", first.name(), last.name()),
            (keys, _) => keys.iter().map(|key| key.name()).collect::<Vec<_>>().join(" "),
        }
    }
}

/// Which key does what, where.
#[derive(Clone, Debug)]
pub struct Keymap {
    bindings: Vec<Bound>,
}

/// Keys that cannot be given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyFault {
    /// One key, two meanings in one place.
    TwoMeanings {
        /// The key.
        key: Key,
        /// One meaning.
        first: Action,
        /// The other.
        second: Action,
    },
    /// Nobody could leave or find out how.
    WithoutKey(Action),
    /// More keys than the help has room for.
    TooMany(Action, usize),
    /// Ctrl-C interrupts, whatever the settings say.
    Interrupt(Action),
}

impl KeyFault {
    /// The action that has it.
    pub fn actions(&self) -> [Action; 2] {
        match *self {
            KeyFault::TwoMeanings { first, second, .. } => [first, second],
            KeyFault::WithoutKey(action) | KeyFault::TooMany(action, _) | KeyFault::Interrupt(action) => {
                [action; 2]
            }
        }
    }

    /// What helps.
    pub fn way_out(&self) -> String {
        match self {
            KeyFault::TwoMeanings { second, .. } => {
                format!("give one of them another key, for example {} = [\"F\"]", second.name())
            }
            KeyFault::WithoutKey(action) => {
                format!("leave it out, or give it a key: {} = [\"x\"]", action.name())
            }
            KeyFault::TooMany(_, most) => format!("at most {most} keys do the same"),
            KeyFault::Interrupt(_) => "leave Ctrl-C to `interrupt`, and `interrupt` to Ctrl-C".to_owned(),
        }
    }
}

impl fmt::Display for KeyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyFault::TwoMeanings { key, first, second } => {
                write!(f, "the key {} is both `{}` and `{}`", key.name(), first.name(), second.name())
            }
            KeyFault::WithoutKey(action) => write!(f, "`{}` is left without a key", action.name()),
            KeyFault::TooMany(action, _) => write!(f, "`{}` has too many keys", action.name()),
            KeyFault::Interrupt(action) => {
                write!(f, "`{}` takes or gives away Ctrl-C, which always interrupts", action.name())
            }
        }
    }
}

impl Default for Keymap {
    fn default() -> Self {
        let own = |binding: &super::keymap::Binding| Bound {
            keys: binding.keys.to_vec(),
            places: binding.places,
            action: binding.action,
            what: binding.what,
            hint: binding.hint,
        };
        Keymap { bindings: BINDINGS.iter().map(own).collect() }
    }
}

impl Keymap {
    /// The table with other keys for some actions. Of several for one action the last counts.
    pub fn build(changes: impl IntoIterator<Item = (Action, Vec<Key>)>) -> Result<Keymap, KeyFault> {
        let mut keymap = Keymap::default();
        for (action, keys) in changes {
            let most = if matches!(action, Action::Preset(_)) { PRESETS } else { MAX_KEYS };
            if keys.len() > most {
                return Err(KeyFault::TooMany(action, most));
            }
            if action == Action::Interrupt || keys.contains(&Key::Interrupt) {
                return Err(KeyFault::Interrupt(action));
            }
            for bound in keymap.bindings.iter_mut().filter(|bound| bound.action == action) {
                bound.keys.clone_from(&keys);
            }
        }
        keymap.check()?;
        Ok(keymap)
    }

    fn check(&self) -> Result<(), KeyFault> {
        // Whatever was opened can be left, and explained.
        let needed = |action| matches!(action, Action::Quit | Action::Help | Action::Back);
        if let Some(bound) = self.bindings.iter().find(|bound| needed(bound.action) && bound.keys.is_empty())
        {
            return Err(KeyFault::WithoutKey(bound.action));
        }
        for (i, one) in self.bindings.iter().enumerate() {
            for other in &self.bindings[i + 1..] {
                let meet = one.places.iter().any(|place| other.places.contains(place));
                let key = one.keys.iter().find(|key| other.keys.contains(key));
                if let Some(&key) = key.filter(|_| meet && one.action != other.action) {
                    return Err(KeyFault::TwoMeanings { key, first: one.action, second: other.action });
                }
            }
        }
        Ok(())
    }

    /// The bindings of a place.
    pub fn of(&self, place: Place) -> impl Iterator<Item = &Bound> {
        self.bindings.iter().filter(move |bound| bound.places.contains(&place))
    }

    /// What a key does in a place.
    pub fn action(&self, place: Place, key: Key) -> Option<Action> {
        self.of(place).find_map(|bound| {
            let at = bound.keys.iter().position(|bound| *bound == key)?;
            Some(match bound.action {
                // The first of its keys selects the first.
                Action::Preset(_) => Action::Preset(u8::try_from(at + 1).unwrap_or(0)),
                action => action,
            })
        })
    }

    /// The first key of an action as the help shows it; empty if it has none.
    pub fn key_name(&self, action: Action) -> String {
        let bound = self.bindings.iter().find(|bound| bound.action == action);
        bound.and_then(|bound| bound.keys.first()).map(|key| key.name()).unwrap_or_default()
    }
}

impl Action {
    /// Its name in the settings: the variant's, in kebab case.
    pub fn name(self) -> String {
        let mut name = String::new();
        for c in format!("{self:?}").chars() {
            if (c.is_ascii_uppercase() || c == '(') && !name.is_empty() && !name.ends_with('-') {
                name.push('-');
            }
            if c.is_ascii_alphabetic() {
                name.push(c.to_ascii_lowercase());
            }
        }
        name.trim_end_matches('-').to_owned()
    }

    /// All that have keys, with their names, each once.
    pub fn all() -> Vec<(Action, String)> {
        let mut all: Vec<(Action, String)> = Vec::new();
        for binding in BINDINGS {
            if all.iter().all(|(known, _)| *known != binding.action) {
                all.push((binding.action, binding.action.name()));
            }
        }
        all
    }
}

impl Key {
    /// Reads a key as the help shows it: `x`, `space`, `PgUp`, `Alt-1`, `Ctrl-S`, `↑` or `Up`.
    pub fn parse(text: &str) -> Option<Key> {
        const NAMED: [(Key, &[&str]); 15] = [
            (Key::Char(' '), &["space"]),
            (Key::Enter, &["enter", "return"]),
            (Key::Escape, &["esc", "escape"]),
            (Key::Backspace, &["backspace"]),
            (Key::Tab, &["tab"]),
            (Key::BackTab, &["shift-tab"]),
            (Key::Up, &["↑", "up"]),
            (Key::Down, &["↓", "down"]),
            (Key::Left, &["←", "left"]),
            (Key::Right, &["→", "right"]),
            (Key::PageUp, &["pgup", "pageup"]),
            (Key::PageDown, &["pgdn", "pagedown"]),
            (Key::Home, &["home"]),
            (Key::End, &["end"]),
            (Key::Interrupt, &["ctrl-c"]),
        ];
        let lower = text.to_ascii_lowercase();
        let one = |text: &str| {
            let mut chars = text.chars();
            let c = chars.next().filter(|c| !c.is_control() && !c.is_whitespace())?;
            chars.next().is_none().then_some(c)
        };
        let named = NAMED.iter().find(|(_, names)| names.contains(&lower.as_str())).map(|(key, _)| *key);
        let alt = || lower.starts_with("alt-").then(|| one(&text[4..])).flatten().map(Key::Alt);
        let bound =
            || BINDINGS.iter().flat_map(|binding| binding.keys).copied().find(|key| key.name() == text);
        let letter = |c: char| c.is_ascii_alphabetic();
        let ctrl = || lower.strip_prefix("ctrl-").and_then(one).filter(|c| letter(*c)).map(Key::Ctrl);
        named.or_else(|| one(text).map(Key::Char)).or_else(alt).or_else(ctrl).or_else(bound)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tui::view::View;

    fn places() -> Vec<Place> {
        let mut places: Vec<Place> = BINDINGS.iter().flat_map(|binding| binding.places).copied().collect();
        places.dedup();
        places
    }

    #[test]
    fn the_table_itself_can_be_built_and_means_the_same() {
        let keymap = Keymap::build([]).unwrap();
        for place in places() {
            for key in BINDINGS.iter().flat_map(|binding| binding.keys) {
                let is = keymap.action(place, *key).map(Action::name);
                assert_eq!(
                    is,
                    crate::tui::keymap::action(place, *key).map(Action::name),
                    "{place:?} {key:?}"
                );
            }
        }
    }

    #[test]
    fn every_key_is_read_by_the_name_that_the_help_gives_it() {
        for key in BINDINGS.iter().flat_map(|binding| binding.keys) {
            assert_eq!(Key::parse(&key.name()), Some(*key));
        }
        for (text, key) in [
            ("Space", Some(Key::Char(' '))),
            ("down", Some(Key::Down)),
            ("Alt-x", Some(Key::Alt('x'))),
            ("ctrl-X", Some(Key::Ctrl('x'))),
            ("Ctrl-1", None),
            ("ㅁ", Some(Key::Char('ㅁ'))),
            ("xx", None),
            ("", None),
            (" ", None),
            ("\u{1b}", None),
            ("Alt-", None),
            ("F13", None),
        ] {
            assert_eq!(Key::parse(text), key, "{text:?}");
        }
    }

    #[test]
    fn names_of_actions_are_kebab_case_and_no_two_are_the_same() {
        let all = Action::all();
        for (at, (action, name)) in all.iter().enumerate() {
            assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '-'), "{name}");
            assert!(all[..at].iter().all(|(_, other)| other != name), "{action:?} {name}");
        }
        let name = |action: Action| action.name();
        assert_eq!(name(Action::View(View::Xlog)), "view-xlog");
        assert_eq!([name(Action::HigherTop), name(Action::Preset(3))], ["higher-top", "preset"]);
    }

    #[test]
    fn keys_of_an_action_are_replaced_wherever_it_is_bound() {
        let keymap = Keymap::build([(Action::Back, vec![Key::Backspace])]).unwrap();
        for place in [Place::List, Place::View(View::Xlog)] {
            assert_eq!(keymap.action(place, Key::Backspace), Some(Action::Back));
            assert_eq!(keymap.action(place, Key::Escape), None);
        }
        assert_eq!(keymap.key_name(Action::Back), "Backspace");
    }

    #[test]
    fn the_nth_key_of_the_presets_selects_the_nth() {
        let keymap = Keymap::build([(Action::Preset(0), vec![Key::Char('P'), Key::Char('Q')])]).unwrap();
        let at = |c| keymap.action(Place::View(View::Health), Key::Char(c));
        assert_eq!([at('P'), at('Q')], [Some(Action::Preset(1)), Some(Action::Preset(2))]);
    }

    #[test]
    fn keys_that_cannot_be_given_are_faults_that_name_the_actions() {
        let cases = [
            (Action::Pause, vec![Key::Char('q')], "the key q is both `quit` and `pause`"),
            (Action::Quit, vec![], "`quit` is left without a key"),
            (Action::Help, vec![], "`help` is left without a key"),
            (Action::Back, vec![], "`back` is left without a key"),
            (
                Action::Pause,
                vec![Key::Interrupt],
                "`pause` takes or gives away Ctrl-C, which always interrupts",
            ),
            (Action::Interrupt, vec![], "`interrupt` takes or gives away Ctrl-C, which always interrupts"),
            (Action::Pause, vec![Key::Char('P'); 5], "`pause` has too many keys"),
        ];
        for (action, keys, text) in cases {
            assert_eq!(Keymap::build([(action, keys)]).unwrap_err().to_string(), text);
        }
    }

    fn any_key() -> impl Strategy<Value = Key> {
        let bound: Vec<Key> = BINDINGS.iter().flat_map(|binding| binding.keys).copied().collect();
        prop_oneof![
            prop::sample::select(bound),
            prop::sample::select("ABCDEFXYZ".chars().map(Key::Char).collect::<Vec<_>>()),
            prop::sample::select("abc".chars().map(Key::Alt).collect::<Vec<_>>()),
        ]
    }

    proptest! {
        #[test]
        fn random_changes_give_a_key_map_that_is_sound_or_a_fault(
            changes in prop::collection::vec(
                (prop::sample::select(Action::all()), prop::collection::vec(any_key(), 0..4)),
                0..4,
            ),
        ) {
            let changes: Vec<_> = changes.into_iter().map(|((action, _), keys)| (action, keys)).collect();
            let keymap = match Keymap::build(changes.clone()) {
                Ok(keymap) => keymap,
                Err(fault) => {
                    // What is at fault was changed, or met what was.
                    prop_assert!(fault.actions().iter().any(|action| changes.iter().any(|(a, _)| a == action)));
                    return Ok(());
                }
            };
            for place in places() {
                let has = |action: Action| {
                    keymap.of(place).any(|bound| bound.action == action && !bound.keys.is_empty())
                };
                prop_assert!(has(Action::Quit) && has(Action::Help));
                prop_assert!(matches!(place, Place::View(_)) || has(Action::Back));
                let mut meanings = std::collections::HashMap::new();
                for bound in keymap.of(place) {
                    for key in &bound.keys {
                        let before = meanings.insert(*key, bound.action);
                        prop_assert!(before.is_none_or(|before| before == bound.action), "{key:?} {place:?}");
                        prop_assert_eq!(
                            keymap.action(place, *key).map(Action::name),
                            Some(bound.action.name())
                        );
                    }
                }
            }
        }
    }
}
