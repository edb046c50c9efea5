//! The clock that strikes on every CPU: what runs there, if it serves a request.

use aya::{
    Btf, Ebpf,
    programs::{
        Program,
        perf_event::{PerfEvent, PerfEventConfig, PerfEventScope, SamplePolicy, SoftwareEvent},
    },
    util::online_cpus,
};
use tracer_ebpf as abi;

use super::{
    load::{Missing, NO_SUCH_PROGRAM, ProbeTrial},
    python_processes,
    refusal::{chain, shortened},
};

/// What a run without them does without.
const FEATURE: &str = "what requests were doing on a CPU (stacks)";

/// The program.
const PROGRAM: &str = "sample";

/// Whether the kernel takes the program, and those behind it.
pub(super) fn trials(ebpf: &mut Ebpf, btf: &Btf) -> Vec<ProbeTrial> {
    let outcome = load(ebpf).map(|_| ());
    let own = ProbeTrial {
        program: PROGRAM,
        tracepoint: "cpu-clock",
        feature: Some(FEATURE),
        family: None,
        outcome,
    };
    let mut all = python_processes::trials(ebpf, btf);
    all.insert(0, own);
    all
}

fn load(ebpf: &mut Ebpf) -> Result<&mut PerfEvent, String> {
    let Some(Program::PerfEvent(program)) = ebpf.program_mut(PROGRAM) else {
        return Err(NO_SUCH_PROGRAM.to_owned());
    };
    program.load().map_err(|error| shortened(&chain(&error)))?;
    Ok(program)
}

/// Loads the program, and sets the clocks. Those of CPUs that come online later do not strike.
pub(super) fn attach(ebpf: &mut Ebpf) -> Result<(), Missing> {
    let missing = |reason| Missing { feature: FEATURE, reason };
    let program = load(ebpf).map_err(missing)?;
    for cpu in online_cpus().map_err(|(file, error)| missing(format!("read {file}: {error}")))? {
        let scope = PerfEventScope::AllProcessesOneCpu { cpu };
        let clock = PerfEventConfig::Software(SoftwareEvent::CpuClock);
        let attached = program.attach(clock, scope, SamplePolicy::Period(abi::SAMPLE_PERIOD_NS), false);
        attached.map_err(|error| missing(shortened(&chain(&error))))?;
    }
    Ok(())
}
