use netlink_packet_core::{Emitable, NetlinkHeader};
use proptest::prelude::{any, proptest};

use super::*;

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len() + 4).unwrap();
    let mut bytes = [&length.to_ne_bytes(), &kind.to_ne_bytes(), value].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn message(kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.length = u32::try_from(16 + payload.len()).unwrap();
    header.message_type = kind;
    let mut bytes = vec![0; 16];
    header.emit(&mut bytes);
    bytes.extend(payload);
    bytes
}

/// Something in a table of IPv4.
fn of(kind: u16, table: &str, more: &[u8]) -> Vec<u8> {
    let name = attribute(TABLE, format!("{table}\0").as_bytes());
    message(
        SUBSYSTEM | kind,
        &[&[nf_tables::IPV4, 0, 0, 0], &name[..], more].concat(),
    )
}

fn end() -> Vec<u8> {
    message(NEW_GENERATION, &[0, 0, 0, 1, 0, 0, 0, 0])
}

fn batch(messages: &[Vec<u8>]) -> Batch {
    let mut batch = Batch::default();
    batch.read(&messages.concat());
    batch
}

fn table(name: &str) -> Changed {
    Changed::Table(Some(format!("ip {name}")))
}

#[test]
fn each_table_is_told_once_whatever_changed_in_it() {
    // Of tables, chains, rules, sets, elements, objects and flowtables: made, removed, destroyed.
    for kind in [
        0, 2, 3, 5, 6, 8, 9, 11, 12, 14, 18, 20, 22, 24, 26, 27, 28, 29, 30, 31, 32,
    ] {
        let batch = batch(&[of(kind, "nat", &[]), end()]);
        assert!(batch.ended, "{kind}");
        assert_eq!(batch.told().collect::<Vec<_>>(), [table("nat")], "{kind}");
    }
    let many = vec![of(6, "nat", &[]); 10_000];
    let told = batch(&[many, vec![of(8, "filter", &[]), end()]].concat()).told();
    assert_eq!(told.collect::<Vec<_>>(), [table("filter"), table("nat")]);
}

#[test]
fn a_transaction_that_has_not_ended_goes_on() {
    let half = batch(&[of(6, "nat", &[]), end(), of(6, "filter", &[])]);
    assert!(!half.ended);
    assert!(!half.is_empty());
    let nothing = batch(&[end()]);
    assert!(nothing.is_empty());
}

#[test]
fn a_chain_that_forwarded_packets_pass_is_noticed_when_it_is_made() {
    let hook = |number: u32| attribute(4, &attribute(1, &number.to_be_bytes()));
    assert!(batch(&[of(3, "mine", &hook(2))]).forward);
    assert!(!batch(&[of(3, "mine", &hook(1))]).forward);
    assert!(!batch(&[of(3, "mine", &[])]).forward);
}

#[test]
fn what_makes_no_sense_may_be_about_any_table() {
    let cut = of(6, "nat", &[]);
    for strange in [
        cut[..cut.len() - 4].to_vec(),
        message(SUBSYSTEM | 6, &[2, 0]),
        message(SUBSYSTEM | 6, &[2, 0, 0, 0]),
        message(
            SUBSYSTEM | 6,
            &[&[99, 0, 0, 0], &attribute(TABLE, b"nat\0")[..]].concat(),
        ),
    ] {
        let batch = batch(&[of(6, "filter", &[]), strange]);
        assert!(batch.ended, "waits for nothing");
        assert_eq!(batch.told().collect::<Vec<_>>(), [Changed::Table(None)]);
    }
    assert!(batch(&[message(0x0100, &[])]).is_empty(), "of another subsystem");
}

#[test]
fn more_tables_than_are_told_apart_are_any() {
    let of_many = |count: usize| -> Vec<Changed> {
        let messages: Vec<Vec<u8>> = (0..count).map(|n| of(6, &format!("t{n}"), &[])).collect();
        batch(&messages).told().collect()
    };
    assert_eq!(of_many(TABLES).len(), TABLES);
    assert_eq!(of_many(TABLES + 1), [Changed::Table(None)]);
    assert_eq!(of_many(TABLES + 2), [Changed::Table(None)]);
}

proptest! {
    #[test]
    fn no_announcement_is_too_strange(
        kind in any::<u8>(),
        payload in proptest::collection::vec(any::<u8>(), 0..100),
    ) {
        batch(&[message(SUBSYSTEM | u16::from(kind), &payload)]);
        batch(&[payload]);
    }
}
