//! Hashes the bytes of a key to 64 bits.

use std::fmt;

use siphasher::sip::SipHasher13;
use twox_hash::XxHash3_64;

/// Hashes the bytes of a key: the same in every process, on every platform and in every version.
///
/// It does not use `std::hash::Hash`, which is not stable between platforms and versions. Keys of other
/// types must be converted to bytes.
#[derive(Clone, Copy)]
pub(crate) struct KeyHasher(Function);

#[derive(Clone, Copy)]
enum Function {
    Sip(SipHasher13),
    Xxh3,
}

impl KeyHasher {
    /// SipHash-1-3 (Aumasson and Bernstein 2012, with one and three rounds) under a secret that all
    /// gateways share: without it a client cannot choose keys that go to one backend.
    pub(crate) fn sip(secret: [u64; 2]) -> Self {
        Self(Function::Sip(SipHasher13::new_with_keys(secret[0], secret[1])))
    }

    /// XXH3 (Collet 2019) with 64 bits and without a seed: the same as in other programs. Clients
    /// can choose keys that go to one backend.
    pub(crate) fn xxh3() -> Self {
        Self(Function::Xxh3)
    }

    /// The hash of `bytes`.
    #[inline]
    pub(crate) fn hash(&self, bytes: &[u8]) -> u64 {
        match &self.0 {
            Function::Sip(hasher) => hasher.hash(bytes),
            Function::Xxh3 => XxHash3_64::oneshot(bytes),
        }
    }
}

impl Default for KeyHasher {
    /// SipHash-1-3 under a constant of this crate: gateways agree without a shared secret, but
    /// clients can choose keys that go to one backend.
    fn default() -> Self {
        Self::sip([u64::from_le_bytes(*b"tower-st"), u64::from_le_bytes(*b"icky/key")])
    }
}

impl fmt::Debug for KeyHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Function::Sip(_) => "KeyHasher::Sip(..)",
            Function::Xxh3 => "KeyHasher::Xxh3",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(len: usize) -> Vec<u8> {
        (0..=255).cycle().take(len).collect()
    }

    #[test]
    fn siphash_is_stable() {
        // The bytes 0, 1, 2 and so on, by another implementation (Python): under the key of the
        // SipHash paper's test vectors, and under this crate's constant.
        let golden = [
            (0, 0xabac_0158_050f_c4dc, 0xb37a_eb16_4a99_600c),
            (1, 0xc9f4_9bf3_7d57_ca93, 0x00fb_c77a_ed09_0a9a),
            (7, 0xd392_7d98_9bb1_1140, 0xc11b_2291_f8b2_d68f),
            (8, 0x3690_9511_8d29_9a8e, 0x862e_6653_bfad_18bc),
            (15, 0xd320_d86d_2a51_9956, 0x9820_177d_9135_840a),
            (16, 0xcc4f_dd1a_7d90_8b66, 0xe8d0_80d9_84f4_e46f),
            (17, 0x9cf2_6890_63db_d80c, 0x6dbb_b708_21a7_7c4e),
            (63, 0x9d19_9062_b7bb_b3a8, 0x17b7_8ebd_c626_85c7),
            (1000, 0x2cf8_d9d4_f270_cadf, 0x4e83_38c7_cfec_acd7),
        ];
        let papers = KeyHasher::sip([0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908]);
        for (len, keyed, ours) in golden {
            assert_eq!(papers.hash(&bytes(len)), keyed, "{len} bytes, the paper's key");
            assert_eq!(KeyHasher::default().hash(&bytes(len)), ours, "{len} bytes, our key");
        }
    }

    #[test]
    fn xxh3_is_stable() {
        // By another implementation; a length on either side of each of the function's branches.
        let golden = [
            (0, 0x2d06_8005_38d3_94c2),
            (1, 0xc44b_dff4_074e_ecdb),
            (3, 0x5f42_99fc_161c_9cbb),
            (4, 0x60da_b036_a582_11f2),
            (8, 0x3a1c_2d7c_85af_88f8),
            (9, 0xe961_2598_145b_b9dc),
            (16, 0x8355_e3a6_f617_70db),
            (17, 0x9ef3_41a9_9de3_7328),
            (128, 0x85c6_174c_7ff4_c46b),
            (129, 0xec76_42b4_31ba_3e5a),
            (240, 0x375a_384d_957f_e865),
            (241, 0x02e8_cd95_421c_6d02),
            (1000, 0xd33d_d80b_46f6_0e50),
        ];
        for (len, hash) in golden {
            assert_eq!(KeyHasher::xxh3().hash(&bytes(len)), hash, "{len} bytes");
        }
    }

    #[test]
    fn the_secret_changes_hashes_and_is_not_printed() {
        let (one, other) = (KeyHasher::sip([1, 2]), KeyHasher::sip([2, 1]));
        assert_ne!(one.hash(b"alice"), other.hash(b"alice"));
        assert_eq!(format!("{one:?}"), format!("{other:?}"));
    }
}
