//! `/metrics`, as OpenMetrics has it. Names are for ever: alerts go by them.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use flannel_core::{Reason, Status, Timings};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeGaugeValue, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::clock::Clock;

pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The whole answer.
pub(super) fn encode(status: Arc<Status>, dropped: u64, clock: Clock) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape {
        status,
        dropped,
        clock,
    }));
    let mut answer = String::new();
    text::encode(&mut answer, &registry)?;
    Ok(answer)
}

/// How things stand at one moment.
#[derive(Debug)]
struct Scrape {
    status: Arc<Status>,
    dropped: u64,
    clock: Clock,
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let status = &*self.status;
        let peers = &status.peers;
        let counters = &status.counters;
        let mut out = Out(&mut encoder);

        out.gauge(
            "flannel_ready",
            "Whether pods can reach those of other hosts",
            u64::from(status.is_ready()),
        )?;
        let kinds: BTreeSet<&str> = status.reasons.iter().map(Reason::kind).collect();
        let kinds = kinds.into_iter().map(|kind| (kind, 1u64));
        out.gauges(
            "flannel_reason",
            "1 for what is not as it ought to be",
            "reason",
            kinds,
        )?;

        let expires = status.lease.map(|lease| lease.expires);
        let expiry = match expires {
            // No lease is one that has ended long ago; of one that never ends there is no time to give.
            None => Some(0.0),
            Some(at) => at.map(|at| self.clock.unix(at).as_secs_f64()),
        };
        out.optional_gauge(
            "flannel_lease_expiry_timestamp_seconds",
            "When the lease ends unless renewed, 0 without a lease",
            expiry,
        )?;
        let contact = status.store.last(self.clock.now);
        out.gauge(
            "flannel_store_last_contact_timestamp_seconds",
            "When the store was last there, 0 for not yet",
            contact.map_or(0.0, |at| self.clock.unix(at).as_secs_f64()),
        )?;
        out.counter(
            "flannel_snapshots",
            "Full lists of leases from the store",
            counters.snapshots,
        )?;

        out.gauges(
            "flannel_peers",
            "Leases of other hosts",
            "state",
            [
                ("desired", peers.desired),
                ("installed", peers.installed),
                ("failed", peers.failed),
                ("refused", peers.refused),
            ],
        )?;
        out.counters(
            "flannel_repairs",
            "Kernel objects that somebody else had changed and that were put right",
            "kind",
            [
                ("restored", counters.repairs.restored),
                ("corrected", counters.repairs.corrected),
                ("removed", counters.repairs.removed),
            ],
        )?;
        out.counter(
            "flannel_rule_repairs",
            "Times that rules of the packet filter were put right that somebody else had changed",
            counters.rule_repairs,
        )?;
        out.gauge(
            "flannel_conflicts",
            "Routes of somebody else's that run into the network",
            status.conflict_count,
        )?;
        out.histogram(
            "flannel_plan_seconds",
            "Time to work out what to change in the kernel",
            &counters.planning,
        )?;
        out.histogram(
            "flannel_apply_seconds",
            "Time in which the kernel made the changes of one plan",
            &counters.applying,
        )?;

        out.counter(
            "flannel_dropped_log_lines",
            "Log lines lost because nobody took them",
            self.dropped,
        )?;
        out.info(
            "flannel_build",
            "What runs here",
            &[("version", env!("CARGO_PKG_VERSION"))],
        )
    }
}

struct Out<'a, 'b>(&'a mut DescriptorEncoder<'b>);

impl Out<'_, '_> {
    fn gauge(&mut self, name: &str, help: &str, value: impl EncodeGaugeValue) -> fmt::Result {
        self.optional_gauge(name, help, Some(value))
    }

    fn optional_gauge(
        &mut self,
        name: &str,
        help: &str,
        value: Option<impl EncodeGaugeValue>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        value.map_or(Ok(()), |value| metric.encode_gauge(&value))
    }

    fn gauges<'v>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (&'v str, impl EncodeGaugeValue)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (of, value) in values {
            metric.encode_family(&[(label, of)])?.encode_gauge(&value)?;
        }
        Ok(())
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        metric.encode_counter::<NoLabels, _, f64>(&value, None)
    }

    fn counters<'v>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (&'v str, u64)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (of, value) in values {
            let labels = [(label, of)];
            let mut metric = metric.encode_family(&labels)?;
            metric.encode_counter::<NoLabels, _, f64>(&value, None)?;
        }
        Ok(())
    }

    fn histogram(&mut self, name: &str, help: &str, timings: &Timings) -> fmt::Result {
        let mut metric = self
            .0
            .encode_descriptor(name, help, None, MetricType::Histogram)?;
        let bound =
            |bound: Option<std::time::Duration>| bound.map_or(f64::INFINITY, |bound| bound.as_secs_f64());
        let buckets: Vec<(f64, u64)> = timings.buckets().map(|(to, count)| (bound(to), count)).collect();
        metric.encode_histogram::<NoLabels>(timings.sum().as_secs_f64(), timings.count(), &buckets, None)
    }

    fn info(&mut self, name: &str, help: &str, labels: &[(&str, &str)]) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Info)?;
        metric.encode_info(&labels)
    }
}

type NoLabels = [(&'static str, &'static str); 0];
