//! Where the arguments of marks (USDT) are, in the kernel side's terms: `-4@%edi 8@-24(%rbp) 4@$5`.

use tracer_ebpf as abi;

use crate::uprobe::functions::Type;

/// The first eight. What is written in another way (an index register, a symbol) is none, and reads as 0.
pub(super) fn places(arguments: &str) -> Vec<abi::ArgumentAt> {
    let words = arguments.split_ascii_whitespace().take(abi::FUNCTION_REGISTERS);
    words.map(|word| place(word).unwrap_or_default()).collect()
}

/// What its description says of its width.
pub(super) fn type_of(at: &abi::ArgumentAt) -> Type {
    match at.size {
        0 => Type::Skip,
        size if size < 0 => Type::Signed(size.unsigned_abs()),
        size => Type::Unsigned(size.unsigned_abs()),
    }
}

fn place(word: &str) -> Option<abi::ArgumentAt> {
    let (size, at) = word.split_once('@')?;
    let size: i8 = size.parse().ok().filter(|size: &i8| [1, 2, 4, 8].contains(&size.abs()))?;
    let place = abi::ArgumentAt { size, ..abi::ArgumentAt::default() };
    if let Some(constant) = at.strip_prefix('$') {
        return Some(abi::ArgumentAt { kind: abi::AT_CONSTANT, value: number(constant)?, ..place });
    }
    if let Some(name) = at.strip_prefix('%') {
        return Some(abi::ArgumentAt { kind: abi::AT_REGISTER, register: register(name)?, ..place });
    }
    let (offset, base) = at.strip_suffix(')')?.split_once('(')?;
    let value = if offset.is_empty() { 0 } else { number(offset)? };
    let register = register(base.strip_prefix('%')?)?;
    Some(abi::ArgumentAt { kind: abi::AT_MEMORY, register, value, ..place })
}

fn number(text: &str) -> Option<i64> {
    let (sign, digits) = text.strip_prefix('-').map_or((1, text), |digits| (-1, digits));
    let value = match digits.strip_prefix("0x") {
        Some(digits) => i64::from_str_radix(digits, 16).ok()?,
        None => digits.parse().ok()?,
    };
    Some(sign * value)
}

/// A register by any of its names.
fn register(name: &str) -> Option<u8> {
    const OLD: [&str; 8] = ["ax", "cx", "dx", "bx", "sp", "bp", "si", "di"];
    if let Some(digits) = name.strip_prefix('r').map(|rest| rest.trim_end_matches(['d', 'w', 'b']))
        && let Ok(number) = digits.parse::<u8>()
    {
        return (8..16).contains(&number).then_some(number);
    }
    let core = name.strip_prefix(['r', 'e']).unwrap_or(name);
    let core = core.strip_suffix('l').filter(|core| core.len() == 2).unwrap_or(core);
    let at = OLD.iter().position(|old| {
        *old == core
            || (core.len() == 2 && core.ends_with('l') && old.starts_with(&core[..1]) && old.ends_with('x'))
    })?;
    u8::try_from(at).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_where_their_description_says() {
        let short = |text: &str| {
            let all = places(text);
            all.iter().map(|at| (at.size, at.kind, at.register, at.value)).collect::<Vec<_>>()
        };
        assert_eq!(
            short("-4@%edi 8@-24(%rbp) 4@$5 1@%al 2@(%r12) 8@%r9 8@$-1 4@%r10d"),
            [
                (-4, abi::AT_REGISTER, 7, 0),
                (8, abi::AT_MEMORY, 5, -24),
                (4, abi::AT_CONSTANT, 0, 5),
                (1, abi::AT_REGISTER, 0, 0),
                (2, abi::AT_MEMORY, 12, 0),
                (8, abi::AT_REGISTER, 9, 0),
                (8, abi::AT_CONSTANT, 0, -1),
                (4, abi::AT_REGISTER, 10, 0)
            ]
        );
        assert_eq!(
            short("8@nowhere(%rip) 4@(%rax,%rbx,8) %eax 1@%sil"),
            [(0, 0, 0, 0), (0, 0, 0, 0), (0, 0, 0, 0), (1, abi::AT_REGISTER, 6, 0)]
        );
        assert_eq!(short(""), []);
    }
}
