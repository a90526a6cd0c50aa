//! What the page on vxlan says in tables, next to what the code does.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;

use flannel_backend_vxlan::Vxlan;
use flannel_core::{
    Backend, DataPlane, Family, Host, HostFacts, NetworkConfig, NodeId, PerFamily, Reason, Uplink,
};

use crate::page::{self, Page, code_spans};

/// A network of these families with more members in its `Backend`.
fn config(families: &[Family], options: &str) -> NetworkConfig {
    let v6 = families.contains(&Family::V6);
    let json = format!(
        r#"{{"EnableIPv4":{},"Network":"172.7.0.0/16","EnableIPv6":{v6},"IPv6Network":"fd00:7::/48",
        "Backend":{{"Type":"vxlan"{options}}}}}"#,
        families.contains(&Family::V4)
    );
    NetworkConfig::from_json(&json).unwrap()
}

fn configured(families: &[Family], options: &str) -> Result<Arc<dyn DataPlane>, String> {
    let configured = Vxlan.configure(&config(families, options));
    configured.map_err(|error| error.to_string())
}

fn host(mtu: u32) -> Host {
    let addresses = PerFamily {
        v4: Some("192.168.77.11".parse().unwrap()),
        v6: Some("fd00:77::11".parse().unwrap()),
    };
    Host {
        node: NodeId(1),
        uplink: Uplink {
            device: "eth0".parse().unwrap(),
            mtu,
            addresses,
            public: addresses,
        },
        facts: Arc::new(HostFacts::default()),
    }
}

/// Every option is in the table, and takes the default that stands there.
pub(crate) fn compare_options(page: &Page, heading: &str) {
    let mut named = BTreeSet::new();
    for (line, cells) in page.rows(heading) {
        let [option, default] = [0, 1].map(|cell| code_spans(&cells[cell]).remove(0));
        let taken = configured(&Family::ALL, &format!(r#","{option}":{default}"#));
        assert!(taken.is_ok(), "{}:{line}: {:?}", page.name, taken.err());
        named.insert(option);
    }
    let known = Vxlan.options().iter().map(ToString::to_string).collect();
    assert_eq!(named, known);
}

/// The highest VNIs that the page names are the highest that there are.
pub(crate) fn compare_highest_vnis(page: &Page, heading: &str) {
    for (families, highest) in [(&[Family::V4][..], 9_999_999), (&Family::ALL[..], 9_999)] {
        let taken = |vni| configured(families, &format!(r#","VNI":{vni}"#)).is_ok();
        assert!(taken(highest) && !taken(highest + 1), "{highest}");
        let mut rows = page.rows(heading).into_iter();
        let told = rows.any(|(_, cells)| cells[0] == "`VNI`" && cells[2].contains(&highest.to_string()));
        assert!(told, "{}: {highest} is not told", page.name);
    }
}

/// What the table says is left of an MTU, and from which on it is of use.
pub(crate) fn compare_mtus(page: &Page, heading: &str) {
    let rows = page.rows(heading);
    let number = |cell: &str| cell.parse::<u32>().unwrap();
    let mut compared = 0;
    for (line, cells) in &rows {
        for (cell, family) in [(&cells[1], Family::V4), (&cells[2], Family::V6)] {
            let place = format!("{}:{line}: {family}", page.name);
            let overlay = configured(&[family], "").unwrap();
            if let Some(mtu) = cells[0].strip_prefix("left of ") {
                assert_eq!(overlay.mtu(&host(number(mtu))), number(cell), "{place}");
            } else if cells[0] == "the underlay needs at least" {
                let least = number(cell);
                assert!(overlay.publish(&host(least), None).is_ok(), "{place}");
                assert!(overlay.publish(&host(least - 1), None).is_err(), "{place}");
            } else {
                assert_eq!(overlay.mtu(&host(1500)), 1500 - number(cell), "{place}");
            }
            compared += 1;
        }
    }
    assert_eq!(compared, 8, "{rows:?}");
    let both = configured(&Family::ALL, "").unwrap();
    assert_eq!(both.mtu(&host(1500)), 1430, "the smaller of the two");
}

/// Every setting that the table says a file of the tarball has stands there.
pub(crate) fn compare_snippets(page: &Page, heading: &str) {
    let rows = page.rows(heading);
    assert!(!rows.is_empty(), "{}: {heading}", page.name);
    for (line, cells) in rows {
        let file = code_spans(&cells[0]).remove(0);
        let text = fs::read_to_string(page::root().join("dist").join(&file)).unwrap();
        let setting = code_spans(&cells[2]).remove(0);
        let is_set = text.lines().any(|line| line == setting);
        assert!(is_set, "{}:{line}: {file} does not say {setting}", page.name);
    }
}

/// Of each reason that a page's tables name: whether `/readyz` is 503.
pub(crate) fn compare_reasons(page: &Page, heading: &str) {
    let text = String::new;
    let routes = |failed| Reason::Routes {
        failed,
        desired: 2,
        first: text(),
    };
    let reasons = [
        routes(1),
        routes(2),
        Reason::Backend(text()),
        Reason::Device(text()),
        Reason::DeviceSetting(text()),
        Reason::Filter(text()),
        Reason::ForwardRules(text()),
        Reason::Masquerade(text()),
        Reason::Refused(text()),
        Reason::ReversePath(text()),
        Reason::RulesUndone(text()),
        Reason::Undone(text()),
    ];
    let mut compared = 0;
    for (line, cells) in page.rows(heading) {
        let [_, code, kind] = &cells[..] else { continue };
        let blocking = match code.as_str() {
            "503" => true,
            "200, degraded" => false,
            _ => continue,
        };
        let kind = code_spans(kind).remove(0);
        let mut of_kind = reasons.iter().filter(|reason| reason.kind() == kind);
        let is_one = of_kind.any(|reason| reason.is_blocking() == blocking);
        assert!(is_one, "{}:{line}: {kind} is none that means {code}", page.name);
        compared += 1;
    }
    assert!(compared > 3, "{}: {compared} reasons", page.name);
}
