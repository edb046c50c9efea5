//! Link-local multicast name resolution: RFC 4795 (<https://www.rfc-editor.org/rfc/rfc4795>), messages as DNS has them ([`super::dns`]).
//!
//! Asked of a multicast group and answered by whoever has the name, from an address of its own: a socket's questions find
//! their answers whoever sends them. Recognised on its port alone. A question that nobody answers, which is
//! how most end, ends with its socket or as `stuck`.
//!
//! **Not handled**: several answers to one question (conflicts): all but the first are unpaired; LLMNR over TCP.

use super::{
    Coverage, Family, Inference, Pairing, Parser, Protocol,
    dns::{DnsParser, Flavor, infer},
};

/// Link-local multicast name resolution.
pub struct Llmnr;

impl Protocol for Llmnr {
    fn name(&self) -> &'static str {
        "llmnr"
    }

    fn family(&self) -> Family {
        Family::Dns
    }

    fn coverage(&self) -> Coverage {
        Coverage {
            title: "LLMNR",
            covers: "questions on port 5355",
            lacks: "contents of records",
            tested_with: "systemd-resolved",
        }
    }

    fn is_inferred(&self) -> bool {
        false
    }

    fn infer(&self, _: &[u8]) -> Inference {
        Inference::No
    }

    fn udp_ports(&self) -> &'static [u16] {
        &[5355]
    }

    fn infer_datagram(&self, framed: &[u8]) -> Inference {
        infer(Flavor::Llmnr, framed)
    }

    fn asks_a_group(&self) -> bool {
        true
    }

    fn parser(&self) -> Box<dyn Parser> {
        Box::new(DnsParser::new(Flavor::Llmnr))
    }

    fn pairing(&self) -> Pairing {
        Pairing::ByStreamId
    }

    fn shortest_request(&self) -> u64 {
        17
    }
}
