//! The trace id that a request carries, out of its head: what other tools call the same request. Pure. Without one, a field costs a look at its length.
//!
//! * W3C: <https://www.w3.org/TR/trace-context/#traceparent-header>
//! * B3, in one field or several: <https://github.com/openzipkin/b3-propagation>
//! * Google Cloud: <https://cloud.google.com/trace/docs/trace-context>
//! * AWS X-Ray: <https://docs.aws.amazon.com/xray/latest/devguide/xray-concepts.html#xray-concepts-tracingheader>
//! * Jaeger: <https://www.jaegertracing.io/docs/1.22/client-libraries/#trace-span-identity>
//! * SkyWalking: <https://skywalking.apache.org/docs/main/latest/en/api/x-process-propagation-headers-v3/>
//! * Pinpoint's and Scouter's fields have no specification: they are read as their agents write them.

use std::{borrow::Cow, sync::Arc};

use base64::Engine as _;

/// A longer value is none of these: sw8, with an endpoint's name in it, is the longest, and its agents cut that at 150 characters.
const MAX_VALUE: usize = 2_048;
/// Longest id: Pinpoint's, of an agent's name (255 at most), a time and a number. SkyWalking's have some 50 characters.
const MAX_ID: usize = 300;

/// A trace id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceId {
    /// As the tool writes it that it belongs to; graphic ASCII.
    pub id: String,
    /// The field it was found in.
    pub field: &'static str,
}

/// There is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NoTraceId {
    /// Fields that are there and hold none.
    pub malformed: Vec<&'static str>,
}

impl std::fmt::Display for NoTraceId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.malformed.as_slice() {
            [] => write!(f, "no trace id: neither {}", FIELDS.map(|(name, _)| name).join(", ")),
            fields => write!(f, "no trace id: {} without a valid one", fields.join(", ")),
        }
    }
}

/// What reads the id out of a value.
type Read = fn(&str) -> Option<Cow<'_, str>>;

/// The fields that are looked for, the best first.
const FIELDS: [(&str, Read); 10] = [
    ("traceparent", traceparent),
    ("b3", b3),
    ("X-B3-TraceId", hex16_or_32),
    ("X-Cloud-Trace-Context", google),
    ("X-Amzn-Trace-Id", amazon),
    ("uber-trace-id", jaeger),
    ("sw8", skywalking),
    ("Pinpoint-TraceID", pinpoint),
    ("X-Scouter-Gxid", scouter),
    // Scouter's older agents.
    ("scouter_gxid", scouter),
];

/// Which of the fields a name is, if any. Asked of every field of every request: the length tells nearly all of them apart.
fn rank(name: &[u8]) -> Option<usize> {
    let is_short = matches!(name.len(), 2 | 3 | 11..=16 | 21);
    is_short
        .then(|| FIELDS.iter().position(|(field, _)| field.as_bytes().eq_ignore_ascii_case(name)))
        .flatten()
}

/// Whether a field of this name may hold a trace id.
pub fn is_field(name: &[u8]) -> bool {
    rank(name).is_some()
}

/// The trace id in the fields of a request's head.
pub fn of_fields<'a>(fields: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Option<Arc<str>> {
    let mut values = [Values::None; FIELDS.len()];
    for (name, value) in fields {
        if let Some(rank) = rank(name) {
            values[rank] = values[rank].and(value, false);
        }
    }
    best(&values, &mut Vec::new()).map(|(id, _)| id.into())
}

/// The trace id in the first of these heads that has one: of the request, then of the response, which some servers put it into.
pub fn find(heads: [&[u8]; 2]) -> Result<TraceId, NoTraceId> {
    let mut missing = NoTraceId::default();
    for head in heads {
        if let Some((id, field)) = best(&of_head(head), &mut missing.malformed) {
            return Ok(TraceId { id: id.into_owned(), field });
        }
    }
    missing.malformed.dedup();
    Err(missing)
}

/// The values of a field.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Values<'a> {
    None,
    One(&'a str),
    /// Several that differ, a folded one, or one that is no text.
    Unclear,
}

