//! What a path segment looks like: a literal, or an identifier, date, address or text that a template leaves out.

/// Longer segments are `{text}`.
const MAX_LITERAL_LEN: usize = 64;
/// Extensions that stay visible, so that `{id}.png` and `{id}.json` are two operations.
const EXTENSIONS: &[&str] = &[
    "asp", "aspx", "avif", "bin", "css", "csv", "do", "gif", "gz", "htm", "html", "ico", "jpeg", "jpg", "js",
    "json", "jsp", "m3u8", "map", "md", "mjs", "mp3", "mp4", "pdf", "php", "png", "rss", "svg", "tar", "tgz",
    "ts", "ttf", "txt", "wasm", "webm", "webp", "woff", "woff2", "xml", "yaml", "yml", "zip",
];

/// Literals never hold a brace: [`push_label`] makes `{text}` of such segments.
pub(super) fn is_literal(label: &str) -> bool {
    !label.starts_with('{')
}

/// What a literal is called once its parent is folded.
pub(super) fn star_label(literal: &str) -> &'static str {
    // One constant per extension, so that no name is made at run time.
    static STARS: std::sync::LazyLock<Vec<String>> = std::sync::LazyLock::new(|| {
        EXTENSIONS.iter().map(|extension| format!("{{*}}.{extension}")).collect()
    });
    match split_extension(literal) {
        (_, Some(idx)) => &STARS[idx],
        (_, None) => "{*}",
    }
}

/// The stem, and the index of a known extension.
fn split_extension(text: &str) -> (&str, Option<usize>) {
    if let Some((stem, extension)) = text.rsplit_once('.')
        && !stem.is_empty()
        && let Ok(idx) = EXTENSIONS.binary_search(&extension)
    {
        return (stem, Some(idx));
    }
    (text, None)
}

/// Appends a segment as it is, or the placeholder for what it looks like.
pub(super) fn push_label(segment: &[u8], out: &mut String) {
    // Matrix parameters (`;jsessionid=…`) are no part of the name.
    let segment = segment.split(|&byte| byte == b';').next().unwrap_or_default();
    let text = match str::from_utf8(segment) {
        Ok(text) if segment.iter().all(|&byte| is_plain(byte)) => text,
        _ => return out.push_str("{text}"),
    };
    let (stem, extension) = split_extension(text);
    let placeholder = if is_date(stem) {
        "{date}"
    } else if is_email(text) {
        return out.push_str("{email}");
    } else if is_id(stem) {
        "{id}"
    } else if text.len() > MAX_LITERAL_LEN {
        "{text}"
    } else {
        return out.push_str(text);
    };
    out.push_str(placeholder);
    if let Some(idx) = extension {
        out.push('.');
        out.push_str(EXTENSIONS[idx]);
    }
}

/// Bytes that a literal may hold: `pchar` of RFC 3986 without percent-encoding and `;`.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,=:@".contains(&byte)
}

/// `2024-01-31`, `2024-01`, `2024-01-31T12:00:00Z`.
fn is_date(text: &str) -> bool {
    let text = text.as_bytes();
    let digits = |range: std::ops::Range<usize>| {
        text.get(range).is_some_and(|part| part.iter().all(u8::is_ascii_digit))
    };
    let day = match text.len() {
        7 => true,
        10.. => text[7] == text[4] && digits(8..10),
        _ => false,
    };
    let time = text.get(10..).unwrap_or_default();
    day && digits(0..4)
        && matches!(text[4], b'-' | b'_' | b'.')
        && digits(5..7)
        && (time.is_empty() || (matches!(time[0], b'T' | b't' | b'_' | b'-') && time.len() <= 24))
}

/// Something, an at sign, and something with a dot.
fn is_email(text: &str) -> bool {
    text.split_once('@').is_some_and(|(user, host)| !user.is_empty() && host.contains('.'))
}

/// Numbers, UUIDs, hashes, tokens, and names with a number in them.
fn is_id(text: &str) -> bool {
    let bytes = text.as_bytes();
    if bytes.is_empty() {
        return false;
    }
    // Numbers, versions, addresses, coordinates, lists of numbers: digits and separators only.
    if bytes.iter().all(|byte| byte.is_ascii_digit() || b"-._,:+()".contains(byte)) {
        return bytes.iter().any(u8::is_ascii_digit);
    }
    is_token(bytes)
        || bytes.split(|byte| b"-._~!$&'()*+,=:@".contains(byte)).any(|piece| {
            // `order-1042`, `main.4f3a2b1c`, any part of a UUID.
            is_hash(piece)
                || has_long_number(piece)
                || (piece.len() >= 3 && piece.iter().all(u8::is_ascii_digit))
        })
}

/// Hexadecimal: from 8 digits on with a decimal one among them (`deadbeef` may be a word), from 16 on in any case.
fn is_hash(piece: &[u8]) -> bool {
    let piece = piece.strip_prefix(b"0x").unwrap_or(piece);
    piece.iter().all(u8::is_ascii_hexdigit)
        && (piece.len() >= 16 || (piece.len() >= 8 && piece.iter().any(u8::is_ascii_digit)))
}

/// Four decimal digits in a row: more than names such as `oauth2`, `sha256` or `x86` have.
fn has_long_number(piece: &[u8]) -> bool {
    piece.windows(4).any(|window| window.iter().all(u8::is_ascii_digit))
}

/// Random-looking: long, with digits or the padding of base 64, and changing between digits, small and capital letters more often than words do
/// (a capital before small letters is how words begin and is no change). Words in camel case change about every 6th
/// byte, random base 36 every 2.5th, random base 64 every 2.2th.
fn is_token(bytes: &[u8]) -> bool {
    const MIN_LEN: usize = 12;
    if bytes.len() < MIN_LEN
        || !bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.=~+".contains(byte))
    {
        return false;
    }
    #[derive(Clone, Copy, PartialEq)]
    enum Class {
        Digit,
        Small,
        Capital,
    }
    let classes = bytes.iter().filter_map(|byte| match byte {
        b'0'..=b'9' => Some(Class::Digit),
        b'a'..=b'z' => Some(Class::Small),
        b'A'..=b'Z' => Some(Class::Capital),
        _ => None,
    });
    let mut n_changes = 0;
    let mut n_digits = 0;
    let mut n_classed = 0;
    let mut last = None;
    for class in classes {
        n_classed += 1;
        n_digits += usize::from(class == Class::Digit);
        let begins_word = last == Some(Class::Capital) && class == Class::Small;
        n_changes += usize::from(last.is_some_and(|last| last != class) && !begins_word);
        last = Some(class);
    }
    let padded = bytes.ends_with(b"=");
    (n_digits >= 2 || padded) && n_changes * 10 >= n_classed * 3
}
