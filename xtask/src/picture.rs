//! `cargo xtask picture`: the demo on a terminal (tmux), as a picture for the README.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::{
    ansi::{Cell, Colour, Pen, Screen},
    setup,
    shell::{cargo, is_root, output, run, target_dir, workspace_root},
};

#[derive(Args, Debug)]
pub(crate) struct PictureArgs {
    /// How long the demo runs before the picture is taken.
    #[arg(long, default_value_t = 50)]
    seconds: u64,
    /// Take this `txray`, and build nothing.
    #[arg(long)]
    program: Option<PathBuf>,
}

/// Columns and rows.
const SIZE: (usize, usize) = (110, 32);
/// A cell, in pixels: what the common monospace fonts have at this size is 8.4 wide, and text is stretched to it.
const CELL: (f64, f64) = (8.4, 17.0);
const FONT: u8 = 14;
const MARGIN: f64 = 12.0;
/// Side of a braille dot, in pixels: dots of neighbouring cells do not touch.
const DOT: f64 = 2.0;
/// Column and row of each bit's dot in a braille character (Unicode, block Braille Patterns).
const BRAILLE: [(f64, f64); 8] =
    [(0.0, 0.0), (0.0, 1.0), (0.0, 2.0), (1.0, 0.0), (1.0, 1.0), (1.0, 2.0), (0.0, 3.0), (1.0, 3.0)];
/// The terminal's own colours.
const FRONT: &str = "#d4d4d4";
const BACK: &str = "#16181d";
/// The first sixteen of 256, as xterm has them, a little softer on this ground.
const SIXTEEN: [&str; 16] = [
    "#16181d", "#e06c6c", "#7fbf7f", "#d7b55f", "#6c9fe0", "#c07fd0", "#5fbfbf", "#d4d4d4", "#7a7f87",
    "#ff7f7f", "#9fdf9f", "#f0d070", "#8fbfff", "#e09ff0", "#7fe0e0", "#ffffff",
];

pub(crate) fn picture(args: &PictureArgs) -> Result<()> {
    if !is_root() {
        bail!("tracing needs root");
    }
    setup::run(&setup::SetupArgs { tests: true })?;
    let program = match &args.program {
        Some(program) => fs::canonicalize(program)?,
        None => {
            run(&mut cargo([
                "build",
                "--locked",
                "--release",
                "--package",
                "tracer-user",
                "--bin",
                "txray",
            ]))?;
            target_dir().join("release/txray")
        }
    };
    let text = take(&program, Duration::from_secs(args.seconds))?;
    let mut screen = Screen::new(SIZE.0, SIZE.1);
    screen.write(text.as_bytes());
    let file = workspace_root().join("docs/screen.svg");
    fs::create_dir_all(workspace_root().join("docs"))?;
    fs::write(&file, svg(&screen))?;
    println!("picture: written to {}", file.display());
    Ok(())
}

/// A tmux of its own, ended when dropped, and what runs in it.
struct Tmux<'a>(&'a Path);

impl Tmux<'_> {
    fn command(&self) -> Command {
        let mut command = Command::new("tmux");
        command.args(["-u", "-f", "/dev/null", "-S"]).arg(self.0.join("socket"));
        command
    }
}

impl Drop for Tmux<'_> {
    fn drop(&mut self) {
        let _ = self.command().arg("kill-server").output();
    }
}

/// Runs the demo for so long and captures its screen, colours included.
fn take(program: &Path, time: Duration) -> Result<String> {
    let dir = target_dir().join("xtask/picture");
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir)?;
    let tmux = Tmux(&dir);
    let (columns, rows) = (SIZE.0.to_string(), SIZE.1.to_string());
    // Nobody's own settings take part, and the shape of the screen is the same wherever it is taken. The window of a run is as long
    // as the run, but at least a minute.
    let script = format!(
        "XDG_CONFIG_HOME=/nonexistent TERM=tmux-256color COLORTERM=truecolor LANG=C.UTF-8 {} demo --duration {}s --out {}",
        program.display(),
        time.as_secs() + 10,
        dir.join("recording").display()
    );
    let mut start = tmux.command();
    output(start.args(["new-session", "-d", "-s", "t", "-x", &columns, "-y", &rows, &script]))?;
    let began = Instant::now();
    let capture = || output(tmux.command().args(["capture-pane", "-e", "-p", "-t", "t"]));
    loop {
        thread::sleep(Duration::from_secs(1));
        let text = capture().context("the demo has ended")?;
        if began.elapsed() >= time {
            if !text.contains("txray") || !text.contains("LIVE") {
                bail!("there is no live screen:\n{text}");
            }
            drop(tmux);
            fs::remove_dir_all(&dir)?;
            return Ok(text);
        }
    }
}

