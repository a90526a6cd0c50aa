//! What others put into the store is input from outside: it costs one warning, and nothing else.

use std::fs;
use std::time::Duration;

use lab::{Families, Host, Lab, wait_until};

use crate::network::{
    SOON, assert_one_warning, catch_up, key, net, network, put_peer, routes_to, settled, subnets, subnets_of,
    value, value_at, value_of_node, wait_for_routes,
};

/// An entry that is no peer's lease, and what the warning about it says.
struct Garbage {
    name: String,
    text: String,
    says: [String; 2],
}

/// Every kind of it, for a daemon that has, or will have, the subnet 10.77.`own`.0/24.
fn garbage(gateway: &Host, own: u8) -> Vec<Garbage> {
    let entry = |name: &str, text: &str, says: [&str; 2]| Garbage {
        name: name.into(),
        text: text.into(),
        says: says.map(Into::into),
    };
    let good = value(gateway);
    let inside = format!("10.77.{own}.128");
    vec![
        entry("not-a-subnet", &good, ["not-a-subnet", "10.5.1.0-24"]),
        entry("10.77.300.0-24", &good, ["10.77.300.0-24", "not a subnet key"]),
        entry("10.77.210.5-24", &good, ["10.77.210.5-24", "host bits"]),
        entry(
            "10.77.211.0-24",
            "{nonsense",
            ["10.77.211.0-24", "not a JSON object"],
        ),
        entry("10.77.212.0-24", "", ["10.77.212.0-24", "not a JSON object"]),
        entry(
            "10.77.213.0-24",
            r#"{"PublicIP":"10.0.0"}"#,
            ["10.77.213.0-24", "PublicIP"],
        ),
        entry(
            "10.77.214.0-24",
            r#"{"BackendType":"host-gw"}"#,
            ["10.77.214.0/24", "no public IPv4 address"],
        ),
        entry("10.99.1.0-24", &good, ["10.99.1.0/24", "outside the network"]),
        entry("10.77.0.0-16", &good, ["10.77.0.0/16", "outside the network"]),
        entry(
            &format!("{inside}-25"),
            &good,
            [&format!("{inside}/25"), "overlaps our own subnet"],
        ),
        entry(
            "10.77.200.128-25",
            &good,
            ["10.77.200.128/25", "overlaps the older lease 10.77.200.0/24"],
        ),
    ]
}

impl Garbage {
    fn put(&self, lab: &Lab) {
        lab.put_lease(&self.name, &self.text).unwrap();
    }
}

/// Leases of the peers that must not be disturbed.
fn put_peers(lab: &Lab) {
    for number in [200, 201] {
        put_peer(lab, &subnets(Families::V4, number), lab.host(1));
    }
}

#[track_caller]
fn assert_undisturbed(lab: &Lab) {
    let peers = [200, 201].map(|number| subnets(Families::V4, number)).concat();
    wait_for_routes(lab.host(0), routes_to(&peers, lab.host(1)), SOON);
}

/// One warning for each, however often all is looked at again; then the garbage goes.
#[track_caller]
fn assert_warned_once(lab: &Lab, daemon: &lab::Daemon, all: &[Garbage]) {
    daemon.signal(lab::Signal::SIGHUP).unwrap();
    daemon.wait_for_log("asked to look", SOON).unwrap();
    for number in [240, 241] {
        catch_up(lab, lab.host(0), Families::V4, number, lab.host(1));
        lab.delete_lease(&key(&subnets(Families::V4, number))).unwrap();
    }
    for garbage in all {
        let lines = daemon.lines_with(&[" WARN ", &garbage.says[0]]);
        assert_eq!(lines.len(), 1, "{}: {lines:#?}\n{}", garbage.name, daemon.log());
        assert!(
            lines[0].contains(&garbage.says[1]),
            "{}: {}",
            garbage.name,
            lines[0]
        );
    }
    assert_undisturbed(lab);
    daemon.must_run("the end of the test").unwrap();
}

