//! The libraries: what tells each, which of its functions take and give plaintext, and why there may be no place in it.

use super::{End, Function, Library, go, nss, reports::Code, rustls, stripped, version};
use crate::uprobe::{
    code::{Registers, Step},
    elf::Elf,
    placement::{Function as Instructions, Site},
    symbols::{Symbol, Symbols},
};

/// What a file turned out to hold.
#[derive(Debug, Default)]
pub(super) struct Family {
    pub(super) kind: &'static str,
    pub(super) version: Option<String>,
    pub(super) note: Option<String>,
}

/// A library with a C interface: known by defining all of `marks`, probed at `functions`, which take as many arguments.
struct Plain {
    kind: &'static str,
    marks: &'static [&'static str],
    functions: &'static [(&'static str, usize)],
}

const OPENSSL: &str = "OpenSSL";
const NSS: &str = "NSS";
/// By which OpenSSL and BoringSSL hand over their records. OpenSSL's is another file's as a rule, and serves for much else.
const RECORDS: [&str; 2] = ["BIO_write", "BIO_write_ex"];

const PLAIN: &[Plain] = &[
    Plain {
        kind: OPENSSL,
        marks: &["SSL_read", "SSL_write"],
        functions: &[
            ("SSL_read", 3),
            ("SSL_read_ex", 4),
            ("SSL_write", 3),
            ("SSL_write_ex", 4),
            ("SSL_write_early_data", 4),
            ("SSL_sendfile", 4),
            ("SSL_do_handshake", 1),
            ("SSL_free", 1),
            (RECORDS[0], 3),
            (RECORDS[1], 3),
        ],
    },
    Plain {
        kind: GNUTLS,
        marks: &["gnutls_record_send", "gnutls_record_recv"],
        functions: &[(GNUTLS_RECEIVE, 3), ("gnutls_record_send", 3), ("gnutls_record_send2", 3)],
    },
    Plain { kind: NSS, marks: &["SSL_ImportFD"], functions: &[] },
    Plain {
        kind: "mbed TLS",
        marks: &["mbedtls_ssl_read", "mbedtls_ssl_write"],
        functions: &[("mbedtls_ssl_read", 3), ("mbedtls_ssl_write", 3)],
    },
    Plain {
        kind: "wolfSSL",
        marks: &["wolfSSL_read", "wolfSSL_write"],
        functions: &[("wolfSSL_read", 3), ("wolfSSL_write", 3)],
    },
];

/// The families that a file holds, each with its functions.
pub(super) fn find(elf: &Elf<'_>, symbols: &Symbols, constants: &[u8]) -> Vec<(Family, Vec<Function>)> {
    let mut found = Vec::new();
    found.extend(go::find(elf));
    for plain in PLAIN {
        let defined: Vec<Symbol> = plain.marks.iter().filter_map(|name| symbols.named(name)).collect();
        if defined.len() == plain.marks.len() {
            found.extend(of_plain(plain, elf, symbols, constants));
        }
    }
    if let Some(rustls) = rustls::find(elf, symbols, constants) {
        found.push(rustls);
    }
    if elf.soname().is_some_and(|name| name == "libjvm.so") {
        let note = "Java's own TLS is compiled while it runs: there is no function in a file to probe";
        found.push((Family { kind: "Java", note: Some(note.to_owned()), ..Family::default() }, Vec::new()));
    }
    // Of what else is in the file it says nothing.
    let is_named =
        found.iter().any(|(family, _)| ["OpenSSL", "LibreSSL", "BoringSSL", "AWS-LC"].contains(&family.kind));
    if !is_named && !symbols.has_local {
        found.extend(stripped(elf, symbols, constants));
    }
    found
}

fn of_plain(
    plain: &Plain,
    elf: &Elf<'_>,
    symbols: &Symbols,
    constants: &[u8],
) -> Option<(Family, Vec<Function>)> {
    let mut family = Family { kind: plain.kind, ..Family::default() };
    match plain.kind {
        OPENSSL => {
            // GnuTLS' imitation calls GnuTLS, where it is seen.
            if elf.soname().is_some_and(|name| name.starts_with("libgnutls-openssl")) {
                return None;
            }
            family.kind = openssl_kind(symbols);
            if family.kind == OPENSSL {
                family.version = version::openssl(constants);
                if family.version.is_none() && version::libressl(constants).is_some() {
                    family.kind = "LibreSSL";
                    family.version = version::libressl(constants);
                }
            }
        }
        GNUTLS => family.version = version::whole(constants, "3.*"),
        _ => {}
    }
    let functions = plain.functions.iter().filter_map(|&(name, n_arguments)| {
        symbols.named(name).map(|symbol| c_function(elf, symbols, &symbol, n_arguments))
    });
    let mut functions: Vec<Function> = functions.collect();
    if plain.kind == NSS {
        match nss::functions(elf, symbols) {
            Some(found) => functions.extend(found.map(|symbol| c_function(elf, symbols, &symbol, 4))),
            None => family.note = Some("its tables of functions were not found in the file".to_owned()),
        }
    }
    if [OPENSSL, "LibreSSL"].contains(&family.kind) {
        functions.retain(|function| !RECORDS.contains(&function.name.as_str()));
    }
    // From 3.3 on what both forms call takes flags as well.
    if family.kind == OPENSSL && symbols.named("SSL_write_ex2").is_some() {
        for function in
            functions.iter_mut().filter(|one| ["SSL_write", "SSL_write_ex"].contains(&one.name.as_str()))
        {
            if let End::Inner(site) = &function.end {
                function.end = End::InnerWithFlags(site.clone());
            }
        }
    }
    if plain.kind == GNUTLS {
        // The one goes through the other.
        let has_inner = functions.iter().any(|function| function.name == "gnutls_record_send2");
        functions.retain(|function| !has_inner || function.name != "gnutls_record_send");
        for function in functions.iter_mut().filter(|function| function.name == GNUTLS_RECEIVE) {
            let is_cheap = |end: &End| matches!(end, End::ReturnProbe(site) if site.step == Step::Emulated);
            if !is_cheap(&function.end)
                && let Some(site) = gnutls_inner(elf, symbols)
            {
                function.end = End::Inner(site);
            }
        }
    }
    Some((family, functions))
}

