//! Config, start, and what is there then; once for each way to write the config.

use crate::cluster::{CONFIG, CONFIG_KEY, Cluster};

/// From the start of the daemons on: all that has to be there, whoever wrote the config.
fn first_day(cluster: &Cluster) {
    cluster.assert_disconnected();
    cluster.start_nodes();
    cluster.assert_connected();
    cluster.assert_pinned();
    for (node, host) in cluster.nodes() {
        node.wait_until_ready(host);
        let (status, healthz) = node.get(host, "/healthz").unwrap();
        assert_eq!(status, 200, "{healthz}");
        node.wait_until_running(host);
        node.wait_for_one_daemon(host);
        let number = host.ipv4().unwrap().octets()[3];
        assert_eq!(
            node.subnet_env(),
            format!(
                "FLANNEL_NETWORK=172.7.0.0/16\nFLANNEL_SUBNET=172.7.{number}.1/24\n\
                 FLANNEL_MTU=1500\nFLANNEL_IPMASQ=false\n"
            )
        );
    }
}

#[test]
fn pods_and_hosts_reach_each_other_once_the_config_is_put_and_the_daemons_run() {
    let cluster = Cluster::new("put");
    cluster.put_config();
    first_day(&cluster);
}

#[test]
fn flanneld_itself_can_write_the_config() {
    let cluster = Cluster::new("set");
    let (_, host) = cluster.node(0);
    let mut words = vec![
        env!("CARGO_BIN_EXE_flanneld").to_owned(),
        "config".into(),
        "set".into(),
    ];
    words.extend(cluster.etcd_flags());
    words.push(CONFIG.into());
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let said = host.exec(&words).unwrap();
    assert!(
        said.contains("172.7.0.0/16") && said.contains("host-gw"),
        "{said}"
    );
    let stored = cluster
        .etcd
        .member(1)
        .etcdctl(&["get", CONFIG_KEY, "--print-value-only"]);
    assert_eq!(stored.unwrap().trim_end(), CONFIG);
    first_day(&cluster);
}

#[test]
fn a_config_that_etcdctl_set_in_api_v2_is_taken_over() {
    let cluster = Cluster::unstarted("v2", lab::EtcdOptions::api_v2);
    cluster.etcd.wait_ready(crate::cluster::SOON).unwrap();
    cluster
        .etcd
        .member(0)
        .etcdctl_v2(&["set", CONFIG_KEY, CONFIG])
        .unwrap();
    first_day(&cluster);
    let stored = cluster
        .etcd
        .member(1)
        .etcdctl(&["get", CONFIG_KEY, "--print-value-only"]);
    assert_eq!(stored.unwrap().trim_end(), CONFIG);
    let copied: usize = cluster
        .nodes()
        .map(|(node, _)| node.log().matches("copied the network config").count())
        .sum();
    assert_eq!(copied, 1, "the config was copied so often");
}
