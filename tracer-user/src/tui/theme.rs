//! Colours and symbols, by what the terminal can and the user wants (`NO_COLOR`).

use ratatui::style::{Color, Modifier, Style};

use super::palette::{Palette, Tone};
use crate::{report::stacks::FrameKind, sink::xlog::Class, transaction::Transaction};

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
    /// What the settings change of the colours.
    pub palette: Palette,
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
        let symbols = if ascii { Symbols::Ascii } else { Symbols::Unicode };
        Theme { colours, symbols, palette: Palette::DEFAULT }
    }

    /// A dot or cell of a class.
    pub fn class(self, class: Class) -> Style {
        let tone = match class {
            Class::Normal => Tone::Normal,
            Class::LongLived => Tone::Async,
            Class::ClientError => Tone::ClientError,
            Class::Stuck => Tone::Stuck,
            Class::Aborted => Tone::Aborted,
            Class::Error => Tone::Error,
        };
        let own = match (self.colours, class) {
            (Colours::None, Class::Error | Class::Aborted) => Style::new().add_modifier(Modifier::REVERSED),
            // Its dots stay what they are: there may be many.
            (Colours::None, Class::ClientError) => Style::new().add_modifier(Modifier::UNDERLINED),
            (Colours::None, _) => Style::new(),
            (Colours::Sixteen, Class::Error) => Style::new().fg(Color::Red).add_modifier(Modifier::REVERSED),
            (Colours::Many, Class::Error) => Style::new().fg(Color::Rgb(0xff, 0x54, 0x54)),
            (Colours::Sixteen, Class::Aborted) => Style::new().fg(Color::Magenta),
            (Colours::Many, Class::Aborted) => Style::new().fg(Color::Rgb(0xd0, 0x60, 0xff)),
            (Colours::Sixteen, Class::Stuck) => Style::new().fg(Color::LightMagenta),
            (Colours::Many, Class::Stuck) => Style::new().fg(Color::Rgb(0xff, 0x82, 0xc1)),
            (Colours::Sixteen, Class::ClientError) => Style::new().fg(Color::Yellow),
            (Colours::Many, Class::ClientError) => Style::new().fg(Color::Rgb(0xf2, 0xcb, 0x61)),
            (Colours::Sixteen, Class::LongLived) => Style::new().fg(Color::DarkGray),
            (Colours::Many, Class::LongLived) => Style::new().fg(Color::Rgb(172, 172, 172)),
            (Colours::Sixteen, Class::Normal) => Style::new().fg(Color::Blue),
            (Colours::Many, Class::Normal) => Style::new().fg(Color::Rgb(0x5c, 0xa8, 0xff)),
        };
        self.painted(tone, own)
    }

    fn painted(self, tone: Tone, own: Style) -> Style {
        self.palette.over(tone, self.colours, own)
    }

    /// A line about a transaction: as its dot, but for those without anything special.
    pub fn line(self, transaction: &Transaction) -> Style {
        match Class::of(transaction) {
            Class::Normal => Style::new(),
            class => self.class(class),
        }
    }

    /// A cell of the heat map without anything special, `level` full (1 to 8).
    pub fn heat(self, level: usize) -> Style {
        let own = self.class(Class::Normal);
        self.palette.heat(level, self.colours).map_or(own, |colour| own.fg(colour))
    }

    /// The line of what counts as slow: symbol and style.
    pub fn slow(self) -> (char, Style) {
        let symbol = if self.symbols == Symbols::Ascii { '=' } else { '╌' };
        let own = match self.colours {
            Colours::None => Style::new(),
            _ => Style::new().fg(Color::Yellow),
        };
        (symbol, self.painted(Tone::Slow, own))
    }

    /// The letter that a cell of a class shows in place of its dots, because its colour may not be told apart.
    pub fn letter(self, class: Class) -> Option<char> {
        if self.colours == Colours::Many && self.symbols == Symbols::Unicode {
            return None;
        }
        match class {
            Class::Error => Some('E'),
            Class::Aborted => Some('A'),
            Class::Stuck => Some('S'),
            Class::Normal | Class::LongLived | Class::ClientError => None,
        }
    }

    /// Something was lost.
    pub fn loss(self) -> Style {
        let own = match self.colours {
            Colours::None => Style::new().add_modifier(Modifier::REVERSED),
            _ => Style::new().fg(Color::Red).add_modifier(Modifier::BOLD),
        };
        self.painted(Tone::Loss, own)
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
        self.painted(Tone::Selected, Style::new().add_modifier(Modifier::REVERSED))
    }

    /// A figure that counts errors.
    pub fn error(self) -> Style {
        let own = match self.colours {
            Colours::None => Style::new().add_modifier(Modifier::BOLD),
            _ => Style::new().fg(Color::Red),
        };
        self.painted(Tone::Error, own)
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

    /// How long a line of a profile took: above half (0), a fifth (1) or a tenth (2) of the whole. As in Scouter: bold red, blue, green.
    pub fn share(self, share: usize) -> Style {
        let bold = Style::new().add_modifier(Modifier::BOLD);
        match (self.colours, share) {
            (Colours::None, 0) => bold,
            (Colours::None, _) => Style::new(),
            (_, 0) => bold.fg(Color::Red),
            (_, 1) => Style::new().fg(Color::Blue),
            (_, _) => Style::new().fg(Color::Green),
        }
    }

    /// A frame of a flame graph, as a bar.
    pub fn frame(self, kind: FrameKind) -> Style {
        let colour = match (self.colours, kind) {
            (Colours::None, _) => return Style::new(),
            (Colours::Sixteen, FrameKind::Program) => Color::Yellow,
            (Colours::Sixteen, FrameKind::Kernel) => Color::Magenta,
            (Colours::Sixteen, FrameKind::Part) => Color::Cyan,
            (Colours::Sixteen, FrameKind::Mark) => Color::DarkGray,
            (Colours::Many, FrameKind::Program) => Color::Rgb(242, 203, 97),
            (Colours::Many, FrameKind::Kernel) => Color::Rgb(255, 150, 110),
            (Colours::Many, FrameKind::Part) => Color::Rgb(108, 192, 255),
            (Colours::Many, FrameKind::Mark) => Color::Rgb(172, 172, 172),
        };
        Style::new().fg(colour).add_modifier(Modifier::REVERSED)
    }

    /// The same where two selections are compared, by how much more it is: -1 (only the others have it) to 1 (only the selected).
    pub fn changed(self, change: f64) -> Style {
        let colour = match (self.colours, change) {
            (Colours::None, _) => return Style::new(),
            // A tenth is taken for none: sums of samples scatter.
            (Colours::Sixteen, -0.1..=0.1) => Color::DarkGray,
            (Colours::Sixteen, c) => {
                if c > 0.0 {
                    Color::Red
                } else {
                    Color::Blue
                }
            }
            (Colours::Many, -0.1..=0.1) => Color::Rgb(200, 200, 200),
            (Colours::Many, c) => {
                let pale = (200.0 - 116.0 * c.abs().min(1.0)) as u8;
                if c > 0.0 { Color::Rgb(0xff, pale, pale) } else { Color::Rgb(pale, pale, 0xff) }
            }
        };
        Style::new().fg(colour).add_modifier(Modifier::REVERSED)
    }

    /// Requests in flight by class of age, 0 the youngest of `n_classes` (two to four). Each has a symbol of its own too.
    pub fn step(self, class: usize, n_classes: usize) -> (char, Style) {
        // Of four looks: the first and the last are always there.
        let look = match (class, n_classes) {
            (0, _) => 0,
            (class, n) if class + 1 >= n => 3,
            (1, 4) => 1,
            _ => 2,
        };
        let symbols = match self.symbols {
            Symbols::Unicode => ['░', '▒', '▓', '█'],
            Symbols::Ascii => ['.', ':', 'o', '#'],
        };
        let own = match (self.colours, look) {
            (Colours::None, _) => Style::new(),
            (Colours::Sixteen, 0) => Style::new().fg(Color::Blue),
            (Colours::Sixteen, 1) => Style::new().fg(Color::Cyan),
            (Colours::Sixteen, 2) => Style::new().fg(Color::Yellow),
            (Colours::Sixteen, _) => Style::new().fg(Color::Red),
            (Colours::Many, 0) => Style::new().fg(Color::Rgb(108, 192, 255)),
            (Colours::Many, 1) => Style::new().fg(Color::Rgb(52, 185, 148)),
            (Colours::Many, 2) => Style::new().fg(Color::Rgb(242, 203, 97)),
            (Colours::Many, _) => Style::new().fg(Color::Rgb(255, 130, 193)),
        };
        let tone = [Tone::Step1, Tone::Step2, Tone::Step3, Tone::Step4][class.min(3)];
        (symbols[look], self.painted(tone, own))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Class::{LongLived, Normal};

    #[test]
    fn every_class_looks_like_itself_and_without_colours_all_that_is_not_fine_does() {
        for symbols in [Symbols::Unicode, Symbols::Ascii] {
            for colours in [Colours::Many, Colours::Sixteen, Colours::None] {
                let theme = Theme { colours, symbols, palette: Palette::DEFAULT };
                let look = |class: Class| (theme.class(class), theme.letter(class));
                for (i, a) in Class::ALL.into_iter().enumerate() {
                    for b in Class::ALL.into_iter().skip(i + 1) {
                        let fine = colours == Colours::None && (a, b) == (Normal, LongLived);
                        assert_eq!(look(a) == look(b), fine, "{a:?} {b:?} {theme:?}");
                    }
                }
            }
        }
    }

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
