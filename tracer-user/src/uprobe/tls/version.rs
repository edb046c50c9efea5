//! Versions of libraries, from the texts that they carry. A library's version may stand in another file of the same process: OpenSSL's in
//! its libcrypto, NSS' in its libnss3.

use memchr::memmem;

use crate::uprobe::{
    elf::Elf,
    symbols::{Symbols, glob},
};

/// Bytes of constants of one file that are searched: Node's are 50 MB, and its OpenSSL's texts stand in the first half.
const MAX_CONSTANTS: u64 = 64 << 20;

/// What files said about versions of others.
#[derive(Debug, Default)]
pub(super) struct Hints {
    pub(super) openssl: Option<String>,
    pub(super) nss: Option<String>,
}

impl Hints {
    /// Takes from a file what it knows of others.
    pub(super) fn see(&mut self, constants: &[u8], symbols: &Symbols) {
        let [crypto, nss] = symbols.find(["OPENSSL_init_crypto", "NSS_GetVersion"]);
        if self.openssl.is_none() && crypto.is_some() {
            self.openssl = openssl(constants);
        }
        if self.nss.is_none() && nss.is_some() {
            self.nss = whole(constants, "3.*");
        }
    }
}

/// The file's constants.
pub(super) fn constants(elf: &Elf<'_>) -> Vec<u8> {
    elf.section(".rodata").map(|section| elf.data(section, MAX_CONSTANTS)).unwrap_or_default()
}

/// `OpenSSL 3.0.19 27 Jan 2026`, of which the number is the version.
pub(super) fn openssl(constants: &[u8]) -> Option<String> {
    // "OpenSSL 3.0" alone stands in texts about features.
    behind(constants, "OpenSSL ", 2)
}

/// `LibreSSL 3.8.2`.
pub(super) fn libressl(constants: &[u8]) -> Option<String> {
    behind(constants, "LibreSSL ", 2)
}

/// rustls leaves the paths of its sources, with its version in them, where it may panic.
pub(super) fn rustls(constants: &[u8]) -> Option<String> {
    behind(constants, "/rustls-", 2)
}

/// The first number with so many dots behind a text: `3.0.19`, `1.1.1w`.
fn behind(constants: &[u8], text: &str, n_dots: usize) -> Option<String> {
    memmem::find_iter(constants, text.as_bytes()).find_map(|at| {
        let rest = &constants[at + text.len()..];
        let end = rest.iter().take(24).position(|byte| !byte.is_ascii_alphanumeric() && *byte != b'.')?;
        let is_whole = rest[..end].iter().filter(|byte| **byte == b'.').count() >= n_dots;
        (is_whole && is_version(&rest[..end])).then(|| String::from_utf8_lossy(&rest[..end]).into_owned())
    })
}

/// A text of its own that is a number with dots and fits a pattern.
pub(super) fn whole(constants: &[u8], pattern: &str) -> Option<String> {
    let texts = constants.split(|&byte| byte == 0).filter(|text| (3..24).contains(&text.len()));
    let text = { texts }.find(|text| is_version(text) && glob(pattern.as_bytes(), text))?;
    Some(String::from_utf8_lossy(text).into_owned())
}

/// Digits, a dot, more of both; one letter may end it.
fn is_version(text: &[u8]) -> bool {
    let number = match text {
        [number @ .., b'a'..=b'z'] => number,
        number => number,
    };
    number.contains(&b'.')
        && number.first().is_some_and(u8::is_ascii_digit)
        && number.last().is_some_and(u8::is_ascii_digit)
        && number.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_numbers_with_dots_where_a_library_writes_them() {
        assert_eq!(
            openssl(b"\0OpenSSL error\0OpenSSL 3.0 \0OpenSSL 3.0.19 27 Jan 2026\0").as_deref(),
            Some("3.0.19")
        );
        assert_eq!(openssl(b"OpenSSL 1.1.1w  11 Sep 2023").as_deref(), Some("1.1.1w"));
        assert_eq!(openssl(b"OpenSSL "), None);
        assert_eq!(rustls(b"registry/src/x/rustls-0.23.37/src/check.rs").as_deref(), Some("0.23.37"));
        assert_eq!(rustls(b"/rustls-pki-types-1.0/src"), None);
        assert_eq!(whole(b"\x001.5\x003.7.9\x003.8.1\0", "3.*").as_deref(), Some("3.7.9"));
    }
}
