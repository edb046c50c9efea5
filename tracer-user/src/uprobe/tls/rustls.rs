//! rustls: what encrypts and decrypts its records.
//!
//! Its functions that programs call are compiled into their callers, and so is most of what they call. What stays are the functions behind its tables of
//! virtual ones, one for each cipher, whatever the program was built with (link-time optimisation included), as long as it has symbols.

use super::{
    Function,
    families::{Family, c_function, has},
    version,
};
use crate::uprobe::{
    elf::Elf,
    symbols::{Symbols, demangle},
};

/// What it is called.
pub const RUSTLS: &str = "rustls";

/// Its functions as written, each of many types; and the part of their names that is the same in each mangling. They take where to leave the result, the keys,
/// the message and its number.
const FUNCTIONS: [(&str, &str); 2] = [
    ("<* as rustls::crypto::cipher::MessageEncrypter>::encrypt", "MessageEncrypter"),
    ("<* as rustls::crypto::cipher::MessageDecrypter>::decrypt", "MessageDecrypter"),
];

/// The versions whose structures are known.
const KNOWN: &str = "0.23.";

/// rustls in a file.
pub(super) fn find(elf: &Elf<'_>, symbols: &Symbols, constants: &[u8]) -> Option<(Family, Vec<Function>)> {
    let version = version::rustls(constants);
    let found = |(pattern, part): (&str, &str)| -> Vec<Function> {
        let symbols_of = symbols.demangled(pattern, part);
        let functions = symbols_of.into_iter().map(|symbol| {
            let mut function = c_function(elf, symbols, &symbol, 4);
            function.name = demangle(&symbol.name).unwrap_or(symbol.name);
            function
        });
        // What is there before there are keys: it refuses.
        functions.filter(|function| !function.name.contains("::InvalidMessage")).collect()
    };
    let [encrypt, decrypt] = FUNCTIONS.map(found);
    let is_there = !encrypt.is_empty() && !decrypt.is_empty();
    // Where no source's path was left, by a module that others do not have.
    let is_known = match &version {
        Some(version) => version.starts_with(KNOWN) && !has(constants, "/rustls-0.22."),
        None => !symbols.demangled("rustls::msgs::message::outbound::*", "outbound").is_empty(),
    };
    let note = match (is_there, &version) {
        (true, _) if is_known => None,
        (true, _) => Some(format!("of rustls only the versions {KNOWN}* are read")),
        (false, None) => return None,
        (false, Some(version)) if symbols.has_local && version.starts_with(KNOWN) => {
            Some("it is linked in, and no symbol says where its ciphers are".to_owned())
        }
        (false, Some(_)) if symbols.has_local => {
            Some(format!("of rustls only the versions {KNOWN}* are read"))
        }
        (false, Some(_)) => Some(
            "it is linked in, and the program's symbols were stripped: nothing says where (in Cargo's profile, \
             strip = \"debuginfo\" or false leaves them)"
                .to_owned(),
        ),
    };
    let functions = if note.is_none() { [encrypt, decrypt].concat() } else { Vec::new() };
    Some((Family { kind: RUSTLS, version, note }, functions))
}
