//! What one writes: `BINARY:SYMBOL(int,str)->int`, `BINARY:SYMBOL+0x12`, `BINARY:0x4010`, `BINARY:usdt:PROVIDER:NAME`.

use std::path::Path;

use super::FunctionError;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// The file: a path, or a bare name.
    pub binary: String,
    /// What of it.
    pub what: What,
    /// Types of the arguments, from the first on.
    pub arguments: Vec<Type>,
    /// Type of what it returns.
    pub returned: Option<Type>,
    /// As it was written.
    pub text: String,
}

/// What of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// Functions by name; `*` and `?` stand for others.
    Functions(String),
    /// A place behind the beginning of a function.
    Behind(String, u64),
    /// An address, as symbols have them.
    Address(u64),
    /// Marks (USDT) by provider and name; `*` and `?` stand for others.
    Marks(String, String),
}

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// With a sign, of so many bytes.
    Signed(u8),
    /// Without, of so many bytes.
    Unsigned(u8),
    /// As wide as the language has it: 4 bytes, in Go 8.
    Int,
    /// The same without a sign.
    Uint,
    /// True or false.
    Bool,
    /// An address.
    Pointer,
    /// A text as the language has it.
    Text,
    /// A text that ends with a zero.
    CText,
    /// Nothing that is asked for; takes a register.
    Skip,
}

/// Words for types.
const TYPES: &str =
    "int, uint, long, ulong, i8 to i64, u8 to u64, bool, ptr, str, cstr, or _ for one that is left out";

impl Type {
    fn parse(word: &str) -> Option<Type> {
        Some(match word {
            "int" => Type::Int,
            "uint" => Type::Uint,
            "i8" => Type::Signed(1),
            "i16" => Type::Signed(2),
            "i32" => Type::Signed(4),
            "i64" | "long" | "isize" => Type::Signed(8),
            "u8" => Type::Unsigned(1),
            "u16" => Type::Unsigned(2),
            "u32" => Type::Unsigned(4),
            "u64" | "ulong" | "usize" => Type::Unsigned(8),
            "bool" => Type::Bool,
            "ptr" => Type::Pointer,
            "str" => Type::Text,
            "cstr" => Type::CText,
            "_" => Type::Skip,
            _ => return None,
        })
    }
}

impl Spec {
    /// Reads it. `exists` says whether there is a file of a path: names of files may have colons.
    pub fn parse(text: &str, exists: impl Fn(&Path) -> bool) -> Result<Spec, FunctionError> {
        let form = "write BINARY:SYMBOL, with types if you want values: '/usr/bin/app:handle(int,str)->int'";
        let wrong = |what: String| FunctionError::new(what, form);
        let colons: Vec<usize> = single_colons(text).collect();
        let colon = colons
            .iter()
            .find(|at| exists(Path::new(&text[..**at])))
            .or(colons.first())
            .ok_or_else(|| wrong(format!("'{text}' names no file and function")))?;
        let (binary, rest) = (&text[..*colon], &text[colon + 1..]);
        if binary.is_empty() || rest.is_empty() {
            return Err(wrong(format!("'{text}' names no file and function")));
        }
        let (rest, returned) = match rest.rsplit_once("->") {
            Some((before, word)) if Type::parse(word.trim()).is_some_and(|kind| kind != Type::Skip) => {
                (before.trim_end(), Type::parse(word.trim()))
            }
            // `operator->` is a name.
            Some((before, word)) if !before.ends_with("operator") && is_word(word.trim()) => {
                let what = format!("'{}' is no type of a value", word.trim());
                return Err(FunctionError::new(what, format!("types are {TYPES}")));
            }
            _ => (rest, None),
        };
        let (rest, arguments) = types(rest)?;
        let what = if let Some(mark) = rest.strip_prefix("usdt:") {
            let (provider, name) = mark
                .split_once(':')
                .filter(|(provider, name)| !provider.is_empty() && !name.is_empty())
                .ok_or_else(|| {
                    FunctionError::new(
                        format!("'{rest}' names no mark"),
                        "write BINARY:usdt:PROVIDER:NAME; * stands for any of them",
                    )
                })?;
            What::Marks(provider.to_owned(), name.to_owned())
        } else if let Some(digits) = rest.strip_prefix("0x") {
            What::Address(hex(digits).ok_or_else(|| wrong(format!("'{rest}' is no address")))?)
        } else if let Some((name, digits)) = rest.rsplit_once("+0x")
            && let Some(offset) = hex(digits)
        {
            if offset == 0 { What::Functions(name.to_owned()) } else { What::Behind(name.to_owned(), offset) }
        } else {
            What::Functions(rest.to_owned())
        };
        Ok(Spec { binary: binary.to_owned(), what, arguments, returned, text: text.to_owned() })
    }
}

