//! Packets between a host and its wire, counted where the host cannot see it.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

use crate::program::{command, succeed};
use crate::{LabError, Namespace};

/// Tells the tables of a switch apart.
static NEXT: AtomicUsize = AtomicUsize::new(0);

/// Counts the packets that match each of some expressions, in both directions, until it is dropped. Made by
/// [`crate::Host::count`]. It goes on when the host's uplink is made again.
#[derive(Debug)]
pub struct Counter<const N: usize> {
    switch: Namespace,
    table: String,
}

impl<const N: usize> Counter<N> {
    pub(crate) fn new(switch: &Namespace, port: &str, expressions: [&str; N]) -> Result<Self, LabError> {
        let table = format!("counter{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let (mut sent, mut received) = (String::new(), String::new());
        for expression in expressions {
            // `let _`: writing to a String cannot fail.
            let _ = writeln!(sent, "iifname \"{port}\" {expression} counter");
            let _ = writeln!(received, "oifname \"{port}\" {expression} counter");
        }
        let rules = format!(
            "table bridge {table} {{\n\
             chain sent {{\ntype filter hook prerouting priority -300;\n{sent}}}\n\
             chain received {{\ntype filter hook postrouting priority 300;\n{received}}}\n}}\n"
        );
        let counter = Self {
            switch: switch.clone(),
            table,
        };
        counter.nft(&["-f", "-"], &rules)?;
        Ok(counter)
    }

    /// Packets that the host has sent, for each of the expressions.
    ///
    /// # Errors
    /// Those of `nft`, and [`LabError::Text`] if its output is not understood.
    pub fn sent(&self) -> Result<[u64; N], LabError> {
        self.packets("sent")
    }

    /// Packets that the host was sent, for each of the expressions.
    ///
    /// # Errors
    /// As [`Self::sent`].
    pub fn received(&self) -> Result<[u64; N], LabError> {
        self.packets("received")
    }

    fn packets(&self, chain: &str) -> Result<[u64; N], LabError> {
        let json = self.nft(&["-j", "list", "chain", "bridge", &self.table, chain], "")?;
        let counted = packets(&json).and_then(|counted| counted.try_into().ok());
        counted.ok_or_else(|| LabError::text("the output of `nft -j list chain`", "other counters", json))
    }

    fn nft(&self, arguments: &[&str], input: &str) -> Result<String, LabError> {
        // Without `ip netns exec`, whose mounts take longer than the look.
        self.switch.inside(|| succeed(command("nft", arguments), input))?
    }
}

impl<const N: usize> Drop for Counter<N> {
    fn drop(&mut self) {
        // Gone with the lab otherwise.
        let _ = self.nft(&["delete", "table", "bridge", &self.table], "");
    }
}

/// The counts of a chain's rules, in order.
fn packets(json: &str) -> Option<Vec<u64>> {
    let value: Value = serde_json::from_str(json).ok()?;
    let objects = value["nftables"].as_array()?;
    let rules = objects
        .iter()
        .filter_map(|object| object["rule"]["expr"].as_array());
    let count = |rule: &Vec<Value>| {
        let mut counts = rule
            .iter()
            .filter_map(|statement| statement["counter"]["packets"].as_u64());
        counts.next()
    };
    rules.map(count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_from_the_rules_in_their_order_and_nowhere_else() {
        let json = |rules: &str| {
            let chain = r#"{"chain": {"name": "sent", "prio": 3}}"#;
            format!(r#"{{"nftables": [{{"metainfo": {{"json_schema_version": 1}}}}, {chain}, {rules}]}}"#)
        };
        let rule = |expression: &str| format!(r#"{{"rule": {{"expr": [{expression}]}}}}"#);
        let counted =
            |packets| format!(r#"{{"match": {{"right": "p1"}}}}, {{"counter": {{"packets": {packets}}}}}"#);
        let both = [rule(&counted(7)), rule(&counted(9))].join(", ");
        assert_eq!(packets(&json(&both)), Some(vec![7, 9]));
        assert_eq!(packets(&json(&rule(r#"{"match": {"right": "p1"}}"#))), None);
        assert_eq!(packets("nonsense"), None);
    }
}
