//! What `/readyz` and `/status` say, from what the engine says.

use std::time::UNIX_EPOCH;

use flannel_core::{PeerList, PerFamily, Readiness, Reason, Status};

use super::Health;
use super::clock::{Clock, rfc3339};
use crate::status_report::{
    ConflictsReport, CountersReport, DeviceReport, FailureReport, LeaseReport, PeerReport, PeersReport,
    ReasonReport, StatusReport, StoreReport, UplinkReport,
};

/// Before there is an engine.
const STARTING: &str = "flanneld is starting";

pub(super) fn readiness(status: Option<&Status>) -> Readiness {
    status.map_or(Readiness::NotReady, Status::readiness)
}

/// Why not simply `ready`.
pub(super) fn reasons(status: Option<&Status>, clock: Clock) -> Vec<ReasonReport> {
    let Some(status) = status else {
        return vec![ReasonReport {
            reason: "starting".to_owned(),
            message: STARTING.to_owned(),
            blocking: true,
            seconds: None,
        }];
    };
    let silence = status.store.silence(clock.now).map(|silence| silence.as_secs());
    let of = |reason: &Reason| {
        let seconds = silence.filter(|_| matches!(reason, Reason::Store(_)));
        ReasonReport {
            reason: reason.kind().to_owned(),
            message: match seconds {
                Some(seconds) => format!("{reason} (for {seconds} s)"),
                None => reason.to_string(),
            },
            blocking: reason.is_blocking(),
            seconds,
        }
    };
    status.reasons.iter().map(of).collect()
}

impl Health {
    pub(super) fn report(&self, status: Option<&Status>, peers: &PeerList, clock: Clock) -> StatusReport {
        let readiness = readiness(status);
        let reasons = reasons(status, clock);
        let before = Status::default();
        let status = status.unwrap_or(&before);
        StatusReport {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started: rfc3339(self.started.duration_since(UNIX_EPOCH).unwrap_or_default()),
            state: readiness.name().to_owned(),
            ready: readiness != Readiness::NotReady,
            network: list(&status.network),
            backend: status.backend.map(str::to_owned),
            lease: status.lease.map(|lease| LeaseReport {
                subnet: lease.subnet.nets().map(|net| net.to_string()).collect(),
                until: lease.expires.map(|at| clock.rfc3339(at)),
                seconds: lease
                    .expires
                    .map(|at| at.saturating_duration_since(clock.now).as_secs()),
            }),
            store: StoreReport {
                kind: self.store.kind.clone(),
                place: without_userinfo(&self.store.place),
                last_contact: status.store.last(clock.now).map(|at| clock.rfc3339(at)),
                silent_seconds: status.store.silence(clock.now).map(|silence| silence.as_secs()),
            },
            uplink: status.uplink.map(|uplink| UplinkReport {
                device: uplink.device.to_string(),
                mtu: uplink.mtu,
                addresses: list(&uplink.addresses),
                public: list(&uplink.public),
            }),
            devices: status.devices.iter().map(device).collect(),
            peers: PeersReport {
                desired: status.peers.desired,
                installed: status.peers.installed,
                failed: status.peers.failed,
                refused: status.peers.refused,
                total: peers.total,
                list: peers.rows.iter().map(peer).collect(),
            },
            conflicts: ConflictsReport {
                count: status.conflict_count,
                first: status.conflicts.iter().map(ToString::to_string).collect(),
            },
            failures: status.failures.iter().map(failure).collect(),
            reasons,
            counters: CountersReport {
                snapshots: status.counters.snapshots,
                restored: status.counters.repairs.restored,
                corrected: status.counters.repairs.corrected,
                removed: status.counters.repairs.removed,
                rules: status.counters.rule_repairs,
                plans: status.counters.applying.count(),
                dropped_log_lines: self.log.as_ref().map_or(0, |log| log.dropped()),
            },
        }
    }
}

fn peer(row: &flannel_core::PeerStatus) -> PeerReport {
    PeerReport {
        subnet: row.subnet.nets().map(|net| net.to_string()).collect(),
        public: list(&row.public),
        state: row.state.name().to_owned(),
        why: row.state.why().map(str::to_owned),
    }
}

fn device(device: &flannel_core::Device) -> DeviceReport {
    DeviceReport {
        device: device.name.to_string(),
        mac: device.mac.to_string(),
        mtu: device.mtu,
        up: device.up,
    }
}

fn failure(failure: &flannel_core::Failure) -> FailureReport {
    FailureReport {
        object: failure.object.clone(),
        error: failure.error.clone(),
    }
}

fn list<T: ToString>(values: &PerFamily<T>) -> Vec<String> {
    values.iter().map(|(_, value)| value.to_string()).collect()
}

/// Nobody needs the password of a store to find it.
fn without_userinfo(place: &str) -> String {
    let shown = |part: &str| match part.split_once("://") {
        Some((scheme, rest)) => {
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
            format!("{scheme}://{host}{path}")
        }
        None => part.to_owned(),
    };
    place.split(',').map(shown).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_shown_without_user_and_password() {
        for (place, shown) in [
            (
                "https://u:p@a:2379,http://[::1]:2379/x",
                "https://a:2379,http://[::1]:2379/x",
            ),
            ("file:///var/lib/a@b", "file:///var/lib/a@b"),
            ("/var/lib/a@b", "/var/lib/a@b"),
        ] {
            assert_eq!(without_userinfo(place), shown);
        }
    }
}
