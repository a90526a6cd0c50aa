use netlink_packet_core::{NLM_F_MULTIPART, NetlinkHeader};

use super::*;

/// One message, padded as the kernel pads it.
fn message(kind: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
    use netlink_packet_core::Emitable;
    let mut header = NetlinkHeader::default();
    header.length = u32::try_from(HEADER_LEN + payload.len()).unwrap();
    header.message_type = kind;
    header.flags = flags;
    header.sequence_number = 7;
    header.port_number = 42;
    let mut bytes = vec![0; HEADER_LEN];
    header.emit(&mut bytes);
    bytes.extend(payload);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// The echo of a request with four bytes of payload, or of its header alone.
fn echo(whole: bool) -> Vec<u8> {
    let request = message(24, 5, &[0xff; 4]);
    request[..if whole { 20 } else { HEADER_LEN }].to_vec()
}

fn text_attribute(text: &str) -> Vec<u8> {
    let length = u16::try_from(4 + text.len() + 1).unwrap();
    let mut bytes = [
        &length.to_ne_bytes()[..],
        &ATTR_MESSAGE.to_ne_bytes(),
        text.as_bytes(),
        &[0],
    ]
    .concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn only(datagram: &[u8]) -> Message<'_> {
    let all = messages(datagram).collect::<Result<Vec<_>, _>>().unwrap();
    assert_eq!(all.len(), 1);
    all[0]
}

fn failure(errno: Errno, text: Option<&str>) -> Failure {
    Failure {
        errno,
        text: text.map(str::to_owned),
    }
}

#[test]
fn a_datagram_is_taken_apart_at_the_padding() {
    let datagram = [
        message(24, NLM_F_MULTIPART, &[1, 2, 3, 4, 5]),
        message(25, 0, &[6]),
    ]
    .concat();
    let all = messages(&datagram).collect::<Result<Vec<_>, _>>().unwrap();
    let seen = all
        .iter()
        .map(|message| (message.kind, message.sequence, message.port, message.payload));
    let expected = [(24, 7, 42, &[1, 2, 3, 4, 5][..]), (25, 7, 42, &[6][..])];
    assert_eq!(seen.collect::<Vec<_>>(), expected);
}

#[test]
fn a_cut_datagram_is_an_error_after_its_whole_messages() {
    let datagram = [message(24, 0, &[1, 2, 3, 4]), message(25, 0, &[5, 6, 7, 8])].concat();
    for cut in [21, 30, 38] {
        let all = messages(&datagram[..cut]).collect::<Vec<_>>();
        assert_eq!(all.len(), 2, "{cut}");
        assert!(all[0].is_ok() && all[1].is_err(), "{cut}");
    }
    let zero_length = [0; 32];
    assert_eq!(messages(&zero_length).count(), 1);
    assert!(messages(&zero_length).all(|message| message.is_err()));
}

#[test]
fn a_code_of_zero_is_an_acknowledgement() {
    let payload = [&0_i32.to_ne_bytes()[..], &echo(false)].concat();
    let datagram = message(NLMSG_ERROR, NLM_F_CAPPED, &payload);
    assert_eq!(only(&datagram).reply().unwrap(), Reply::Acknowledged);
}

#[test]
fn the_kernels_words_are_found_behind_a_whole_and_behind_a_cut_echo() {
    for (whole, capped) in [(true, 0), (false, NLM_F_CAPPED)] {
        let code = (-101_i32).to_ne_bytes();
        let text = text_attribute("Nexthop has invalid gateway");
        let payload = [&code[..], &echo(whole), &text].concat();
        let datagram = message(NLMSG_ERROR, NLM_F_ACK_TLVS | capped, &payload);
        let expected = failure(Errno::ENETUNREACH, Some("Nexthop has invalid gateway"));
        assert_eq!(only(&datagram).reply().unwrap(), Reply::Failed(expected.clone()));
        assert_eq!(
            expected.to_string(),
            "Nexthop has invalid gateway (ENETUNREACH: Network is unreachable)"
        );
    }
}

#[test]
fn an_error_without_words_is_its_errno() {
    let payload = [&(-17_i32).to_ne_bytes()[..], &echo(true)].concat();
    let datagram = message(NLMSG_ERROR, 0, &payload);
    assert_eq!(
        only(&datagram).reply().unwrap(),
        Reply::Failed(failure(Errno::EEXIST, None))
    );
    assert_eq!(failure(Errno::EEXIST, None).to_string(), "EEXIST: File exists");
}

#[test]
fn a_dump_that_ends_with_a_negative_code_has_failed() {
    let text = text_attribute("ipv4: FIB table does not exist");
    let payload = [&(-2_i32).to_ne_bytes()[..], &text].concat();
    let datagram = message(NLMSG_DONE, NLM_F_MULTIPART | NLM_F_ACK_TLVS, &payload);
    let expected = failure(Errno::ENOENT, Some("ipv4: FIB table does not exist"));
    assert_eq!(only(&datagram).reply().unwrap(), Reply::Done(Err(expected)));
    for whole in [&0_i32.to_ne_bytes()[..], &[]] {
        let datagram = message(NLMSG_DONE, NLM_F_MULTIPART, whole);
        assert_eq!(only(&datagram).reply().unwrap(), Reply::Done(Ok(())));
    }
}

#[test]
fn a_dump_is_whole_unless_any_part_of_it_says_that_the_table_changed() {
    let dumped = |datagrams: &[Vec<u8>]| {
        let mut dump = Dump::new();
        let messages = datagrams.iter().map(|datagram| only(datagram));
        let mut ends =
            messages.filter_map(|message| dump.take(&message, |payload| Ok(Some(payload[0]))).unwrap());
        let end = ends.next();
        assert_eq!(ends.next(), None);
        end
    };
    let part = |flags, byte| message(24, NLM_F_MULTIPART | flags, &[byte; 4]);
    let done = |flags, code: i32| message(NLMSG_DONE, NLM_F_MULTIPART | flags, &code.to_ne_bytes());
    let interrupted = NLM_F_DUMP_INTR;
    assert_eq!(dumped(&[part(0, 1), part(0, 2)]), None);
    assert_eq!(
        dumped(&[part(0, 1), part(0, 2), done(0, 0)]),
        Some(Dumped::Whole(vec![1, 2]))
    );
    assert_eq!(
        dumped(&[part(interrupted, 1), part(0, 2), done(0, 0)]),
        Some(Dumped::Interrupted)
    );
    assert_eq!(
        dumped(&[part(0, 1), done(interrupted, 0)]),
        Some(Dumped::Interrupted)
    );
    let refused = Dumped::Refused(failure(Errno::ENOENT, None));
    assert_eq!(dumped(&[part(0, 1), done(0, -2)]), Some(refused));
}

#[test]
fn an_acknowledgement_is_not_taken_for_an_empty_table() {
    let payload = [&0_i32.to_ne_bytes()[..], &echo(false)].concat();
    let datagram = message(NLMSG_ERROR, NLM_F_CAPPED, &payload);
    let mut dump = Dump::<u8>::new();
    assert!(dump.take(&only(&datagram), |_| Ok(None)).is_err());
}

proptest::proptest! {
    #[test]
    fn no_datagram_is_too_strange(
        datagram in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200),
        kind in 0..5_u16,
        flags in proptest::prelude::any::<u16>(),
    ) {
        for message in messages(&datagram).flatten() {
            let _ = message.reply();
        }
        for message in messages(&message(kind, flags, &datagram)).flatten() {
            let _ = message.reply();
        }
    }
}
