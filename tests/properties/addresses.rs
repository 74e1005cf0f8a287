//! What is "global", held against the special ranges of the IANA registries (IPv4 and IPv6 Special-Purpose Address Registry, multicast).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;
use sluice::payout::address::is_global;

/// Every range of the IPv4 registry that is not, or not only, the open Internet, and multicast.
const V4: [&str; 24] = [
    "0.0.0.0/8",
    "0.0.0.0/32",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.0.0/29",
    "192.0.0.8/32",
    "192.0.0.170/31",
    "192.0.2.0/24",
    "192.31.196.0/24",
    "192.52.193.0/24",
    "192.88.99.0/24",
    "192.88.99.2/32",
    "192.168.0.0/16",
    "192.175.48.0/24",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "255.255.255.255/32",
];

/// The same of IPv6, and what never was given out.
const V6: [&str; 33] = [
    "::1/128",
    "::/128",
    "::/96",
    "::ffff:0:0/96",
    "64:ff9b::/96",
    "64:ff9b:1::/48",
    "100::/64",
    "100:0:0:1::/64",
    "2001::/23",
    "2001::/32",
    "2001:1::1/128",
    "2001:1::2/128",
    "2001:1::3/128",
    "2001:2::/48",
    "2001:3::/32",
    "2001:4:112::/48",
    "2001:10::/28",
    "2001:20::/28",
    "2001:30::/28",
    "2001:db8::/32",
    "2002::/16",
    "2620:4f:8000::/48",
    "3fff::/20",
    "5f00::/16",
    "fc00::/7",
    "fd00::/8",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
    "4000::/3",
    "8000::/1",
    "1000::/4",
    "3ffe::/16",
];

/// Wallets' services as they are, and the neighbours of special ranges.
const GLOBAL: [&str; 24] = [
    "1.1.1.1",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "128.0.0.0",
    "169.253.255.255",
    "169.255.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "191.255.255.255",
    "192.0.1.0",
    "192.167.255.255",
    "192.169.0.0",
    "198.17.255.255",
    "198.20.0.0",
    "223.255.255.255",
    "2001:200::",
    "2606:4700::1111",
    "2000::1",
    "2003::",
    "2a00:1450::1",
    "3ffd:ffff::1",
];

fn parts(range: &str) -> (IpAddr, u32) {
    let (address, length) = range.split_once('/').unwrap();
    (address.parse().unwrap(), length.parse().unwrap())
}

/// The address of a range whose free bits are these.
fn within(range: &str, bits: u128) -> IpAddr {
    match parts(range) {
        (IpAddr::V4(base), length) => {
            let free = u32::MAX.checked_shr(length).unwrap_or_default();
            IpAddr::V4(Ipv4Addr::from_bits(base.to_bits() | (bits as u32 & free)))
        }
        (IpAddr::V6(base), length) => {
            let free = u128::MAX.checked_shr(length).unwrap_or_default();
            IpAddr::V6(Ipv6Addr::from_bits(base.to_bits() | (bits & free)))
        }
    }
}

#[test]
fn the_ends_of_every_special_range_are_refused_and_its_neighbours_are_not() {
    for range in V4.iter().chain(&V6) {
        for bits in [0, u128::MAX] {
            let address = within(range, bits);
            assert!(!is_global(address), "{address} of {range}");
        }
    }
    for address in GLOBAL {
        assert!(is_global(address.parse().unwrap()), "{address}");
    }
}

proptest! {
    #[test]
    fn no_address_of_a_special_range_is_global(
        range in proptest::sample::select([V4.as_slice(), V6.as_slice()].concat()),
        bits: u128,
    ) {
        let address = within(range, bits);
        prop_assert!(!is_global(address), "{} of {}", address, range);
    }

    #[test]
    fn no_ipv6_address_leads_to_an_ipv4_address_by_another_way(bits: u32) {
        let v4 = u128::from(bits);
        let teredo = (0x2001_0000_u128 << 96) | v4;
        let six_to_four = (0x2002_u128 << 112) | (v4 << 80);
        let nat64 = (0x0064_ff9b_u128 << 96) | v4;
        for address in [v4, (0xffff_u128 << 32) | v4, teredo, six_to_four, nat64] {
            let address = Ipv6Addr::from_bits(address);
            prop_assert!(!is_global(address.into()), "{}", address);
        }
    }

    #[test]
    fn an_ipv4_address_is_global_where_no_range_holds_it(bits: u32) {
        let address = Ipv4Addr::from_bits(bits);
        let special = V4.iter().any(|range| {
            let (IpAddr::V4(base), length) = parts(range) else { return false };
            (bits ^ base.to_bits()).leading_zeros() >= length
        });
        prop_assert_eq!(is_global(address.into()), !special, "{}", address);
    }
}
