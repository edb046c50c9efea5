//! What a terminal shows after what was written to it: characters with their colours. As much of a terminal as txray's screen and
//! tmux's captures need: no scrolling, every character one column wide.

/// A colour as it was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Colour {
    /// The terminal's own.
    #[default]
    Own,
    /// One of 256.
    Indexed(u8),
    /// Red, green, blue.
    Rgb(u8, u8, u8),
}

/// How characters are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pen {
    pub(crate) front: Colour,
    pub(crate) back: Colour,
    pub(crate) bold: bool,
    pub(crate) dim: bool,
    pub(crate) underlined: bool,
    pub(crate) reversed: bool,
}

/// One place of the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    pub(crate) text: char,
    pub(crate) pen: Pen,
}

const BLANK: Cell = Cell {
    text: ' ',
    pen: Pen {
        front: Colour::Own,
        back: Colour::Own,
        bold: false,
        dim: false,
        underlined: false,
        reversed: false,
    },
};

/// A screen of some size.
#[derive(Debug)]
pub(crate) struct Screen {
    width: usize,
    rows: Vec<Vec<Cell>>,
    at: (usize, usize),
    pen: Pen,
    /// What has no end yet: part of a character, or of a sequence.
    rest: Vec<u8>,
}

impl Screen {
    pub(crate) fn new(width: usize, height: usize) -> Self {
        Self {
            width,
            rows: vec![vec![BLANK; width]; height],
            at: (0, 0),
            pen: Pen::default(),
            rest: Vec::new(),
        }
    }

    pub(crate) fn rows(&self) -> &[Vec<Cell>] {
        &self.rows
    }

    /// The characters of a line.
    pub(crate) fn line(&self, row: usize) -> String {
        self.rows.get(row).map(|cells| cells.iter().map(|cell| cell.text).collect()).unwrap_or_default()
    }

    /// All characters, line by line.
    pub(crate) fn text(&self) -> String {
        (0..self.rows.len()).map(|row| self.line(row) + "\n").collect()
    }

    /// Takes what a program wrote, cut anywhere.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        let mut all = std::mem::take(&mut self.rest);
        all.extend_from_slice(bytes);
        let mut at = 0;
        while at < all.len() {
            match self.take(&all[at..]) {
                Some(n) => at += n,
                None => break,
            }
        }
        self.rest = all.split_off(at);
    }

    /// Takes one character or sequence; returns its length, `None` if its end is missing.
    fn take(&mut self, bytes: &[u8]) -> Option<usize> {
        match bytes[0] {
            0x1b => self.escape(bytes),
            b'\r' => {
                self.at.0 = 0;
                Some(1)
            }
            // tmux ends its lines with this alone.
            b'\n' => {
                self.at = (0, self.at.1 + 1);
                Some(1)
            }
            first @ 0x20.. => {
                let length = match first {
                    0xf0.. => 4,
                    0xe0.. => 3,
                    0xc0.. => 2,
                    _ => 1,
                };
                let text = std::str::from_utf8(bytes.get(..length)?);
                let text = text.ok().and_then(|text| text.chars().next()).unwrap_or('\u{fffd}');
                self.put(text);
                Some(length)
            }
            _ => Some(1),
        }
    }

    fn put(&mut self, text: char) {
        let (x, y) = self.at;
        if let Some(cell) = self.rows.get_mut(y).and_then(|row| row.get_mut(x)) {
            *cell = Cell { text, pen: self.pen };
        }
        self.at.0 += 1;
    }

    fn escape(&mut self, bytes: &[u8]) -> Option<usize> {
        if *bytes.get(1)? != b'[' {
            // Two bytes, or three where a set of characters is chosen.
            let length = if matches!(bytes[1], b'(' | b')') { 3 } else { 2 };
            return (bytes.len() >= length).then_some(length);
        }
        let end = 2 + bytes[2..].iter().position(|byte| (0x40..=0x7e).contains(byte))?;
        let text = String::from_utf8_lossy(&bytes[2..end]);
        let numbers: Vec<usize> = text.split(';').map(|number| number.parse().unwrap_or(0)).collect();
        let place = |at: usize| numbers.get(at).copied().unwrap_or(1).max(1) - 1;
        match bytes[end] {
            b'H' => self.at = (place(1), place(0)),
            b'J' if numbers[0] == 2 => self.rows.fill(vec![BLANK; self.width]),
            b'm' => self.style(&numbers),
            _ => {}
        }
        Some(end + 1)
    }

    fn style(&mut self, numbers: &[usize]) {
        let mut numbers = numbers.iter().copied();
        let byte = |n: usize| u8::try_from(n).unwrap_or(u8::MAX);
        while let Some(number) = numbers.next() {
            let pen = &mut self.pen;
            match number {
                0 => *pen = Pen::default(),
                1 => pen.bold = true,
                2 => pen.dim = true,
                4 => pen.underlined = true,
                7 => pen.reversed = true,
                22 => (pen.bold, pen.dim) = (false, false),
                24 => pen.underlined = false,
                27 => pen.reversed = false,
                30..=37 => pen.front = Colour::Indexed(byte(number - 30)),
                40..=47 => pen.back = Colour::Indexed(byte(number - 40)),
                90..=97 => pen.front = Colour::Indexed(byte(number - 82)),
                100..=107 => pen.back = Colour::Indexed(byte(number - 92)),
                39 => pen.front = Colour::Own,
                49 => pen.back = Colour::Own,
                38 | 48 => {
                    let mut next = || byte(numbers.next().unwrap_or(0));
                    let colour = match next() {
                        5 => Colour::Indexed(next()),
                        2 => Colour::Rgb(next(), next(), next()),
                        _ => Colour::Own,
                    };
                    if number == 38 { pen.front = colour } else { pen.back = colour }
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_stands_where_it_was_put_however_it_was_cut() {
        let written = "\x1b[?25l\x1b[2J\x1b[2;3H\x1b[1;38;2;1;2;3m⣿é\x1b[0mx\r\ny\x1b(B";
        for cut in 0..written.len() {
            let mut screen = Screen::new(6, 3);
            screen.write(&written.as_bytes()[..cut]);
            screen.write(&written.as_bytes()[cut..]);
            assert_eq!(screen.text(), "      \n  ⣿éx \ny     \n", "{cut}");
            let pen = screen.rows()[1][3].pen;
            assert_eq!((pen.front, pen.bold), (Colour::Rgb(1, 2, 3), true));
            assert_eq!(screen.rows()[1][4].pen, Pen::default());
        }
    }

    #[test]
    fn colours_are_read_in_every_form() {
        let mut screen = Screen::new(4, 1);
        screen.write(b"\x1b[31;44ma\x1b[38;5;200;97mb\x1b[48;5;17mc\x1b[39;49;7md");
        let pens: Vec<_> =
            screen.rows()[0].iter().map(|cell| (cell.pen.front, cell.pen.back, cell.pen.reversed)).collect();
        let indexed = Colour::Indexed;
        assert_eq!(
            pens,
            [
                (indexed(1), indexed(4), false),
                (indexed(15), indexed(4), false),
                (indexed(15), indexed(17), false),
                (Colour::Own, Colour::Own, true),
            ]
        );
    }
}