#[test]
fn garbage_that_was_there_before_the_start_costs_one_warning_each_and_no_peer_its_route() {
    let lab = network("garbagebefore", 2, Families::V4);
    put_peers(&lab);
    // A lease of our own, so that it is known what overlaps it.
    lab.put_lease("10.77.150.0-24", &value(lab.host(0))).unwrap();
    let all = garbage(lab.host(1), 150);
    all.iter().for_each(|garbage| garbage.put(&lab));
    let daemon = settled(lab.host(0));
    assert_eq!(subnets_of(lab.host(0)), [net("10.77.150.0/24")]);
    assert_warned_once(&lab, &daemon, &all);
}

#[test]
fn garbage_that_comes_later_costs_one_warning_each_and_no_peer_its_route() {
    let lab = network("garbagelater", 2, Families::V4);
    put_peers(&lab);
    let daemon = settled(lab.host(0));
    let own = match subnets_of(lab.host(0))[0].addr() {
        std::net::IpAddr::V4(v4) => v4.octets()[2],
        v6 @ std::net::IpAddr::V6(_) => panic!("{v6}"),
    };
    let monitor = lab.host(0).monitor_routes().unwrap();
    let all = garbage(lab.host(1), own);
    all.iter().for_each(|garbage| garbage.put(&lab));
    assert_warned_once(&lab, &daemon, &all);
    let fences = [240, 241].map(|number| subnets(Families::V4, number)).concat();
    let events = monitor.stop().unwrap();
    assert!(
        events.iter().all(|event| fences.contains(&event.destination)),
        "{events:#?}"
    );
}

#[test]
fn what_is_no_file_or_no_text_among_the_leases_costs_one_warning_each() {
    let lab = network("nofile", 2, Families::V4);
    put_peers(&lab);
    let subnets_dir = lab.store_dir().join("subnets");
    fs::create_dir(subnets_dir.join("10.77.215.0-24")).unwrap();
    fs::write(subnets_dir.join("10.77.216.0-24"), [0xff, 0xfe, 0, 1]).unwrap();
    fs::write(subnets_dir.join("10.77.217.0-24"), vec![b' '; 1 << 20]).unwrap();
    let fifo = subnets_dir.join("10.77.218.0-24");
    lab.host(0)
        .exec(&["mkfifo", &fifo.display().to_string()])
        .unwrap();
    // Not seen at all: not finished, or of an editor.
    fs::write(subnets_dir.join(".10.77.219.0-24.swp"), "x").unwrap();
    let daemon = settled(lab.host(0));
    assert_undisturbed(&lab);
    catch_up(&lab, lab.host(0), Families::V4, 240, lab.host(1));
    for number in 215..=218 {
        assert_one_warning(&daemon, &[&format!("10.77.{number}.0")]);
    }
    assert!(daemon.lines_with(&["10.77.219.0"]).is_empty());
}

#[test]
fn a_lease_that_turns_to_garbage_keeps_its_route_until_it_is_deleted() {
    let lab = network("slip", 2, Families::V4);
    put_peers(&lab);
    let daemon = settled(lab.host(0));
    assert_undisturbed(&lab);
    let monitor = lab.host(0).monitor_routes().unwrap();
    lab.put_lease("10.77.200.0-24", "{\"PublicIP\":").unwrap();
    daemon.wait_for_log("WARN .*10.77.200.0-24", SOON).unwrap();
    catch_up(&lab, lab.host(0), Families::V4, 240, lab.host(1));
    lab.delete_lease("10.77.240.0-24").unwrap();
    assert_undisturbed(&lab);
    assert_one_warning(&daemon, &["10.77.200.0-24"]);
    let mut events = monitor.stop().unwrap();
    events.retain(|event| event.destination == net("10.77.200.0/24"));
    assert!(events.is_empty(), "{events:#?}");
    lab.delete_lease("10.77.200.0-24").unwrap();
    wait_for_routes(
        lab.host(0),
        routes_to(&subnets(Families::V4, 201), lab.host(1)),
        SOON,
    );
}

