//! The head of a message for a screen: line by line, escaped, without the secrets in it.

use crate::text::screen_bytes;

/// What stands for a secret.
pub const REDACTED: &str = "REDACTED";
/// Fields whose values are secrets, in lower case.
const FIELDS: [&str; 5] = ["authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key"];
/// Query parameters whose values are secrets, in lower case: signatures and what they are made with, keys, tokens and passwords.
const PARAMETERS: [&str; 22] = [
    "awsaccesskeyid",
    "signature",
    "sig",
    "x-goog-signature",
    "x-amz-signature",
    "x-amz-credential",
    "x-amz-security-token",
    "access_token",
    "refresh_token",
    "id_token",
    "private_token",
    "token",
    "api_key",
    "apikey",
    "api-key",
    "x-api-key",
    "authorization",
    "password",
    "passwd",
    "pwd",
    "client_secret",
    "secret",
];

/// The lines of a head, safe to show; the empty line at its end is left out.
pub fn lines(head: &[u8]) -> Vec<String> {
    let mut lines: Vec<&[u8]> =
        head.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line)).collect();
    while lines.last().is_some_and(|line| line.is_empty()) {
        lines.pop();
    }
    // A folded line goes on with the value of the one before.
    let mut is_secret = false;
    let mut out = Vec::with_capacity(lines.len());
    for (i, line) in lines.into_iter().enumerate() {
        let is_folded = i != 0 && matches!(line.first(), Some(b' ' | b'\t'));
        if is_folded && is_secret {
            out.push(format!(" {REDACTED}"));
            continue;
        }
        let (name, _) = split_field(line);
        is_secret = i != 0 && !is_folded && is_named(name, &FIELDS);
        out.push(if is_secret {
            format!("{}: {REDACTED}", screen_bytes(name.trim_ascii()))
        } else {
            screen_bytes(&without_secrets(line))
        });
    }
    out
}

/// A target as it may be shown: escaped, without the secrets in it.
pub fn target(target: &[u8]) -> String {
    screen_bytes(&without_secrets(target))
}

/// A target, or any text with addresses in it, without the credentials before a host and without the values of parameters that are
/// secrets.
pub fn without_secrets(text: &[u8]) -> Vec<u8> {
    parameters(&credentials(text))
}

fn split_field(line: &[u8]) -> (&[u8], &[u8]) {
    let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
    (&line[..colon], line.get(colon + 1..).unwrap_or(&[]))
}

fn is_named(name: &[u8], names: &[&str]) -> bool {
    names.iter().any(|known| name.trim_ascii().eq_ignore_ascii_case(known.as_bytes()))
}

/// `scheme://user:password@host` becomes `scheme://REDACTED:REDACTED@host`.
fn credentials(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.windows(3).position(|bytes| bytes == b"://") {
        let (before, after) = rest.split_at(at + 3);
        out.extend_from_slice(before);
        let n_authority = after
            .iter()
            .position(|byte| matches!(byte, b'/' | b'?' | b'#' | b' ' | b'\t' | b'"' | b'<' | b'>'))
            .unwrap_or(after.len());
        // A password may hold an `@`: the last one is before the host.
        if let Some(end) = after[..n_authority].iter().rposition(|byte| *byte == b'@') {
            out.extend_from_slice(format!("{REDACTED}:{REDACTED}").as_bytes());
            rest = &after[end..];
        } else {
            rest = after;
        }
    }
    out.extend_from_slice(rest);
    out
}

/// The values of [`PARAMETERS`], wherever a query may stand.
fn parameters(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.iter().position(|byte| matches!(byte, b'?' | b'&' | b';')) {
        let (before, after) = rest.split_at(at + 1);
        out.extend_from_slice(before);
        rest = after;
        let Some(equals) = after.iter().position(|byte| matches!(byte, b'=' | b'?' | b'&' | b';' | b' '))
        else {
            break;
        };
        if after[equals] == b'=' && is_named(&decoded(&after[..equals]), &PARAMETERS) {
            let value = &after[equals + 1..];
            let ends = |byte: &u8| matches!(byte, b'&' | b';' | b'#' | b' ' | b'\t' | b'"' | b'<' | b'>');
            let n_value = value.iter().position(ends).unwrap_or(value.len());
            out.extend_from_slice(&after[..=equals]);
            out.extend_from_slice(REDACTED.as_bytes());
            rest = &value[n_value..];
        }
    }
    out.extend_from_slice(rest);
    out
}

