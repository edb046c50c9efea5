//! One boot: qemu under software emulation, the guest's serial console read until it powers off.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::kernels::Kernel;

/// Longest a guest may take. Emulated, the kernel's look at the probes takes a good part of each start of the tracer.
const DEADLINE: Duration = Duration::from_secs(900);
/// The guest's processors. With two, each a thread that a busy host stops for longer than the pipeline waits for a late record
/// (20 ms), records come too late for reasons that no kernel has: counts would depend on the host.
const PROCESSORS: &str = "1";
/// The guest's memory, in MiB.
const MEMORY: &str = "2048";
/// Parameters without which a kernel does, on an emulated processor that needs none of it, what is expensive to emulate: page
/// tables swapped at each system call, thunks around each indirect call, a fifth level of page tables.
const CHEAP: &str = "mitigations=off no5lvl";
/// An emulator that the host keeps waiting misses the few ticks that the kernel gives its timer to prove itself in, and then
/// panics.
const PATIENT: &str = "no_timer_check";
/// Marks on the console around what a step printed.
pub(crate) const BEGIN: &str = "@@begin ";
pub(crate) const END: &str = "@@end ";

/// What a step of the guest's script printed, and its exit code.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) output: String,
    pub(crate) code: i32,
}

/// What came over the console.
#[derive(Clone, Debug, Default)]
pub(crate) struct Console {
    /// Steps by name.
    pub(crate) steps: BTreeMap<String, Step>,
    /// Everything, for a failure's report.
    pub(crate) text: String,
}

impl Console {
    /// A step that must have finished.
    pub(crate) fn step(&self, name: &str) -> Result<&Step> {
        self.steps.get(name).with_context(|| format!("the guest never finished the step `{name}`"))
    }

    /// Finds the steps in what a guest said.
    pub(crate) fn parse(text: String) -> Self {
        let mut steps = BTreeMap::new();
        let mut open: Option<(String, String)> = None;
        for line in text.lines() {
            let line = line.trim_end_matches('\r');
            // The mark may follow what the kernel or a program left on the line.
            if let Some((_, name)) = line.split_once(BEGIN) {
                open = Some((name.trim().to_owned(), String::new()));
            } else if let Some((before, rest)) = line.split_once(END) {
                let mut words = rest.split_whitespace();
                let (name, code) = (words.next(), words.next().and_then(|code| code.parse().ok()));
                if let (Some((began, mut output)), Some(name), Some(code)) = (open.take(), name, code)
                    && began == name
                {
                    output.push_str(before);
                    steps.insert(began, Step { output, code });
                }
            } else if let Some((_, output)) = &mut open {
                output.push_str(line);
                output.push('\n');
            }
        }
        Self { steps, text }
    }
}

/// Boots a kernel with an image and adds to `text` what its console said until it was off.
pub(crate) fn boot(
    kernel: &Kernel,
    image: &Path,
    options: &str,
    name: &str,
    text: &mut String,
) -> Result<()> {
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", PROCESSORS, "-m", MEMORY]);
    qemu.args(["-display", "none", "-monitor", "none", "-serial", "stdio", "-nic", "none", "-no-reboot"]);
    qemu.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(image);
    qemu.arg("-append").arg(format!("console=ttyS0 quiet panic=-1 {CHEAP} {PATIENT} {options}"));
    let child = qemu
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .context("starting qemu-system-x86_64")?;
    read(Guest(child), name, text)
}

/// A running qemu, ended when it is dropped.
struct Guest(Child);

impl Drop for Guest {
    fn drop(&mut self) {
        // It has ended by itself as a rule; both calls then do nothing.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn read(mut guest: Guest, name: &str, text: &mut String) -> Result<()> {
    let stdout = guest.0.stdout.take().context("qemu's output")?;
    // Bounded: the reader waits while this side is behind.
    let (sender, lines) = mpsc::sync_channel(1024);
    let reader = thread::spawn(move || {
        for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    let began = Instant::now();
    let deadline = began + DEADLINE;
    let timed_out = loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                let line = String::from_utf8_lossy(&line);
                // A guest takes minutes: show that it gets on.
                if let Some((_, step)) = line.split_once(END) {
                    println!("vm: {name}: {} s: {}", began.elapsed().as_secs(), step.trim());
                }
                text.push_str(&line);
                text.push('\n');
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break false,
            Err(mpsc::RecvTimeoutError::Timeout) => break true,
        }
    };
    drop(lines);
    drop(guest);
    let _ = reader.join();
    if timed_out {
        bail!("the guest was not done after {} s; its last lines:\n{}", DEADLINE.as_secs(), tail(text, 30));
    }
    Ok(())
}

/// The last lines of a text.
pub(crate) fn tail(text: &str, n_lines: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(n_lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_read_between_their_marks() {
        let text = "[  0.1] boot\r\n@@begin one\r\n{\"a\":1}\r\n@@end one 0\r\nnoise\r\n@@begin two\r\nno newline@@end two 3\r\n@@begin three\r\n";
        let console = Console::parse(text.to_owned());
        assert_eq!(console.step("one").unwrap(), &Step { output: "{\"a\":1}\n".into(), code: 0 });
        assert_eq!(console.step("two").unwrap(), &Step { output: "no newline".into(), code: 3 });
        assert!(console.step("three").is_err());
        assert_eq!(tail(text, 1).trim(), "@@begin three");
    }
}