impl<'a> Values<'a> {
    /// One more is there.
    fn and(self, value: &'a [u8], is_folded: bool) -> Values<'a> {
        let text = str::from_utf8(value.trim_ascii()).ok().filter(|text| {
            !is_folded && text.len() <= MAX_VALUE && text.bytes().all(|byte| byte == b' ' || is_graphic(byte))
        });
        match (self, text) {
            (Values::None, Some(text)) => Values::One(text),
            (Values::One(before), Some(text)) if before == text => Values::One(text),
            _ => Values::Unclear,
        }
    }
}

/// The id of the best field that has one, and the field; `malformed` are better ones without.
fn best<'a>(
    values: &[Values<'a>; FIELDS.len()],
    malformed: &mut Vec<&'static str>,
) -> Option<(Cow<'a, str>, &'static str)> {
    for ((field, read), values) in FIELDS.into_iter().zip(values) {
        match values {
            Values::None => {}
            Values::One(value) => match read(value) {
                Some(id) if id.len() <= MAX_ID => return Some((id, field)),
                _ => malformed.push(field),
            },
            Values::Unclear => malformed.push(field),
        }
    }
    None
}

fn of_head(head: &[u8]) -> [Values<'_>; FIELDS.len()] {
    let mut values = [Values::None; FIELDS.len()];
    let mut lines = head.split(|byte| *byte == b'\n').skip(1).peekable();
    while let Some(line) = lines.next() {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        // A blank before the colon is no part of a name, but servers let it pass.
        if let Some(rank) = rank(line[..colon].trim_ascii_end()) {
            let is_folded = lines.peek().is_some_and(|next| matches!(next.first(), Some(b' ' | b'\t')));
            values[rank] = values[rank].and(&line[colon + 1..], is_folded);
        }
    }
    values
}

fn is_graphic(byte: u8) -> bool {
    byte.is_ascii_graphic()
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// As many hexadecimal digits, not all of them zero, in lower case.
fn hex<'a>(text: &'a str, lengths: &[usize]) -> Option<Cow<'a, str>> {
    let is_id = lengths.contains(&text.len()) && is_hex(text) && text.bytes().any(|byte| byte != b'0');
    let has_upper = text.bytes().any(|byte| byte.is_ascii_uppercase());
    is_id.then(|| if has_upper { text.to_ascii_lowercase().into() } else { text.into() })
}

/// Of numbers without their leading zeros.
const ANY_LENGTH: [usize; 32] = {
    let mut lengths = [1; 32];
    let mut at = 1;
    while at < lengths.len() {
        lengths[at] = at + 1;
        at += 1;
    }
    lengths
};

fn hex16_or_32(value: &str) -> Option<Cow<'_, str>> {
    hex(value, &[16, 32])
}

/// `00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01`. Versions to come may have more behind it; 255 is none.
fn traceparent(value: &str) -> Option<Cow<'_, str>> {
    let mut parts = value.splitn(5, '-');
    let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_lower = |text: &str| !text.bytes().any(|byte| byte.is_ascii_uppercase());
    let is_valid = version.len() == 2
        && is_hex(version)
        && version != "ff"
        && hex(parent, &[16]).is_some()
        && flags.len() == 2
        && is_hex(flags)
        && is_lower(value)
        && (version != "00" || parts.next().is_none());
    is_valid.then(|| hex(trace, &[32])).flatten()
}

/// `80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1-05e3ac9a4f6e3b90`; the last two may be missing. `0` alone says that nothing is
/// sampled: no trace.
fn b3(value: &str) -> Option<Cow<'_, str>> {
    let (trace, rest) = value.split_once('-')?;
    let mut rest = rest.splitn(3, '-');
    let is_valid = hex(rest.next()?, &[16]).is_some()
        && rest.next().is_none_or(|sampled| matches!(sampled, "0" | "1" | "d"))
        && rest.next().is_none_or(|parent| hex(parent, &[16]).is_some());
    is_valid.then(|| hex16_or_32(trace)).flatten()
}

/// `105445aa7843bc8bf206b12000100000/1;o=1`; what is behind the id may be missing.
fn google(value: &str) -> Option<Cow<'_, str>> {
    hex(value.split(['/', ';']).next()?, &[32])
}

