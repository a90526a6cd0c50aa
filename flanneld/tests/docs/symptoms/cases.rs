//! What is done for each row of the table: the mistakes themselves.

/// A row of the table, by its first cell, and how it comes to that on host1, where etcd runs, the options of the page
/// are in the environment, and a config is in place.
pub(super) struct Case {
    pub(super) symptom: &'static str,
    pub(super) made: Made,
    /// Put right again.
    pub(super) after: &'static str,
}

pub(super) enum Made {
    /// By a daemon with more flags, after this has been done.
    Daemon(&'static str, &'static str),
    /// By this, done to a daemon that runs.
    Change(&'static str),
    /// By this, asked of a daemon that has ended.
    Ended(&'static str),
    /// By this, asked of a daemon that runs.
    Running(&'static str),
    /// By this build script, where there is no program at all.
    Build(&'static str),
}

use Made::{Build, Change, Daemon, Ended, Running};

const fn case(symptom: &'static str, made: Made, after: &'static str) -> Case {
    Case { symptom, made, after }
}

/// A lease of another host: address and subnet.
macro_rules! lease {
    ($address:literal, $subnet:literal) => {
        concat!(
            "etcdctl put /coreos.com/network/subnets/",
            $subnet,
            "-24 '{\"PublicIP\":\"",
            $address,
            "\",\"PublicIPv6\":null,\"BackendType\":\"host-gw\"}'"
        )
    };
}

/// The same of one with vxlan, with VNI and MAC address.
macro_rules! vxlan_lease {
    ($address:literal, $subnet:literal, $vni:literal, $mac:literal) => {
        concat!(
            "etcdctl put /coreos.com/network/subnets/",
            $subnet,
            "-24 '{\"PublicIP\":\"",
            $address,
            "\",\"PublicIPv6\":null,\"BackendType\":\"vxlan\",\"BackendData\":{\"VNI\":",
            $vni,
            ",\"VtepMAC\":\"",
            $mac,
            "\"}}'"
        )
    };
}

/// Has the network's config ask for vxlan, with more options, and does something else.
macro_rules! vxlan {
    ($options:literal, $then:expr) => {
        concat!(
            "etcdctl put /coreos.com/network/config '{\"Network\":\"172.7.0.0/16\",\"Backend\":{\"Type\":\"vxlan\"",
            $options,
            "}}' && ",
            $then
        )
    };
}

pub(super) const CASES: &[Case] = &[
    case(
        "etcd is down, or its port another",
        Daemon("", "--etcd-endpoints=https://192.168.77.11:2399"),
        "",
    ),
    case(
        "the CA is another cluster's",
        Daemon("authority other", "--etcd-cafile=other.pem"),
        "",
    ),
    case(
        "the server's certificate lacks the address",
        Daemon(
            "certificate elsewhere $'subjectAltName=IP:192.168.77.99\\nextendedKeyUsage=serverAuth,clientAuth' && \
             serve elsewhere",
            "--etcd-endpoints=https://192.168.77.11:2389",
        ),
        "systemctl stop other-etcd",
    ),
    case(
        "the server's certificate names no host",
        Daemon(
            "certificate plain extendedKeyUsage=serverAuth,clientAuth && serve plain",
            "--etcd-endpoints=https://192.168.77.11:2389",
        ),
        "systemctl stop other-etcd",
    ),
    case(
        "a certificate was made without `-extfile`",
        Daemon(
            "certificate old '' && serve old",
            "--etcd-endpoints=https://192.168.77.11:2389",
        ),
        "systemctl stop other-etcd",
    ),
    case(
        "no client certificate",
        Daemon("unset FLANNELD_ETCD_CERTFILE FLANNELD_ETCD_KEYFILE", ""),
        "",
    ),
    case(
        "the client certificate is another CA's",
        Daemon(
            "authority other && CA=other certificate stranger extendedKeyUsage=clientAuth",
            "--etcd-certfile=stranger.pem --etcd-keyfile=stranger-key.pem",
        ),
        "",
    ),
    case(
        "the key belongs to another certificate",
        Daemon("", "--etcd-keyfile=/etc/flannel/ca-key.pem"),
        "",
    ),
    case(
        "`http://` for a server with TLS",
        Daemon(
            "",
            "--etcd-endpoints=http://192.168.77.11:2379 --etcd-cafile= --etcd-certfile= --etcd-keyfile=",
        ),
        "",
    ),
    case(
        "the port is in use",
        Daemon("", "--healthz-port=2379 --healthz-ip=192.168.77.11"),
        "",
    ),
    case(
        "a second flanneld",
        Daemon(
            "begin first && until grep -q 'routes are in place' first.log; do sleep 0.05; done",
            "",
        ),
        "end first",
    ),
    case(
        "no config",
        Daemon("etcdctl del /coreos.com/network/config", ""),
        "",
    ),
    case(
        "the config was put with `etcdctl set`, API v2 is off",
        Daemon("etcdctl del /coreos.com/network/config", ""),
        "",
    ),
    case(
        "the config was put with `etcdctl set`, an old flannel still runs",
        Daemon(
            r#"serve_v2 && v2 set /coreos.com/network/config '{"Network":"172.7.0.0/16"}' &&
               v2 set /coreos.com/network/subnets/172.7.12.0-24 '{"PublicIP":"192.168.77.12"}'"#,
            "--etcd-endpoints=http://127.0.0.1:2389 --etcd-cafile= --etcd-certfile= --etcd-keyfile=",
        ),
        "systemctl stop other-etcd",
    ),
    case(
        "a typo in the config",
        Daemon(
            r#"etcdctl put /coreos.com/network/config '{"Netwrok":"172.7.0.0/16","Backend":{"Type":"host-gw"}}'"#,
            "",
        ),
        "",
    ),
    case(
        "a backend that is not there",
        Daemon(
            r#"etcdctl put /coreos.com/network/config '{"Network":"172.7.0.0/16","Backend":{"Type":"wireguard"}}'"#,
            "",
        ),
        "",
    ),
    case(
        "an option that cannot be",
        Daemon(vxlan!(r#","Port":70000"#, "true"), ""),
        "",
    ),
    case(
        "vxlan: a program has the UDP port",
        Daemon(vxlan!("", "hold_port"), ""),
        "kill $holder; wait $holder",
    ),
    case(
        "vxlan: a device with other settings has it",
        Daemon(
            vxlan!(
                "",
                "ip link add vx9 type vxlan id 9 dstport 8472 gbp && ip link set vx9 up"
            ),
            "",
        ),
        "ip link del vx9",
    ),
    case(
        "vxlan: a device has the VNI, too",
        Daemon(vxlan!("", "ip link add vx9 type vxlan id 1 dstport 8472"), ""),
        "ip link del vx9",
    ),
    case(
        "vxlan: something else has the device's name",
        Daemon(vxlan!("", "ip link add flannel.1 type bridge"), ""),
        "ip link del flannel.1",
    ),
    case(
        "vxlan: two networks of this host have one VNI",
        Daemon(vxlan!("", "begin_blue"), ""),
        "end_blue",
    ),
    case(
        "vxlan: the uplink's MTU is too small",
        Daemon(vxlan!("", "ip link set eth0 mtu 600"), ""),
        "ip link set eth0 mtu 1500",
    ),
    case(
        "vxlan: hosts were copied",
        Daemon(
            vxlan!(
                "",
                concat!(
                    vxlan_lease!("192.168.77.11", "172.7.11.0", "1", "8e:bc:f1:25:6b:a8"),
                    " && ",
                    vxlan_lease!("192.168.77.12", "172.7.12.0", "1", "8e:bc:f1:25:6b:a8")
                )
            ),
            "",
        ),
        "",
    ),
    case(
        "vxlan: a host has another VNI",
        Daemon(
            vxlan!(
                "",
                vxlan_lease!("192.168.77.12", "172.7.12.0", "2", "8e:bc:f1:25:6b:a8")
            ),
            "",
        ),
        "",
    ),
    case(
        "vxlan: `rp_filter` is strict, with `DirectRouting`",
        Daemon(
            vxlan!(
                r#","DirectRouting":true"#,
                "echo 1 >/proc/sys/net/ipv4/conf/default/rp_filter"
            ),
            "",
        ),
        "echo 0 >/proc/sys/net/ipv4/conf/default/rp_filter",
    ),
    case(
        "packets are not forwarded",
        Daemon("echo 0 >/proc/sys/net/ipv4/ip_forward", ""),
        "echo 1 >/proc/sys/net/ipv4/ip_forward",
    ),
    case(
        "iptables is not installed",
        Daemon("hide iptables", ""),
        "umount \"$hidden\"",
    ),
    case(
        "FORWARD drops, and `--iptables-forward-rules` is off",
        Daemon("iptables -P FORWARD DROP", "--iptables-forward-rules=false"),
        "iptables -P FORWARD ACCEPT",
    ),
    case(
        "FORWARD rejects before our rules (RHEL's last line)",
        Daemon(
            "iptables -A FORWARD -j REJECT --reject-with icmp-host-prohibited",
            "",
        ),
        "iptables -D FORWARD -j REJECT --reject-with icmp-host-prohibited",
    ),
    case(
        "FORWARD of iptables drops, rules are in nftables",
        Daemon(
            r#"etcdctl put /coreos.com/network/config '{"Network":"172.7.0.0/16","EnableNFTables":true,"Backend":{"Type":"host-gw"}}' &&
               iptables -P FORWARD DROP"#,
            "",
        ),
        "iptables -P FORWARD ACCEPT",
    ),
    case(
        "firewalld rejects them",
        Daemon("firewalld", ""),
        "nft delete table inet firewalld",
    ),
    case(
        "somebody changes our rules all the time",
        Change(
            "until grep -q 'rules for 172.7.0.0/16 written' flanneld.log; do sleep 0.05; done; iptables -F FLANNEL-FWD",
        ),
        "",
    ),
    case(
        "somebody changes our devices, routes or neighbours all the time",
        Daemon(
            vxlan!(
                "",
                "{ while sleep 0.3; do ip link set flannel.1 mtu 1300; done >/dev/null 2>&1 & meddler=$!; }"
            ),
            "",
        ),
        "kill $meddler; wait $meddler",
    ),
    case(
        "a range that is none in `NonMasqueradeCIDRs`",
        Daemon(
            r#"etcdctl put /coreos.com/network/config '{"Network":"172.7.0.0/16","NonMasqueradeCIDRs":["192.168.0.300/16"],"Backend":{"Type":"host-gw"}}'"#,
            "",
        ),
        "",
    ),
    case(
        "two hosts with one `--public-ip`",
        Daemon(
            lease!("192.168.77.12", "172.7.12.0"),
            "--public-ip=192.168.77.12 --iface=eth0",
        ),
        "",
    ),
    case(
        "the pinned subnet is another host's",
        Daemon(lease!("192.168.77.13", "172.7.11.0"), ""),
        "",
    ),
    case(
        "the bridge has an address of another subnet",
        Daemon(
            "ip link add docker0 type bridge && ip addr add 172.7.99.1/24 dev docker0 && ip link set docker0 up",
            "",
        ),
        "ip link del docker0",
    ),
    case(
        "a peer stands on another segment",
        Daemon(lease!("10.9.9.23", "172.7.23.0"), ""),
        "",
    ),
    case(
        "a route of somebody else's",
        Daemon(
            concat!(
                lease!("192.168.77.12", "172.7.12.0"),
                " && ip route add 172.7.12.0/24 via 192.168.77.13 proto static"
            ),
            "",
        ),
        "ip route del 172.7.12.0/24 proto static",
    ),
    case("no such interface", Daemon("", "--iface=eth9"), ""),
    case(
        "another host has written over the lease",
        Change(lease!("192.168.77.13", "172.7.11.0")),
        "",
    ),
    case(
        "etcd was restored, or its data is gone",
        Change("systemctl stop etcd && rm -r /var/lib/etcd/default && systemctl start etcd"),
        "",
    ),
    case(
        "every subnet is given out",
        Daemon(
            concat!(
                r#"etcdctl put /coreos.com/network/config '{"Network":"172.7.0.0/16","SubnetMin":"172.7.12.0","SubnetMax":"172.7.12.0","Backend":{"Type":"host-gw"}}' && "#,
                lease!("192.168.77.12", "172.7.12.0"),
            ),
            "--subnet=",
        ),
        "",
    ),
    case("`flanneld status` finds nobody", Ended("flanneld status"), ""),
    case(
        "`flanneld cleanup` while it runs",
        Running("flanneld cleanup"),
        "",
    ),
    case(
        "`cargo build` without protoc",
        Build("flannel-store-etcd/build.rs"),
        "",
    ),
];
