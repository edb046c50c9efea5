//! HTTP/1.x (RFC 9112).
use super::{Flow, Inference, Mark, Parser, Protocol, Step};

/// HTTP/1.x.
pub struct Http1;

impl Protocol for Http1 {
    fn name(&self) -> &'static str {
        "http1"
    }
    fn infer(&self, _head: &[u8]) -> Inference {
        Inference::No
    }
    fn parser(&self) -> Box<dyn Parser> {
        struct Nothing;
        impl Parser for Nothing {
            fn step(&mut self, _: Flow, _: &[u8], _: &mut Vec<Mark>) -> Step {
                Step::Invalid("no parser yet")
            }
            fn resync(&mut self, _: Flow, _: u64, _: &[u8], _: &[usize]) -> Option<usize> {
                None
            }
            fn close(&mut self, _: Flow, _: &mut Vec<Mark>) {}
            fn save(&self) -> Vec<u8> {
                Vec::new()
            }
            fn load(&mut self, state: &[u8]) -> bool {
                state.is_empty()
            }
        }
        Box::new(Nothing)
    }
}
