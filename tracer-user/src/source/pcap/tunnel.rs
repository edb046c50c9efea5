//! What tunnels carry: GRE ([RFC 2784](https://www.rfc-editor.org/rfc/rfc2784), 2890, NVGRE), ERSPAN, VXLAN
//! ([RFC 7348](https://www.rfc-editor.org/rfc/rfc7348)), Geneve ([RFC 8926](https://www.rfc-editor.org/rfc/rfc8926)), IP in IP, EtherIP and
//! MPLS. Pure: bytes behind one header in, what begins behind the next out.
//!
//! UDP is a tunnel's where its destination port and its header both say so. Not read: PPP and what is within it (PPPoE, PPTP, L2TP), GTP-U,
//! WireGuard, IPsec, VXLAN-GPE, GRE in UDP.

/// Ports of VXLAN: IANA's, and the one that Linux took before there was one (Flannel and Cilium still do).
const VXLAN_PORTS: [u16; 2] = [4789, 8472];
const GENEVE_PORT: u16 = 6081;
/// Labels of MPLS in a row; networks use two to four.
const MAX_LABELS: usize = 16;

const ETHERNET: u16 = 0x6558;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const MPLS: [u16; 2] = [0x8847, 0x8848];

/// What is within.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inside<'a> {
    /// A packet: its type as Ethernet numbers it, and its bytes.
    Packet(u16, &'a [u8]),
    /// It is a tunnel, and its header was not captured to the end or is none.
    Cut,
    /// It is no tunnel that is read.
    Nothing,
}

/// Within IP, behind its header. `number`: the protocol that it names.
pub(super) fn in_ip(number: u8, bytes: &[u8]) -> Inside<'_> {
    match number {
        4 => Inside::Packet(IPV4, bytes),
        41 => Inside::Packet(IPV6, bytes),
        47 => in_gre(bytes),
        // EtherIP (RFC 3378): version 3 and no more.
        97 => bytes.get(2..).map_or(Inside::Cut, in_ethernet),
        137 => in_mpls(bytes),
        _ => Inside::Nothing,
    }
}

/// Within UDP, behind its header. `port`: to which it was sent.
pub(super) fn in_udp(port: u16, bytes: &[u8]) -> Inside<'_> {
    if VXLAN_PORTS.contains(&port) {
        return match bytes {
            // The network is valid, and what is reserved is 0; with the bit before it, a group's policy (as Linux sends it).
            [0x08 | 0x88, _, _, _, _, _, _, 0, frame @ ..] => in_ethernet(frame),
            [0x08 | 0x88, ..] if bytes.len() < 8 => Inside::Cut,
            _ => Inside::Nothing,
        };
    }
    if port != GENEVE_PORT {
        return Inside::Nothing;
    }
    match bytes {
        // Version 0, then the length of the options in words; two flags, and six bits that are reserved.
        [words @ 0..0x40, flags, ..] if flags & 0x3f == 0 => {
            let begin = 8 + usize::from(*words) * 4;
            match (word(bytes, 2), bytes.get(begin..)) {
                (Some(ether_type), Some(rest)) => of_type(ether_type, rest),
                _ => Inside::Cut,
            }
        }
        _ => Inside::Nothing,
    }
}

/// Behind an Ethernet type that names a tunnel of its own.
pub(super) fn behind(ether_type: u16, bytes: &[u8]) -> Inside<'_> {
    if MPLS.contains(&ether_type) { in_mpls(bytes) } else { Inside::Nothing }
}

/// The type of what an Ethernet frame carries, and where that begins.
pub(super) fn ethernet(frame: &[u8]) -> Option<(u16, usize)> {
    match word(frame, 12)? {
        // A length: IEEE 802.3, whose type stands behind the SNAP header.
        length if length < 0x0600 && frame.get(14..17) == Some(&[0xaa, 0xaa, 3]) => {
            Some((word(frame, 20)?, 22))
        }
        ether_type => Some((ether_type, 14)),
    }
}

fn in_ethernet(frame: &[u8]) -> Inside<'_> {
    match ethernet(frame).and_then(|(ether_type, begin)| Some((ether_type, frame.get(begin..)?))) {
        Some((ether_type, bytes)) => Inside::Packet(ether_type, bytes),
        None => Inside::Cut,
    }
}

