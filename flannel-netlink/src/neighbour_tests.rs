use netlink_packet_core::Emitable;
use proptest::prelude::*;

use super::*;

const INDEX: u32 = 7;

fn device() -> DeviceName {
    "flannel.1".parse().unwrap()
}

fn neighbour(address: &str) -> Neighbour {
    let id = NeighbourId {
        device: device(),
        address: address.parse().unwrap(),
    };
    let mac = "02:00:00:00:00:07".parse().unwrap();
    Neighbour { id, mac }
}

fn bytes(message: &NeighbourMessage) -> Vec<u8> {
    let mut bytes = vec![0; message.buffer_len()];
    message.emit(&mut bytes);
    bytes
}

#[test]
fn a_permanent_neighbour_comes_back_as_it_was_asked_for() {
    for address in ["10.5.7.0", "fd10:5:0:7::"] {
        let neighbour = neighbour(address);
        let seen = decode(&bytes(&encode(&neighbour, INDEX))).unwrap().unwrap();
        assert_eq!(seen.index, INDEX);
        assert_eq!(seen.named(device()), Some(neighbour));
    }
}

#[test]
fn a_neighbour_that_the_kernel_asked_for_is_none_of_ours_and_known_by_its_address() {
    let neighbour = neighbour("10.5.7.0");
    for state in [
        NeighbourState::Reachable,
        NeighbourState::Incomplete,
        NeighbourState::Failed,
        NeighbourState::Noarp,
    ] {
        let mut message = encode(&neighbour, INDEX);
        message.header.state = state;
        let seen = decode(&bytes(&message)).unwrap().unwrap();
        assert_eq!(seen.named(device()), None, "{state}");
        assert_eq!(seen.id(device()), neighbour.id);
    }
}

#[test]
fn what_this_host_answers_for_is_no_neighbour() {
    let mut message = encode(&neighbour("10.5.7.0"), INDEX);
    message.header.flags = NeighbourFlags::Proxy;
    assert_eq!(decode(&bytes(&message)).unwrap(), None);
}

proptest! {
    #[test]
    fn no_payload_is_too_strange(payload in proptest::collection::vec(any::<u8>(), 0..100)) {
        let _ = decode(&payload).map(|seen| seen.map(|seen| seen.named(device())));
    }
}
