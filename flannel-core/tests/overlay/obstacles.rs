//! When a device cannot be made.

use std::time::Duration;

use flannel_core::{NodeId, ObjectId, OpErrorKind, Options, Reason};

use crate::fixture::{DUAL, Host, MOMENT, V4, about, kernel, put_peers, store};

fn device_reason(host: &Host) -> Option<String> {
    host.reasons().into_iter().find_map(|reason| match reason {
        Reason::Device(text) => Some(text),
        _ => None,
    })
}

#[tokio::test(start_paused = true)]
async fn a_port_that_is_taken_is_named_with_its_holder_and_all_is_there_once_it_is_free() {
    let (store, kernel) = (store(V4), kernel());
    put_peers(&store, 1..=50);
    kernel.take_port(8472, "dnsmasq");
    let host = Host::start(&store, &kernel, Options::new(NodeId(1)));
    host.until("a word about it", |host| device_reason(host).is_some())
        .await;
    let text = device_reason(&host).unwrap();
    assert!(
        text.contains("8472") && text.contains("dnsmasq") && text.contains("flannel.1"),
        "{text}"
    );
    tokio::time::sleep(Duration::from_secs(60)).await;
    let status = host.engine.status();
    assert!(!status.is_ready());
    assert_eq!(
        (status.peers.installed, status.peers.failed),
        (0, 0),
        "{status:#?}"
    );
    // One failure, and not one for each peer.
    assert_eq!(status.failures.len(), 1, "{:?}", status.failures);
    assert!(host.picture().is_empty(), "{:?}", host.picture());

    kernel.free_port(8472);
    host.has(50).await;
    assert_eq!(host.reasons(), []);
    let picture = host.picture();
    assert_eq!(about(&picture, "neighbour").len(), 50);
}

#[tokio::test(start_paused = true)]
async fn a_device_that_is_deleted_while_its_port_is_taken_is_back_with_all_peers_when_that_is_free() {
    let host = Host::ready().await;
    let before = host.picture();
    host.kernel.take_port(8472, "dnsmasq");
    host.kernel.delete_link("flannel.1");
    host.until("a word about it", |host| device_reason(host).is_some())
        .await;
    assert!(!host.engine.status().is_ready());
    tokio::time::sleep(Duration::from_secs(90)).await;
    host.kernel.free_port(8472);
    host.until("the device and its peers", |host| host.picture() == before)
        .await;
    host.has(3).await;
    assert_eq!(host.reasons(), []);
}

#[tokio::test(start_paused = true)]
async fn a_device_whose_new_port_is_taken_goes_on_with_the_old_one_and_changes_when_that_is_free() {
    let host = Host::ready().await;
    let before = host.picture();
    host.kernel.take_port(4789, "openvswitch");
    host.store
        .put_config(Some(&DUAL.replace(r#""vxlan""#, r#""vxlan","Port":4789"#)));
    host.until("a word about it", |host| device_reason(host).is_some())
        .await;
    let text = device_reason(&host).unwrap();
    assert!(text.contains("4789") && text.contains("openvswitch"), "{text}");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(host.picture(), before, "packets go on by the old port");
    host.kernel.free_port(4789);
    host.until("the change", |host| {
        let picture = host.picture();
        about(&picture, "dstport 4789").len() == 2 && picture.len() == before.len()
    })
    .await;
    host.has(3).await;
    assert_eq!(host.reasons(), []);
}

#[tokio::test(start_paused = true)]
async fn a_device_that_cannot_come_up_is_named_and_comes_up_later() {
    let host = Host::ready().await;
    let before = host.picture();
    host.kernel.take_port(8472, "dnsmasq");
    host.kernel.change_device("flannel.1", |device| device.up = false);
    host.until("a word about it", |host| device_reason(host).is_some())
        .await;
    let text = device_reason(&host).unwrap();
    assert!(text.contains("8472") && text.contains("dnsmasq"), "{text}");
    assert!(!host.engine.status().is_ready());
    host.kernel.free_port(8472);
    host.until("what was there", |host| host.picture() == before)
        .await;
    host.has(3).await;
}

#[tokio::test(start_paused = true)]
async fn a_device_of_another_kind_under_our_name_is_left_and_named_and_ours_comes_when_it_goes() {
    let (store, kernel) = (store(V4), kernel());
    put_peers(&store, 7..=9);
    kernel.create_link("flannel.1", &["10.5.200.1/24"]);
    let host = Host::start(&store, &kernel, Options::new(NodeId(1)));
    host.until("a word about it", |host| device_reason(host).is_some())
        .await;
    let text = device_reason(&host).unwrap();
    assert!(text.contains("flannel.1"), "{text}");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(!host.engine.status().is_ready());
    let there = kernel.device("flannel.1").unwrap();
    assert!(
        matches!(there.kind, flannel_core::DeviceKind::Other(_)),
        "{there}"
    );
    kernel.delete_link("flannel.1");
    host.has(3).await;
    assert_eq!(device_reason(&host), None);
}

#[tokio::test(start_paused = true)]
async fn an_address_that_cannot_be_given_is_named_and_the_peers_are_there_all_the_same() {
    let (store, kernel) = (store(DUAL), kernel());
    put_peers(&store, 7..=9);
    let mut options = Options::new(NodeId(1));
    options.previous = "10.5.1.0/24,fd05:0:0:1::/64".parse().ok();
    kernel.fail("10.5.1.0/32".parse().unwrap(), OpErrorKind::Other, u32::MAX);
    let host = Host::start(&store, &kernel, options);
    host.until("a word about it", |host| device_reason(host).is_some())
        .await;
    let text = device_reason(&host).unwrap();
    assert!(text.contains("10.5.1.0/32"), "{text}");
    assert_eq!(host.engine.status().peers.installed, 3);
    kernel.stop_failing();
    host.has(3).await;
    tokio::time::sleep(MOMENT).await;
    assert_eq!(host.reasons(), []);
}

#[tokio::test(start_paused = true)]
async fn a_setting_that_cannot_be_changed_on_a_device_that_works_is_named_and_stops_nothing() {
    let host = Host::ready().await;
    let device = ObjectId::Device("flannel.1".parse().unwrap());
    host.kernel.fail_object(device, OpErrorKind::Other, u32::MAX);
    host.kernel
        .change_device("flannel.1", |device| device.accepts_advertisements = true);
    host.until("a word about it", |host| host.kinds() == ["device_setting"])
        .await;
    put_peers(&host.store, [10]);
    host.has(4).await;
    assert_eq!(host.kinds(), ["device_setting"]);
    host.kernel.stop_failing();
    host.until("its end", |host| host.reasons().is_empty()).await;
}
