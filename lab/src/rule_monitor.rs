//! A record of every change of the packet filter in a namespace, by `nft monitor`.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::program::Recorder;
use crate::{LabError, Namespace, wait_until};

/// Time for `nft monitor` to subscribe, or to have written everything it was told.
const MONITOR_DEADLINE: Duration = Duration::from_secs(5);
/// A table that is made and deleted at once: when the monitor has told that, it has told everything before.
const FENCE: &str = "lab-fence";

/// Records changes of nftables, and of the variant of iptables that is built on it, until it is stopped or dropped. The
/// legacy variant's are not announced by the kernel.
#[derive(Debug)]
pub struct RuleMonitor {
    namespace: Namespace,
    recorder: Recorder,
}

impl Namespace {
    /// Records every change of the packet filter from now on.
    ///
    /// # Errors
    /// Those of starting `nft monitor`.
    pub fn monitor_rules(&self) -> Result<RuleMonitor, LabError> {
        let recorder = Recorder::start(self.command(&["nft", "monitor"]))?;
        let monitor = RuleMonitor {
            namespace: self.clone(),
            recorder,
        };
        // What changes before it listens is not told, the first fences included.
        wait_until(
            MONITOR_DEADLINE,
            format!("the rule monitor of {}", self.name()),
            || {
                let fenced = monitor.fence();
                fenced.map_or_else(
                    |error| Some(Err(error)),
                    |()| (monitor.fences() > 0).then_some(Ok(())),
                )
            },
        )??;
        Ok(monitor)
    }
}

impl RuleMonitor {
    /// Ends the record and returns its lines, of which the last of each transaction tells who made it.
    ///
    /// # Errors
    /// [`LabError::TimedOut`] if the monitor could not keep up.
    pub fn stop(self) -> Result<Vec<String>, LabError> {
        let before = self.fences();
        self.fence()?;
        wait_until(
            MONITOR_DEADLINE,
            "the rule monitor to write all it was told",
            || self.fences() > before,
        )?;
        let lines = self.recorder.stop(Signal::SIGTERM);
        Ok(without_fences(lines.into_iter().map(|line| line.text)))
    }

    fn fence(&self) -> Result<(), LabError> {
        let both = format!("add table inet {FENCE}; delete table inet {FENCE}");
        self.namespace.exec(&["nft", &both]).map(drop)
    }

    fn fences(&self) -> usize {
        let lines = self.recorder.lines();
        lines.iter().filter(|line| deletes_fence(&line.text)).count()
    }
}

fn deletes_fence(line: &str) -> bool {
    line.starts_with("delete table") && line.ends_with(FENCE)
}

/// Without our own transactions: a fence's lines, and the one behind them that tells who made it.
fn without_fences(lines: impl Iterator<Item = String>) -> Vec<String> {
    let mut inside = false;
    lines
        .filter(|line| {
            let own = line.ends_with(FENCE) || inside && line.starts_with("# new generation");
            inside = line.ends_with(FENCE);
            !own
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Lab, Options};

    #[test]
    fn every_change_of_a_rule_is_recorded_and_nothing_else() {
        let lab = Lab::new("rulemonitor", Options::hosts(1)).unwrap();
        let host = lab.host(0);
        for _ in 0..3 {
            let monitor = host.monitor_rules().unwrap();
            host.exec(&["nft", "list", "ruleset"]).unwrap();
            host.exec(&["iptables-nft-save"]).unwrap();
            assert_eq!(monitor.stop().unwrap(), [""; 0]);
        }
        let monitor = host.monitor_rules().unwrap();
        host.exec(&["nft", "add table ip x; add chain ip x y; add rule ip x y drop"])
            .unwrap();
        host.exec(&["nft", "flush", "ruleset"]).unwrap();
        let lines = monitor.stop().unwrap();
        for part in [
            "add table ip x",
            "add rule ip x y drop",
            "delete table ip x",
            "# new generation",
        ] {
            assert!(lines.iter().any(|line| line.contains(part)), "{part}: {lines:#?}");
        }
    }

    #[test]
    fn the_monitors_own_transactions_are_not_told() {
        let lines = [
            "add table inet lab-fence",
            "delete table inet lab-fence",
            "# new generation 2 by process 7 (nft)",
            "add table ip x",
            "# new generation 3 by process 8 (nft)",
        ];
        let told = without_fences(lines.map(str::to_owned).into_iter());
        assert_eq!(told, lines[3..]);
    }
}
