//! What no parser knows, followed turn by turn: what the client says until the server speaks is a request, what the server
//! says until the client speaks again its response. Only on ports for which that is asked for, and never recognised by
//! its bytes.
//!
//! Not handled: what the server says before the client has asked (a greeting) belongs to no transaction; both sides
//! speaking at once give turns that mean nothing.

use serde::{Deserialize, Serialize};

use super::{
    Body, Capture, Coverage, Family, Flow, Inference, Mark, Message, OPAQUE, Operation, Parser, Protocol,
    Request, Response, Resync, Step,
};

/// Bytes of a protocol that nothing is known of.
pub struct Opaque;

impl Protocol for Opaque {
    fn name(&self) -> &'static str {
        OPAQUE
    }

    fn family(&self) -> Family {
        Family::Other
    }

    fn coverage(&self) -> Coverage {
        Coverage {
            title: "anything else",
            covers: "on ports given with `--opaque-port`: turn by turn, when and how many bytes",
            lacks: "what is said; greetings of servers that speak first; connections on which both sides speak at once",
            tested_with: "netcat",
        }
    }

    fn is_inferred(&self) -> bool {
        false
    }

    fn infer(&self, _: &[u8]) -> Inference {
        Inference::No
    }

    fn parser(&self) -> Box<dyn Parser> {
        Box::new(OpaqueParser::default())
    }

    fn capture(&self) -> Capture {
        Capture::Turns
    }

    fn shortest_request(&self) -> u64 {
        1
    }
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct OpaqueParser {
    /// The client has spoken.
    asked: bool,
}

impl Parser for OpaqueParser {
    fn step(&mut self, flow: Flow, _: &[u8], marks: &mut Vec<Mark>) -> Step {
        let body = match flow {
            Flow::Request => {
                self.asked = true;
                Body::Request(Request { operation: Operation::Fixed("turn".into()), ..Request::default() })
            }
            Flow::Response if !self.asked => return Step::UntilTurn,
            Flow::Response => Body::Response(Response::default()),
        };
        marks.push(Mark::Begin(Message { stream: 0, body }));
        Step::UntilTurn
    }

    fn resync(&mut self, _: Flow, _: u64, buf: &[u8], turn_starts: &[usize]) -> Resync {
        match turn_starts.first() {
            Some(start) => Resync::At(*start),
            None => Resync::NotYet { dropped: buf.len() },
        }
    }

    fn close(&mut self, _: Flow, _: &mut Vec<Mark>) {}

    fn save(&self) -> Vec<u8> {
        vec![u8::from(self.asked)]
    }

    fn load(&mut self, state: &[u8]) -> bool {
        let [asked @ (0 | 1)] = *state else { return false };
        self.asked = asked == 1;
        true
    }
}
