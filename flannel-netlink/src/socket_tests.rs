use flannel_core::{Family, Hops, Op, Route, RouteId, RouteKind};
use netlink_packet_core::NetlinkHeader;
use nix::sched::CloneFlags;

use super::*;
use crate::{facts, link, request};

pub(crate) fn in_a_namespace(test: impl FnOnce(RequestSocket) + Send) {
    assert!(
        nix::unistd::geteuid().is_root(),
        "this test makes a network namespace: run it as root"
    );
    std::thread::scope(|scope| {
        scope.spawn(|| {
            nix::sched::unshare(CloneFlags::CLONE_NEWNET).unwrap();
            test(RequestSocket::open(&Namespace::current()).unwrap());
        });
    });
}

fn blackholes(count: u16) -> Vec<Request> {
    let blackhole = |n: u16| Route {
        id: RouteId::to(format!("10.5.{}.{}/32", n / 250, n % 250).parse().unwrap()),
        kind: RouteKind::Blackhole,
        protocol: 70,
        hops: Hops::None,
        source: None,
        scope: 0,
        decorated: false,
    };
    let add = |n| request::requests(&Op::Add(blackhole(n).into()), |_| None).unwrap();
    (0..count).flat_map(add).collect()
}

#[test]
fn a_dump_that_was_given_up_does_not_disturb_the_next() {
    in_a_namespace(|mut socket| {
        assert_eq!(socket.change("add", &blackholes(5000)).unwrap(), []);
        for _ in 0..3 {
            let request = Request {
                message: link::question(None),
                flags: NLM_F_DUMP,
            };
            socket.send("list", &[request], 0).unwrap();
            let routes = facts::routes(&mut socket, Family::V4, |_| true, Some);
            assert_eq!(routes.unwrap().len(), 5000);
            // The kernel refuses a dump while another on the socket has not been read to its end.
            let mut table = netlink_packet_route::route::RouteMessage::default();
            table.header.address_family = netlink_packet_route::AddressFamily::Inet;
            let request = Request {
                message: RouteNetlinkMessage::GetRoute(table),
                flags: NLM_F_DUMP,
            };
            socket.send("list", &[request], 0).unwrap();
            assert_eq!(facts::links(&mut socket).unwrap().len(), 1);
        }
    });
}

#[test]
fn failures_in_every_chunk_are_told_by_their_place() {
    in_a_namespace(|mut socket| {
        assert_eq!(socket.change("add", &blackholes(300)).unwrap(), []);
        let failed = socket.change("add", &blackholes(301)).unwrap();
        let places = failed.iter().map(|(place, _)| *place);
        assert_eq!(places.collect::<Vec<_>>(), (0..300).collect::<Vec<_>>());
        assert!(failed.iter().all(|(_, failure)| failure.errno == Errno::EEXIST));
    });
}

#[test]
fn nobody_but_the_kernel_can_send_an_answer() {
    in_a_namespace(|mut socket| {
        let mut header = NetlinkHeader::default();
        header.length = 36;
        header.message_type = netlink_packet_core::NLMSG_ERROR;
        header.sequence_number = socket.sequence + 1;
        header.port_number = socket.port;
        let mut forged = vec![0; 36];
        netlink_packet_core::Emitable::emit(&header, &mut forged);
        forged[16..20].copy_from_slice(&(-1_i32).to_ne_bytes());
        let stranger = Socket::new(NETLINK_ROUTE).unwrap();
        let sent = stranger.send_to(&forged, &SocketAddr::new(socket.port, 0), 0);
        assert_eq!(sent.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        let loopback = "lo".parse().unwrap();
        let found = socket
            .ask("look", link::question(Some(&loopback)), link::decode)
            .unwrap();
        assert_eq!(found.unwrap().unwrap().index, 1);
    });
}

#[test]
fn a_datagram_holds_no_more_than_the_kernel_takes() {
    let one = blackholes(1).remove(0);
    let length = one.message.buffer_len();
    let count = |requests: &[Request]| {
        let count = sendable(requests);
        assert!(requests[..count].iter().map(wire_len).sum::<usize>() <= SEND_LEN || count == 1);
        count
    };
    assert_eq!(count(&blackholes(500)), REQUESTS_AT_ONCE);
    assert_eq!(count(&blackholes(5)), 5);
    let RouteNetlinkMessage::NewRoute(mut long) = one.message else {
        panic!("not a route");
    };
    let metrics = vec![netlink_packet_route::route::RouteMetric::Mtu(1400); 5000];
    long.attributes
        .push(netlink_packet_route::route::RouteAttribute::Metrics(metrics));
    let long = || Request {
        message: RouteNetlinkMessage::NewRoute(long.clone()),
        flags: 0,
    };
    assert!(wire_len(&long()) > length + 40_000);
    assert_eq!(count(&[long(), long()]), 1);
}
