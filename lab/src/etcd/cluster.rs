//! Several members as one cluster.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{ATTEMPTS, Etcd, EtcdOptions, START_DEADLINE};
use crate::LabError;

/// Members that form one cluster.
#[derive(Debug)]
pub struct EtcdCluster {
    members: Vec<Etcd>,
}

impl EtcdCluster {
    /// Starts all members, each with the names and peer URLs of all, and waits until each answers.
    ///
    /// # Errors
    /// As [`Etcd::start`].
    pub fn start(options: Vec<EtcdOptions>) -> Result<Self, LabError> {
        let mut attempt = 1;
        loop {
            let cluster = Self::launch(options.clone())?;
            match cluster.wait_ready(START_DEADLINE) {
                Err(error) if attempt < ATTEMPTS && error.says_address_in_use() => {
                    attempt += 1;
                    // What was begun under other ports must not be found again.
                    for member in &cluster.members {
                        let _ = member.kill().and_then(|()| member.wipe());
                    }
                }
                outcome => return outcome.map(|()| cluster),
            }
        }
    }

    /// Starts all members without waiting for them.
    ///
    /// # Errors
    /// As [`Etcd::launch`].
    pub fn launch(options: Vec<EtcdOptions>) -> Result<Self, LabError> {
        Ok(Self {
            members: prepare(options)?
                .into_iter()
                .map(Etcd::launch)
                .collect::<Result<_, _>>()?,
        })
    }

    /// Waits until each member answers.
    ///
    /// # Errors
    /// As [`Etcd::wait_ready`].
    pub fn wait_ready(&self, within: Duration) -> Result<(), LabError> {
        self.members
            .iter()
            .try_for_each(|member| member.wait_ready(within))
    }

    /// The members, in the order of their options.
    pub fn members(&self) -> &[Etcd] {
        &self.members
    }

    /// The member of that index, from 0.
    ///
    /// # Panics
    /// If there is none.
    #[track_caller]
    pub fn member(&self, index: usize) -> &Etcd {
        &self.members[index]
    }

    /// The clients' URLs, separated by commas, as `--etcd-endpoints` wants them.
    pub fn endpoints(&self) -> String {
        let endpoints: Vec<String> = self.members.iter().map(Etcd::endpoint).collect();
        endpoints.join(",")
    }
}

/// Fixes all ports, and tells each member of all. For members that are started one by one, in an order of one's own.
fn prepare(options: Vec<EtcdOptions>) -> Result<Vec<EtcdOptions>, LabError> {
    let options: Vec<EtcdOptions> = options
        .into_iter()
        .map(EtcdOptions::with_ports)
        .collect::<Result<_, _>>()?;
    let cluster: BTreeMap<String, String> = options
        .iter()
        .map(|member| (member.name.clone(), member.url(member.peer_port)))
        .collect();
    Ok(options
        .into_iter()
        .map(|member| EtcdOptions {
            initial_cluster: cluster.clone(),
            ..member
        })
        .collect())
}