const GNUTLS: &str = "GnuTLS";
const GNUTLS_RECEIVE: &str = "gnutls_record_recv";

/// `_gnutls_recv_int(session, type, data, size, …)`, which has no symbol: `gnutls_record_recv_seq` does nothing but go on to it, and
/// `gnutls_record_recv` goes there too (lib/record.c).
fn gnutls_inner(elf: &Elf<'_>, symbols: &Symbols) -> Option<Site> {
    let targets = |name| {
        let symbol: Symbol = symbols.named(name)?;
        Some(Instructions::read(elf, symbol.address, symbol.size).leads_to())
    };
    let [only] = targets("gnutls_record_recv_seq")?[..] else { return None };
    if !targets(GNUTLS_RECEIVE)?.contains(&only) {
        return None;
    }
    let size = symbols.next_after(only).map_or(0, |next| next - only);
    let code = Instructions::read(elf, only, size);
    code.return_probe(elf).filter(|site| site.step == Step::Emulated && site.once)
}

/// BoringSSL and AWS-LC keep OpenSSL's names and add their own.
fn openssl_kind(symbols: &Symbols) -> &'static str {
    match symbols.find([
        "awslc_api_version_num",
        "AWSLC_non_fips_pkey_evp_methods",
        "BORINGSSL_self_test",
        "SSL_CTX_set_grease_enabled",
    ]) {
        [Some(_), ..] | [_, Some(_), ..] => "AWS-LC",
        [_, _, Some(_), _] | [.., Some(_)] => "BoringSSL",
        _ => OPENSSL,
    }
}

pub(super) fn c_function(elf: &Elf<'_>, symbols: &Symbols, symbol: &Symbol, n_arguments: usize) -> Function {
    let code = Instructions::read(elf, symbol.address, symbol.size);
    let is_cheap = |site: &Site| site.step == Step::Emulated && site.once;
    let arguments = Registers::all(&Registers::C[..n_arguments.min(4)]);
    let own = code.return_probe_with(elf, arguments);
    let inner = || {
        let address = code.inner(elf)?;
        // It has no symbol of its own as a rule: it ends where the next function begins at the latest.
        let size = symbols.next_after(address).map_or(0, |next| next - address);
        let all = Registers::all(&[Registers::all(&Registers::C), Registers::C_FIFTH]);
        Instructions::read(elf, address, size).return_probe_with(elf, all).filter(is_cheap)
    };
    let end = match own {
        Some(site) if is_cheap(&site) => End::ReturnProbe(site),
        Some(site) => inner().map_or(End::ReturnProbe(site), End::Inner),
        None => inner().map_or(End::Unseen, End::Inner),
    };
    Function {
        name: symbol.name.clone(),
        file_offset: elf.file_offset(symbol.address).unwrap_or(0),
        entry: code.entry(elf, arguments),
        end,
    }
}

/// What has no symbols any more, by the texts that it left: where OpenSSL and BoringSSL say which of their files an error comes from.
fn stripped(elf: &Elf<'_>, symbols: &Symbols, constants: &[u8]) -> Option<(Family, Vec<Function>)> {
    if !has(constants, "ssl/ssl_lib.c") {
        return None;
    }
    let version = version::openssl(constants);
    let kind = if has(constants, stripped::BORINGSSL_FILES[0]) { "BoringSSL" } else { OPENSSL };
    let found = match kind {
        OPENSSL => Err("it is OpenSSL, which is not looked for without them".to_owned()),
        _ => Code::of(elf, constants, &stripped::BORINGSSL_FILES)
            .ok_or_else(|| "it has no tables for exceptions".to_owned())
            .and_then(|code| stripped::boringssl(&code.reporters(), |function| code.callers(function))),
    };
    let function = |(name, place): (&'static str, stripped::Place)| {
        let symbol = Symbol { name: name.to_owned(), address: place.address, size: place.size };
        c_function(elf, symbols, &symbol, if name == "SSL_do_handshake" { 1 } else { 3 })
    };
    let (functions, note) = match found {
        Ok(found) => (found.into_iter().map(function).collect(), None),
        Err(why) => {
            (Vec::new(), Some(format!("it is linked in, and the program's symbols were stripped: {why}")))
        }
    };
    Some((Family { kind, version, note }, functions))
}

pub(super) fn has(constants: &[u8], text: &str) -> bool {
    memchr::memmem::find(constants, text.as_bytes()).is_some()
}

/// What follows from all files together: versions stand in another file.
pub(super) fn join(libraries: &mut [Library], hints: &version::Hints) {
    for library in libraries.iter_mut().filter(|library| library.version.is_none()) {
        match library.kind {
            NSS => library.version = hints.nss.clone(),
            OPENSSL => library.version = hints.openssl.clone(),
            _ => {}
        }
    }
}