/// `Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1`, in any order.
fn amazon(value: &str) -> Option<Cow<'_, str>> {
    let root = value.split(';').find_map(|part| part.trim_start().strip_prefix("Root="))?;
    let (time, unique) = root.strip_prefix("1-")?.split_once('-')?;
    let is_valid = time.len() == 8 && is_hex(time) && hex(unique, &[24]).is_some();
    is_valid.then(|| root.to_ascii_lowercase().into())
}

/// `trace:span:parent:flags`, the colons perhaps percent-encoded; leading zeros may be left out.
fn jaeger(value: &str) -> Option<Cow<'_, str>> {
    let plain = value.replace("%3A", ":").replace("%3a", ":");
    let parts: Vec<&str> = plain.split(':').collect();
    let [trace, span, parent, flags] = parts.as_slice() else { return None };
    let is_number = |text: &str, most: usize| (1..=most).contains(&text.len()) && is_hex(text);
    let is_valid = is_number(span, 16) && is_number(parent, 16) && is_number(flags, 2);
    let id = hex(trace, &ANY_LENGTH)?;
    is_valid.then(|| id.into_owned().into())
}

/// `1-TRACE-SEGMENT-3-SERVICE-INSTANCE-ENDPOINT-ADDRESS`, all texts in base64.
fn skywalking(value: &str) -> Option<Cow<'_, str>> {
    let parts: Vec<&str> = value.split('-').collect();
    let ["0" | "1", trace, ..] = parts.as_slice() else { return None };
    let id = base64::engine::general_purpose::STANDARD.decode(trace).ok()?;
    let is_valid = parts.len() == 8 && !id.is_empty() && id.iter().copied().all(is_graphic);
    is_valid.then(|| String::from_utf8(id).ok()).flatten().map(Cow::Owned)
}

/// `agent^start^number`.
fn pinpoint(value: &str) -> Option<Cow<'_, str>> {
    let parts: Vec<&str> = value.split('^').collect();
    let [agent, start, number] = parts.as_slice() else { return None };
    let is_agent = (1..=255).contains(&agent.len())
        && agent.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    let is_valid = is_agent && start.parse::<u64>().is_ok() && number.parse::<u64>().is_ok();
    is_valid.then(|| value.into())
}

