//! Whose address a receiver sees, for every kind of packet: with nftables and with both kinds of iptables, in IPv4 and
//! in IPv6, as [`flannel_firewall::decide`] has it.

mod site;
mod table;

use std::net::IpAddr;
use std::time::Instant;

use flannel_core::{PerFamily, PodNetwork};
use flannel_firewall::{Flow, Nat, decide};
use ipnet::IpNet;
use lab::{Daemon, Family, Namespace, Pod, Receiver, wait_until};

use crate::network::{SOON, V4, V6, address};
use crate::programs::Variant;
use site::{BEHIND, EXEMPT, GROUP, OUTSIDE, Site, UNMASQUERADED, of};
use table::{Place, ROWS, Row, Seen};

fn the_table_holds(name: &str, iptables: Option<Variant>) {
    let site = Site::new(name, iptables);
    let end = |daemons: [Daemon; 2]| {
        for daemon in daemons {
            assert!(daemon.terminate(SOON).unwrap().success());
        }
    };
    let daemons = site.daemons(&["--ip-masq=false"]);
    let inhabited = Inhabited::new(&site);
    let own = |row: &Row, family| inhabited.address(row.from, family);
    inhabited.every_receiver_sees("without masquerading", own);
    end(daemons);

    let daemons = site.daemons(&["--ip-masq"]);
    let table = |row: &Row, family| match row.seen {
        Seen::Senders => own(row, family),
        Seen::Hosts => address(site.lab.host(0), family),
    };
    for row in ROWS {
        for family in [Family::V4, Family::V6] {
            let decided = inhabited.decided(row, family);
            assert_eq!(decided, table(row, family), "the decision: {row}, {family:?}");
        }
    }
    inhabited.every_receiver_sees("with masquerading", table);
    end(daemons);

    let _daemons = site.daemons(&["--ip-masq=false"]);
    // Ready it is before: only rules that are missing would keep it from that.
    wait_until(SOON, "the end of masquerading", || !site.masquerades()).unwrap();
    inhabited.every_receiver_sees("with masquerading switched off again", own);
}

#[test]
fn every_receiver_sees_the_source_that_the_table_says_with_nftables() {
    the_table_holds("matrixnft", None);
}

#[test]
fn every_receiver_sees_the_source_that_the_table_says_with_iptables_nft() {
    the_table_holds("matrixiptnft", Some(Variant::Nft));
}

#[test]
fn every_receiver_sees_the_source_that_the_table_says_with_iptables_legacy() {
    the_table_holds("matrixiptleg", Some(Variant::Legacy));
}

/// A site whose hosts have leases, with pods in them.
struct Inhabited<'a> {
    site: &'a Site,
    first: [Pod; 2],
    second: Pod,
    /// What each host's rules are made for.
    networks: [PodNetwork; 2],
}

impl<'a> Inhabited<'a> {
    fn new(site: &'a Site) -> Self {
        let lab = &site.lab;
        Self {
            site,
            first: [lab.host(0).add_pod().unwrap(), lab.host(0).add_pod().unwrap()],
            second: lab.host(1).add_pod().unwrap(),
            networks: [0, 1].map(|index| {
                let env = lab.host(index).subnet_env().unwrap();
                PodNetwork {
                    networks: PerFamily {
                        v4: Some(V4.parse().unwrap()),
                        v6: Some(V6.parse().unwrap()),
                    },
                    subnets: PerFamily {
                        v4: env.subnet.map(|net| IpNet::V4(net.trunc())),
                        v6: env.ipv6_subnet.map(|net| IpNet::V6(net.trunc())),
                    },
                    unmasqueraded: UNMASQUERADED.map(|range| range.parse().unwrap()).into(),
                    nftables: site.iptables.is_none(),
                    former: Vec::new(),
                }
            }),
        }
    }

    /// Where a packet is sent or heard.
    fn namespace(&self, place: Place) -> &Namespace {
        match place {
            Place::Pod => &self.first[0],
            Place::Beside | Place::Group => &self.first[1],
            Place::Remote => &self.second,
            Place::Outside | Place::Exempt => self.site.lab.host(2),
            Place::OwnHost => self.site.lab.host(0),
            Place::OtherHost | Place::BehindOther => self.site.lab.host(1),
        }
    }

    fn address(&self, place: Place, family: Family) -> IpAddr {
        let of_pod = |pod: &Pod| {
            let mut addresses = pod.addresses();
            addresses.find(|address| Family::of(*address) == family).unwrap()
        };
        match place {
            Place::Pod => of_pod(&self.first[0]),
            Place::Beside => of_pod(&self.first[1]),
            Place::Remote => of_pod(&self.second),
            Place::Outside => of(OUTSIDE, family),
            Place::Exempt => of(EXEMPT, family),
            Place::OwnHost => address(self.site.lab.host(0), family),
            Place::OtherHost => address(self.site.lab.host(1), family),
            Place::BehindOther => of(BEHIND, family),
            Place::Group => of(GROUP, family),
        }
    }

    /// The source that `decide` leaves a packet with.
    fn decided(&self, row: &Row, family: Family) -> IpAddr {
        let mut flow = Flow {
            source: self.address(row.from, family),
            destination: self.address(row.to, family),
            mark: row.mark.value(),
        };
        for host in row.by {
            if decide(&flow, &self.networks[*host]) == Nat::Masquerade {
                flow.source = address(self.site.lab.host(*host), family);
            }
        }
        flow.source
    }

    /// The sources that a receiver sees of a datagram and of a connection, for every row and family.
    fn seen(&self) -> Vec<(&'static Row, Family, Vec<IpAddr>)> {
        let begin = Instant::now();
        let mut all = Vec::new();
        for row in ROWS {
            for family in [Family::V4, Family::V6] {
                let receiver = Receiver::open(self.namespace(row.to), family, row.mark.port()).unwrap();
                let from = self.namespace(row.from);
                let (own, to) = (self.address(row.from, family), self.address(row.to, family));
                if row.to == Place::Group {
                    receiver.join(to).unwrap();
                }
                let lost = |error| panic!("{row}, {family:?}: {error}");
                let datagram = receiver.source_of_datagram(from, own, to, SOON);
                let mut seen = vec![datagram.unwrap_or_else(lost)];
                // Connections begin at the address that the route has, and never go to a group.
                if row.to != Place::Group && row.from != Place::Exempt {
                    let connection = receiver.source_of_connection(from, to, SOON);
                    seen.push(connection.unwrap_or_else(lost));
                }
                all.push((row, family, seen));
            }
        }
        println!("{} flows in {:.1?}", all.len(), begin.elapsed());
        all
    }

    /// Fails unless every receiver sees what `ought` says of a row.
    #[track_caller]
    fn every_receiver_sees(&self, what: &str, ought: impl Fn(&Row, Family) -> IpAddr) {
        let mut wrong = Vec::new();
        for (row, family, seen) in self.seen() {
            let ought = ought(row, family);
            if seen.iter().any(|seen| *seen != ought) {
                wrong.push(format!("{row}: {seen:?} instead of {ought}"));
            }
        }
        assert!(wrong.is_empty(), "{what}: {wrong:#?}");
    }
}
