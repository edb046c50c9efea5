//! Multicast DNS: RFC 6762 (<https://www.rfc-editor.org/rfc/rfc6762>), messages as DNS has them ([`super::dns`]).
//!
//! Everybody asks all, and whoever knows tells all: questions and answers have no pairs. A question is a transaction that nothing answers,
//! named by the type of its first question; a message of answers is an `announcement`, its target the first
//! record's name. Recognised on its port alone.
//!
//! **Not handled**: the answer that a legacy resolver gets for itself alone (§6.7), which is told as an announcement; questions
//! behind the first in one message.

use super::{
    Coverage, Family, Inference, Pairing, Parser, Protocol,
    dns::{DnsParser, Flavor, infer},
};

/// Multicast DNS.
pub struct Mdns;

impl Protocol for Mdns {
    fn name(&self) -> &'static str {
        "mdns"
    }

    fn family(&self) -> Family {
        Family::Dns
    }

    fn coverage(&self) -> Coverage {
        Coverage {
            title: "mDNS",
            covers: "questions and announcements on port 5353",
            lacks: "contents of records",
            tested_with: "python-zeroconf",
        }
    }

    fn is_inferred(&self) -> bool {
        false
    }

    fn infer(&self, _: &[u8]) -> Inference {
        Inference::No
    }

    fn udp_ports(&self) -> &'static [u16] {
        &[5353]
    }

    fn infer_datagram(&self, framed: &[u8]) -> Inference {
        infer(Flavor::Mdns, framed)
    }

    fn parser(&self) -> Box<dyn Parser> {
        Box::new(DnsParser::new(Flavor::Mdns))
    }

    fn pairing(&self) -> Pairing {
        Pairing::OneWay
    }

    fn shortest_request(&self) -> u64 {
        17
    }
}