/// A 64-bit number: `x` (or `z` for a negative one) and digits of base 32, or below ten a decimal digit.
fn scouter(value: &str) -> Option<Cow<'_, str>> {
    let (digits, radix) = match value.strip_prefix(['x', 'z']) {
        Some(digits) => (digits, 32),
        None => (value, 10),
    };
    let is_unsigned = !digits.starts_with(['+', '-']);
    let number = i64::from_str_radix(digits, radix).ok();
    // The lowest number has no positive counterpart.
    let is_lowest = value == "z8000000000000";
    (is_unsigned && number.is_some_and(|number| number != 0) || is_lowest).then(|| value.into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(fields: &str) -> Result<TraceId, NoTraceId> {
        find([format!("GET /x HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n").as_bytes(), b""])
    }

    const VALID: [(&str, &str); 24] = [
        (
            "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "4bf92f3577b34da6a3ce929d0e0e4736",
        ),
        (
            "TraceParent:cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-comes",
            "4bf92f3577b34da6a3ce929d0e0e4736",
        ),
        (
            "b3: 80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1-05e3ac9a4f6e3b90",
            "80f198ee56343ba864fe8b2a57d3eff7",
        ),
        ("b3: 64fe8b2a57d3eff7-e457b5a2e4d86bd1", "64fe8b2a57d3eff7"),
        ("B3: 64fe8b2a57d3eff7-e457b5a2e4d86bd1-d", "64fe8b2a57d3eff7"),
        ("X-B3-TraceId: 463AC35C9F6413AD48485A3953BB6124", "463ac35c9f6413ad48485a3953bb6124"),
        ("x-b3-traceid: 48485a3953bb6124\r\nx-b3-spanid: a2fb4a1d1a96d312", "48485a3953bb6124"),
        ("X-Cloud-Trace-Context: 105445aa7843bc8bf206b12000100000/1;o=1", "105445aa7843bc8bf206b12000100000"),
        ("X-Cloud-Trace-Context: 105445aa7843bc8bf206b12000100000", "105445aa7843bc8bf206b12000100000"),
        ("X-Amzn-Trace-Id: Root=1-5759e988-bd862e3fe1be46a994272793", "1-5759e988-bd862e3fe1be46a994272793"),
        (
            "X-Amzn-Trace-Id: Self=1-67891234-12456789abcdef012345678;Root=1-5759e988-bd862e3fe1be46a994272793;Sampled=1",
            "1-5759e988-bd862e3fe1be46a994272793",
        ),
        (
            "X-Amzn-Trace-Id: Parent=53995c3f42cd8ad8; Root=1-5759E988-bd862e3fe1be46a994272793",
            "1-5759e988-bd862e3fe1be46a994272793",
        ),
        ("uber-trace-id: 3aab85d9ee10bc3f:3aab85d9ee10bc3f:0:1", "3aab85d9ee10bc3f"),
        ("uber-trace-id: 1%3A2%3a0%3A1", "1"),
        ("sw8: 1-MDAwMS4xLjE=-MC4xLjE=-3-c3Zj-aW5z-L3g=-MTI3LjAuMC4xOjgw", "0001.1.1"),
        ("Pinpoint-TraceID: shop-1^1700000000000^42", "shop-1^1700000000000^42"),
        ("X-Scouter-Gxid: x4nlq8dhr0d7v", "x4nlq8dhr0d7v"),
        ("X-Scouter-Gxid: z1tkbmkkcql0r9", "z1tkbmkkcql0r9"),
        ("X-Scouter-Gxid: z8000000000000", "z8000000000000"),
        ("X-Scouter-Gxid: 7", "7"),
        ("scouter_gxid: x1", "x1"),
        ("X-B3-TraceId : 48485a3953bb6124", "48485a3953bb6124"),
        ("X-B3-TraceId: 48485a3953bb6124\r\nX-B3-TraceId: 48485a3953bb6124", "48485a3953bb6124"),
        // The best comes first, wherever it stands.
        (
            "X-Scouter-Gxid: x1\r\ntraceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "4bf92f3577b34da6a3ce929d0e0e4736",
        ),
    ];

    #[test]
    fn each_tools_field_gives_the_id_as_that_tool_writes_it() {
        for (fields, id) in VALID {
            assert_eq!(of(fields).map(|found| found.id), Ok(id.to_owned()), "{fields}");
        }
        for (fields, id) in VALID {
            // The same of fields that are taken apart already.
            let lines = fields.split("\r\n").filter_map(|line| line.split_once(':'));
            let lines = lines.map(|(name, value)| (name.trim_end().as_bytes(), value.as_bytes()));
            assert_eq!(of_fields(lines).as_deref(), Some(id), "{fields}");
        }
        let named: Vec<&str> =
            VALID.iter().filter_map(|(fields, _)| of(fields).ok()).map(|found| found.field).collect();
        for (field, _) in FIELDS {
            assert!(named.contains(&field), "{field} is not tried");
        }
    }

    #[test]
    fn what_only_looks_like_an_id_is_none_and_its_field_is_named() {
        for fields in [
            "traceparent: 00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "traceparent: ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "traceparent: 00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
            "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736",
            "traceparent: ",
            "b3: 0",
            "b3: d",
            "b3: 64fe8b2a57d3eff7",
            "b3: 64fe8b2a57d3eff7-e457b5a2e4d86bd1-2",
            "X-B3-TraceId: 48485a3953bb612",
            "X-B3-TraceId: 48485a3953bb612g",
            "X-B3-TraceId: 0000000000000000",
            "X-Cloud-Trace-Context: 105445aa7843bc8bf206b1200010000/1;o=1",
            "X-Amzn-Trace-Id: Parent=53995c3f42cd8ad8",
            "X-Amzn-Trace-Id: Root=2-5759e988-bd862e3fe1be46a994272793",
            "X-Amzn-Trace-Id: Root=1-5759e988-bd862e3fe1be46a99427279",
            "uber-trace-id: 3aab85d9ee10bc3f",
            "uber-trace-id: 0:1:0:1",
            "uber-trace-id: 123456789012345678901234567890123:1:0:1",
            "sw8: 1-MDAwMS4xLjE=",
            "sw8: 2-MDAwMS4xLjE=-MC4xLjE=-3-c3Zj-aW5z-L3g=-MTI3LjAuMC4xOjgw",
            "sw8: 1-!-MC4xLjE=-3-c3Zj-aW5z-L3g=-MTI3LjAuMC4xOjgw",
            // An escape and a line feed, in base64.
            "sw8: 1-G1sySgo=-MC4xLjE=-3-c3Zj-aW5z-L3g=-MTI3LjAuMC4xOjgw",
            "Pinpoint-TraceID: shop^1",
            "Pinpoint-TraceID: sh/op^1^2",
            "Pinpoint-TraceID: shop^-1^2",
            "X-Scouter-Gxid: x",
            "X-Scouter-Gxid: x0",
            "X-Scouter-Gxid: xw",
            "X-Scouter-Gxid: x-1",
            "X-Scouter-Gxid: -7",
            "X-Scouter-Gxid: xvvvvvvvvvvvvv",
            "X-B3-TraceId: 48485a3953bb6124\r\nX-B3-TraceId: 48485a3953bb6125",
            "X-B3-TraceId: 48485a3953bb6124\r\n  48485a3953bb6124",
            "X-B3-TraceId: 48485a39 53bb6124",
            "X-B3-TraceId: 48485a3953bb612\u{430}",
        ] {
            let name = fields.split(':').next().unwrap();
            assert_eq!(of(fields), Err(NoTraceId { malformed: vec![name] }), "{fields}");
        }
        assert_eq!(of("X-Request-Id: 4bf92f3577b34da6a3ce929d0e0e4736"), Err(NoTraceId::default()));
        let text = NoTraceId::default().to_string();
        assert!(FIELDS.iter().all(|(field, _)| text.contains(field)), "{text}");
        assert!(NoTraceId { malformed: vec!["b3"] }.to_string().contains("b3 without"));
    }

    #[test]
    fn a_request_line_is_no_field_a_worse_field_is_better_than_none_and_a_response_is_asked_last() {
        assert_eq!(find([b"b3: 64fe8b2a57d3eff7-e457b5a2e4d86bd1\r\n\r\n", b""]), Err(NoTraceId::default()));
        assert_eq!(
            of("traceparent: none\r\nX-Scouter-Gxid: x1").map(|found| found.field),
            Ok("X-Scouter-Gxid")
        );
        let response = b"HTTP/1.1 200 OK\r\nX-B3-TraceId: 48485a3953bb6124\r\n\r\n";
        let request = b"GET / HTTP/1.1\r\nX-Scouter-Gxid: x1\r\n\r\n";
        assert_eq!(find([b"", response]).map(|found| found.field), Ok("X-B3-TraceId"));
        assert_eq!(find([request, response]).map(|found| found.field), Ok("X-Scouter-Gxid"));
    }

    #[test]
    fn a_value_that_is_too_long_is_none() {
        let long = |n: usize| format!("Pinpoint-TraceID: {}^1^2", "a".repeat(n));
        assert!(of(&long(255)).is_ok() && of(&long(256)).is_err() && of(&long(100_000)).is_err());
    }

    proptest! {
        /// Whatever comes over the network: an id is short and graphic, so that it cannot do anything to a terminal.
        #[test]
        fn an_id_is_short_and_graphic(
            field in 0..FIELDS.len(),
            value in prop_oneof![
                any::<Vec<u8>>(),
                "[0-9a-f]{1,40}([-:^/;=.][0-9a-zA-Z=]{0,30}){0,8}".prop_map(String::into_bytes),
            ],
            rest in any::<Vec<u8>>(),
        ) {
            let name = FIELDS[field].0.as_bytes();
            let head = [b"GET / HTTP/1.1\r\n", name, b": ", &value, b"\r\n", &rest].concat();
            if let Ok(TraceId { id, .. }) = find([&head, &rest]) {
                prop_assert!(!id.is_empty() && id.len() <= MAX_ID && id.bytes().all(is_graphic));
            }
        }
    }
}
