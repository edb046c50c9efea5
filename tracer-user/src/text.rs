//! Text that came from outside, made safe: for data formats (nothing lost) and for people's screens (nothing hidden).

use std::{fmt::Write as _, io::Write as _};

/// Bytes as text for JSON and Parquet: UTF-8 stays as it is, every byte that is not part of valid UTF-8 becomes `\xNN`.
/// The format around it escapes what it must.
pub fn data_text(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return text.into();
    }
    let mut out = String::with_capacity(bytes.len() + 16);
    for chunk in bytes.utf8_chunks() {
        out.push_str(chunk.valid());
        push_hex(&mut out, chunk.invalid());
    }
    out.into()
}

/// Appends a JSON string, quotes included. What a terminal would obey leaves as `\uXXXX`, which is the same text to a
/// JSON reader.
pub fn push_json(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let mut plain = 0;
    for (at, c) in text.char_indices() {
        if c != '"' && c != '\\' && !is_unsafe(c) {
            continue;
        }
        out.extend_from_slice(&text.as_bytes()[plain..at]);
        plain = at + c.len_utf8();
        match c {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\n' => out.extend_from_slice(b"\\n"),
            '\r' => out.extend_from_slice(b"\\r"),
            '\t' => out.extend_from_slice(b"\\t"),
            c => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    // Writing to a Vec cannot fail.
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
        }
    }
    out.extend_from_slice(&text.as_bytes()[plain..]);
    out.push(b'"');
}

/// Bytes as text for a screen: [`screen_text`], and `\xNN` for what is not UTF-8.
pub fn screen_bytes(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        push_screen(&mut out, chunk.valid());
        push_hex(&mut out, chunk.invalid());
    }
    out
}

/// Text for a screen: what would move the cursor, change colours, reorder or hide other text becomes visible.
pub fn screen_text(text: &str) -> std::borrow::Cow<'_, str> {
    if !text.chars().any(is_unsafe) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len() + 16);
    push_screen(&mut out, text);
    out.into()
}

fn push_hex(out: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(out, "\\x{byte:02x}");
    }
}

fn push_screen(out: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            c if is_unsafe(c) => {
                // Writing to a String cannot fail.
                let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
            }
            c => out.push(c),
        }
    }
}

/// Control characters (C0, DEL, C1), line and paragraph separators, bidirectional controls, zero-width and other
/// invisible format characters, tags, variation selectors, byte order mark, interlinear annotation.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(u32::from(c),
            0xad | 0x34f | 0x61c | 0x115f..=0x1160 | 0x17b4..=0x17b5 | 0x180b..=0x180f
            | 0x200b..=0x200f | 0x2028..=0x202e | 0x2060..=0x206f | 0x3164 | 0xfe00..=0xfe0f
            | 0xfeff | 0xffa0 | 0xfff0..=0xfffb | 0x1bca0..=0x1bca3 | 0x1d173..=0x1d17a
            | 0xe0000..=0xe0fff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_text_keeps_utf8_and_spells_out_the_rest() {
        assert_eq!(data_text("GET /나\u{1b}".as_bytes()), "GET /나\u{1b}");
        assert_eq!(data_text(b"/a\xff\xc3(/b"), "/a\\xff\\xc3(/b");
        assert_eq!(data_text(b"cut \xec\x95"), "cut \\xec\\x95");
    }

    #[test]
    fn nothing_that_a_terminal_obeys_gets_through() {
        assert_eq!(screen_bytes(b"\x1b[2J\x9b2J\r\n\x00\x7f"), "\\u{1b}[2J\\x9b2J\\r\\n\\u{0}\\u{7f}");
        assert_eq!(screen_text("a\u{9b}31m"), "a\\u{9b}31m");
        assert_eq!(screen_text("\u{202e}evil\u{200b}\u{feff}"), "\\u{202e}evil\\u{200b}\\u{feff}");
        assert_eq!(screen_text("안녕 /주문 é"), "안녕 /주문 é");
    }

    #[test]
    fn every_control_and_bidi_character_is_caught() {
        let all = (0..=0x10_ffff).filter_map(char::from_u32);
        for c in all.filter(|c| c.is_control() || ('\u{202a}'..='\u{202e}').contains(c)) {
            let text = c.to_string();
            let shown = screen_text(&text);
            assert!(shown.starts_with('\\'), "{:x}", u32::from(c));
            assert!(shown.is_ascii());
        }
    }
}
