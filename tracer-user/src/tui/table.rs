//! Tables of a settings file, read by hand: each fault names its file, line and column, the cause, and the way out.

use std::{
    fmt,
    ops::Range,
    path::{Path, PathBuf},
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use crate::{
    config::{SettingsFile, Span},
    text::screen_text,
};

/// A value and where it stands.
pub(super) type Item<'a> = Spanned<DeValue<'a>>;

/// Something in the settings that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// File, line from 1, column in characters from 1; `None` = it was not written in a file.
    pub place: Option<(PathBuf, usize, usize)>,
    /// The cause.
    pub what: String,
    /// What to write instead.
    pub way_out: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((file, line, column)) = &self.place {
            write!(f, "{}:{line}:{column}: ", file.display())?;
        }
        f.write_str(&self.what)
    }
}

impl std::error::Error for Fault {}

/// Reads the tables of one file.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
}

impl<'a> Reader<'a> {
    pub(super) fn new(file: &'a SettingsFile) -> Reader<'a> {
        Reader { path: &file.path, text: &file.text }
    }

    /// The whole file.
    pub(super) fn root(self) -> Result<DeTable<'a>, Fault> {
        DeTable::parse(self.text).map(Spanned::into_inner).map_err(|error| {
            let span = error.span().unwrap_or_default();
            self.fault(
                span,
                screen_text(&error.message().replace('\n', "; ")).into_owned(),
                "the file is to be TOML (https://toml.io)",
            )
        })
    }

    /// A fault of what stands at `span`.
    pub(super) fn fault(self, span: Range<usize>, what: String, way_out: impl Into<String>) -> Fault {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let line = before.matches('\n').count() + 1;
        let column = before[line_start..].chars().count() + 1;
        Fault { place: Some((self.path.to_owned(), line, column)), what, way_out: way_out.into() }
    }

    fn wrong_type(self, name: &str, item: &Item<'_>, way_out: &str) -> Fault {
        let what = format!("`{name}` cannot be a value of type {}", item.get_ref().type_str());
        self.fault(item.span(), what, way_out)
    }

    /// A word that is none of `known`: the nearest are named, and all where they are few.
    pub(super) fn unknown(self, span: Range<usize>, what: &str, word: &str, known: &[&str]) -> Fault {
        const FEW: usize = 16;
        let word = screen_text(word);
        let way_out = if known.len() <= FEW {
            format!("known are: {}", known.join(", "))
        } else {
            format!("the nearest are: {}", nearest(&word, known).join(", "))
        };
        self.fault(span, format!("there is no {what} '{word}'"), way_out)
    }

