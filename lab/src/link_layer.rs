//! Neighbours and forwarding databases as `ip -j neigh` and `bridge -j fdb` print them.

use std::net::IpAddr;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::{LabError, Namespace};

/// A neighbour on a device's link.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct NeighbourLine {
    /// On which device.
    #[serde(default, rename = "dev")]
    pub device: String,
    /// Its address.
    #[serde(rename = "dst")]
    pub address: IpAddr,
    /// Its MAC address, where it is known.
    #[serde(rename = "lladdr")]
    pub mac: Option<String>,
    /// `PERMANENT`, `REACHABLE`, `STALE`, …
    #[serde(default)]
    pub state: Vec<String>,
}

/// An entry of a VXLAN device's, or a bridge's, forwarding database.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct ForwardingLine {
    /// For which MAC address.
    pub mac: String,
    /// To which host, where it says so.
    #[serde(rename = "dst")]
    pub host: Option<IpAddr>,
    /// `permanent`, `static`; empty for one that was learned.
    #[serde(default)]
    pub state: String,
    /// `self`, `extern_learn`, …
    #[serde(default)]
    pub flags: Vec<String>,
}

impl Namespace {
    /// The neighbours on a device, of both families, whatever their state, sorted. None where there is no such device.
    ///
    /// # Errors
    /// Those of `ip`, and [`LabError::Text`] if its output is not understood.
    pub fn neighbours(&self, device: &str) -> Result<Vec<NeighbourLine>, LabError> {
        let printed = match self.ip(&["-j", "neigh", "show", "nud", "all", "dev", device]) {
            Err(error) if is_missing(&error) => return Ok(Vec::new()),
            printed => printed?,
        };
        let mut lines: Vec<NeighbourLine> = parse("the output of `ip -j neigh`", &printed)?;
        for line in &mut lines {
            // Left out where one device is asked for.
            line.device = device.to_owned();
        }
        lines.sort();
        Ok(lines)
    }

    /// The forwarding database of a device, sorted. None where there is no such device.
    ///
    /// # Errors
    /// Those of `bridge`, and [`LabError::Text`] if its output is not understood.
    pub fn fdb(&self, device: &str) -> Result<Vec<ForwardingLine>, LabError> {
        let arguments = ["-j", "-n", self.name(), "fdb", "show", "dev", device];
        let printed = match crate::program::succeed(crate::program::command("bridge", arguments), "") {
            Err(error) if is_missing(&error) => return Ok(Vec::new()),
            printed => printed?,
        };
        let mut lines: Vec<ForwardingLine> = parse("the output of `bridge -j fdb`", &printed)?;
        lines.sort();
        Ok(lines)
    }
}

fn parse<T: DeserializeOwned>(what: &'static str, json: &str) -> Result<Vec<T>, LabError> {
    // An empty table prints nothing with some versions and `[ ]` with others.
    if json.trim().is_empty() {
        return Ok(Vec::new());
    }
    serde_json::from_str(json).map_err(|error| LabError::text(what, error, json))
}

/// Whether a program said that there is no device of the name that it was given.
fn is_missing(error: &LabError) -> bool {
    let LabError::Program { stderr, .. } = error else {
        return false;
    };
    ["Cannot find device", "does not exist", "No such device"]
        .iter()
        .any(|words| stderr.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read_with_and_without_what_they_may_lack() {
        let fdb = r#"[{"mac":"02:aa:bb:cc:dd:ee","dst":"10.0.0.2","flags":["self"],"state":"permanent"},
            {"mac":"02:aa:bb:cc:dd:ef","ifname":"x","flags":["extern_learn"],"master":"b","state":""}]"#;
        let fdb: Vec<ForwardingLine> = parse("fdb", fdb).unwrap();
        assert_eq!(fdb[0].host, Some("10.0.0.2".parse().unwrap()));
        assert_eq!((fdb[1].host, fdb[1].state.as_str()), (None, ""));
        let neighbours = r#"[{"dst":"fd77::","lladdr":"02:aa:bb:cc:dd:ee","state":["PERMANENT"]},{"dst":"10.0.0.9","state":["FAILED"]}]"#;
        let neighbours: Vec<NeighbourLine> = parse("neighbours", neighbours).unwrap();
        assert_eq!(neighbours[0].mac.as_deref(), Some("02:aa:bb:cc:dd:ee"));
        assert_eq!(
            (&neighbours[1].mac, neighbours[1].state[0].as_str()),
            (&None, "FAILED")
        );
        assert!(parse::<NeighbourLine>("neighbours", "\n").unwrap().is_empty());
    }
}
