//! Colours that the settings may change: what each stands for, how one is written, and what it becomes where there are fewer.

use ratatui::style::{Color, Style};

use super::theme::Colours;

/// What a colour stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// A transaction without anything special.
    Normal,
    /// One that was answered with a client error (4xx) and is no error of its role.
    ClientError,
    /// One that failed, and figures that count them.
    Error,
    /// One without an answer: closed, reset, exited.
    Aborted,
    /// One that was given up.
    Stuck,
    /// A tunnel or a stream.
    Async,
    /// What a filter, a pause or a selection changes.
    Selected,
    /// Something was lost.
    Loss,
    /// The emptiest cell of the heat map.
    HeatLow,
    /// The fullest.
    HeatHigh,
    /// The line of what counts as slow.
    Slow,
    /// Requests in flight, the youngest.
    Step1,
    /// The next class of age.
    Step2,
    /// The next.
    Step3,
    /// The oldest of four.
    Step4,
}

impl Tone {
    /// All, with their names in the settings, in the order of their numbers.
    pub const ALL: [(Tone, &str); 15] = [
        (Tone::Normal, "normal"),
        (Tone::ClientError, "client_error"),
        (Tone::Error, "error"),
        (Tone::Aborted, "aborted"),
        (Tone::Stuck, "stuck"),
        (Tone::Async, "async"),
        (Tone::Selected, "selected"),
        (Tone::Loss, "loss"),
        (Tone::HeatLow, "heat_low"),
        (Tone::HeatHigh, "heat_high"),
        (Tone::Slow, "slow"),
        (Tone::Step1, "step_1"),
        (Tone::Step2, "step_2"),
        (Tone::Step3, "step_3"),
        (Tone::Step4, "step_4"),
    ];
}

/// A colour as it is written in the settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paint {
    /// One of the terminal's own: 0 to 255, of which every terminal has the first 16.
    Index(u8),
    /// Red, green, blue.
    Rgb(u8, u8, u8),
}

/// The 16 colours of every terminal: name, and about what they look like (xterm's).
const SIXTEEN: [(&str, [u8; 3]); 16] = [
    ("black", [0, 0, 0]),
    ("red", [205, 0, 0]),
    ("green", [0, 205, 0]),
    ("yellow", [205, 205, 0]),
    ("blue", [0, 0, 238]),
    ("magenta", [205, 0, 205]),
    ("cyan", [0, 205, 205]),
    ("gray", [229, 229, 229]),
    ("dark-gray", [127, 127, 127]),
    ("light-red", [255, 0, 0]),
    ("light-green", [0, 255, 0]),
    ("light-yellow", [255, 255, 0]),
    ("light-blue", [92, 92, 255]),
    ("light-magenta", [255, 0, 255]),
    ("light-cyan", [0, 255, 255]),
    ("white", [255, 255, 255]),
];

impl Paint {
    /// What a colour may be, for whoever wrote something else.
    pub const WANTED: &str = "write a name (black, red, green, yellow, blue, magenta, cyan, gray, white, dark-gray, light-red …), \
                              a number from 0 to 255, or \"#rrggbb\"";

    /// Reads a name, a number or `#rrggbb`.
    pub fn parse(text: &str) -> Option<Paint> {
        if let Some(hex) = text.strip_prefix('#') {
            let digits = hex.len() == 6 && hex.bytes().all(|b| b.is_ascii_hexdigit());
            let n = digits.then(|| u32::from_str_radix(hex, 16).ok())??;
            let [_, r, g, b] = n.to_be_bytes();
            return Some(Paint::Rgb(r, g, b));
        }
        let known = SIXTEEN.iter().position(|(name, _)| *name == text);
        known.and_then(|at| u8::try_from(at).ok()).or_else(|| text.parse().ok()).map(Paint::Index)
    }

    fn rgb(self) -> [u8; 3] {
        match self {
            Paint::Rgb(r, g, b) => [r, g, b],
            Paint::Index(n @ 0..16) => SIXTEEN[usize::from(n)].1,
            // xterm's cube of 6 × 6 × 6, and its 24 grays.
            Paint::Index(n @ 16..232) => {
                let n = n - 16;
                [n / 36, n / 6 % 6, n % 6].map(|level| if level == 0 { 0 } else { 55 + 40 * level })
            }
            Paint::Index(n) => [8 + 10 * (n - 232); 3],
        }
    }

