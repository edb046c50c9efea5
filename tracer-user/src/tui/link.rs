//! A link to another tool: a template with a transaction's facts, and the way of a text to the terminal's clipboard. Pure.

use base64::Engine as _;

use super::{app::App, errand::Errand, heads::ShownHeads};
use crate::{
    protocol::codec::trace_id::{self, TraceId},
    source::heads::Head,
    text::screen_text,
    transaction::Transaction,
};

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

    /// Whether it has a hole for the trace id, which only the heads of a transaction can fill.
    pub fn wants_trace_id(&self) -> bool {
        self.0.contains(&Piece::Hole(Hole::TraceId))
    }

    /// The link of a transaction, and of the trace id in its heads. An error says what is missing.
    pub fn url(&self, of: &Transaction, trace: Option<&TraceId>) -> Result<String, String> {
        let mut url = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => url.push_str(text),
                Piece::Hole(Hole::FromMs) => url.push_str(&(of.start_time.0 / 1_000_000).to_string()),
                // Up to the end: rounded up.
                Piece::Hole(Hole::ToMs) => url.push_str(&of.end_time.0.div_ceil(1_000_000).to_string()),
                Piece::Hole(Hole::Service) => push_encoded(&mut url, &of.service),
                Piece::Hole(Hole::Operation) => push_encoded(&mut url, &of.operation),
                Piece::Hole(Hole::ConnId) => url.push_str(&format!("{:016x}", of.on_wire().0)),
                Piece::Hole(Hole::TraceId) => {
                    let trace = trace.ok_or("the link wants a trace id, and none is known")?;
                    push_encoded(&mut url, &trace.id);
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
    let encoded = base64::engine::general_purpose::STANDARD.encode(text);
    [b"\x1b]52;c;".as_slice(), encoded.as_bytes(), b"\x07"].concat()
}

/// The trace id in some heads. An error says why there is none.
fn trace_id(heads: &ShownHeads) -> Result<TraceId, String> {
    let heads = match heads {
        ShownHeads::Known(heads) => heads,
        ShownHeads::Failed(error) => return Err(format!("no trace id: no heads: {}", screen_text(error))),
        ShownHeads::NotText => return Err("no trace id: this protocol has no heads in text".to_owned()),
        ShownHeads::NoRecording | ShownHeads::Loading => {
            return Err(format!("no trace id: {}", ShownHeads::HOW_TO_HAVE_THEM));
        }
    };
    let (mut cut, mut bytes) = (false, [&[][..]; 2]);
    for (bytes, head) in bytes.iter_mut().zip([&heads.request, &heads.response]) {
        match head {
            Head::Whole(head) => *bytes = head,
            Head::Cut(head) => (*bytes, cut) = (head, true),
            Head::NotFound => cut = true,
        }
    }
    let more = if cut { "; a head is cut or missing" } else { "" };
    trace_id::find(bytes).map_err(|none| format!("{none}{more}"))
}

impl App {
    /// The link of what is shown or selected: at once, or when its heads have come.
    pub(super) fn link(&mut self, row: &std::sync::Arc<Transaction>) {
        match &self.template {
            Some(template) if template.wants_trace_id() => {
                self.link_of = Some(row.clone());
                self.complaint = Some("fetching the heads, for the trace id …".to_owned());
            }
            Some(template) => {
                let url = template.url(row, None);
                self.show_link(url, None);
            }
            None => {
                let hint = "no link is set: --open-url 'https://…?service={service}&from={from_ms}'";
                self.complaint = Some(hint.to_owned());
            }
        }
    }

    /// Shows the link that waits for its heads, if they have come; whether there is something new to draw.
    pub fn link_with(&mut self, heads: &ShownHeads) -> bool {
        if matches!(heads, ShownHeads::Loading) {
            return false;
        }
        let (Some(row), Some(template)) = (self.link_of.take(), &self.template) else { return false };
        let (url, field) = match trace_id(heads) {
            Ok(trace) => (template.url(&row, Some(&trace)), Some(trace.field)),
            Err(why) => (Err(why), None),
        };
        self.complaint = None;
        self.show_link(url, field);
        true
    }

    fn show_link(&mut self, url: Result<String, String>, field: Option<&'static str>) {
        match url {
            Ok(url) => {
                (self.url, self.url_field, self.errand) = (Some(url.clone()), field, Some(Errand::Copy(url)))
            }
            Err(why) => self.complaint = Some(why),
        }
    }
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
            template.url(&of, None).unwrap(),
            "https://t.example/s?s=%EC%A3%BC%20%26%3F%23%2F%25&o=GET%20%2Fitem%2F%7Bid%7D\
             &f=1700000000010&t=1700000000012#000000000000abcd"
        );
        let hostile = Transaction { service: "\u{1b}]0;x\u{7}\n\u{202e}".into(), ..transaction(1) };
        assert!(template.url(&hostile, None).unwrap().bytes().all(|byte| byte.is_ascii_graphic()));
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
        let error = Template::parse("http://x/{trace_id}").unwrap().url(&transaction(1), None).unwrap_err();
        assert!(error.contains("trace id"), "{error}");
    }

    #[test]
    fn a_link_with_a_trace_id_waits_for_the_heads_and_says_which_field_it_is_from() {
        use crate::source::heads::Heads;

        let row = std::sync::Arc::new(transaction(1));
        let start = || {
            let template = Template::parse("http://x/{trace_id}?c={conn_id}").unwrap();
            let mut app = App { template: Some(template), ..App::default() };
            app.link(&row);
            assert!(app.url.is_none() && app.link_of.is_some() && app.complaint.is_some());
            app
        };
        let known = |request: Head, response: Head| ShownHeads::Known(Heads { request, response }.into());
        let with = |fields: &str| Head::Whole(format!("GET / HTTP/1.1\r\n{fields}\r\n\r\n").into());

        let mut app = start();
        assert!(!app.link_with(&ShownHeads::Loading) && app.link_of.is_some());
        // Who opens another one meanwhile waits: the heads are those of the one that the link is of.
        app.detail = Some(transaction(2).into());
        assert_eq!(app.heads_of().map(|row| row.seq), Some(row.seq));
        assert!(app.link_with(&known(with("Pinpoint-TraceID: a^1^2"), Head::NotFound)));
        assert_eq!(app.url.as_deref(), Some("http://x/a%5E1%5E2?c=000000000000abcd"));
        assert_eq!((app.url_field, app.complaint.clone()), (Some("Pinpoint-TraceID"), None));
        assert_eq!(app.errand, app.url.clone().map(Errand::Copy));
        // It was for one time.
        assert!(!app.link_with(&known(with("b3: 0"), Head::NotFound)));

        for (heads, words) in [
            (ShownHeads::NoRecording, &["--out DIR"][..]),
            (ShownHeads::Failed("\u{1b}[2Jgone".to_owned()), &["\\u{1b}[2Jgone"]),
            (known(with("Host: a"), with("Server: b")), &["traceparent", "sw8", "X-Scouter-Gxid"]),
            (known(with("b3: 0"), with("Server: b")), &["b3 without"]),
            (known(Head::Cut("GET / HTTP/1.1\r\nHost:".into()), with("A: b")), &["traceparent", "cut"]),
        ] {
            let mut app = start();
            assert!(app.link_with(&heads) && app.url.is_none() && app.errand.is_none());
            let said = app.complaint.clone().unwrap();
            assert!(words.iter().all(|word| said.contains(word)) && !said.contains('\u{1b}'), "{said}");
        }
    }

    #[test]
    fn the_clipboard_gets_base64() {
        assert_eq!(clipboard("foobar"), b"\x1b]52;c;Zm9vYmFy\x07");
        assert_eq!(clipboard("주?"), b"\x1b]52;c;7KO8Pw==\x07");
    }
}