/// A screen as SVG: grounds as rectangles, text in runs of the same style, dots and blocks as shapes. No font is named that is not
/// everywhere, and none is asked for a glyph that many have in another width, or not at all.
fn svg(screen: &Screen) -> String {
    let rows = screen.rows();
    let n_columns = rows.first().map_or(0, Vec::len);
    let (width, height) =
        (n_columns as f64 * CELL.0 + 2.0 * MARGIN, rows.len() as f64 * CELL.1 + 2.0 * MARGIN);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.1} {height:.1}\" width=\"{width:.0}\" height=\"{height:.0}\" \
         font-family=\"ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace\" font-size=\"{FONT}\" xml:space=\"preserve\">\n\
         <rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"{BACK}\"/>\n"
    );
    for (y, row) in rows.iter().enumerate() {
        write_grounds(&mut out, row, y);
        let mut x = 0;
        while x < row.len() {
            let end = run_end(row, x);
            write_run(&mut out, &row[x..end], x, y);
            x = end;
        }
    }
    out.push_str("</svg>\n");
    out
}

/// The grounds of a row. Those that are alike are one rectangle: between two that touch, a seam would show.
fn write_grounds(out: &mut String, row: &[Cell], y: usize) {
    let mut x = 0;
    while x < row.len() {
        let (_, back) = colours(row[x].pen);
        let n = row[x..].iter().take_while(|cell| colours(cell.pen).1 == back).count();
        if back != BACK {
            let (left, top) = corner(x, y);
            let (width, height) = (n as f64 * CELL.0, CELL.1);
            // Writing to a String cannot fail.
            let _ = writeln!(
                out,
                "<rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{back}\"/>"
            );
        }
        x += n;
    }
}

/// The upper left corner of a cell.
fn corner(x: usize, y: usize) -> (f64, f64) {
    (MARGIN + x as f64 * CELL.0, MARGIN + y as f64 * CELL.1)
}

/// What a cell is drawn as.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Blank,
    Text,
    /// Braille: up to eight dots.
    Dots,
    /// A block of so many eighths of the cell's height, from below, and of so many quarters of the colour.
    Block(u8, u8),
}

impl Shape {
    fn of(text: char) -> Shape {
        match text {
            ' ' | '\u{2800}' => Shape::Blank,
            '\u{2801}'..='\u{28ff}' => Shape::Dots,
            '\u{2581}'..='\u{2588}' => Shape::Block((text as u32 - 0x2580) as u8, 4),
            '\u{2591}'..='\u{2593}' => Shape::Block(8, (text as u32 - 0x2590) as u8),
            _ => Shape::Text,
        }
    }
}

/// Where the run of cells that are drawn alike ends. Words are not drawn together with what is far from them: fonts differ, and each
/// run is stretched to its cells.
fn run_end(row: &[Cell], from: usize) -> usize {
    let (pen, shape) = (row[from].pen, Shape::of(row[from].text));
    let alike = |cell: &Cell| cell.pen == pen && Shape::of(cell.text) == shape;
    row[from..].iter().position(|cell| !alike(cell)).map_or(row.len(), |n| from + n)
}

fn write_run(out: &mut String, cells: &[Cell], x: usize, y: usize) {
    let Some(Cell { pen, text }) = cells.first() else { return };
    let (front, _) = colours(*pen);
    let ((left, top), width) = (corner(x, y), cells.len() as f64 * CELL.0);
    match Shape::of(*text) {
        Shape::Blank => {}
        Shape::Dots => write_dots(out, cells, (left, top), &front),
        Shape::Block(eighths, quarters) => {
            let height = CELL.1 * f64::from(eighths) / 8.0;
            let top = top + CELL.1 - height;
            let opacity = match quarters {
                4.. => String::new(),
                quarters => format!(" opacity=\"{}\"", f64::from(quarters) / 4.0),
            };
            let _ = writeln!(
                out,
                "<rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{front}\"{opacity}/>"
            );
        }
        Shape::Text => write_text(out, cells, (left, top), &front, *pen),
    }
}

/// Each dot as a piece of a thick line: the shortest way to say a small square.
fn write_dots(out: &mut String, cells: &[Cell], (left, top): (f64, f64), front: &str) {
    let _ = write!(out, "<path stroke=\"{front}\" stroke-width=\"{DOT}\" d=\"");
    for (i, cell) in cells.iter().enumerate() {
        let bits = cell.text as u32 - 0x2800;
        for (bit, (column, row)) in BRAILLE.into_iter().enumerate() {
            if bits & 1 << bit != 0 {
                let x = left + (i as f64 + 0.25 + 0.5 * column) * CELL.0 - DOT / 2.0;
                let y = top + (0.125 + 0.25 * row) * CELL.1;
                let _ = write!(out, "M{x:.1} {y:.1}h{DOT}");
            }
        }
    }
    out.push_str("\"/>\n");
}