    /// A table.
    pub(super) fn table<'t>(self, name: &str, item: &'t Item<'a>) -> Result<&'t DeTable<'a>, Fault> {
        let table = item.get_ref().as_table();
        table.ok_or_else(|| self.wrong_type(name, item, &format!("it is a table: [{name}]")))
    }

    /// A text.
    pub(super) fn text<'t>(self, name: &str, item: &'t Item<'a>, example: &str) -> Result<&'t str, Fault> {
        let text = item.get_ref().as_str();
        text.ok_or_else(|| self.wrong_type(name, item, &format!("write a text: {example}")))
    }

    /// A number or a text, as text.
    pub(super) fn number_or_text(self, name: &str, item: &Item<'a>, way_out: &str) -> Result<String, Fault> {
        match item.get_ref() {
            DeValue::String(text) => Ok(text.clone().into_owned()),
            DeValue::Integer(number) => Ok(number.to_string()),
            _ => Err(self.wrong_type(name, item, way_out)),
        }
    }

    /// The items of a list.
    pub(super) fn list<'t>(
        self,
        name: &str,
        item: &'t Item<'a>,
        example: &str,
    ) -> Result<Vec<&'t Item<'a>>, Fault> {
        let list = item.get_ref().as_array();
        let list = list.ok_or_else(|| self.wrong_type(name, item, &format!("write a list: {example}")))?;
        Ok(list.iter().collect())
    }

    /// A span of time above zero, ns; a number is seconds.
    pub(super) fn span_ns(self, name: &str, item: &Item<'a>) -> Result<u64, Fault> {
        const WAY_OUT: &str = "write a duration such as \"500ms\", \"3s\" or \"10m\"";
        let text = self.number_or_text(name, item, WAY_OUT)?;
        let span = text.parse::<Span>().ok().and_then(|span| u64::try_from(span.0.as_nanos()).ok());
        span.filter(|ns| *ns != 0).ok_or_else(|| {
            let what = format!("`{name}` is no duration above zero: '{}'", screen_text(&text));
            self.fault(item.span(), what, WAY_OUT)
        })
    }

    /// One of the words that have a meaning, in small letters or capitals.
    pub(super) fn word<T: Copy>(self, name: &str, item: &Item<'a>, words: &[(T, &str)]) -> Result<T, Fault> {
        let known: Vec<String> = words.iter().map(|(_, word)| word.to_ascii_lowercase()).collect();
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        let example = format!("{name} = \"{}\"", known.first().unwrap_or(&""));
        let text = self.text(name, item, &example)?;
        let found =
            words.iter().find(|(_, word)| word.eq_ignore_ascii_case(text)).map(|(meaning, _)| *meaning);
        found.ok_or_else(|| self.unknown(item.span(), name, text, &known))
    }

    /// A list of words that have a meaning, none of them twice.
    pub(super) fn words<T: Copy + PartialEq>(
        self,
        name: &str,
        item: &Item<'a>,
        words: &[(T, &str)],
    ) -> Result<Vec<T>, Fault> {
        let example = format!("{name} = [\"{}\"]", words.first().map_or("", |(_, word)| *word));
        let mut found = Vec::new();
        for item in self.list(name, item, &example)? {
            let meaning = self.word(name, item, words)?;
            if found.contains(&meaning) {
                let what =
                    format!("`{name}` has '{}' twice", screen_text(item.get_ref().as_str().unwrap_or("")));
                return Err(self.fault(item.span(), what, "leave one of them out"));
            }
            found.push(meaning);
        }
        if found.is_empty() {
            return Err(self.fault(
                item.span(),
                format!("`{name}` is empty"),
                "name at least one, or leave the key out",
            ));
        }
        Ok(found)
    }
}

/// The three of `known` that are most like `word`, the most alike first.
fn nearest<'k>(word: &str, known: &[&'k str]) -> Vec<&'k str> {
    let mut near: Vec<(usize, &str)> = known.iter().map(|known| (distance(word, known), *known)).collect();
    near.sort_unstable();
    near.dedup();
    near.into_iter().take(3).map(|(_, known)| known).collect()
}

/// Characters to insert, delete or change between two words; a part of the word alone counts as near.
fn distance(a: &str, b: &str) -> usize {
    if !a.is_empty() && b.contains(a) {
        return 1;
    }
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    // What is longer than any known word is far from all of them.
    for (i, x) in a.chars().take(64).enumerate() {
        let mut corner = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let changed = corner + usize::from(x != *y);
            corner = row[j + 1];
            row[j + 1] = changed.min(corner + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_words_come_first() {
        let known = ["pause", "page-up", "quit", "page-down", "view-xlog"];
        assert_eq!(nearest("puase", &known)[0], "pause");
        assert_eq!(nearest("xlog", &known)[0], "view-xlog");
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
    }

    #[test]
    fn a_fault_has_its_line_and_its_column_in_characters() {
        let file = SettingsFile { path: "a.toml".into(), text: "x = \"가나\"\n  y = 1\n".to_owned() };
        let reader = Reader::new(&file);
        let at = file.text.find("y").unwrap();
        assert_eq!(reader.fault(at..at, "odd".to_owned(), "mend it").to_string(), "a.toml:2:3: odd");
        let at = file.text.find("나").unwrap();
        assert_eq!(reader.fault(at..at, "odd".to_owned(), "").to_string(), "a.toml:1:7: odd");
        let fault = Reader::new(&SettingsFile { path: "b.toml".into(), text: "a = \n".into() }).root().err();
        assert!(fault.is_some_and(|fault| fault.to_string().starts_with("b.toml:1:")));
    }
}
