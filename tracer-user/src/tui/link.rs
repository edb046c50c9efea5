//! A link to another tool: a template with a transaction's facts, and the way of a text to the terminal's clipboard. Pure.

use crate::transaction::Transaction;

/// The longest template, and with it (names are bounded) the longest link.
const MAX_TEMPLATE: usize = 2_048;

/// A URL with holes: `{trace_id}`, `{from_ms}`, `{to_ms}`, `{service}`, `{operation}`, `{conn_id}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Hole(Hole),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hole {
    TraceId,
    FromMs,
    ToMs,
    Service,
    Operation,
    ConnId,
}

impl Hole {
    const ALL: [(&str, Hole); 6] = [
        ("trace_id", Hole::TraceId),
        ("from_ms", Hole::FromMs),
        ("to_ms", Hole::ToMs),
        ("service", Hole::Service),
        ("operation", Hole::Operation),
        ("conn_id", Hole::ConnId),
    ];
}

/// What is wrong with a template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("URL template: {0}")]
pub struct TemplateError(String);

impl Template {
    /// Reads a template.
    pub fn parse(text: &str) -> Result<Template, TemplateError> {
        let fail = |what: String| Err(TemplateError(what));
        if text.is_empty() || text.len() > MAX_TEMPLATE {
            return fail(format!("it has {} bytes; 1 to {MAX_TEMPLATE} are allowed", text.len()));
        }
        if text.chars().any(|c| {
            c.is_whitespace()
                || c != '\u{fffd}'
                    && crate::text::screen_text(c.encode_utf8(&mut [0; 4])).len() != c.len_utf8()
        }) {
            return fail("blanks and control characters are no part of a URL".to_owned());
        }
        let (mut pieces, mut rest) = (Vec::new(), text);
        while let Some((before, behind)) = rest.split_once('{') {
            let Some((name, behind)) = behind.split_once('}') else {
                return fail(format!("'{{{behind}' is not closed"));
            };
            let Some((_, hole)) = Hole::ALL.iter().find(|(known, _)| *known == name) else {
                let known = Hole::ALL.map(|(name, _)| format!("{{{name}}}")).join(" ");
                return fail(format!("there is no '{{{name}}}'; known are {known}"));
            };
            pieces.extend([Piece::Text(before.to_owned()), Piece::Hole(*hole)]);
            rest = behind;
        }
        pieces.push(Piece::Text(rest.to_owned()));
        Ok(Template(pieces))
    }

    /// The link of a transaction. An error says what the transaction has not.
    pub fn url(&self, of: &Transaction) -> Result<String, String> {
        let mut url = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => url.push_str(text),
                Piece::Hole(Hole::FromMs) => url.push_str(&(of.start_time.0 / 1_000_000).to_string()),
                // Up to the end: rounded up.
                Piece::Hole(Hole::ToMs) => url.push_str(&of.end_time.0.div_ceil(1_000_000).to_string()),
                Piece::Hole(Hole::Service) => push_encoded(&mut url, &of.service),
                Piece::Hole(Hole::Operation) => push_encoded(&mut url, &of.operation),
                Piece::Hole(Hole::ConnId) => url.push_str(&format!("{:016x}", of.conn.0)),
                Piece::Hole(Hole::TraceId) => {
                    return Err("the template wants a trace id, and transactions have none".to_owned());
                }
            }
        }
        Ok(url)
    }
}

/// Percent-encoded: all but the unreserved characters of RFC 3986, section 2.3.
fn push_encoded(url: &mut String, text: &str) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            url.push(char::from(byte));
        } else {
            url.push_str(&format!("%{byte:02X}"));
        }
    }
}

/// The bytes that put a text into the clipboard of a terminal that allows it (OSC 52).
pub fn clipboard(text: &str) -> Vec<u8> {
    [b"\x1b]52;c;".as_slice(), base64(text.as_bytes()).as_bytes(), b"\x07"].concat()
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let value = (0..3).fold(0_u32, |value, i| value << 8 | u32::from(chunk.get(i).copied().unwrap_or(0)));
        for i in 0..4 {
            let digit = DIGITS[(value >> (18 - 6 * i) & 63) as usize];
            out.push(if i <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::compliance::transaction;

    #[test]
    fn a_template_is_filled_with_encoded_values() {
        let template =
            Template::parse("https://t.example/s?s={service}&o={operation}&f={from_ms}&t={to_ms}#{conn_id}")
                .unwrap();
        let of =
            Transaction { service: "주 &?#/%".into(), operation: "GET /item/{id}".into(), ..transaction(1) };
        assert_eq!(
            template.url(&of).unwrap(),
            "https://t.example/s?s=%EC%A3%BC%20%26%3F%23%2F%25&o=GET%20%2Fitem%2F%7Bid%7D\
             &f=1700000000010&t=1700000000012#000000000000abcd"
        );
        let hostile = Transaction { service: "\u{1b}]0;x\u{7}\n\u{202e}".into(), ..transaction(1) };
        assert!(template.url(&hostile).unwrap().bytes().all(|byte| byte.is_ascii_graphic()));
    }

    #[test]
    fn what_is_no_template_is_refused_and_says_why() {
        let fails = |text: &str, word: &str| {
            let error = Template::parse(text).expect_err(text).to_string();
            assert!(error.contains(word), "{text:?}: {error}");
        };
        fails("http://x/{trace}", "{trace_id}");
        fails("http://x/{service", "not closed");
        fails("http://x/\u{1b}[2J", "control");
        fails("http://x/\u{202e}", "control");
        fails("http://x/ y", "blanks");
        fails("", "bytes");
        fails(&"x".repeat(MAX_TEMPLATE + 1), "bytes");
        let error = Template::parse("http://x/{trace_id}").unwrap().url(&transaction(1)).unwrap_err();
        assert!(error.contains("trace id"), "{error}");
    }

    #[test]
    fn the_clipboard_gets_base64() {
        for (text, digits) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(text.as_bytes()), digits);
        }
        assert_eq!(clipboard("foo"), b"\x1b]52;c;Zm9v\x07");
    }
}
