//! Symbols against nm, build ids, offsets and USDT against readelf, instructions against objdump.

use std::{collections::BTreeMap, fs::File};

use rstest::rstest;
use tracer_user::uprobe::{
    code::{Next, decode},
    elf::Elf,
    placement::Function,
    symbols::Symbols,
    usdt,
};

use super::{LIBGNUTLS, LIBSSL, printed};

/// Has marks with counters.
const PYTHON: &str = "/usr/bin/python3";

fn hex(text: &str) -> u64 {
    u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// Exported functions by nm: name, address, size.
fn functions_by_nm(path: &str) -> Vec<(String, u64, u64)> {
    let text = printed("nm", &["-D", "-S", "--defined-only", "--without-symbol-versions", path]);
    text.lines()
        .filter_map(|line| match line.split_whitespace().collect::<Vec<_>>()[..] {
            [address, size, "T" | "W" | "i", name] => Some((name.to_owned(), hex(address), hex(size))),
            _ => None,
        })
        .collect()
}

#[rstest]
fn every_function_that_nm_lists_is_found(#[values(LIBSSL, LIBGNUTLS)] path: &str) {
    let file = File::open(path).unwrap();
    let elf = Elf::parse(&file).unwrap();
    let symbols = Symbols::of(&elf);
    let by_nm = functions_by_nm(path);
    assert!(by_nm.len() > 300, "{}", by_nm.len());
    let found: BTreeMap<String, u64> =
        symbols.matching("*").into_iter().map(|symbol| (symbol.name, symbol.address)).collect();
    for (name, address, size) in &by_nm {
        let symbol = symbols.named(name).unwrap_or_else(|| panic!("{name} is not found"));
        assert_eq!((symbol.address, symbol.size), (*address, *size), "{name}");
        assert_eq!(symbols.at(*address).unwrap().address, *address);
    }
    // Names of the same address are one function.
    let addresses: std::collections::BTreeSet<u64> = by_nm.iter().map(|one| one.1).collect();
    assert!(found.values().all(|address| addresses.contains(address)), "more than nm lists");
    assert_eq!(symbols.named("no_such_function"), None);
}

#[rstest]
fn build_ids_and_offsets_are_those_of_readelf(
    #[values(LIBSSL, LIBGNUTLS, PYTHON, "/usr/bin/restic")] path: &str,
) {
    let file = File::open(path).unwrap();
    let elf = Elf::parse(&file).unwrap();
    let notes = printed("readelf", &["-nW", path]);
    let id = notes.lines().find_map(|line| line.split_once("Build ID: ")).map(|(_, id)| id.trim()).unwrap();
    assert_eq!(elf.build_id().as_deref(), Some(id));
    let mut n_sections = 0;
    for line in printed("readelf", &["-SW", path]).lines().filter(|line| line.contains("PROGBITS")) {
        let fields: Vec<&str> = line.split(']').nth(1).unwrap().split_whitespace().collect();
        let (name, address, offset, size) = (fields[0], hex(fields[2]), hex(fields[3]), hex(fields[4]));
        let section = elf.section(name).unwrap_or_else(|| panic!("{name} is not found"));
        assert_eq!((section.address, section.offset, section.size), (address, offset, size), "{name}");
        if address != 0 {
            assert_eq!(elf.file_offset(address), Some(offset), "{name}");
            assert_eq!(
                elf.is_executable(address),
                [".init", ".plt", ".plt.got", ".text", ".fini"].contains(&name),
                "{name}"
            );
            n_sections += 1;
        }
    }
    assert!(n_sections > 5);
}

/// Addresses and names of instructions by objdump.
fn instructions_by_objdump(path: &str, args: &[&str]) -> BTreeMap<u64, String> {
    let mut all = vec!["-d", "--no-show-raw-insn", "-w"];
    all.extend(args);
    all.push(path);
    printed("objdump", &all)
        .lines()
        .filter_map(|line| {
            let (address, text) = line.strip_prefix("  ")?.split_once(":\t")?;
            Some((u64::from_str_radix(address.trim(), 16).ok()?, text.split_whitespace().next()?.to_owned()))
        })
        .collect()
}

#[rstest]
fn instructions_are_those_of_objdump(#[values(LIBSSL, LIBGNUTLS)] path: &str) {
    let file = File::open(path).unwrap();
    let elf = Elf::parse(&file).unwrap();
    let by_objdump = instructions_by_objdump(path, &["-j", ".text"]);
    let (mut n_instructions, mut n_returns) = (0, 0);
    for (name, address, size) in functions_by_nm(path) {
        let function = Function::read(&elf, address, size);
        let expected: Vec<u64> =
            by_objdump.range(address..address + size).map(|(address, _)| *address).collect();
        let found: Vec<u64> = function.instructions.iter().map(|one| one.address).collect();
        assert_eq!(found, expected, "{name}");
        for one in &function.instructions {
            let theirs = by_objdump[&one.address].as_str();
            assert_eq!(one.next == Next::Return, theirs == "ret", "{name}: {theirs} at {:#x}", one.address);
            assert_eq!(matches!(one.next, Next::Call(_)), theirs.starts_with("call"), "{name}: {theirs}");
        }
        n_instructions += found.len();
        n_returns += function.returns(&elf).len();
    }
    assert!(n_instructions > 5_000 && n_returns > 300, "{n_instructions} {n_returns}");
}

#[test]
fn marks_are_those_of_readelf() {
    let file = File::open(PYTHON).unwrap();
    let elf = Elf::parse(&file).unwrap();
    let marks = usdt::marks(&elf);
    let text = printed("readelf", &["-nW", PYTHON]);
    let values = |key: &str| -> Vec<String> {
        text.lines()
            .filter_map(|line| line.split_once(key))
            .map(|(_, value)| value.trim().to_owned())
            .collect()
    };
    let names = values("Name:");
    assert!(names.len() > 5, "{text}");
    assert_eq!(marks.iter().map(|mark| mark.name.clone()).collect::<Vec<_>>(), names);
    assert_eq!(marks.iter().map(|mark| mark.provider.clone()).collect::<Vec<_>>(), values("Provider:"));
    assert_eq!(marks.iter().map(|mark| mark.arguments.clone()).collect::<Vec<_>>(), values("Arguments:"));
    let places: Vec<u64> = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Location: "))
        .map(|line| hex(line.split(',').next().unwrap()))
        .collect();
    assert_eq!(marks.iter().map(|mark| mark.address).collect::<Vec<_>>(), places);
    let counters: Vec<Option<u64>> = text
        .lines()
        .filter_map(|line| line.split_once("Semaphore: "))
        .map(|(_, address)| hex(address.trim()))
        .map(|address| (address != 0).then(|| elf.file_offset(address).unwrap()))
        .collect();
    assert!(counters.iter().any(Option::is_some), "{text}");
    assert_eq!(marks.iter().map(|mark| mark.semaphore).collect::<Vec<_>>(), counters);
    for mark in &marks {
        // Each stands on a no-operation.
        let code = elf.memory(mark.address, 15);
        assert_eq!(decode(&code, mark.address)[0].name(), "nop", "{mark:?}");
        assert_eq!(elf.file_offset(mark.address), Some(mark.file_offset));
    }
}