/// Places of colons that do not stand beside another: those of `::` belong to names.
fn single_colons(text: &str) -> impl Iterator<Item = usize> + '_ {
    let bytes = text.as_bytes();
    (0..bytes.len()).filter(move |&at| {
        bytes[at] == b':' && bytes.get(at + 1) != Some(&b':') && (at == 0 || bytes[at - 1] != b':')
    })
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn hex(digits: &str) -> Option<u64> {
    u64::from_str_radix(digits, 16).ok()
}

/// Splits a list of types from the end. A list of anything else is a part of the name: C++ has parameters in it.
fn types(text: &str) -> Result<(&str, Vec<Type>), FunctionError> {
    let Some((name, list)) = text.strip_suffix(')').and_then(|text| text.rsplit_once('(')) else {
        return Ok((text, Vec::new()));
    };
    if name.is_empty() {
        return Ok((text, Vec::new()));
    }
    if list.trim().is_empty() {
        return Ok((name, Vec::new()));
    }
    let kinds: Vec<Option<Type>> = list.split(',').map(|word| Type::parse(word.trim())).collect();
    let n_known = kinds.iter().flatten().count();
    if n_known == kinds.len() {
        return Ok((name, kinds.into_iter().flatten().collect()));
    }
    if n_known > 0 && !name.contains("::") && !text.contains(['*', '&', '<']) {
        let unknown = list.split(',').find(|word| Type::parse(word.trim()).is_none()).unwrap_or_default();
        let what = format!("'{}' is no type of a value", unknown.trim());
        return Err(FunctionError::new(what, format!("types are {TYPES}")));
    }
    Ok((text, Vec::new()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, binary: &str, what: What, arguments: &[Type], returned: Option<Type>) {
        let spec = Spec::parse(text, |path| path == Path::new("/a:b")).unwrap();
        assert_eq!((spec.binary.as_str(), &spec.what), (binary, &what), "{text}");
        assert_eq!((&spec.arguments[..], spec.returned), (arguments, returned), "{text}");
    }

    fn named(name: &str) -> What {
        What::Functions(name.to_owned())
    }

    #[test]
    fn what_is_written_is_what_is_meant() {
        use Type::{Int, Skip, Text, Unsigned};
        check("/bin/app:f", "/bin/app", named("f"), &[], None);
        check("/bin/app:f(int, str)->u64", "/bin/app", named("f"), &[Int, Text], Some(Unsigned(8)));
        check("app:f()->int", "app", named("f"), &[], Some(Int));
        check("app:ns::C::f(_,int)", "app", named("ns::C::f"), &[Skip, Int], None);
        check("app:ns::f(int, char const*)", "app", named("ns::f(int, char const*)"), &[], None);
        check("app:ns::C::operator->", "app", named("ns::C::operator->"), &[], None);
        check("app:<a::B as c::D>::e", "app", named("<a::B as c::D>::e"), &[], None);
        check("app:net/http.(*conn).serve", "app", named("net/http.(*conn).serve"), &[], None);
        check("/a:b:f", "/a:b", named("f"), &[], None);
        check("app:f+0x12", "app", What::Behind("f".to_owned(), 0x12), &[], None);
        check("app:0x4010(int)", "app", What::Address(0x4010), &[Int], None);
        let mark = What::Marks("node".to_owned(), "http__*".to_owned());
        check("app:usdt:node:http__*(str)", "app", mark, &[Text], None);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let error = |text: &str| Spec::parse(text, |_| false).unwrap_err().what;
        assert!(error("app").contains("names no file and function"));
        assert!(error(":f").contains("names no file and function"));
        assert!(error("app:f(int,string)").contains("'string' is no type"));
        assert!(error("app:f->text").contains("'text' is no type"));
        assert!(error("app:usdt:a").contains("names no mark"));
        assert!(error("app:0xzz").contains("no address"));
    }
}
