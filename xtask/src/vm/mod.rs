//! `cargo xtask vm`: the shipped file (or the tests' own build, which takes less time) on other kernels, in qemu under software emulation (the hosts this must run on
//! cannot nest virtual machines). Times mean nothing there; counts are exact.

mod guest;
mod image;
mod kernels;
mod ktls;
mod live;
mod modules;
mod scenarios;
mod tls;

use std::{
    collections::VecDeque,
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    thread,
    time::Instant,
};

use anyhow::{Context as _, Result, anyhow};
use clap::Args;

use self::{
    guest::Console,
    image::Image,
    kernels::{Archive, Kernel, WANTED, Wanted},
    live::TestProgram,
    tls::TlsProgram,
};
use crate::{dist, setup, shell::target_dir, test::Counts};

#[derive(Args, Debug, Default)]
pub(crate) struct VmArgs {
    /// Only kernels whose series is this (`6.1`, `newest`); repeatable.
    #[arg(long)]
    kernel: Vec<String>,
    /// Boot the files in target/dist as they are.
    #[arg(long)]
    no_build: bool,
    /// Boot the programs that the tests use, with their libraries, instead of the shipped file.
    #[arg(long, conflicts_with = "no_build")]
    test_build: bool,
}

impl VmArgs {
    /// Every kernel; or the oldest ones, which differ most from a host's, with the tests' own build.
    pub(crate) fn all(is_quick: bool) -> Self {
        let kernel =
            if is_quick { QUICK.map(|wanted| wanted.name().to_owned()).to_vec() } else { Vec::new() };
        Self { test_build: is_quick, kernel, ..Self::default() }
    }

    fn asks_for(&self, wanted: Wanted) -> bool {
        self.kernel.is_empty() || self.kernel.iter().any(|name| name == wanted.name())
    }
}

const INIT: &str = include_str!("../../../tests/vm/init.sh");
/// The kernel that is booted locked down as well.
const LOCKED: Wanted = Wanted::Required("6.12");
/// The kernels on which tests of the live layer run too: the newest that has system calls' hooks alone, the oldest that
/// has both families; with the tests' own build, whose start takes longer, the first.
const LIVE: [Wanted; 2] = [Wanted::Required("6.1"), Wanted::Required("6.12")];
/// The kernels that are booted in the time that a change may take: two guests beside each other.
const QUICK: [Wanted; 2] = [Wanted::Required("6.1"), Wanted::Optional("5.10")];
/// Guests at a time. Most of a guest's work, its kernel's look at the probes, is one thread's.
const GUESTS: usize = 2;
const BUSYBOX: &str = "/bin/busybox";

/// A guest to boot.
#[derive(Clone, Debug)]
struct Boot {
    kernel: Kernel,
    /// A kernel that lets nobody read its memory.
    is_locked: bool,
    /// Tests of the live layer as well.
    has_live: bool,
}

/// What the image holds beside its script.
struct Programs {
    /// txray and the load generator.
    traced: [PathBuf; 2],
    /// What those are linked to; static ones to nothing.
    libraries: Vec<PathBuf>,
    tests: TestProgram,
    tls: TlsProgram,
}

/// What came of a guest.
#[derive(Debug, Default)]
struct Report {
    name: String,
    /// What the guest calls its kernel.
    uname: Option<String>,
    n_passed: usize,
    faults: Vec<String>,
    seconds: u64,
}

/// Boots every kernel and checks what the guest said; what was wrong, beside the counts.
pub(crate) fn run(args: &VmArgs) -> Result<(Counts, Vec<String>)> {
    setup::vm_programs()?;
    // The network and the compiler do not wait for each other.
    let (kernels, programs) = thread::scope(|scope| {
        let kernels = scope.spawn(|| find_kernels(args));
        let programs = build(args);
        (kernels.join().unwrap_or_else(|_| Err(anyhow!("looking for kernels failed"))), programs)
    });
    let (kernels, programs) = (kernels?, programs?);
    let mut faults = missing(args, &kernels.iter().map(|(wanted, _)| *wanted).collect::<Vec<_>>());
    let live = if args.test_build { &LIVE[..1] } else { &LIVE[..] };
    let reports = boot_all(boots(&kernels, live), &programs);
    let mut n_passed = 0;
    let mut ran = Vec::new();
    for Report { name, uname, n_passed: n, faults: found, seconds } in reports {
        println!("vm: {name}: {n} checks passed, {} failed, in {seconds} s", found.len());
        n_passed += n;
        faults.extend(found.into_iter().map(|fault| format!("{name}: {fault}")));
        ran.extend(uname);
    }
    ran.sort_unstable();
    ran.dedup();
    println!("vm: kernels that ran: {}", ran.join(", "));
    for fault in &faults {
        eprintln!("vm: {fault}");
    }
    Ok((Counts { passed: n_passed as u64, failed: faults.len() as u64, ignored: 0 }, faults))
}

