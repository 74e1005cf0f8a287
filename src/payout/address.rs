//! Which addresses a server may call that a creator named: those of the open Internet alone, so that nobody reaches the operator's own network
//! through this machine.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The special blocks of the IANA IPv4 Special-Purpose Address Registry (RFC 6890 and its updates), multicast (RFC 5771) included; those that the
/// registry calls globally reachable but that no wallet service lives in are refused as well.
const V4: [(Ipv4Addr, u32); 17] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    (Ipv4Addr::new(192, 31, 196, 0), 24),
    (Ipv4Addr::new(192, 52, 193, 0), 24),
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(192, 175, 48, 0), 24),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    // Multicast, and all above it: 240.0.0.0/4 and the broadcast address.
    (Ipv4Addr::new(224, 0, 0, 0), 3),
];

/// What IANA has given out of IPv6 for the open Internet (RFC 4291): everything else is special or nobody's.
const V6_GLOBAL: (Ipv6Addr, u32) = (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);

/// Within it, the special blocks of the IANA IPv6 Special-Purpose Address Registry, 6to4 and Teredo among them, which carry an IPv4 address.
const V6: [(Ipv6Addr, u32); 6] = [
    // IETF protocol assignments, with Teredo (2001::/32), benchmarking (2001:2::/48), ORCHID and ORCHIDv2.
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23),
    (Ipv6Addr::new(0x2001, 0x0db8, 0, 0, 0, 0, 0, 0), 32),
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16),
    // AS112 (RFC 7534).
    (Ipv6Addr::new(0x2620, 0x004f, 0x8000, 0, 0, 0, 0, 0), 48),
    // What was 6bone (RFC 3701), and the second documentation block (RFC 9637).
    (Ipv6Addr::new(0x3ffe, 0, 0, 0, 0, 0, 0, 0), 16),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20),
];

/// Whether an address belongs to the open Internet. Mapped (`::ffff:0:0/96`), compatible (`::/96`), translated (`64:ff9b::/96`,
/// `64:ff9b:1::/48`) and local IPv6 addresses lie outside of 2000::/3 and are refused whole, whatever they carry.
pub fn is_global(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let bits = address.to_bits();
            !V4.iter().any(|(block, length)| is_within_v4(bits, block.to_bits(), *length))
        }
        IpAddr::V6(address) => {
            let within = |(block, length): &(Ipv6Addr, u32)| {
                is_within_v6(address.to_bits(), block.to_bits(), *length)
            };
            within(&V6_GLOBAL) && !V6.iter().any(within)
        }
    }
}

fn is_within_v4(address: u32, block: u32, length: u32) -> bool {
    (address ^ block).leading_zeros() >= length
}

fn is_within_v6(address: u128, block: u128, length: u32) -> bool {
    (address ^ block).leading_zeros() >= length
}
