//! Which of the kernel side's programs goes to which place of a TLS library.

use tracer_ebpf as abi;

use crate::uprobe::{
    code::Step,
    placement::Site,
    tls::{Copy, End, Function, RUSTLS},
};

/// The number by which the kernel side and recordings call a library.
pub(super) fn number_of(kind: &str) -> Option<u16> {
    Some(match kind {
        "OpenSSL" | "LibreSSL" => abi::TLS_OPENSSL,
        "BoringSSL" | "AWS-LC" => abi::TLS_BORINGSSL,
        "GnuTLS" => abi::TLS_GNUTLS,
        "NSS" => abi::TLS_NSS,
        GO => abi::TLS_GO,
        RUSTLS => abi::TLS_RUSTLS,
        _ => return None,
    })
}

/// The program at the return of most others.
pub(super) const RETURN: &str = "tls_return";
/// At the return of rustls' functions.
const RUSTLS_RETURN: &str = "tls_rustls_return";
/// The program for functions that let go of a handle: their return says nothing.
pub(super) const RELEASES: &str = "tls_free";
/// The program for the function by which a library hands over its records: what they are is known before it runs.
const RECORDS: &str = "tls_bio_write";

/// Whether clear text is seen without a function: it helps to tell whose a handle is.
pub(super) fn is_optional(function: &str) -> bool {
    ["SSL_do_handshake", "SSL_free", "SSL_write_early_data", "SSL_sendfile", "BIO_write", "BIO_write_ex"]
        .contains(&function)
}

/// The program at a function's return; `None`: that says nothing, or Go does not survive it.
pub(super) fn at_return(kind: &str, program: &str) -> Option<&'static str> {
    match kind {
        GO => None,
        RUSTLS => Some(RUSTLS_RETURN),
        _ => (![RELEASES, RECORDS].contains(&program)).then_some(RETURN),
    }
}

/// Go's TLS: of its places none has a return probe, which Go does not survive.
pub(super) const GO: &str = "Go crypto/tls";

/// The program that has to be there first.
pub(super) const GO_HANDSHAKE: &str = "tls_go_handshake";

/// Which programs go where for a function of Go. What is behind a call comes before it: whoever is between the two says nothing.
pub(super) fn go_places(function: &Function) -> Result<Vec<(&'static str, &Site)>, String> {
    let entry = |program| {
        let no_place = || format!("{} has no place that sees its arguments", function.name);
        Ok::<_, String>((program, function.entry.as_ref().ok_or_else(no_place)?))
    };
    let places = match &function.end {
        End::Copies(site, Copy::Memmove) => vec![entry("tls_go_read")?, ("tls_go_copy", site)],
        End::Copies(site, Copy::Reader) => vec![entry("tls_go_read")?, ("tls_go_copy_reader", site)],
        End::Sends(sends) => {
            let behind = sends.iter().map(|send| ("tls_go_sent", &send.behind));
            behind.chain(sends.iter().map(|send| ("tls_go_send", &send.call))).collect()
        }
        End::Unneeded => vec![entry(GO_HANDSHAKE)?],
        _ => return Err(format!("there is no program for {} yet", function.name)),
    };
    match places.iter().find(|(_, site)| site.step != Step::Emulated) {
        Some((_, site)) => Err(dear(&function.name, site)),
        None => Ok(places),
    }
}

/// Why a function is left alone.
fn dear(name: &str, site: &Site) -> String {
    format!("{name} has only places that cost a call 12 to 17 µs ({})", site.instruction)
}

/// Which program goes where for a function: entry and return at one place.
pub(super) fn place<'a>(kind: &str, function: &'a Function) -> Result<(&'static str, &'a Site), String> {
    let name = function.name.as_str();
    let by_name = match (kind, name) {
        ("OpenSSL" | "LibreSSL", "SSL_read") => "tls_openssl_read",
        ("OpenSSL" | "LibreSSL", "SSL_write") => "tls_openssl_write",
        ("BoringSSL" | "AWS-LC", "SSL_read") => "tls_boringssl_read",
        ("BoringSSL" | "AWS-LC", "SSL_write") => "tls_boringssl_write",
        ("OpenSSL" | "LibreSSL", "SSL_read_ex") => "tls_openssl_read_ex",
        ("OpenSSL" | "LibreSSL", "SSL_write_ex" | "SSL_write_early_data") => "tls_openssl_write_ex",
        ("OpenSSL", "SSL_sendfile") => "tls_openssl_sendfile",
        ("OpenSSL" | "LibreSSL" | "BoringSSL" | "AWS-LC", "SSL_do_handshake") => "tls_openssl_handshake",
        ("OpenSSL" | "LibreSSL" | "BoringSSL" | "AWS-LC", "SSL_free") => RELEASES,
        ("BoringSSL" | "AWS-LC", "BIO_write" | "BIO_write_ex") => RECORDS,
        ("GnuTLS", "gnutls_record_recv") => "tls_gnutls_read",
        ("GnuTLS", "gnutls_record_send" | "gnutls_record_send2") => "tls_gnutls_write",
        ("NSS", "ssl_SecureRecv") => "tls_nss_read",
        ("NSS", "ssl_SecureSend") => "tls_nss_write",
        // Each is many, by provider and version of TLS.
        (RUSTLS, name) if name.ends_with(">::encrypt") => "tls_rustls_encrypt",
        (RUSTLS, name) if name.ends_with(">::decrypt") => "tls_rustls_decrypt",
        _ => return Err(format!("there is no program for {name} yet")),
    };
    let (program, site) = match (&function.end, by_name, &function.entry) {
        (_, RELEASES | RECORDS, Some(site)) => (by_name, site),
        (End::ReturnProbe(site), program, _) => (program, site),
        // What both forms call: `ssl_read_internal` and `ssl_write_internal` take where to leave the length (ssl/ssl_lib.c).
        (End::Inner(site), "tls_openssl_read" | "tls_openssl_read_ex", _) if kind == "OpenSSL" => {
            ("tls_openssl_read_ex", site)
        }
        (End::Inner(site), "tls_openssl_write" | "tls_openssl_write_ex", _)
            if kind == "OpenSSL" && name != "SSL_write_early_data" =>
        {
            ("tls_openssl_write_ex", site)
        }
        (End::InnerWithFlags(site), "tls_openssl_write" | "tls_openssl_write_ex", _) => {
            ("tls_openssl_write_internal", site)
        }
        (End::Inner(site), "tls_gnutls_read", _) => ("tls_gnutls_recv_int", site),
        _ => return Err(format!("{name} has no place at which its end can be seen")),
    };
    // What nobody optimised makes room on its stack first: there rustls' records, of up to 16 KiB, cost more than the probe does.
    let is_unoptimised = kind == RUSTLS && site.step == Step::SingleStepped && site.into == 0;
    if site.step != Step::Emulated && !is_unoptimised {
        return Err(dear(name, site));
    }
    Ok((program, site))
}
