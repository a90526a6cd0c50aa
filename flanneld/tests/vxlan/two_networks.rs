//! Two networks on the same hosts: each with its store, its `subnet.env` and its devices, both with their daemons' state
//! in one directory, over one uplink.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use lab::{Daemon, DaemonOptions, Families, Host, KernelEvent, KernelMonitor, Lab, Pod, SubnetEnv, Wire};

use crate::cleanup::{cleanup, flags};
use crate::network::{Network, SOON, config};
use crate::pings::{Pings, assert_all_reached};
use crate::restart::terminate;
use crate::told::{becomes, becomes_by};

/// The second network, beside that of the fixture.
struct Second<'a> {
    lab: &'a Lab,
}

impl<'a> Second<'a> {
    const INSTANCE: &'static str = "second";

    /// With this config.
    fn new(lab: &'a Lab, config: &str) -> Self {
        let second = Self { lab };
        fs::create_dir_all(second.store().join("subnets")).unwrap();
        fs::write(second.store().join("config"), config).unwrap();
        second
    }

    fn store(&self) -> PathBuf {
        self.lab.directory().join("second-store")
    }

    /// What its daemon and its clean-up are told beside where `subnet.env` is.
    fn flags(&self, host: &Host) -> Vec<String> {
        vec![
            format!("--store=file://{}", self.store().display()),
            format!(
                "--state-dir={}",
                host.state_directory(DaemonOptions::INSTANCE).display()
            ),
            format!("--subnet-file={}", host.subnet_env_path(Self::INSTANCE).display()),
        ]
    }

    fn launch(&self, host: &Host) -> Daemon {
        let flags = self.flags(host).into_iter().chain(["--ip-masq".to_owned()]);
        let options = DaemonOptions::arguments(flags);
        host.start_daemon(options.instance(Self::INSTANCE)).unwrap()
    }

    /// Runs its daemon on every host until all are ready.
    #[track_caller]
    fn start(&self) -> Vec<Daemon> {
        let hosts = self.lab.hosts();
        let daemons: Vec<Daemon> = hosts.iter().map(|host| self.launch(host)).collect();
        for (host, daemon) in hosts.iter().zip(&daemons) {
            self.becomes(host, daemon, 200, &[]);
        }
        daemons
    }

    #[track_caller]
    fn becomes(&self, host: &Host, daemon: &Daemon, code: u16, parts: &[&str]) {
        becomes_by(|| answer(host), daemon, code, parts);
    }

    fn pod(&self, host: &Host) -> Pod {
        let text = fs::read_to_string(host.subnet_env_path(Self::INSTANCE)).unwrap();
        host.add_pod_in(&SubnetEnv::parse(&text).unwrap()).unwrap()
    }

    fn clean_up(&self, host: &Host) -> Vec<String> {
        cleanup(host, &self.flags(host))
    }
}

/// Time for an answer.
const ANSWER: Duration = Duration::from_secs(2);

/// What the second daemon of a host, which shares a state directory with the first, says to `/readyz`.
fn answer(host: &Host) -> Option<(u16, String)> {
    let states = fs::read_dir(host.state_directory(DaemonOptions::INSTANCE)).ok()?;
    let subnet_file = host.subnet_env_path(Second::INSTANCE).display().to_string();
    let mut states = states.flatten().map(|entry| entry.path());
    let own = states.find(|state| {
        let purpose = fs::read_to_string(state.join("purpose"));
        purpose.is_ok_and(|purpose| purpose.contains(&subnet_file))
    });
    let mut stream = UnixStream::connect(own?.join("status.sock")).ok()?;
    stream.set_read_timeout(Some(ANSWER)).ok()?;
    write!(stream, "GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

/// The config of the second network.
fn second_config(backend_options: &str) -> String {
    of_second(&config(Families::Both, backend_options))
}

fn of_second(config: &str) -> String {
    config.replace("10.77.", "10.78.").replace("fd77:", "fd78:")
}

/// The events that are about what a daemon makes in a network.
fn events_of<'a>(events: &'a [KernelEvent], marks: &[&str]) -> Vec<&'a KernelEvent> {
    let of = |event: &&KernelEvent| {
        // What pods and hosts find out about each other is not.
        let neighbour = event.line.contains(" dev cni0") || event.line.contains(" dev eth0 lladdr");
        !neighbour && marks.iter().any(|mark| event.line.contains(mark))
    };
    events.iter().filter(of).collect()
}

