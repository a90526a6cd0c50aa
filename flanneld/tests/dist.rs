//! The files that are shipped beside the daemon, in `dist/`: they do what they say, and name nothing that is not there.

#![allow(
    clippy::disallowed_methods,
    reason = "scripts are run as an operator runs them"
)]
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot set up its files has failed"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use lab::{DaemonOptions, Lab, Options, wait_until};
use tempfile::TempDir;

const SUBNET_ENV: &str =
    "FLANNEL_NETWORK=10.1.0.0/16\nFLANNEL_SUBNET=10.1.74.1/24\nFLANNEL_MTU=1472\nFLANNEL_IPMASQ=true\n";
/// Debian's `sh`, and what many scripts name instead.
const SHELLS: [&str; 2] = ["dash", "bash"];

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../dist").join(name)
}

fn text_of(name: &str) -> String {
    fs::read_to_string(shipped(name)).unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// `mk-docker-opts.sh` on a `subnet.env` of one's own.
struct DockerOptions {
    directory: TempDir,
    shell: &'static str,
    environment: Vec<(&'static str, &'static str)>,
}

impl DockerOptions {
    fn new(shell: &'static str, subnet_env: &str) -> Self {
        let directory = TempDir::new().unwrap();
        fs::write(directory.path().join("subnet.env"), subnet_env).unwrap();
        Self {
            directory,
            shell,
            environment: Vec::new(),
        }
    }

    fn output(&self) -> PathBuf {
        self.directory.path().join("docker.env")
    }

    fn run(&self, arguments: &[&str]) -> Output {
        Command::new(self.shell)
            .arg(shipped("mk-docker-opts.sh"))
            .args(["-f", "subnet.env", "-d"])
            .arg(self.output())
            .args(arguments)
            .current_dir(&self.directory)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .envs(self.environment.iter().copied())
            .output()
            .unwrap()
    }

    /// What it writes.
    fn written(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(
            output.status.success(),
            "{} {arguments:?}: {}",
            self.shell,
            said(&output)
        );
        fs::read_to_string(self.output()).unwrap()
    }
}

const INDIVIDUAL: &str = "DOCKER_OPT_BIP=\"--bip=10.1.74.1/24\"\n\
                          DOCKER_OPT_IPMASQ=\"--ip-masq=false\"\n\
                          DOCKER_OPT_MTU=\"--mtu=1472\"\n";
const COMBINED: &str = "DOCKER_OPTS=\" --bip=10.1.74.1/24 --ip-masq=false --mtu=1472\"\n";

#[test]
fn docker_gets_its_options_in_the_forms_that_flannel_gives_them() {
    let both = [INDIVIDUAL, COMBINED].concat();
    let other_key = COMBINED.replace("DOCKER_OPTS", "DOCKER_NETWORK_OPTIONS");
    let no_masquerade = both
        .replace("DOCKER_OPT_IPMASQ=\"--ip-masq=false\"\n", "")
        .replace(" --ip-masq=false", "");
    for shell in SHELLS {
        let docker = DockerOptions::new(shell, SUBNET_ENV);
        assert_eq!(docker.written(&[]), both, "{shell}");
        assert_eq!(docker.written(&["-i"]), INDIVIDUAL, "{shell}");
        assert_eq!(docker.written(&["-c"]), COMBINED, "{shell}");
        assert_eq!(
            docker.written(&["-c", "-k", "DOCKER_NETWORK_OPTIONS"]),
            other_key,
            "{shell}"
        );
        assert_eq!(docker.written(&["-m"]), no_masquerade, "{shell}");
    }
}

#[test]
fn docker_masquerades_where_flannel_does_not() {
    for shell in SHELLS {
        let docker = DockerOptions::new(shell, &SUBNET_ENV.replace("true", "false"));
        assert!(docker.written(&[]).contains("--ip-masq=true"), "{shell}");
    }
}

#[test]
fn a_comment_in_subnet_env_is_no_part_of_an_option() {
    let commented = SUBNET_ENV.replace("1/24\n", "1/24 # pinned\n");
    for shell in SHELLS {
        assert_eq!(
            DockerOptions::new(shell, &commented).written(&["-c"]),
            COMBINED,
            "{shell}"
        );
    }
}

#[test]
fn options_of_the_environment_join_and_survive_being_read_back() {
    for shell in SHELLS {
        let mut docker = DockerOptions::new(shell, SUBNET_ENV);
        docker.environment = vec![
            ("DOCKER_OPTS", r#"--label="a $b `c` \d""#),
            ("DOCKER_OPT_LOG", "--log-level=warn"),
            ("OTHER", "x\nDOCKER_OPT_FAKE=--fake"),
        ];
        let written = docker.written(&[]);
        assert!(
            written.contains("DOCKER_OPT_LOG=\"--log-level=warn\"\n"),
            "{shell}: {written}"
        );
        assert!(!written.contains("FAKE"), "{shell}: {written}");
        let read_back = Command::new(shell)
            .args(["-c", r#". "$1" && printf %s "$DOCKER_OPTS""#, shell])
            .arg(docker.output())
            .output()
            .unwrap();
        assert_eq!(
            String::from_utf8(read_back.stdout).unwrap(),
            r#"--label="a $b `c` \d" --bip=10.1.74.1/24 --ip-masq=false --log-level=warn --mtu=1472"#,
            "{shell}"
        );
    }
}

#[test]
fn what_docker_cannot_be_told_is_refused_with_its_name() {
    for shell in SHELLS {
        let odd = DockerOptions::new(shell, &SUBNET_ENV.replace("true", "maybe"));
        for (docker, arguments, named) in [
            (&odd, &[][..], "Invalid value of FLANNEL_IPMASQ: maybe"),
            (&odd, &["-f", "missing.env"], "cannot read missing.env"),
            (&odd, &["-z"], "usage: "),
            (&odd, &["-h"], "usage: "),
            (&odd, &["-k", "A;reboot"], "usage: "),
            (&odd, &["surplus"], "usage: "),
        ] {
            let output = docker.run(arguments);
            assert_eq!(output.status.code(), Some(1), "{shell} {arguments:?}");
            assert!(said(&output).contains(named), "{shell}: {}", said(&output));
            assert!(!docker.output().exists(), "{shell} {arguments:?}");
        }
    }
}

#[test]
fn a_subnet_that_another_host_is_the_way_to_is_reported() {
    let lab = Lab::new("docker opts", Options::hosts(2)).unwrap();
    let host = lab.host(0);
    let gateway = lab.host(1).ipv4().unwrap().to_string();
    for shell in SHELLS {
        let docker = DockerOptions::new(shell, SUBNET_ENV);
        let directory = docker.directory.path().to_str().unwrap();
        let script = shipped("mk-docker-opts.sh");
        let run = || {
            let (env, out) = (format!("{directory}/subnet.env"), docker.output());
            host.exec(&[
                shell,
                script.to_str().unwrap(),
                "-f",
                &env,
                "-d",
                out.to_str().unwrap(),
            ])
        };
        run().unwrap();
        host.replace_route("10.1.74.0/24".parse().unwrap(), &["via", &gateway])
            .unwrap();
        let refused = run().unwrap_err().to_string();
        assert!(
            refused.contains("already contains the subnet: 10.1.74.1/24"),
            "{refused}"
        );
        host.delete_route("10.1.74.0/24".parse().unwrap()).unwrap();
    }
}

/// The CNI network made from a `subnet.env`.
fn bridge_conflist(shell: &str, subnet_env: &str) -> Result<serde_json::Value, String> {
    let directory = TempDir::new().unwrap();
    let path = |name| directory.path().join(name);
    fs::write(path("subnet.env"), subnet_env).unwrap();
    let output = Command::new(shell)
        .arg(shipped("cni/bridge-conflist.sh"))
        .args([path("subnet.env"), path("10-flannel.conflist")])
        .output()
        .unwrap();
    if !output.status.success() {
        assert!(!path("10-flannel.conflist").exists());
        return Err(said(&output));
    }
    assert_eq!(
        fs::read_dir(&directory).unwrap().count(),
        2,
        "a temporary file stays"
    );
    Ok(serde_json::from_slice(&fs::read(path("10-flannel.conflist")).unwrap()).unwrap())
}

#[test]
fn the_bridge_plugin_gets_the_subnet_in_the_form_that_host_local_takes() {
    for shell in SHELLS {
        let network = bridge_conflist(shell, SUBNET_ENV).unwrap();
        let bridge = &network["plugins"][0];
        assert_eq!(bridge["mtu"], 1472, "{shell}");
        assert_eq!(bridge["ipMasq"], false, "{shell}");
        assert_eq!(
            bridge["ipam"]["ranges"],
            serde_json::json!([[{ "subnet": "10.1.74.0/24" }]]),
            "{shell}"
        );
        assert_eq!(network["plugins"][1]["type"], "portmap", "{shell}");
        let both = "FLANNEL_SUBNET=10.1.74.129/25 # pinned\nFLANNEL_IPV6_SUBNET=fd00:5:0:1b::1/64\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n";
        let bridge = &bridge_conflist(shell, both).unwrap()["plugins"][0];
        assert_eq!(bridge["ipMasq"], true, "{shell}");
        assert_eq!(
            bridge["ipam"]["ranges"],
            serde_json::json!([[{ "subnet": "10.1.74.128/25" }], [{ "subnet": "fd00:5:0:1b::0/64" }]]),
            "{shell}"
        );
        assert_eq!(bridge["ipam"]["routes"].as_array().unwrap().len(), 2, "{shell}");
    }
}

#[test]
fn without_a_subnet_no_cni_network_is_written() {
    for shell in SHELLS {
        for text in ["", "FLANNEL_MTU=1450\n", "FLANNEL_SUBNET=10.1.74.1/24\n"] {
            let refused = bridge_conflist(shell, text).unwrap_err();
            assert!(refused.contains("no subnet or no MTU"), "{shell}: {refused}");
        }
    }
}

#[test]
fn the_flannel_plugins_network_is_json_and_names_the_plugin() {
    let network: serde_json::Value = serde_json::from_str(&text_of("cni/10-flannel.conflist")).unwrap();
    let types: Vec<_> = network["plugins"]
        .as_array()
        .unwrap()
        .iter()
        .map(|plugin| plugin["type"].as_str().unwrap())
        .collect();
    assert_eq!(types, ["flannel", "portmap"]);
}

#[test]
fn the_wrapper_becomes_the_daemon_beside_it_wherever_it_is_called_from() {
    for shell in SHELLS {
        let directory = TempDir::new().unwrap();
        let opt = directory.path().join("flannel v1");
        fs::create_dir(&opt).unwrap();
        fs::copy(shipped("flanneld.sh"), opt.join("flanneld.sh")).unwrap();
        let stand_in = opt.join("flanneld");
        fs::write(&stand_in, "#!/bin/sh\necho $$ \"$@\"\n").unwrap();
        fs::set_permissions(&stand_in, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let child = Command::new(shell)
            .arg(opt.join("flanneld.sh"))
            .args(["--iface", "eth1"])
            .current_dir("/")
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let expected = format!("{} --iface eth1\n", child.id());
        let output = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), expected, "{shell}");
    }
}

#[test]
fn the_wrapper_reads_options_as_systemd_does_and_runs_none_of_them() {
    let directory = TempDir::new().unwrap();
    let [opt, etc] = ["opt", "etc"].map(|name| directory.path().join(name));
    for folder in [&opt, &etc] {
        fs::create_dir(folder).unwrap();
    }
    fs::copy(shipped("flanneld.sh"), opt.join("flanneld.sh")).unwrap();
    let stand_in = opt.join("flanneld");
    let print = "#!/bin/sh\nenv | grep ^FLANNELD_ | LC_ALL=C sort\n";
    fs::write(&stand_in, print).unwrap();
    fs::set_permissions(&stand_in, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let options = "# FLANNELD_COMMENT=1\n\nFLANNELD_ETCD_ENDPOINTS=https://a:2379, https://b:2379\n\
        FLANNELD_ETCD_PASSWORD=pa$HOME;touch /etc/default/run`id`\nFLANNELD_IFACE=\"eth 1\"\n\
        FLANNELD_PUBLIC_IP='192.0.2.1'\nno assignment\n7=x\nFLANNELD_V=1";
    fs::write(etc.join("flanneld"), options).unwrap();
    for shell in SHELLS {
        let output = Command::new("unshare")
            .args([
                "--mount",
                "sh",
                "-c",
                "mount --bind \"$1\" /etc/default && exec \"$2\" \"$3\"",
                "sh",
            ])
            .args([
                etc.as_os_str(),
                shell.as_ref(),
                opt.join("flanneld.sh").as_os_str(),
            ])
            .output()
            .unwrap();
        assert_eq!(
            String::from_utf8(output.stdout).unwrap(),
            "FLANNELD_ETCD_ENDPOINTS=https://a:2379, https://b:2379\n\
             FLANNELD_ETCD_PASSWORD=pa$HOME;touch /etc/default/run`id`\nFLANNELD_IFACE=eth 1\n\
             FLANNELD_PUBLIC_IP=192.0.2.1\nFLANNELD_V=1\n",
            "{shell}"
        );
    }
    assert!(!etc.join("run").exists());
}

/// What `flanneld --help` says.
fn usage() -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_flanneld"))
        .arg("--help")
        .output()
        .unwrap();
    [output.stdout, output.stderr]
        .map(|text| String::from_utf8(text).unwrap())
        .concat()
}

#[test]
fn every_variable_and_flag_that_the_files_name_is_the_daemons() {
    let usage = usage();
    let (variable, flag) = (
        regex::Regex::new(r"FLANNELD_([A-Z0-9_]+)").unwrap(),
        regex::Regex::new(r"--([a-z0-9][a-z0-9-]+)").unwrap(),
    );
    let mut named = 0;
    for file in ["flannel.service", "flanneld.sh", "prometheus-alerts.yml"] {
        let text = text_of(file);
        let variables = variable
            .captures_iter(&text)
            .map(|found| found[1].to_lowercase().replace('_', "-"));
        let flags = flag.captures_iter(&text).map(|found| found[1].to_owned());
        for name in variables.chain(flags).filter(|name| name != "now") {
            named += 1;
            assert!(usage.contains(&format!("--{name}")), "{file} names {name}");
        }
    }
    assert!(named > 4, "{named}");
}

#[test]
fn directories_and_the_protocol_number_are_the_daemons_defaults() {
    let usage = usage();
    let unit = text_of("flannel.service");
    for (setting, default) in [
        ("StateDirectory=flannel\n", "/var/lib/flannel"),
        ("RuntimeDirectory=flannel\n", "/run/flannel/subnet.env"),
    ] {
        assert!(unit.contains(setting));
        assert!(usage.contains(default), "{default} is no default in\n{usage}");
    }
    let protocol = text_of("rt_protos.d/flannel.conf");
    let line = protocol.lines().find(|line| !line.starts_with('#')).unwrap();
    let (number, name) = line.split_once(' ').unwrap();
    assert_eq!(name, "flannel");
    let flag = usage
        .split("--route-protocol")
        .nth(1)
        .unwrap()
        .lines()
        .take(2)
        .collect::<String>();
    assert!(
        flag.contains(&format!("(default {number})")),
        "{number} is not the default in: {flag}"
    );
}

#[test]
fn every_metric_that_an_alert_looks_at_is_told_by_a_running_daemon() {
    let lab = Lab::new(
        "alerts",
        Options::hosts(1).flanneld(env!("CARGO_BIN_EXE_flanneld")),
    )
    .unwrap();
    lab.write_config(r#"{"Network":"10.77.0.0/16","Backend":{"Type":"host-gw"}}"#)
        .unwrap();
    let host = lab.host(0);
    let daemon = host
        .start_daemon(DaemonOptions::arguments(["--healthz-port=2401"]))
        .unwrap();
    let request = r"exec 3<>/dev/tcp/127.0.0.1/2401 && printf 'GET /metrics HTTP/1.0\r\n\r\n' >&3 && cat <&3";
    let metrics = wait_until(Duration::from_secs(10), "metrics", || {
        daemon.must_run("metrics").unwrap();
        host.exec(&["bash", "-c", request])
            .ok()
            .filter(|text| text.contains("flannel_ready"))
    });
    let metrics = metrics.unwrap();
    let names: BTreeSet<&str> = metrics
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split([' ', '{']).next())
        .collect();
    let alerts = text_of("prometheus-alerts.yml");
    let metric = regex::Regex::new(r"\bflannel_[a-z_]+").unwrap();
    let looked_at: BTreeSet<&str> = metric.find_iter(&alerts).map(|found| found.as_str()).collect();
    assert!(looked_at.len() >= 8, "{looked_at:?}");
    let missing: Vec<_> = looked_at.difference(&names).collect();
    assert!(missing.is_empty(), "{missing:?} are not among {names:?}");
}
