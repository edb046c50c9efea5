//! Which protocols are looked for (`--protocol`): what decides is what a transaction is, its own protocol.
//!
//! Transactions of one protocol may begin as another's or share its connections: gRPC on HTTP/2's streams, WebSocket and h2c behind
//! HTTP/1's upgrade, TLS behind a request for it. So a connection is read as long as it may hold what is looked for, and of what was
//! read only that is handed on: what is left out is counted as what a filter leaves out is ([`crate::cli::delivery::Delivery`]). A
//! connection that cannot hold any is not captured: it is opaque.

use crate::protocol::{HTTP1, Protocol, REGISTRY};

/// The protocols that are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LookedFor {
    /// Places in the registry, a bit each.
    kept: u64,
    /// Those whose connections may hold such: themselves, and what leads there.
    read: u64,
}

impl LookedFor {
    /// All that are known.
    pub const ALL: LookedFor = LookedFor { kept: u64::MAX, read: u64::MAX };

    /// Those with these registry names; without any, all.
    pub fn new(names: &[String]) -> LookedFor {
        if names.is_empty() {
            return LookedFor::ALL;
        }
        let kept = bits(|protocol| names.iter().any(|name| name == protocol.name()));
        let mut read = kept;
        loop {
            let more = read | bits(|protocol| is_among(read, |other| leads(protocol, other)));
            if more == read {
                return LookedFor { kept, read };
            }
            read = more;
        }
    }

    /// Transactions of this protocol are handed on.
    pub fn keeps(&self, name: &str) -> bool {
        has(self.kept, name)
    }

    /// Connections that speak this protocol are read.
    pub fn reads(&self, name: &str) -> bool {
        has(self.read, name)
    }
}

/// Connections that speak `from` may hold transactions of `to`.
fn leads(from: &dyn Protocol, to: &dyn Protocol) -> bool {
    to.carriers().contains(&from.name()) || (from.name() == HTTP1 && to.upgrade_token().is_some())
}

fn bits(is_one: impl Fn(&dyn Protocol) -> bool) -> u64 {
    REGISTRY.iter().enumerate().fold(0, |bits, (at, protocol)| bits | u64::from(is_one(*protocol)) << at)
}

fn is_among(bits: u64, is_one: impl Fn(&dyn Protocol) -> bool) -> bool {
    REGISTRY.iter().enumerate().any(|(at, protocol)| bits >> at & 1 == 1 && is_one(*protocol))
}

fn has(bits: u64, name: &str) -> bool {
    bits == u64::MAX || is_among(bits, |protocol| protocol.name() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which connections are read where only this is looked for.
    fn read(names: &[&str]) -> Vec<&'static str> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let looked_for = LookedFor::new(&names);
        assert!(
            REGISTRY
                .iter()
                .all(|protocol| looked_for.keeps(protocol.name())
                    == names.contains(&protocol.name().to_owned()))
        );
        let all = REGISTRY.iter().map(|protocol| protocol.name());
        all.filter(|name| looked_for.reads(name)).collect()
    }

    #[test]
    fn connections_that_may_lead_to_what_is_looked_for_are_read() {
        assert!(REGISTRY.len() < 64);
        assert_eq!(read(&["grpc"]), ["http2", "http1", "grpc"]);
        assert_eq!(read(&["http2"]), ["http2", "http1"]);
        assert_eq!(read(&["websocket"]), ["http2", "http1", "websocket"]);
        assert_eq!(read(&["http1"]), ["http1"]);
        assert_eq!(read(&["tls"]), ["postgres", "mysql", "tls"]);
        assert_eq!(read(&["redis", "dns"]), ["redis", "dns"]);
        assert_eq!(read(&["of no registry"]), [""; 0]);
        assert!(LookedFor::new(&[]).keeps("anything") && LookedFor::new(&[]).reads("anything"));
    }

    #[test]
    fn carriers_are_in_the_registry() {
        let names: Vec<&str> = REGISTRY.iter().map(|protocol| protocol.name()).collect();
        let carriers = REGISTRY.iter().flat_map(|protocol| protocol.carriers());
        assert!(carriers.into_iter().all(|name| names.contains(name)));
    }
}