/// The kernels asked for that the archive has, downloaded.
fn find_kernels(args: &VmArgs) -> Result<Vec<(Wanted, Kernel)>> {
    let archive = Archive::open()?;
    let mut found = Vec::new();
    for &wanted in WANTED.iter().filter(|wanted| args.asks_for(**wanted)) {
        match archive.kernel(wanted)? {
            Some(kernel) => found.push((wanted, kernel)),
            None => println!("vm: {}: not in the archive", wanted.name()),
        }
    }
    Ok(found)
}

/// Without the required ones it is a failure, however well the others did.
fn missing(args: &VmArgs, found: &[Wanted]) -> Vec<String> {
    let is_missing = |wanted: &&Wanted| {
        matches!(wanted, Wanted::Required(_)) && args.asks_for(**wanted) && !found.contains(*wanted)
    };
    WANTED.iter().filter(is_missing).map(|wanted| format!("kernel {}: did not run", wanted.name())).collect()
}

fn build(args: &VmArgs) -> Result<Programs> {
    fs::create_dir_all(target_dir().join("xtask/vm"))?;
    if args.test_build {
        let tests = TestProgram::build()?;
        let traced = live::traced_programs()?;
        let libraries =
            traced.iter().map(|program| live::libraries_of(program)).collect::<Result<Vec<_>>>()?;
        return Ok(Programs { traced, libraries: libraries.concat(), tests, tls: TlsProgram::find()? });
    }
    let shipped = if args.no_build {
        ["txray", "workload"].map(|name| target_dir().join("dist").join(name))
    } else {
        [dist::dist()?, dist::build("workload", "workload")?]
    };
    for program in &shipped {
        dist::check_static(program)?;
    }
    let tests = TestProgram::build()?;
    Ok(Programs { traced: shipped, libraries: Vec::new(), tests, tls: TlsProgram::find()? })
}

/// One guest for each kernel, and the one that is locked down; those that take longest first.
fn boots(kernels: &[(Wanted, Kernel)], live: &[Wanted]) -> VecDeque<Boot> {
    let mut boots: Vec<Boot> = Vec::new();
    for (wanted, kernel) in kernels {
        let boot = Boot { kernel: kernel.clone(), is_locked: false, has_live: live.contains(wanted) };
        if *wanted == LOCKED {
            boots.push(Boot { is_locked: true, has_live: false, ..boot.clone() });
        }
        boots.push(boot);
    }
    boots.sort_by_key(|boot| (boot.is_locked, !boot.has_live));
    boots.into()
}

/// Runs all of them, [`GUESTS`] at a time.
fn boot_all(boots: VecDeque<Boot>, programs: &Programs) -> Vec<Report> {
    let boots = Mutex::new(boots);
    let next = || boots.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let work = || {
        let mut reports = Vec::new();
        while let Some(boot) = next() {
            reports.push(boot.run(programs));
        }
        reports
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..GUESTS).map(|_| scope.spawn(work)).collect();
        let join = |worker: thread::ScopedJoinHandle<'_, Vec<Report>>| {
            worker.join().unwrap_or_else(|_| {
                vec![Report { faults: vec!["a guest's thread panicked".to_owned()], ..Report::default() }]
            })
        };
        workers.into_iter().flat_map(join).collect()
    })
}

impl Boot {
    fn name(&self) -> String {
        format!("{}{}", self.kernel.version, if self.is_locked { " locked down" } else { "" })
    }