/// What lines about the objects of the fixture's network contain, and those about the second's.
const FIRST: &[&str] = &["flannel.1", "flannel-v6.1", "10.77.", "fd77:"];
const SECOND: &[&str] = &["flannel.2", "flannel-v6.2", "10.78.", "fd78:"];

#[track_caller]
fn assert_untouched(monitors: [KernelMonitor; 2], marks: &[&str], other: &[&str]) {
    for monitor in monitors {
        let events = monitor.stop().unwrap();
        let touched = events_of(&events, marks);
        assert!(touched.is_empty(), "{touched:#?}");
        // Or else it has not listened.
        assert!(!events_of(&events, other).is_empty(), "{events:#?}");
    }
}

fn monitors(lab: &Lab) -> [KernelMonitor; 2] {
    [0, 1].map(|index| lab.host(index).monitor_kernel().unwrap())
}

/// Does all that can befall the second network, and sees that it is well again after each.
fn disturb(second: &Second, daemons: &mut Vec<Daemon>, pods: &[Pod], device: Option<&str>) {
    let hosts = second.lab.hosts();
    if let Some(device) = device {
        hosts[0].ip(&["link", "del", device]).unwrap();
        assert_all_reached(pods);
    }
    for (family, network) in [("-4", "10.78.0.0/16"), ("-6", "fd78::/48")] {
        let words = [family, "route", "flush", "root", network, "proto", "70"];
        hosts[1].ip(&words).unwrap();
    }
    assert_all_reached(pods);
    for daemon in daemons.iter() {
        daemon.kill().unwrap();
    }
    *daemons = second.start();
    assert_all_reached(pods);
}