    /// The terminal's colour; `None` where there are none.
    pub fn colour(self, colours: Colours) -> Option<Color> {
        match (colours, self) {
            (Colours::None, _) => None,
            (_, Paint::Index(n @ 0..16)) => Some(named(usize::from(n))),
            (Colours::Many, Paint::Index(n)) => Some(Color::Indexed(n)),
            (Colours::Many, Paint::Rgb(r, g, b)) => Some(Color::Rgb(r, g, b)),
            (Colours::Sixteen, _) => {
                let [r, g, b] = self.rgb().map(i32::from);
                let distance = |at: &usize| {
                    let [x, y, z] = SIXTEEN[*at].1.map(i32::from);
                    (r - x).pow(2) + (g - y).pow(2) + (b - z).pow(2)
                };
                // Never black: on most screens it is not to be seen. And what has a hue keeps one: pale colours are nearest to gray.
                let is_gray = |[r, g, b]: [i32; 3]| r.max(g).max(b) - r.min(g).min(b) < 64;
                let wanted = is_gray([r, g, b]);
                let alike = |at: &usize| is_gray(SIXTEEN[*at].1.map(i32::from)) == wanted;
                (1..16).filter(alike).min_by_key(distance).map(named)
            }
        }
    }
}

fn named(at: usize) -> Color {
    const COLOURS: [Color; 16] = [
        Color::Black,
        Color::Red,
        Color::Green,
        Color::Yellow,
        Color::Blue,
        Color::Magenta,
        Color::Cyan,
        Color::Gray,
        Color::DarkGray,
        Color::LightRed,
        Color::LightGreen,
        Color::LightYellow,
        Color::LightBlue,
        Color::LightMagenta,
        Color::LightCyan,
        Color::White,
    ];
    COLOURS[at % COLOURS.len()]
}

/// The colours that differ from the screen's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Palette([Option<Paint>; Tone::ALL.len()]);

impl Palette {
    /// The palettes that have a name.
    pub const NAMES: [&str; 3] = ["default", "papercraft", "colour-blind"];
    /// The screen's own colours.
    pub const DEFAULT: Palette = Palette([None; Tone::ALL.len()]);

    /// The palette of a name.
    pub fn named(name: &str) -> Option<Palette> {
        let mut palette = Palette::DEFAULT;
        let paints: &[(Tone, u32)] = match name {
            "default" => &[],
            // Scouter's.
            "papercraft" => &[(Tone::Normal, 0x00_62b1), (Tone::Error, 0xff_5454), (Tone::Async, 0xac_acac)],
            // Okabe and Ito's eight, which all common kinds of colour blindness tell apart.
            "colour-blind" => &[
                (Tone::Normal, 0x56_b4e9),
                (Tone::ClientError, 0xe6_9f00),
                (Tone::Error, 0xd5_5e00),
                (Tone::Aborted, 0xf0_e442),
                (Tone::Stuck, 0xcc_79a7),
                (Tone::Async, 0x99_9999),
                (Tone::Loss, 0xd5_5e00),
                (Tone::HeatLow, 0x3b_6ea8),
                (Tone::HeatHigh, 0xf0_e442),
                (Tone::Slow, 0xe6_9f00),
                (Tone::Step1, 0x56_b4e9),
                (Tone::Step2, 0xf0_e442),
                (Tone::Step3, 0xe6_9f00),
                (Tone::Step4, 0xd5_5e00),
            ],
            _ => return None,
        };
        for (tone, rgb) in paints {
            let [_, r, g, b] = rgb.to_be_bytes();
            palette.set(*tone, Paint::Rgb(r, g, b));
        }
        Some(palette)
    }

    /// Changes a colour.
    pub fn set(&mut self, tone: Tone, paint: Paint) {
        self.0[tone as usize] = Some(paint);
    }

    /// The colour, where it differs from the screen's own.
    pub fn get(&self, tone: Tone) -> Option<Paint> {
        self.0[tone as usize]
    }

    /// `own` with the colour that the settings want, if they want one.
    pub(super) fn over(&self, tone: Tone, colours: Colours, own: Style) -> Style {
        self.get(tone).and_then(|paint| paint.colour(colours)).map_or(own, |colour| own.fg(colour))
    }

