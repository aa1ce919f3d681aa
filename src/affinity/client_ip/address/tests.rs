//! Tests of the search for the client's address, and of address prefixes.

use super::*;
use crate::hash::testing::Numbers;

const XFF: &str = "x-forwarded-for";
const FORWARDED: &str = "forwarded";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        map.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    map
}

/// Trusts 10.0.0.0/8 and fd00::/8.
fn config() -> ClientAddress {
    ClientAddress::new().trust(["10.0.0.0/8", "fd00::/8"].map(|net| net.parse().unwrap()))
}

/// The client of a request that the trusted proxy 10.0.0.1 forwarded with these fields.
fn client(fields: &[(&'static str, &str)]) -> String {
    config().find(ip("10.0.0.1"), false, &headers(fields)).to_string()
}

#[test]
fn headers_of_an_untrusted_peer_are_ignored() {
    let spoofed = headers(&[(XFF, "1.2.3.4"), (FORWARDED, "for=1.2.3.4"), (XFF, "10.0.0.9")]);
    for forwarding in [Forwarding::Auto, Forwarding::XForwardedFor, Forwarding::Forwarded] {
        let config = config().forwarding(forwarding);
        for peer in ["192.0.2.1", "2001:db8::1", "11.0.0.1"] {
            assert_eq!(config.find(ip(peer), false, &spoofed), ip(peer));
        }
    }
    assert_eq!(config().find(ip("::ffff:192.0.2.1"), false, &spoofed), ip("192.0.2.1"));
    assert_eq!(ClientAddress::new().find(ip("10.0.0.1"), false, &spoofed), ip("10.0.0.1"));
}

#[test]
fn a_peer_is_trusted_by_address_or_by_flag() {
    let fields = headers(&[(XFF, "192.0.2.1, 198.51.100.2")]);
    assert_eq!(config().find(ip("10.0.0.1"), false, &fields), ip("198.51.100.2"));
    assert_eq!(config().find(ip("::ffff:10.0.0.1"), false, &fields), ip("198.51.100.2"));
    assert_eq!(config().find(ip("fd00::1"), false, &fields), ip("198.51.100.2"));
    assert_eq!(ClientAddress::new().find(ip("192.0.2.9"), true, &fields), ip("198.51.100.2"));
    let mapped = ClientAddress::new().trust(["::ffff:10.0.0.0/104".parse().unwrap()]);
    assert_eq!(mapped.find(ip("10.0.0.1"), false, &fields), ip("198.51.100.2"));
    assert_eq!(mapped.find(ip("11.0.0.1"), false, &fields), ip("11.0.0.1"));
}

#[test]
fn the_right_most_untrusted_address_wins() {
    for (value, expected) in [
        ("192.0.2.1", "192.0.2.1"),
        ("1.1.1.1, 192.0.2.1", "192.0.2.1"),
        ("1.1.1.1, 192.0.2.1, 10.2.2.2,10.3.3.3", "192.0.2.1"),
        ("1.1.1.1,\t192.0.2.1 , fd00::7, [fd00::8]:443", "192.0.2.1"),
        ("192.0.2.1:4711", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:4711", "2001:db8::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("[::ffff:192.0.2.1]:80", "192.0.2.1"),
        // A mapped address of a trusted network is skipped.
        ("192.0.2.1, ::ffff:10.0.0.3", "192.0.2.1"),
        // Empty elements are ignored.
        (", ,192.0.2.1,, ,", "192.0.2.1"),
        // All are trusted: the left-most.
        ("10.9.9.9, 10.2.2.2, 10.3.3.3", "10.9.9.9"),
        // An element that is not an address ends the search.
        ("192.0.2.1, unknown", "10.0.0.1"),
        ("192.0.2.1, garbage, 10.2.2.2", "10.2.2.2"),
        ("192.0.2.1, 10.0.0.256, 10.2.2.2", "10.2.2.2"),
        ("", "10.0.0.1"),
        (",", "10.0.0.1"),
    ] {
        assert_eq!(client(&[(XFF, value)]), expected, "{value:?}");
    }
}

#[test]
fn addresses_are_parsed() {
    for good in ["1.2.3.4", "1.2.3.4:1", "1.2.3.4:65535", "::1", "[::1]", "[::1]:1", "[::1]:_a.b-c"]
    {
        assert!(address(good.as_bytes()).is_some(), "{good:?}");
    }
    for bad in [
        "",
        "1.2.3",
        "1.2.3.4:",
        "1.2.3.4:a",
        "1.2.3.4:123456",
        "1.2.3.4:_",
        "1.2.3.4:_a b",
        "01.2.3.4",
        "1.2.3.4.5",
        "1.2.3.4/8",
        "[1.2.3.4]",
        "[::1",
        "::1]",
        "[::1]x",
        "[::1]:",
        "[]",
        ":",
        "[",
        "_hidden",
        "unknown",
        "localhost",
        "fe80::1%eth0",
        "\"1.2.3.4\"",
        "1.2.3.4 5",
    ] {
        assert_eq!(address(bad.as_bytes()), None, "{bad:?}");
    }
    assert_eq!(address(b"\xff1.2.3.4"), None);
}

#[test]
fn forwarded_follows_rfc_7239() {
    for (value, expected) in [
        ("for=192.0.2.1", "192.0.2.1"),
        ("For=\"192.0.2.1:4711\"", "192.0.2.1"),
        ("FOR=\"[2001:db8:cafe::17]:4711\"", "2001:db8:cafe::17"),
        ("for=\"[2001:db8:cafe::17]:_port\"", "2001:db8:cafe::17"),
        ("for=192.0.2.60;proto=http;by=203.0.113.43", "192.0.2.60"),
        ("proto=http; for=192.0.2.60 ;by=203.0.113.43;", "192.0.2.60"),
        (";;for=192.0.2.60", "192.0.2.60"),
        ("for=192.0.2.43, for=198.51.100.17", "198.51.100.17"),
        ("for=192.0.2.43, for=10.1.1.1,for=\"[fd00::1]\"", "192.0.2.43"),
        // Without the required quotes.
        ("for=[2001:db8::1]:80", "2001:db8::1"),
        ("for=192.0.2.1:80", "192.0.2.1"),
        // Separators in quoted strings have no meaning.
        ("for=192.0.2.1;host=\"a,b;for=1.1.1.1\"", "192.0.2.1"),
        ("for=192.0.2.1;x=\"\\\", for=1.1.1.1, \\\\\"", "192.0.2.1"),
        ("for=\"1\\92.0.2\\.1\"", "192.0.2.1"),
        // An address that is hidden, absent or malformed ends the search.
        ("for=192.0.2.43, for=unknown", "10.0.0.1"),
        ("for=192.0.2.43, for=\"_gazonk\"", "10.0.0.1"),
        ("for=192.0.2.43, for=_SEVKISEK, for=10.4.4.4", "10.4.4.4"),
        ("for=192.0.2.43, proto=https", "10.0.0.1"),
        ("for=192.0.2.43;for=192.0.2.44", "10.0.0.1"),
        ("for", "10.0.0.1"),
        ("for=", "10.0.0.1"),
        ("for=\"192.0.2.1", "10.0.0.1"),
        ("for=192.0.2.1\"", "10.0.0.1"),
        ("for=\"192.0.2.1\"x", "10.0.0.1"),
        ("for=\"192.0.2.1\\\"", "10.0.0.1"),
        ("=192.0.2.1", "10.0.0.1"),
        ("192.0.2.1", "10.0.0.1"),
        ("", "10.0.0.1"),
    ] {
        assert_eq!(client(&[(FORWARDED, value)]), expected, "{value:?}");
    }
}

#[test]
fn an_unbalanced_quote_of_a_client_has_no_effect() {
    for spoof in ["for=\"6.6.6.6", "for=6.6.6.6;x=\"", "\"", "x=\"\\", "for=6.6.6.6;x=\"\\\\"] {
        for ours in ["for=192.0.2.1", "for=\"192.0.2.1:80\"", "for=192.0.2.1;by=\"[fd00::1]\""] {
            let value = format!("{spoof}, {ours}");
            assert_eq!(client(&[(FORWARDED, &value)]), "192.0.2.1", "{value:?}");
        }
    }
}

#[test]
fn several_fields_are_one_list() {
    assert_eq!(client(&[(XFF, "1.1.1.1"), (XFF, "192.0.2.1"), (XFF, "10.2.2.2")]), "192.0.2.1");
    assert_eq!(client(&[(XFF, "192.0.2.1, 10.2.2.2"), (XFF, "10.3.3.3")]), "192.0.2.1");
    assert_eq!(client(&[(XFF, "192.0.2.1"), (XFF, "")]), "192.0.2.1");
    assert_eq!(client(&[(FORWARDED, "for=1.1.1.1"), (FORWARDED, "for=192.0.2.1")]), "192.0.2.1");
}

#[test]
fn the_configured_header_is_read() {
    let both = headers(&[(FORWARDED, "for=192.0.2.1"), (XFF, "192.0.2.2")]);
    let find = |forwarding, headers: &HeaderMap| {
        config().forwarding(forwarding).find(ip("10.0.0.1"), false, headers).to_string()
    };
    assert_eq!(find(Forwarding::Auto, &both), "192.0.2.2");
    assert_eq!(find(Forwarding::XForwardedFor, &both), "192.0.2.2");
    assert_eq!(find(Forwarding::Forwarded, &both), "192.0.2.1");
    let one = headers(&[(FORWARDED, "for=192.0.2.1")]);
    assert_eq!(find(Forwarding::Auto, &one), "192.0.2.1");
    assert_eq!(find(Forwarding::XForwardedFor, &one), "10.0.0.1");
    let unusable = headers(&[(FORWARDED, "for=192.0.2.1"), (XFF, "garbage")]);
    assert_eq!(find(Forwarding::Auto, &unusable), "10.0.0.1", "only one of the headers is used");
    assert_eq!(find(Forwarding::Auto, &HeaderMap::new()), "10.0.0.1");
}

#[test]
fn long_lists_are_read_up_to_a_limit() {
    let many = |count: usize, element: &str| vec![element; count].join(",");
    let list = format!("192.0.2.1,{}", many(MAX_ELEMENTS - 1, "10.2.2.2"));
    assert_eq!(client(&[(XFF, &list)]), "192.0.2.1", "the limit is reached");
    let list = format!("192.0.2.1,10.9.9.9,{}", many(MAX_ELEMENTS - 1, "10.2.2.2"));
    assert_eq!(client(&[(XFF, &list)]), "10.9.9.9", "the last element within the limit");
    let list = format!("192.0.2.1,{}", many(100_000, ""));
    assert_eq!(client(&[(XFF, &list)]), "10.0.0.1", "empty elements count towards the limit");
    let fields = vec![(XFF, "10.2.2.2"); 1000];
    assert_eq!(client(&fields), "10.2.2.2");
    let long = "1".repeat(1 << 20);
    assert_eq!(client(&[(XFF, &long)]), "10.0.0.1");
    assert_eq!(client(&[(XFF, &format!("192.0.2.1,{long},10.2.2.2"))]), "10.2.2.2");
    for junk in ["\"", "\\", "\\\"", "\",", "for=\"\\\\\""] {
        let junk = junk.repeat(100_000);
        assert_eq!(client(&[(FORWARDED, &junk)]), "10.0.0.1");
        assert_eq!(client(&[(FORWARDED, &format!("{junk}, for=192.0.2.1"))]), "192.0.2.1");
    }
}

/// Chains that proxies append to random input of a client.
#[test]
fn random_input_does_not_change_the_client_address() {
    let mut numbers = Numbers(1);
    for _ in 0..5_000 {
        let v4 =
            |first: u8, n: u64| IpAddr::from([first, n as u8, (n >> 8) as u8, (n >> 16) as u8]);
        let v6 =
            |first: u16, n: u64| IpAddr::from([first, n as u16, 0, 0, 0, 0, 1, (n >> 16) as u16]);
        let client = [v4(192, numbers.next()), v6(0x2001, numbers.next())][numbers.below(2)];
        let mut hops = vec![client];
        for _ in 0..numbers.below(5) {
            hops.push([v4(10, numbers.next()), v6(0xfd00, numbers.next())][numbers.below(2)]);
        }
        let junk: String = (0..numbers.below(30))
            .map(|_| char::from(b" \t,;=\"\\[]:._f1o0r-x"[numbers.below(19)]))
            .collect();
        for name in [XFF, FORWARDED] {
            let mut values = vec![junk.clone()];
            for &hop in &hops {
                let element = element(&mut numbers, name, hop);
                match values.last_mut() {
                    // A proxy extends the last field, or adds a field.
                    Some(last) if numbers.below(3) > 0 => *last = format!("{last}, {element}"),
                    _ => values.push(element),
                }
            }
            let fields: Vec<_> = values.iter().map(|value| (name, value.as_str())).collect();
            let found = config().find(ip("10.0.0.1"), false, &headers(&fields));
            assert_eq!(found, client, "{fields:?}");
            let found = config().find(ip("192.0.2.1"), false, &headers(&fields));
            assert_eq!(found, ip("192.0.2.1"), "an untrusted peer with {fields:?}");
        }
    }
}

/// One element for `hop`, in one of the forms that proxies use.
fn element(numbers: &mut Numbers, name: &str, hop: IpAddr) -> String {
    let with_port = match hop {
        IpAddr::V4(v4) => [v4.to_string(), format!("{v4}:80")],
        IpAddr::V6(v6) => [format!("[{v6}]"), format!("[{v6}]:80")],
    };
    let text = &with_port[numbers.below(2)];
    if name == XFF {
        return [text.clone(), hop.to_string()][numbers.below(2)].clone();
    }
    let before =
        ["", "proto=https;", "host=\"a, b;\\\"\";", "by=\"[fd00::1]:8\"; "][numbers.below(4)];
    let after = ["", ";proto=http", ";host=\"\\\\\"", ";x=\"for=6.6.6.6\";"][numbers.below(4)];
    format!("{before}for=\"{text}\"{after}")
}

#[test]
fn random_bytes_do_not_panic() {
    let mut numbers = Numbers(2);
    for _ in 0..20_000 {
        let alphabet = b"for=for=10.1.1.1;,\"\\[]:_ \t\xff";
        let bytes: Vec<_> =
            (0..numbers.below(60)).map(|_| alphabet[numbers.below(alphabet.len())]).collect();
        let value = HeaderValue::from_bytes(&bytes).unwrap();
        let mut map = HeaderMap::new();
        map.append([XFF, FORWARDED][numbers.below(2)], value);
        config().find(ip("10.0.0.1"), false, &map);
        assert_eq!(config().find(ip("192.0.2.1"), false, &map), ip("192.0.2.1"));
    }
}

#[test]
fn only_the_prefix_counts() {
    let bytes = |config: &ClientAddress, address: &str| config.masked(ip(address));
    let whole = ClientAddress::new();
    let mut expected = [0; 17];
    expected[..5].copy_from_slice(&[4, 192, 0, 2, 7]);
    assert_eq!(bytes(&whole, "192.0.2.7"), expected);
    assert_eq!(bytes(&whole, "::ffff:192.0.2.7"), expected);
    expected = [0; 17];
    expected[..9].copy_from_slice(&[6, 0x20, 1, 0xd, 0xb8, 1, 2, 3, 4]);
    assert_eq!(bytes(&whole, "2001:db8:102:304:5:6:7:8"), expected);
    let same = |v4, v6, one: &str, other: &str| {
        let config = ClientAddress::new().ipv4_prefix(v4).ipv6_prefix(v6);
        bytes(&config, one) == bytes(&config, other)
    };
    assert!(same(24, 64, "192.0.2.7", "192.0.2.250"));
    assert!(!same(24, 64, "192.0.2.7", "192.0.3.7"));
    assert!(!same(25, 64, "192.0.2.7", "192.0.2.250"));
    assert!(same(0, 64, "192.0.2.7", "1.2.3.4"));
    assert!(same(32, 56, "2001:db8:0:12::1", "2001:db8:0:34::1"));
    assert!(!same(32, 64, "2001:db8:0:12::1", "2001:db8:0:34::1"));
    assert!(
        !same(255, 255, "2001:db8::1", "2001:db8::2"),
        "a prefix is limited to the length of the address"
    );
    assert!(!same(0, 0, "::", "0.0.0.0"), "address families differ");
}
