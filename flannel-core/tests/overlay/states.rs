//! Which device is whose on a host with several daemons, and what remains when it changes.

use std::path::Path;

use flannel_core::{DeviceName, Leftovers, NodeId, Options, Reason, StateDir};
use tempfile::TempDir;

use crate::fixture::{Host, MOMENT, V4, about, kernel, put_peers, store};

const OTHER: &str = r#"{"Network":"10.6.0.0/16","Backend":{"Type":"vxlan"}}"#;
const OTHER_VNI: &str = r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","VNI":2}}"#;

fn open(root: &Path, purpose: &str) -> StateDir {
    StateDir::open(root, purpose).unwrap()
}

fn device_reason(host: &Host) -> Option<String> {
    host.reasons().into_iter().find_map(|reason| match reason {
        Reason::Device(text) => Some(text),
        _ => None,
    })
}

#[tokio::test(start_paused = true)]
async fn of_two_networks_with_one_identifier_on_a_host_the_second_is_refused_with_both_names() {
    let root = TempDir::new().unwrap();
    let kernel = kernel();
    let (first_store, second_store) = (store(V4), store(OTHER));
    put_peers(&first_store, 7..=9);
    let states = ["etcd /first", "etcd /second"].map(|purpose| open(root.path(), purpose));
    let first = Host::start(&first_store, &kernel, Options::of(&states[0]));
    first.has(3).await;
    let before = first.picture();
    let second = Host::start(&second_store, &kernel, Options::of(&states[1]));
    second
        .until("a word about it", |host| device_reason(host).is_some())
        .await;
    let text = device_reason(&second).unwrap();
    for name in ["flannel.1", "etcd /first", "etcd /second"] {
        assert!(text.contains(name), "{name}: {text}");
    }
    tokio::time::sleep(60 * MOMENT).await;
    assert!(!second.engine.status().is_ready());
    assert!(
        second_store.leases().is_empty(),
        "nobody is to take this host for a peer"
    );
    assert_eq!(first.picture(), before);
    assert!(first.engine.status().is_ready());
    // Another identifier is what it takes.
    second_store.put_config(Some(
        &OTHER.replace(r#""vxlan""#, r#""vxlan","VNI":2,"Port":8473"#),
    ));
    second.has(0).await;
    assert!(kernel.device("flannel.2").is_some());
    assert_eq!(first.picture(), before);
}

#[tokio::test(start_paused = true)]
async fn two_networks_with_their_own_identifiers_do_not_disturb_each_other() {
    let root = TempDir::new().unwrap();
    let kernel = kernel();
    let (first_store, second_store) = (
        store(V4),
        store(&OTHER.replace(r#""vxlan""#, r#""vxlan","VNI":2"#)),
    );
    put_peers(&first_store, 7..=9);
    let states = ["etcd /first", "etcd /second"].map(|purpose| open(root.path(), purpose));
    let first = Host::start(&first_store, &kernel, Options::of(&states[0]));
    first.has(3).await;
    let before = first.picture();
    kernel.clear_log();
    let second = Host::start(&second_store, &kernel, Options::of(&states[1]));
    second.has(0).await;
    assert_eq!(first.picture(), before);
    kernel.delete_link("flannel.2");
    second
        .until("its device", |_| kernel.device("flannel.2").is_some())
        .await;
    assert_eq!(first.picture(), before);
    assert!(
        first
            .ops()
            .iter()
            .all(|op| !op.id().to_string().contains("flannel.1 "))
    );
}

#[tokio::test(start_paused = true)]
async fn the_device_of_another_identifier_is_swept_when_the_config_changes() {
    let root = TempDir::new().unwrap();
    let (store, kernel) = (store(V4), kernel());
    put_peers(&store, 7..=9);
    let state = open(root.path(), "etcd /net");
    let host = Host::start(&store, &kernel, Options::of(&state));
    host.has(3).await;
    let mac = host.device_mac();
    store.put_config(Some(OTHER_VNI));
    host.until("the change", |host| {
        host.kernel.device("flannel.1").is_none() && host.kernel.device("flannel.2").is_some()
    })
    .await;
    assert_eq!(
        kernel.device("flannel.2").map(|device| device.mac),
        mac,
        "one MAC per node and network"
    );
    // The next run has nothing to look for any more.
    host.until("it is forgotten", |_| {
        state.devices() == ["flannel.2".parse().unwrap()]
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_device_of_another_identifier_is_swept_though_nothing_is_remembered_anywhere() {
    let (store, kernel) = (store(V4), kernel());
    let host = Host::start(&store, &kernel, Options::new(NodeId(1)));
    host.has(0).await;
    store.put_config(Some(OTHER_VNI));
    host.until("the change", |host| {
        host.kernel.device("flannel.1").is_none() && host.kernel.device("flannel.2").is_some()
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_device_of_another_identifier_is_swept_after_a_restart_too_and_not_before_the_first_list() {
    let root = TempDir::new().unwrap();
    let (store, kernel) = (store(V4), kernel());
    put_peers(&store, 7..=9);
    let state = open(root.path(), "etcd /net");
    let host = Host::start(&store, &kernel, Options::of(&state));
    host.has(3).await;
    let before = host.picture();
    host.stop().await;
    store.put_config(Some(OTHER_VNI));
    let options = Options::of(&state);
    assert_eq!(options.former_devices, ["flannel.1".parse().unwrap()]);
    let client = store.client();
    client.cut(flannel_core::testing::Cut::Hangs);
    let host = Host::start_with(&store, client, &kernel, options);
    tokio::time::sleep(60 * MOMENT).await;
    assert_eq!(host.picture(), before);
    host.client.heal();
    host.until("the change", |host| {
        host.kernel.device("flannel.1").is_none() && host.kernel.device("flannel.2").is_some()
    })
    .await;
    assert!(about(&host.picture(), "dev flannel.1 ").is_empty());
}

/// Runs a daemon until it has claimed its device, and stops it.
async fn run_once(root: &Path, purpose: &str, env: &Path) {
    let store = store(V4);
    put_peers(&store, 7..=9);
    let state = open(root, purpose);
    state.names_suffix(env).unwrap();
    let host = Host::start(&store, &kernel(), Options::of(&state));
    host.has(3).await;
    assert_eq!(state.devices(), ["flannel.1".parse().unwrap()]);
    host.stop().await;
}

fn remembered(root: &Path, purpose: &str, env: &Path) -> Vec<DeviceName> {
    let left = Leftovers::find(root, purpose, env).unwrap();
    left.expect("a state").devices()
}

#[tokio::test(start_paused = true)]
async fn a_successor_in_the_same_subnet_env_has_the_device_of_a_daemon_that_is_gone() {
    let root = TempDir::new().unwrap();
    let env = root.path().join("subnet.env");
    run_once(root.path(), "etcd /old", &env).await;

    let state = open(root.path(), "etcd /new");
    state.names_suffix(&env).unwrap();
    let host = Host::start(&store(V4), &kernel(), Options::of(&state));
    host.has(0).await;
    assert_eq!(device_reason(&host), None);
    assert_eq!(remembered(root.path(), "etcd /old", &env), []);
    assert_eq!(state.devices(), ["flannel.1".parse().unwrap()]);
}

#[tokio::test(start_paused = true)]
async fn the_device_of_a_daemon_with_another_subnet_env_stays_its_own_though_it_does_not_run() {
    let root = TempDir::new().unwrap();
    let [old, new] = ["old.env", "new.env"].map(|name| root.path().join(name));
    run_once(root.path(), "etcd /old", &old).await;

    let state = open(root.path(), "etcd /new");
    state.names_suffix(&new).unwrap();
    let kernel = kernel();
    let host = Host::start(&store(V4), &kernel, Options::of(&state));
    host.until("a word about it", |host| device_reason(host).is_some())
        .await;
    tokio::time::sleep(60 * MOMENT).await;
    assert!(kernel.log().is_empty());
    assert_eq!(
        remembered(root.path(), "etcd /old", &old),
        ["flannel.1".parse().unwrap()]
    );
    // The remedy that the text names.
    Leftovers::find(root.path(), "etcd /old", &old)
        .unwrap()
        .unwrap()
        .remove()
        .unwrap();
    host.has(0).await;
}

#[tokio::test(start_paused = true)]
async fn a_successor_in_the_same_subnet_env_waits_for_a_daemon_that_still_runs() {
    let root = TempDir::new().unwrap();
    let env = root.path().join("subnet.env");
    let kernel = kernel();
    let [old, new] = ["etcd /old", "etcd /new"].map(|purpose| open(root.path(), purpose));
    for state in [&old, &new] {
        state.names_suffix(&env).unwrap();
    }
    let first = Host::start(&store(V4), &kernel, Options::of(&old));
    first.has(0).await;
    let second = Host::start(&store(V4), &kernel, Options::of(&new));
    second
        .until("a word about it", |host| device_reason(host).is_some())
        .await;
    tokio::time::sleep(60 * MOMENT).await;
    assert!(first.engine.status().is_ready() && !second.engine.status().is_ready());

    first.stop().await;
    drop(old);
    second.has(0).await;
    assert_eq!(new.devices(), ["flannel.1".parse().unwrap()]);
}

#[tokio::test(start_paused = true)]
async fn a_change_to_an_identifier_that_another_network_has_is_refused_and_made_once_that_is_free() {
    let root = TempDir::new().unwrap();
    let kernel = kernel();
    let env = root.path().join("first.env");
    let (first_store, second_store) = (
        store(V4),
        store(&OTHER.replace(r#""vxlan""#, r#""vxlan","VNI":2"#)),
    );
    let first_state = open(root.path(), "etcd /first");
    let second_state = open(root.path(), "etcd /second");
    let first = Host::start(&first_store, &kernel, Options::of(&first_state));
    first.has(0).await;
    let second = Host::start(&second_store, &kernel, Options::of(&second_state));
    second.has(0).await;
    second_store.put_config(Some(OTHER));
    second
        .until("a word about it", |host| host.kinds() == ["config_refused"])
        .await;
    let text = second.reasons()[0].to_string();
    for name in ["flannel.1", "etcd /first", "etcd /second"] {
        assert!(text.contains(name), "{name}: {text}");
    }
    tokio::time::sleep(60 * MOMENT).await;
    assert!(second.engine.status().is_ready() && first.engine.status().is_ready());
    assert!(kernel.device("flannel.2").is_some(), "it goes on as it was");

    first.stop().await;
    drop(first_state);
    let left = Leftovers::find(root.path(), "etcd /first", &env).unwrap();
    left.unwrap().remove().unwrap();
    kernel.delete_link("flannel.1");
    second
        .until("the change", |_| {
            kernel.device("flannel.2").is_none() && kernel.device("flannel.1").is_some()
        })
        .await;
    second.has(0).await;
    assert_eq!(second.reasons(), []);
}