    /// Colour of a cell of the heat map, 1 (emptiest) to 8, if the settings have a ramp; an end that is missing is the colour of dots.
    pub(super) fn heat(&self, level: usize, colours: Colours) -> Option<Color> {
        let ends = [self.get(Tone::HeatLow), self.get(Tone::HeatHigh)];
        if ends == [None; 2] {
            return None;
        }
        let dots = self.get(Tone::Normal).unwrap_or(Paint::Rgb(0x5c, 0xa8, 0xff));
        let [low, high] = ends.map(|end| end.unwrap_or(dots).rgb().map(u32::from));
        let step = level.clamp(1, 8) as u32 - 1;
        let mixed = |at: usize| u8::try_from((low[at] * (7 - step) + high[at] * step) / 7).unwrap_or(u8::MAX);
        Paint::Rgb(mixed(0), mixed(1), mixed(2)).colour(colours)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tones_stand_where_their_numbers_say() {
        for (at, (tone, _)) in Tone::ALL.iter().enumerate() {
            assert_eq!(*tone as usize, at);
        }
    }

    #[test]
    fn colours_are_read_by_name_number_and_hexadecimal_and_nothing_else() {
        let cases = [
            ("red", Some(Paint::Index(1))),
            ("light-cyan", Some(Paint::Index(14))),
            ("0", Some(Paint::Index(0))),
            ("255", Some(Paint::Index(255))),
            ("#0062B1", Some(Paint::Rgb(0, 0x62, 0xb1))),
            ("256", None),
            ("-1", None),
            ("#fff", None),
            ("#ggffff", None),
            ("#+12345", None),
            ("", None),
            ("Red", None),
        ];
        for (text, paint) in cases {
            assert_eq!(Paint::parse(text), paint, "{text}");
        }
    }

    #[test]
    fn a_colour_becomes_the_nearest_of_sixteen_and_none_where_there_are_none() {
        let cases = [
            ("#ff5454", Color::LightRed),
            ("#0062b1", Color::Cyan),
            ("#cc79a7", Color::Magenta),
            ("196", Color::LightRed),
            ("244", Color::DarkGray),
            ("3", Color::Yellow),
        ];
        for (text, sixteen) in cases {
            let paint = Paint::parse(text).unwrap();
            assert_eq!(paint.colour(Colours::None), None);
            assert_eq!(paint.colour(Colours::Sixteen), Some(sixteen), "{text}");
        }
        assert_ne!(Paint::Rgb(1, 1, 1).colour(Colours::Sixteen), Some(Color::Black));
        assert_eq!(Paint::Index(196).colour(Colours::Many), Some(Color::Indexed(196)));
    }

    #[test]
    fn the_heat_ramp_goes_from_one_end_to_the_other() {
        let mut palette = Palette::DEFAULT;
        assert_eq!(palette.heat(4, Colours::Many), None);
        palette.set(Tone::HeatLow, Paint::Rgb(0, 0, 0));
        palette.set(Tone::HeatHigh, Paint::Rgb(70, 140, 210));
        assert_eq!(palette.heat(1, Colours::Many), Some(Color::Rgb(0, 0, 0)));
        assert_eq!(palette.heat(3, Colours::Many), Some(Color::Rgb(20, 40, 60)));
        assert_eq!(palette.heat(8, Colours::Many), Some(Color::Rgb(70, 140, 210)));
        assert_eq!(palette.heat(8, Colours::None), None);
    }

    #[test]
    fn every_palette_that_is_named_exists_and_the_colour_blind_one_tells_its_dots_apart() {
        assert!(Palette::NAMES.iter().all(|name| Palette::named(name).is_some()));
        let palette = Palette::named("colour-blind").unwrap();
        for colours in [Colours::Many, Colours::Sixteen] {
            let dots =
                [Tone::Normal, Tone::Async, Tone::ClientError, Tone::Stuck, Tone::Aborted, Tone::Error];
            let shown: Vec<_> = dots.map(|tone| palette.get(tone).unwrap().colour(colours)).to_vec();
            for (i, colour) in shown.iter().enumerate() {
                assert!(!shown[..i].contains(colour), "{colours:?} {shown:?}");
            }
        }
    }
}