/// `%53ig` means `Sig`.
fn decoded(name: &[u8]) -> Vec<u8> {
    let digit = |byte: Option<&u8>| char::from(*byte?).to_digit(16);
    let mut out = Vec::with_capacity(name.len());
    let mut at = 0;
    while at < name.len() {
        match (name[at], digit(name.get(at + 1)), digit(name.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            (byte, ..) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_in_fields_do_not_show_and_their_names_do() {
        let head = b"POST /x HTTP/1.1\r\nHost: shop\r\nAuthorization: Bearer s3cret\r\n\
            proxy-authorization:Basic czNjcmV0\r\nCOOKIE: a=s3cret; b=s3cret\r\nSet-Cookie: a=s3cret\r\n\
            X-Api-Key : s3cret\r\n\ts3cret\r\n s3cret\r\nAuthorization\r\nX-Authorization-Mode: none\r\n\r\n";
        assert_eq!(
            lines(head),
            [
                "POST /x HTTP/1.1",
                "Host: shop",
                "Authorization: REDACTED",
                "proxy-authorization: REDACTED",
                "COOKIE: REDACTED",
                "Set-Cookie: REDACTED",
                "X-Api-Key: REDACTED",
                " REDACTED",
                " REDACTED",
                "Authorization: REDACTED",
                "X-Authorization-Mode: none",
            ]
        );
    }

    #[test]
    fn secrets_in_addresses_do_not_show() {
        for (text, shown) in [
            ("/a?b=c&d=e", "/a?b=c&d=e"),
            ("/a?sig=abc&x=1", "/a?sig=REDACTED&x=1"),
            ("/a?x=1&Signature=abc%3D HTTP/1.1", "/a?x=1&Signature=REDACTED HTTP/1.1"),
            (
                "/a?X-Amz-Signature=1&X-Amz-Credential=2&X-Amz-Security-Token=3&AWSAccessKeyId=4",
                "/a?X-Amz-Signature=REDACTED&X-Amz-Credential=REDACTED&X-Amz-Security-Token=REDACTED&AWSAccessKeyId=REDACTED",
            ),
            ("/a?X-Goog-Signature=ab#top", "/a?X-Goog-Signature=REDACTED#top"),
            ("/a?%53ig=abc", "/a?%53ig=REDACTED"),
            ("/a?signature=a?sig=b&sig=", "/a?signature=REDACTED&sig=REDACTED"),
            ("/a?design=abc&sig", "/a?design=abc&sig"),
            (
                "/a?access_token=abc&Password=d%26e&secret=",
                "/a?access_token=REDACTED&Password=REDACTED&secret=REDACTED",
            ),
            ("/a?api_key=abc&client%5Fsecret=d", "/a?api_key=REDACTED&client%5Fsecret=REDACTED"),
            ("/token?tokens=3&password_reset=1&key=a", "/token?tokens=3&password_reset=1&key=a"),
            ("sig=abc", "sig=abc"),
            ("/a;sig=abc;y", "/a;sig=REDACTED;y"),
            ("GET http://u:p@h/x?sig=1 HTTP/1.1", "GET http://REDACTED:REDACTED@h/x?sig=REDACTED HTTP/1.1"),
            ("Referer: https://token@h", "Referer: https://REDACTED:REDACTED@h"),
            ("Location: https://u:p@q@h/@x", "Location: https://REDACTED:REDACTED@h/@x"),
            ("http://h/a@b http://u:p@h2", "http://h/a@b http://REDACTED:REDACTED@h2"),
            ("://", "://"),
            ("", ""),
        ] {
            assert_eq!(String::from_utf8(without_secrets(text.as_bytes())).unwrap(), shown, "{text}");
        }
    }

    #[test]
    fn what_a_terminal_would_obey_is_spelled_out() {
        assert_eq!(
            lines("GET /\u{1b}[2J\u{202e} HTTP/1.1\nA: 주문\r\n".as_bytes()),
            ["GET /\\u{1b}[2J\\u{202e} HTTP/1.1", "A: 주문"]
        );
        assert_eq!(
            lines(b"GET /\xff\0 HTTP/1.1\r\nA: \rb\r\n\r\n"),
            ["GET /\\xff\\u{0} HTTP/1.1", "A: \\rb"]
        );
        assert_eq!(lines(b""), Vec::<String>::new());
    }
}