#[test]
fn two_overlays_of_two_vnis_on_one_port_do_not_disturb_each_other_and_each_is_cleaned_up_alone() {
    let mut first = Network::new("two", [Wire::hosts(2)], Families::Both, "");
    first.start_all();
    let second = Second::new(&first.lab, &second_config(r#""VNI":2"#));
    let hosts = first.lab.hosts();
    let mut daemons = second.start();
    let pods_of_first = first.pods();
    let pods_of_second: Vec<Pod> = hosts.iter().map(|host| second.pod(host)).collect();
    assert_all_reached(&pods_of_second);

    let (pings, watching) = (Pings::around(&pods_of_first), monitors(&first.lab));
    disturb(&second, &mut daemons, &pods_of_second, Some("flannel.2"));
    for (daemon, host) in daemons.iter().zip(hosts) {
        terminate(daemon);
        let told = second.clean_up(host).join("\n");
        assert!(
            told.contains("device flannel.2 ") && !told.contains("flannel.1"),
            "{told}"
        );
        assert!(host.link("flannel.2").unwrap().is_none());
    }
    assert_untouched(watching, FIRST, SECOND);
    pings.assert_lost_at_most(0);
    first.check();

    // The other way round.
    let mut daemons = second.start();
    assert_all_reached(&pods_of_second);
    let (pings, watching) = (Pings::around(&pods_of_second), monitors(&first.lab));
    for (index, host) in hosts.iter().enumerate() {
        terminate(first.daemon(index));
        let told = cleanup(host, &flags(&first.lab, host, DaemonOptions::INSTANCE)).join("\n");
        assert!(
            told.contains("device flannel.1 ") && !told.contains("flannel.2"),
            "{told}"
        );
        assert!(host.link("flannel.1").unwrap().is_none());
    }
    assert_untouched(watching, SECOND, FIRST);
    pings.assert_lost_at_most(0);
    disturb(&second, &mut daemons, &pods_of_second, Some("flannel-v6.2"));
}

#[test]
fn two_host_gw_networks_over_one_uplink_do_not_disturb_each_other_and_each_is_cleaned_up_alone() {
    let host_gw = config(Families::Both, "").replace("vxlan", "host-gw");
    let mut first = Network::new("twogw", [Wire::hosts(2)], Families::Both, "");
    first.lab.write_config(&host_gw).unwrap();
    first.start_all();
    let second = Second::new(&first.lab, &of_second(&host_gw));
    let hosts = first.lab.hosts();
    let mut daemons = second.start();
    let pods_of_first = first.pods();
    let pods_of_second: Vec<Pod> = hosts.iter().map(|host| second.pod(host)).collect();
    assert_all_reached(&pods_of_second);

    let (pings, watching) = (Pings::around(&pods_of_first), monitors(&first.lab));
    disturb(&second, &mut daemons, &pods_of_second, None);
    for (daemon, host) in daemons.iter().zip(hosts) {
        terminate(daemon);
        let told = second.clean_up(host).join("\n");
        assert!(
            told.contains("route 10.78.") && !told.contains("10.77."),
            "{told}"
        );
    }
    assert_untouched(watching, FIRST, SECOND);
    pings.assert_lost_at_most(0);
    assert_all_reached(&pods_of_first);
}

/// A second daemon that cannot have what the first has, until that is gone.
fn refused(name: &str, options: &str, parts: &[&str], said: &str) {
    let mut first = Network::new(name, [Wire::hosts(2)], Families::Both, "");
    first.start_all();
    let pods = first.pods();
    let host = first.lab.host(0);
    let (pings, watching) = (Pings::around(&pods), host.monitor_kernel().unwrap());
    let second = Second::new(&first.lab, &second_config(options));
    let daemon = second.launch(host);
    second.becomes(host, &daemon, 503, &[&[r#""reason":"device""#], parts].concat());
    daemon.wait_for_log(said, SOON).unwrap();
    let events = watching.stop().unwrap();
    let touched = events_of(&events, FIRST);
    assert!(touched.is_empty(), "{touched:#?}");
    pings.assert_lost_at_most(0);
    first.check();
    becomes(first.daemon(1), 200, &[]);

    terminate(first.daemon(0));
    cleanup(host, &flags(&first.lab, host, DaemonOptions::INSTANCE));
    second.becomes(host, &daemon, 200, &[]);
    let vnis: Vec<u32> = host
        .links()
        .unwrap()
        .into_iter()
        .filter_map(|link| Some(link.vxlan?.vni))
        .collect();
    assert_eq!(vnis.len(), 2, "{vnis:?}");
}

#[test]
fn the_same_vni_twice_on_a_host_is_refused_with_both_names_until_the_first_is_cleaned_up() {
    let both = [DaemonOptions::INSTANCE, Second::INSTANCE].map(|instance| format!("{instance}/subnet.env"));
    let parts = [
        "flannel.1",
        "/store",
        "second-store",
        &both[0],
        &both[1],
        "another VNI",
    ];
    refused(
        "samevni",
        "",
        &parts,
        "WARN .*flannel.1 is the device of .*another VNI",
    );
}

#[test]
fn the_same_port_twice_with_another_gbp_is_refused_with_both_devices_until_the_first_is_cleaned_up() {
    let said = "WARN .*add flannel.2 .*port 8472 is held by the device flannel.1 ";
    let parts = ["flannel-v6.2", "port 8472 is held by the device flannel-v6.1 "];
    refused("sameport", r#""VNI":2,"GBP":true"#, &parts, said);
}