fn write_text(out: &mut String, cells: &[Cell], (left, top): (f64, f64), front: &str, pen: Pen) {
    let width = cells.len() as f64 * CELL.0;
    let mut style = String::new();
    for (has, attribute) in [
        (pen.bold, " font-weight=\"bold\""),
        (pen.dim, " opacity=\"0.6\""),
        (pen.underlined, " text-decoration=\"underline\""),
    ] {
        if has {
            style.push_str(attribute);
        }
    }
    let base = top + CELL.1 * 0.76;
    let _ = write!(
        out,
        "<text x=\"{left:.1}\" y=\"{base:.1}\" textLength=\"{width:.1}\" lengthAdjust=\"spacingAndGlyphs\" fill=\"{front}\"{style}>"
    );
    for cell in cells {
        match cell.text {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            text => out.push(text),
        }
    }
    out.push_str("</text>\n");
}

/// Front and ground of a pen.
fn colours(pen: Pen) -> (String, String) {
    let (front, back) = (colour(pen.front, FRONT), colour(pen.back, BACK));
    if pen.reversed { (back, front) } else { (front, back) }
}

fn colour(colour: Colour, own: &str) -> String {
    match colour {
        Colour::Own => own.to_owned(),
        Colour::Rgb(red, green, blue) => format!("#{red:02x}{green:02x}{blue:02x}"),
        Colour::Indexed(n @ 0..16) => SIXTEEN[usize::from(n)].to_owned(),
        // xterm's cube of 6×6×6, and its greys.
        Colour::Indexed(n @ 16..232) => {
            let level = |n: u8| if n == 0 { 0 } else { 55 + 40 * n };
            let n = n - 16;
            format!("#{:02x}{:02x}{:02x}", level(n / 36), level(n / 6 % 6), level(n % 6))
        }
        Colour::Indexed(n) => {
            let grey = 8 + 10 * (n - 232);
            format!("#{grey:02x}{grey:02x}{grey:02x}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capture_becomes_exactly_this_picture() {
        let mut screen = Screen::new(8, 2);
        screen.write(b"\x1b[1mab\x1b[0m \x1b[38;2;255;84;84m<&>\x1b[39m\n\x1b[7m x \x1b[0m\x1b[38;5;244mgr");
        let own = "textLength=\"16.8\" lengthAdjust=\"spacingAndGlyphs\"";
        let lines = [
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 91.2 58.0\" width=\"91\" height=\"58\" \
             font-family=\"ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace\" font-size=\"14\" xml:space=\"preserve\">",
            "<rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"#16181d\"/>",
            &format!("<text x=\"12.0\" y=\"24.9\" {own} fill=\"#d4d4d4\" font-weight=\"bold\">ab</text>"),
            "<text x=\"37.2\" y=\"24.9\" textLength=\"25.2\" lengthAdjust=\"spacingAndGlyphs\" fill=\"#ff5454\">&lt;&amp;&gt;</text>",
            "<rect x=\"12.0\" y=\"29.0\" width=\"25.2\" height=\"17.0\" fill=\"#d4d4d4\"/>",
            "<text x=\"20.4\" y=\"41.9\" textLength=\"8.4\" lengthAdjust=\"spacingAndGlyphs\" fill=\"#16181d\">x</text>",
            &format!("<text x=\"37.2\" y=\"41.9\" {own} fill=\"#808080\">gr</text>"),
            "</svg>",
            "",
        ];
        assert_eq!(svg(&screen), lines.join("\n"));
    }

    #[test]
    fn dots_and_blocks_are_shapes_that_no_font_can_move() {
        let mut screen = Screen::new(5, 1);
        screen.write("⣁⠈▂░░".as_bytes());
        let drawn = svg(&screen);
        let shapes: Vec<&str> = drawn.lines().skip(2).collect();
        assert_eq!(
            shapes,
            [
                // The first dot of the left column, both of the last row, then the first of the right column, one cell on.
                "<path stroke=\"#d4d4d4\" stroke-width=\"2\" d=\"M13.1 14.1h2M13.1 26.9h2M17.3 26.9h2M25.7 14.1h2\"/>",
                "<rect x=\"28.8\" y=\"24.8\" width=\"8.4\" height=\"4.2\" fill=\"#d4d4d4\"/>",
                "<rect x=\"37.2\" y=\"12.0\" width=\"16.8\" height=\"17.0\" fill=\"#d4d4d4\" opacity=\"0.25\"/>",
                "</svg>",
            ]
        );
    }

    #[test]
    fn the_cube_and_the_greys_are_xterms() {
        let of = |n| colour(Colour::Indexed(n), FRONT);
        assert_eq!(
            [of(16), of(231), of(196), of(232), of(255)],
            ["#000000", "#ffffff", "#ff0000", "#080808", "#eeeeee"]
        );
    }
}
