//! The clock that strikes on every CPU: what runs there, if it serves a request.

use aya::{
    Ebpf,
    programs::{
        Program,
        perf_event::{PerfEventConfig, PerfEventScope, SamplePolicy, SoftwareEvent},
    },
    util::online_cpus,
};
use tracer_ebpf as abi;

use super::{
    load::{Missing, NO_SUCH_PROGRAM},
    refusal::{chain, shortened},
};

/// What a run without them does without.
const FEATURE: &str = "what requests were doing on a CPU (stacks)";

/// Loads the program and sets the clocks; those of CPUs that come online later do not strike.
pub(super) fn attach(ebpf: &mut Ebpf) -> Result<(), Missing> {
    let missing = |reason| Missing { feature: FEATURE, reason };
    let Some(Program::PerfEvent(program)) = ebpf.program_mut("sample") else {
        return Err(missing(NO_SUCH_PROGRAM.to_owned()));
    };
    program.load().map_err(|error| missing(shortened(&chain(&error))))?;
    for cpu in online_cpus().map_err(|(file, error)| missing(format!("read {file}: {error}")))? {
        let scope = PerfEventScope::AllProcessesOneCpu { cpu };
        let clock = PerfEventConfig::Software(SoftwareEvent::CpuClock);
        let attached = program.attach(clock, scope, SamplePolicy::Period(abi::SAMPLE_PERIOD_NS), false);
        attached.map_err(|error| missing(shortened(&chain(&error))))?;
    }
    Ok(())
}
