//! What nf_tables and nfnetlink share between questions and announcements (`linux/netfilter/nf_tables.h`,
//! `linux/netfilter/nfnetlink.h`). Pure.

use netlink_packet_core::DecodeError;

use crate::attribute::{attribute, number};

/// `NFNL_SUBSYS_NFTABLES << 8`; the low byte tells messages apart.
pub(crate) const SUBSYSTEM: u16 = 10 << 8;

/// `NFPROTO_UNSPEC`, `NFPROTO_INET`, `NFPROTO_IPV4`, `NFPROTO_IPV6`.
pub(crate) const UNSPEC: u8 = 0;
pub(crate) const INET: u8 = 1;
pub(crate) const IPV4: u8 = 2;
pub(crate) const IPV6: u8 = 10;

/// `NFPROTO_ARP`, `NFPROTO_NETDEV`, `NFPROTO_BRIDGE`.
const ARP: u8 = 3;
const NETDEV: u8 = 5;
const BRIDGE: u8 = 7;

/// `NFTA_TABLE_NAME`, `NFTA_CHAIN_TABLE`, `NFTA_RULE_TABLE` and so on: the name of the table is the first
/// attribute of all.
pub(crate) const TABLE: u16 = 1;

/// `NFTA_CHAIN_HOOK`, and in it `NFTA_HOOK_HOOKNUM`, and `NF_INET_FORWARD` as its value.
const CHAIN_HOOK: u16 = 4;
const HOOK_NUMBER: u16 = 1;
const FORWARD: u32 = 2;

/// The longest name that is told; nothing but letters, digits and punctuation is.
const NAME_LEN: usize = 64;

/// The family (of `struct nfgenmsg`) and the attributes of a payload.
pub(crate) fn split(payload: &[u8]) -> Result<(u8, &[u8]), DecodeError> {
    match payload {
        [family, _, _, _, attributes @ ..] => Ok((*family, attributes)),
        _ => Err("a message of nfnetlink without a header".into()),
    }
}

/// Whether the chain of these attributes is one that forwarded packets pass.
pub(crate) fn is_forward(chain: &[u8]) -> Result<bool, DecodeError> {
    let hook = attribute(chain, CHAIN_HOOK)?.map(|hook| number(hook, HOOK_NUMBER));
    Ok(hook.transpose()?.flatten() == Some(FORWARD))
}

/// A table as `nft` names it, `ip filter`; `None` for a family that is not known.
pub(crate) fn table(family: u8, name: &str) -> Option<String> {
    let family = match family {
        INET => "inet",
        IPV4 => "ip",
        IPV6 => "ip6",
        ARP => "arp",
        NETDEV => "netdev",
        BRIDGE => "bridge",
        _ => return None,
    };
    Some(format!("{family} {}", told(name)))
}

/// A name as it can be printed: names are whatever somebody chose.
pub(crate) fn told(name: &str) -> String {
    name.chars()
        .filter(char::is_ascii_graphic)
        .take(NAME_LEN)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_named_as_nft_does_whatever_its_name_holds() {
        assert_eq!(table(INET, "firewalld").as_deref(), Some("inet firewalld"));
        assert_eq!(table(BRIDGE, "filter").as_deref(), Some("bridge filter"));
        assert_eq!(table(99, "filter"), None);
        let strange = format!("a\u{1b}[2J\n\u{fffd}{}", "b".repeat(100));
        let named = table(IPV6, &strange).unwrap();
        assert_eq!(named, format!("ip6 a[2J{}", "b".repeat(60)));
    }

    #[test]
    fn a_payload_without_its_header_is_refused() {
        assert!(split(&[2, 0, 0]).is_err());
        assert_eq!(split(&[2, 0, 0, 0, 7]).unwrap(), (2, &[7][..]));
    }
}
