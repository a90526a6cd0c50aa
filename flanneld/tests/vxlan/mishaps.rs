//! What others get wrong: a config that asks for somebody else's device, a lease that was written over, an uplink that
//! lost one family's address. What stands is kept, and what can be followed is.

use std::fs;
use std::time::Duration;

use lab::{DaemonOptions, Families, Family, LinkLine, UPLINK, Wire, ping, wait_until};

use crate::network::{BOTH, Network, SOON, config, pod_address, subnets, time_until};
use crate::told::becomes;

/// For whatever is put right.
const REPAIRED: Duration = Duration::from_secs(2);

fn two_hosts(name: &str, families: Families) -> Network {
    let mut network = Network::new(name, [Wire::hosts(2)], families, "");
    network.start_all();
    network
}

#[test]
fn a_config_that_asks_for_another_daemons_device_takes_no_effect_and_costs_nothing() {
    let network = two_hosts("otherdevice", Families::V4);
    let (host, daemon) = (network.lab.host(0), network.daemon(0));
    let other = host
        .state_directory(DaemonOptions::INSTANCE)
        .join("0123456789abcdef");
    fs::create_dir(&other).unwrap();
    fs::write(
        other.join("purpose"),
        "etcd /blue with subnet file /run/blue.env\n",
    )
    .unwrap();
    fs::write(other.join("devices"), "flannel.9\n").unwrap();
    let device = network.device(0, Family::V4).unwrap();

    network
        .lab
        .write_config(&config(Families::V4, r#""VNI":9"#))
        .unwrap();
    becomes(daemon, 200, &["config_refused", "flannel.9", "etcd /blue"]);
    assert!(host.link("flannel.9").unwrap().is_none());
    assert_eq!(host.link("flannel.1").unwrap(), Some(device.clone()));
    let published = network.lease(0).attrs.backend_data.unwrap();
    assert!(published.get().contains(r#""VNI":1,"#), "{published}");

    network.lab.write_config(&config(Families::V4, "")).unwrap();
    becomes(daemon, 200, &[]);
    network.check();
    let peer = subnets(network.lab.host(1))[0];
    host.ip(&["route", "del", &peer.to_string()]).unwrap();
    time_until(REPAIRED, "the route", || {
        !host.routes_to(peer).unwrap().is_empty()
    });

    network
        .lab
        .write_config(&config(Families::V4, r#""VNI":7"#))
        .unwrap();
    wait_until(SOON, "the other device alone", || {
        host.link("flannel.7").unwrap().is_some() && host.link("flannel.1").unwrap().is_none()
    })
    .unwrap();
    becomes(daemon, 200, &[]);
    network.check();
}

#[test]
fn whoever_writes_another_mac_address_into_a_lease_changes_neither_device_nor_lease() {
    let network = two_hosts("writtenover", Families::Both);
    let macs =
        |network: &Network| -> Vec<Option<LinkLine>> { BOTH.map(|family| network.device(0, family)).into() };
    let before = macs(&network);
    let own = network.lease(0);
    let file = network.lab.store_dir().join("subnets").join(own.subnet.to_key());
    let text = fs::read_to_string(&file).unwrap();
    let mac = before[0].as_ref().unwrap().mac.clone();
    let edited = text.replace(&mac, "02:00:00:00:00:99");
    assert_ne!(edited, text);
    let new = file.with_file_name(".edited");
    fs::write(&new, edited).unwrap();
    fs::rename(&new, &file).unwrap();
    wait_until(SOON, "the lease as it was", || {
        network
            .lease(0)
            .attrs
            .backend_data
            .map(|data| data.get().contains(&mac))
            == Some(true)
    })
    .unwrap();
    assert_eq!(macs(&network), before);
    network.check();
}

#[test]
fn an_uplink_that_lost_one_familys_address_is_followed_in_the_other() {
    let network = two_hosts("onefamily", Families::Both);
    let (host, daemon) = (network.lab.host(0), network.daemon(0));
    let pods = network.pods();
    let v6 = format!("{}/64", host.address(Family::V6).unwrap());
    host.ip(&["addr", "del", &v6, "dev", UPLINK]).unwrap();
    becomes(daemon, 503, &["uplink"]);
    let v4 = format!("{}/24", host.address(Family::V4).unwrap());
    host.ip(&["addr", "del", &v4, "dev", UPLINK]).unwrap();
    host.ip(&["addr", "add", "192.168.77.91/24", "dev", UPLINK])
        .unwrap();
    let gateway = host.gateway(Family::V4).to_string();
    host.ip(&["route", "add", "default", "via", &gateway]).unwrap();
    let followed = || {
        let device = network.device(0, Family::V4).unwrap();
        let local = device.vxlan.unwrap().local;
        let published = network.lease(0).attrs.public.v4;
        local == published && local == "192.168.77.91".parse().ok()
    };
    time_until(SOON, "the other address", followed);
    let to = pod_address(&pods[0], Family::V4);
    ping(&pods[1], to, 3, SOON).unwrap();
    host.ip(&["addr", "add", &v6, "dev", UPLINK, "nodad"]).unwrap();
    host.ip(&["addr", "del", "192.168.77.91/24", "dev", UPLINK])
        .unwrap();
    host.ip(&["addr", "add", &v4, "broadcast", "+", "dev", UPLINK])
        .unwrap();
    host.ip(&["route", "add", "default", "via", &gateway]).unwrap();
    becomes(daemon, 200, &[]);
    network.check();
}
