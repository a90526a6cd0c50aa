//! `flanneld config`: the network's config, checked and written without any client of the store.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use lab::{Families, Host, Lab, LabError};

use crate::network::{config, lease_of, network, settled};

const AT_ONCE: Duration = Duration::from_secs(2);

fn verb(lab: &Lab, host: &Host, words: &[&str]) -> Result<String, LabError> {
    let store = format!("--store=file://{}", lab.store_dir().display());
    host.exec(&[&[env!("CARGO_BIN_EXE_flanneld"), "config"], words, &[&store]].concat())
}

fn refused(lab: &Lab, words: &[&str]) -> String {
    verb(lab, lab.host(0), words).unwrap_err().to_string()
}

#[test]
fn what_is_set_is_what_daemons_read_and_get_prints() {
    let lab = network("set", 1, Families::V4);
    fs::remove_file(lab.store_dir().join("config")).unwrap();
    let host = lab.host(0);
    assert!(refused(&lab, &["get"]).contains("there is no config in the store"));
    let daemon = host.start_daemon(lab::DaemonOptions::default()).unwrap();
    daemon.wait_for_log("no network config", AT_ONCE).unwrap();
    let text = config(Families::V4);
    let said = verb(&lab, host, &["set", &text]).unwrap();
    assert!(said.ends_with("written\n"), "{said}");
    daemon.wait_for_log("lease acquired", AT_ONCE).unwrap();
    assert_eq!(verb(&lab, host, &["get"]).unwrap(), format!("{text}\n"));
}

#[test]
fn a_config_is_read_from_standard_input() {
    let lab = network("stdin", 1, Families::V4);
    let text = lab.directory().join("net-conf.json");
    fs::write(&text, r#"{"Network":"10.9.0.0/16","Backend":{"Type":"host-gw"}}"#).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_flanneld"))
        .args(["config", "set", "-"])
        .arg(format!("--store=file://{}", lab.store_dir().display()))
        .stdin(Stdio::from(fs::File::open(&text).unwrap()))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let stored = fs::read(lab.store_dir().join("config")).unwrap();
    assert_eq!(stored, fs::read(&text).unwrap());
}

#[test]
fn what_is_not_valid_is_not_written() {
    let lab = network("invalid", 1, Families::V4);
    for (text, said) in [
        ("{", "the network config is not a JSON object"),
        (
            r#"{"Network":"10.5.0.0/33","Backend":{"Type":"host-gw"}}"#,
            "10.5.0.0/33",
        ),
        (r#"{"Network":"10.5.0.0/16"}"#, "has no Backend"),
        (
            r#"{"Network":"10.5.0.0/16","Backend":{"Type":"hostgw"}}"#,
            "there is no backend \"hostgw\"",
        ),
    ] {
        for action in ["set", "check"] {
            let message = refused(&lab, &[action, text]);
            assert!(message.contains(said), "{text}: {message}");
        }
    }
    let stored = fs::read_to_string(lab.store_dir().join("config")).unwrap();
    assert_eq!(stored, config(Families::V4));
}

#[test]
fn a_check_says_what_a_config_means_for_the_network_its_leases_and_this_host() {
    let lab = network("check", 1, Families::V4);
    let host = lab.host(0);
    let _daemon = settled(host);
    let subnet = lease_of(&lab, host).key.replace('-', "/");
    host.ip(&["link", "add", "docker0", "type", "bridge"]).unwrap();
    host.ip(&["address", "add", "192.168.21.1/24", "dev", "docker0"])
        .unwrap();
    host.ip(&["address", "add", "192.168.30.1/20", "dev", "docker0"])
        .unwrap();
    host.ip(&["address", "add", &subnet.replace(".0/", ".1/"), "dev", "docker0"])
        .unwrap();
    let said = verb(&lab, host, &["check"]).unwrap();
    for line in [
        "network   10.77.0.0/16\n",
        "subnets   255 of /24, from 10.77.1.0 to 10.77.255.0\n",
        "backend   host-gw\n",
        "leases    1\n",
        "this host eth0 192.168.77.11\n",
    ] {
        assert!(said.contains(line), "{said}");
    }
    assert!(!said.contains("warning") && !said.contains("note"), "{said}");

    let other = r#"{"Network":"192.168.0.0/16","Backend":{"Type":"wireguard"}}"#;
    let said = verb(&lab, host, &["check", other]).unwrap();
    for line in [
        "backend   wireguard\nwarning   this flanneld has no backend wireguard: only hosts that run flannel will join\n",
        &format!("warning   1 of them would lie outside: {subnet};"),
        "warning   192.168.77.0/24 cannot be used here: the network 192.168.77.0/24 of eth0 is there\n",
        "note      docker0 has 192.168.21.1/24: this host ought to hold 192.168.21.0/24, pin it with \
         --subnet=192.168.21.0/24\n",
        "warning   every subnet in 192.168.16.0/20 cannot be reached from here: docker0 has 192.168.30.1/20\n",
    ] {
        assert!(said.contains(line), "{line:?} is not in:\n{said}");
    }
    for (misspelt, what) in [
        (
            r#"{"Network":"10.5.0.0/16","SubnetLenn":26,"Backend":{"Type":"host-gw"}}"#,
            "SubnetLenn",
        ),
        (
            r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","DirectRoutng":true}}"#,
            "DirectRoutng",
        ),
        (
            r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","MTU":500}}"#,
            "this host cannot join",
        ),
    ] {
        let said = verb(&lab, host, &["check", misspelt]).unwrap();
        assert!(said.contains("warning   ") && said.contains(what), "{said}");
    }
    let wrong = r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","VNI":16777216}}"#;
    let said = verb(&lab, host, &["check", wrong]).unwrap_err();
    assert!(said.to_string().contains("VNI is 16777216"), "{said}");
    let stored = fs::read_to_string(lab.store_dir().join("config")).unwrap();
    assert_eq!(stored, config(Families::V4), "a check writes nothing");
}