fn of_type(ether_type: u16, bytes: &[u8]) -> Inside<'_> {
    match ether_type {
        ETHERNET => in_ethernet(bytes),
        _ => Inside::Packet(ether_type, bytes),
    }
}

fn in_gre(bytes: &[u8]) -> Inside<'_> {
    let (Some(flags), Some(ether_type)) = (word(bytes, 0), word(bytes, 2)) else { return Inside::Cut };
    // Other versions (PPTP) and routes (RFC 1701, deprecated) are not read.
    if flags & 0x4007 != 0 {
        return Inside::Nothing;
    }
    let has_number = flags & 0x1000 != 0;
    // Checksum, key, sequence number: four bytes each.
    let begin = 4 + [0x8000, 0x2000, 0x1000].into_iter().filter(|bit| flags & bit != 0).count() * 4;
    let Some(rest) = bytes.get(begin..) else { return Inside::Cut };
    match ether_type {
        // ERSPAN: type I has no header, type II has one of 8 bytes, and numbers.
        0x88be if !has_number => in_ethernet(rest),
        0x88be => rest.get(8..).map_or(Inside::Cut, in_ethernet),
        // Type III: 12 bytes, and 8 more where the last bit says so.
        0x22eb => {
            let more = rest.get(11).map_or(0, |last| usize::from(last & 1) * 8);
            rest.get(12 + more..).map_or(Inside::Cut, in_ethernet)
        }
        _ => of_type(ether_type, rest),
    }
}

fn in_mpls(bytes: &[u8]) -> Inside<'_> {
    let Some(last) = bytes.chunks_exact(4).take(MAX_LABELS).position(|label| label[2] & 1 != 0) else {
        return Inside::Cut;
    };
    let rest = &bytes[(last + 1) * 4..];
    // Nothing says what it is (RFC 4928): IP begins with its version, and the control word of a wire (RFC 4448) with 0.
    match rest.first().map(|first| first >> 4) {
        Some(4) => Inside::Packet(IPV4, rest),
        Some(6) => Inside::Packet(IPV6, rest),
        Some(0) => rest.get(4..).map_or(Inside::Cut, in_ethernet),
        Some(_) => Inside::Nothing,
        None => Inside::Cut,
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_are_a_tunnel_or_none_and_nothing_is_made_up() {
        let bytes: Vec<u8> = (0..=255).collect();
        for n in 0..bytes.len() {
            for number in 0..=255 {
                let _ = in_ip(number, &bytes[..n]);
                let _ = in_ip(number, &bytes[n..]);
            }
            for port in [4789, 8472, 6081] {
                let _ = in_udp(port, &bytes[..n]);
                let _ = in_udp(port, &bytes[n..]);
            }
            let _ = behind(0x8847, &bytes[n..]);
        }
    }

    #[test]
    fn udp_to_a_tunnels_port_is_a_tunnel_only_with_its_header() {
        let frame = [&[2; 12][..], &[8, 0, 0x45]].concat();
        let vxlan = |head: [u8; 8]| [&head[..], &frame].concat();
        let good = vxlan([8, 0, 0, 0, 0, 0, 5, 0]);
        assert_eq!(in_udp(4789, &good), Inside::Packet(0x0800, &[0x45]));
        assert_eq!(in_udp(8472, &good), Inside::Packet(0x0800, &[0x45]));
        assert_eq!(in_udp(53, &good), Inside::Nothing);
        assert_eq!(in_udp(4789, &vxlan([0; 8])), Inside::Nothing);
        assert_eq!(in_udp(4789, &vxlan([8, 0, 0, 0, 0, 0, 5, 1])), Inside::Nothing);
        assert_eq!(in_udp(4789, &good[..7]), Inside::Cut);
        assert_eq!(in_udp(4789, &good[..20]), Inside::Cut);
        let geneve = [&[1, 0, 0x65, 0x58, 0, 0, 7, 0, 1, 2, 3, 4][..], &frame].concat();
        assert_eq!(in_udp(6081, &geneve), Inside::Packet(0x0800, &[0x45]));
        assert_eq!(in_udp(6081, &geneve[..11]), Inside::Cut);
        assert_eq!(in_udp(6081, b"GET / HTTP/3"), Inside::Nothing);
    }
}
