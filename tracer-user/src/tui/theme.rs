//! Colours and symbols, by what the terminal can and the user wants (`NO_COLOR`).

use ratatui::style::{Color, Modifier, Style};

use crate::sink::xlog::Class;

/// How many colours there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colours {
    /// None: meaning is carried by letters and reverse video.
    None,
    /// The 16 of every terminal.
    Sixteen,
    /// 256 or more.
    Many,
}

/// Which characters the terminal's encoding has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Symbols {
    /// Braille dots and blocks.
    Unicode,
    /// ASCII only.
    Ascii,
}

/// How things look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Theme {
    /// Colours.
    pub colours: Colours,
    /// Characters.
    pub symbols: Symbols,
}

impl Theme {
    /// From the environment, asked through `variable`.
    pub fn detect(variable: impl Fn(&str) -> Option<String>) -> Theme {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let term = set("TERM").unwrap_or_default();
        let colours = if set("NO_COLOR").is_some() || term == "dumb" {
            Colours::None
        } else if set("COLORTERM").is_some() || term.contains("256color") || term.contains("direct") {
            Colours::Many
        } else {
            Colours::Sixteen
        };
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(set).unwrap_or_default();
        let locale = locale.to_ascii_lowercase();
        // Under sudo the locale is often gone; most terminals are UTF-8, and only an explicit other charset says no.
        let ascii = term == "linux" || locale.contains("8859") || locale.contains("ascii");
        Theme { colours, symbols: if ascii { Symbols::Ascii } else { Symbols::Unicode } }
    }

    /// A dot or cell of a class.
    pub fn class(self, class: Class) -> Style {
        match (self.colours, class) {
            (Colours::None, Class::Error) => Style::new().add_modifier(Modifier::REVERSED),
            (Colours::None, _) => Style::new(),
            (Colours::Sixteen, Class::Error) => Style::new().fg(Color::Red).add_modifier(Modifier::REVERSED),
            (Colours::Many, Class::Error) => Style::new().fg(Color::Rgb(0xff, 0x54, 0x54)),
            (Colours::Sixteen, Class::Stuck) => Style::new().fg(Color::Magenta),
            (Colours::Many, Class::Stuck) => Style::new().fg(Color::Rgb(0xff, 0x82, 0xc1)),
            (Colours::Sixteen, Class::LongLived) => Style::new().fg(Color::DarkGray),
            (Colours::Many, Class::LongLived) => Style::new().fg(Color::Rgb(172, 172, 172)),
            (Colours::Sixteen, Class::Normal) => Style::new().fg(Color::Blue),
            (Colours::Many, Class::Normal) => Style::new().fg(Color::Rgb(0x5c, 0xa8, 0xff)),
        }
    }

    /// Whether a cell with an error shows a letter, because its colour may not.
    pub fn error_letter(self) -> bool {
        self.colours != Colours::Many || self.symbols == Symbols::Ascii
    }

    /// Something was lost.
    pub fn loss(self) -> Style {
        match self.colours {
            Colours::None => Style::new().add_modifier(Modifier::REVERSED),
            _ => Style::new().fg(Color::Red).add_modifier(Modifier::BOLD),
        }
    }

    /// Less important text.
    pub fn dim(self) -> Style {
        match self.colours {
            Colours::None => Style::new(),
            _ => Style::new().fg(Color::DarkGray),
        }
    }

    /// Headings.
    pub fn heading(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    /// What a filter, a pause or a selection changes.
    pub fn reversed(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }

    /// A figure that counts errors.
    pub fn error(self) -> Style {
        match self.colours {
            Colours::None => Style::new().add_modifier(Modifier::BOLD),
            _ => Style::new().fg(Color::Red),
        }
    }

    /// A line across empty cells.
    pub fn rule(self) -> char {
        if self.symbols == Symbols::Ascii { '-' } else { '┄' }
    }

    /// How full something is, 0 (empty) to 8.
    pub fn level(self, level: usize) -> char {
        let levels = match self.symbols {
            Symbols::Unicode => [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'],
            Symbols::Ascii => [' ', '.', ':', '-', '=', '+', '*', '#', '@'],
        };
        levels[level.min(8)]
    }

    /// A part of a transaction's time, by its name.
    pub fn part(self, name: &str) -> Style {
        match (self.colours, name) {
            (Colours::None, _) => Style::new(),
            (_, "queued") => Style::new().fg(Color::Yellow),
            (_, "reading") => Style::new().fg(Color::Cyan),
            (_, "waiting") => Style::new().fg(Color::Blue),
            (_, _) => Style::new().fg(Color::Green),
        }
    }

    /// Requests in flight by age: up to 3 s, 3 to 8 s, longer. Each step has a symbol of its own too.
    pub fn step(self, step: usize) -> (char, Style) {
        let symbol = match (self.symbols, step) {
            (Symbols::Unicode, 0) => '░',
            (Symbols::Unicode, 1) => '▓',
            (Symbols::Unicode, _) => '█',
            (Symbols::Ascii, 0) => '.',
            (Symbols::Ascii, 1) => 'o',
            (Symbols::Ascii, _) => '#',
        };
        let style = match (self.colours, step) {
            (Colours::None, _) => Style::new(),
            (Colours::Sixteen, 0) => Style::new().fg(Color::Blue),
            (Colours::Sixteen, 1) => Style::new().fg(Color::Yellow),
            (Colours::Sixteen, _) => Style::new().fg(Color::Red),
            (Colours::Many, 0) => Style::new().fg(Color::Rgb(108, 192, 255)),
            (Colours::Many, 1) => Style::new().fg(Color::Rgb(242, 203, 97)),
            (Colours::Many, _) => Style::new().fg(Color::Rgb(255, 130, 193)),
        };
        (symbol, style)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_decides() {
        let theme = |pairs: &[(&str, &str)]| {
            Theme::detect(|name| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
        };
        assert_eq!(theme(&[("TERM", "xterm-256color")]).colours, Colours::Many);
        assert_eq!(theme(&[("TERM", "xterm-256color"), ("NO_COLOR", "1")]).colours, Colours::None);
        assert_eq!(theme(&[("TERM", "xterm"), ("NO_COLOR", "")]).colours, Colours::Sixteen);
        assert_eq!(theme(&[("TERM", "linux")]).symbols, Symbols::Ascii);
        assert_eq!(theme(&[("TERM", "xterm"), ("LANG", "ko_KR.UTF-8")]).symbols, Symbols::Unicode);
        assert_eq!(theme(&[("LC_ALL", "en_US.ISO-8859-1"), ("LANG", "C.UTF-8")]).symbols, Symbols::Ascii);
    }
}