    fn run(&self, programs: &Programs) -> Report {
        let name = self.name();
        println!("vm: {name}: booting");
        let began = Instant::now();
        let mut report = Report { name: name.clone(), ..Report::default() };
        match self.boot(programs) {
            Ok(console) => {
                report.uname = console.step("uname").ok().map(|step| step.output.trim().to_owned());
                self.check(&console, &mut |check, result| match result {
                    Ok(seen) => {
                        report.n_passed += 1;
                        println!("vm: {name}: {check}: {seen}");
                    }
                    Err(error) => report.faults.push(format!("{check}: {error:#}")),
                });
            }
            Err(error) => report.faults.push(format!("{error:#}")),
        }
        report.seconds = began.elapsed().as_secs();
        report
    }

    fn boot(&self, programs: &Programs) -> Result<Console> {
        let (file, options) = (self.name().replace(' ', "-"), if self.is_locked { LOCKDOWN } else { "" });
        let image = target_dir().join("xtask/vm").join(format!("{file}.cpio"));
        fs::write(&image, self.image(programs)?)?;
        let mut text = String::new();
        let outcome = guest::boot(&self.kernel, &image, options, &self.name(), &mut text);
        // Kept for whoever has to find out why.
        fs::write(image.with_extension("console"), &text)?;
        outcome?;
        let console = Console::parse(text);
        console.step("uname").with_context(|| guest::tail(&console.text, 20))?;
        Ok(console)
    }

    fn script(&self) -> String {
        if self.is_locked {
            return scenarios::script_locked();
        }
        let mut script = scenarios::script(&self.kernel);
        script.push_str(&tls::script());
        script.push_str(&ktls::script(&self.kernel));
        if self.has_live {
            script.push_str(&live::script(scenarios::has_socket_hooks(&self.kernel)));
        }
        script
    }

    fn check(&self, console: &Console, note: &mut dyn FnMut(&str, Result<String>)) {
        if self.is_locked {
            return scenarios::check_locked(console, note);
        }
        scenarios::check(&self.kernel, console, note);
        tls::check(&self.kernel, console, note);
        ktls::check(&self.kernel, console, note);
        if self.has_live {
            live::check(console, scenarios::has_socket_hooks(&self.kernel), note);
        }
    }

    fn image(&self, programs: &Programs) -> Result<Vec<u8>> {
        let mut image = Image::default();
        for folder in ["bin", "dev", "proc", "sys", "tmp"] {
            image.directory(folder)?;
        }
        image.copy("bin/busybox", Path::new(BUSYBOX))?;
        image.file("init", 0o755, INIT.as_bytes())?;
        image.file("steps.sh", 0o755, self.script().as_bytes())?;
        for program in &programs.traced {
            let name = program.file_name().context("a program's name")?.to_string_lossy();
            image.copy(&name, program)?;
        }
        live::add_libraries(&mut image, &programs.libraries)?;
        programs.tls.add_to(&mut image)?;
        if !self.is_locked {
            ktls::add_to(&mut image, &self.kernel)?;
        }
        if self.has_live {
            programs.tests.add_to(&mut image)?;
        }
        image.finish()
    }
}

/// The kernel's parameter that refuses every reading of its memory.
const LOCKDOWN: &str = "lockdown=confidentiality";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_the_required_kernels_it_is_red() {
        let all = VmArgs::default();
        assert!(missing(&all, WANTED).is_empty());
        assert_eq!(missing(&all, &[Wanted::Optional("5.10"), Wanted::Newest]).len(), 2);
        assert_eq!(missing(&all, &[Wanted::Required("6.1")]), ["kernel 6.12: did not run"]);
        let one = VmArgs { kernel: vec!["6.1".to_owned()], ..VmArgs::default() };
        assert_eq!(missing(&one, &[]), ["kernel 6.1: did not run"]);
        assert!(missing(&one, &[Wanted::Required("6.1")]).is_empty());
    }

    #[test]
    fn each_kernel_boots_once_and_one_locked_down_as_well() {
        let kernels: Vec<(Wanted, Kernel)> = WANTED
            .iter()
            .map(|&wanted| {
                (
                    wanted,
                    Kernel { version: wanted.name().to_owned(), image: PathBuf::new(), modules: Vec::new() },
                )
            })
            .collect();
        let names: Vec<String> = boots(&kernels, &LIVE).iter().map(Boot::name).collect();
        assert_eq!(names, ["6.1", "6.12", "5.10", "newest", "6.12 locked down"]);
    }
}