/// Leases whose addresses nobody can be reached at, or at which only we are.
fn hostile(name: &str, families: Families, addresses: &[&str]) {
    let lab = network(name, 2, families);
    let daemon = settled(lab.host(0));
    let peer = subnets(families, 200);
    put_peer(&lab, &peer, lab.host(1));
    let mut refused = Vec::new();
    for (number, address) in (210..).zip(addresses) {
        let nets = subnets(families, number);
        let text = match families {
            Families::V6 => value_at(None::<&String>, Some(address)),
            _ => value_at(Some(address), None::<&String>),
        };
        let text = text.replace('}', r#","NodeID":"0000000000000000000000000000000a"}"#);
        lab.put_lease(&key(&nets), &text).unwrap();
        refused.push((nets, *address));
    }
    wait_until(SOON, "the refusals", || {
        daemon.lines_with(&[" WARN ", "lease refused"]).len() >= refused.len()
    })
    .unwrap();
    daemon.signal(lab::Signal::SIGHUP).unwrap();
    catch_up(&lab, lab.host(0), families, 240, lab.host(1));
    let expected = [peer, subnets(families, 240)].concat();
    wait_for_routes(lab.host(0), routes_to(&expected, lab.host(1)), SOON);
    for (nets, address) in &refused {
        assert_one_warning(&daemon, &[&nets[0].to_string()]);
        let unspecified = address.parse::<std::net::IpAddr>().unwrap().is_unspecified();
        // Which is how flannel writes that there is none.
        let named = if unspecified { "no public" } else { address };
        assert_one_warning(&daemon, &[&nets[0].to_string(), named]);
    }
}

#[test]
fn leases_with_ipv4_addresses_of_no_host_or_of_ours_are_refused_with_one_warning_each() {
    let own = "192.168.77.11";
    hostile(
        "hostile4",
        Families::V4,
        &[
            "127.0.0.1",
            "0.0.0.0",
            "224.1.1.1",
            "255.255.255.255",
            "10.77.214.9",
            own,
        ],
    );
}

#[test]
fn leases_with_ipv6_addresses_of_no_host_or_of_ours_are_refused_with_one_warning_each() {
    let own = "fd00:77::11";
    hostile(
        "hostile6",
        Families::V6,
        &["::1", "::", "ff02::1", "fd77:0:0:213::9", own],
    );
}

#[test]
fn a_peer_to_which_there_is_no_way_delays_no_other_and_costs_one_warning() {
    let lab = network("noway", 2, Families::V4);
    let daemon = settled(lab.host(0));
    let (bad, good) = (subnets(Families::V4, 210), subnets(Families::V4, 200));
    lab.put_lease(&key(&bad), &value_at(Some(&"172.30.0.1"), None::<&String>))
        .unwrap();
    daemon.wait_for_log("WARN .*10.77.210.0/24", SOON).unwrap();
    for _ in 0..3 {
        put_peer(&lab, &good, lab.host(1));
        wait_for_routes(
            lab.host(0),
            routes_to(&good, lab.host(1)),
            Duration::from_millis(250),
        );
        lab.delete_lease(&key(&good)).unwrap();
        wait_for_routes(lab.host(0), Vec::new(), Duration::from_millis(250));
    }
    assert_one_warning(&daemon, &["10.77.210.0/24"]);
    // Another address is tried at once.
    put_peer(&lab, &bad, lab.host(1));
    wait_for_routes(
        lab.host(0),
        routes_to(&bad, lab.host(1)),
        Duration::from_millis(250),
    );
}

#[test]
fn of_a_lease_with_the_id_of_another_and_our_address_nothing_is_taken_while_ours_is_held() {
    let lab = network("ouraddress", 1, Families::V4);
    let daemon = settled(lab.host(0));
    let own = subnets_of(lab.host(0));
    let text = value_of_node(7, lab.host(0));
    lab.put_lease("10.77.210.0-24", &text).unwrap();
    daemon.wait_for_log("WARN .*10.77.210.0/24", SOON).unwrap();
    assert_one_warning(&daemon, &["10.77.210.0/24", "192.168.77.11", "--public-ip"]);
    assert_eq!(subnets_of(lab.host(0)), own);
    let theirs = lab
        .leases()
        .unwrap()
        .into_iter()
        .find(|lease| lease.key == "10.77.210.0-24")
        .unwrap();
    assert_eq!(theirs.text, text);
}
