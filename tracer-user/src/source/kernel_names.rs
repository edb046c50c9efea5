//! Names of the kernel's functions, by address. They are looked up once: the same few dozens come again and again.

use std::{
    sync::{
        Arc,
        mpsc::{self, Receiver, SyncSender},
    },
    thread,
};

use blazesym::{
    MaybeDefault,
    symbolize::{
        Input, Symbolized, Symbolizer,
        source::{Kernel, Source},
    },
};
use rustc_hash::FxHashMap;

/// Addresses whose names are known; beyond it all are looked up anew.
const MAX_NAMES: usize = 16_384;

/// The kernel that runs.
#[derive(Debug, Default)]
pub struct KernelNames {
    /// What looks up; its state is bound to a thread. Made when the first name is wanted, ended by the drop of its end of the channel.
    desk: Option<(SyncSender<u64>, Receiver<Option<String>>)>,
    names: FxHashMap<u64, Arc<str>>,
}

impl KernelNames {
    /// `function+0x12 (kernel)`, with the module where it is of one: `function+0x12 (kernel ext4)`. `0x… (kernel)` where the kernel does not say.
    pub fn text(&mut self, address: u64) -> Arc<str> {
        if let Some(name) = self.names.get(&address) {
            return name.clone();
        }
        let text: Arc<str> = self.ask(address).unwrap_or_else(|| format!("{address:#x} (kernel)")).into();
        if self.names.len() >= MAX_NAMES {
            self.names.clear();
        }
        self.names.insert(address, text.clone());
        text
    }

    /// Has the list of names read, which takes a tenth of a second of a CPU, so that the first question need not wait for it.
    pub fn prepare(&mut self) {
        if self.desk.is_some() {
            return;
        }
        let (ask, questions) = mpsc::sync_channel(1);
        let (reply, replies) = mpsc::sync_channel(1);
        let thread = thread::Builder::new().name("txray-names".to_owned());
        if thread.spawn(move || answer(&questions, &reply)).is_ok() {
            self.desk = Some((ask, replies));
        }
    }

    fn ask(&mut self, address: u64) -> Option<String> {
        self.prepare();
        let (ask, replies) = self.desk.as_ref()?;
        ask.send(address).ok()?;
        replies.recv().ok()?
    }
}

fn answer(questions: &Receiver<u64>, reply: &SyncSender<Option<String>>) {
    let symbolizer = Symbolizer::builder().enable_code_info(false).build();
    // Any address has it read the list.
    look_up(&symbolizer, u64::MAX);
    for address in questions {
        if reply.send(look_up(&symbolizer, address)).is_err() {
            return;
        }
    }
}

fn look_up(symbolizer: &Symbolizer, address: u64) -> Option<String> {
    // What was booted from is nowhere on most hosts, and says no more than /proc/kallsyms.
    let source = Source::from(Kernel { vmlinux: MaybeDefault::None, ..Kernel::default() });
    let found = symbolizer.symbolize_single(&source, Input::AbsAddr(address)).ok()?;
    let Symbolized::Sym(symbol) = found else { return None };
    let module = symbol.module.as_deref().map(|module| module.to_string_lossy().into_owned());
    let module = module.filter(|module| !module.contains("kernel.kallsyms") && !module.contains('/'));
    let module = module.map(|module| format!(" {}", module.trim_matches(['[', ']']))).unwrap_or_default();
    Some(format!("{}+{:#x} (kernel{module})", symbol.name, symbol.offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_address_of_the_kernel_is_told_as_it_is() {
        let mut names = KernelNames::default();
        assert_eq!(&*names.text(0x10), "0x10 (kernel)");
        assert!(Arc::ptr_eq(&names.text(0x10), &names.text(0x10)));
    }
}
