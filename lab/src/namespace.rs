//! One network namespace: run programs in it, read and change its routes.

use std::fs::File;
use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;
use nix::sched::{CloneFlags, setns};

use crate::monitor::{KernelMonitor, RouteMonitor};
use crate::program::{command, succeed};
use crate::route::{self, Family, RouteLine};
use crate::{LabError, Pinger, sweep};

/// A network namespace of a lab. [`crate::Host`] and [`crate::Pod`] dereference to theirs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    pub(crate) fn named(name: String) -> Self {
        Self { name }
    }

    /// The name under which `ip netns` knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `ip <arguments>` here and returns what it printed.
    ///
    /// # Errors
    /// [`LabError::Program`] with what `ip` said.
    pub fn ip(&self, arguments: &[&str]) -> Result<String, LabError> {
        succeed(command("ip", [&["-n", self.name()], arguments].concat()), "")
    }

    /// Runs a program here and returns what it printed.
    ///
    /// # Errors
    /// [`LabError::Program`] with what it wrote to standard error.
    pub fn exec(&self, program: &[&str]) -> Result<String, LabError> {
        succeed(self.command(program), "")
    }

    /// Table main of one family, sorted.
    ///
    /// # Errors
    /// Those of `ip`, and [`LabError::Text`] if its output is not understood.
    pub fn routes(&self, family: Family) -> Result<Vec<RouteLine>, LabError> {
        let json = self.ip(&["-N", "-j", family.option(), "route", "show", "table", "main"])?;
        route::parse(family, &json)
    }

    /// The routes of table main that go exactly to `destination`: several when they differ in metric.
    ///
    /// # Errors
    /// As [`Self::routes`].
    pub fn routes_to(&self, destination: IpNet) -> Result<Vec<RouteLine>, LabError> {
        let mut routes = self.routes(Family::of(destination.addr()))?;
        routes.retain(|route| route.destination == destination.trunc());
        Ok(routes)
    }

    /// Deletes the route to `destination`, as an operator would by mistake.
    ///
    /// # Errors
    /// Those of `ip`, for example that there is no such route.
    pub fn delete_route(&self, destination: IpNet) -> Result<(), LabError> {
        self.ip(&["route", "del", &destination.to_string()]).map(drop)
    }

    /// `ip route replace <destination> <rest>`, for example `via 192.168.77.13`. Without `proto` that is protocol boot.
    ///
    /// # Errors
    /// Those of `ip`.
    pub fn replace_route(&self, destination: IpNet, rest: &[&str]) -> Result<(), LabError> {
        self.ip(&[&["route", "replace", &destination.to_string()], rest].concat())
            .map(drop)
    }

    /// Records every change of this namespace's routes from now on.
    ///
    /// # Errors
    /// Those of starting `ip monitor`.
    pub fn monitor_routes(&self) -> Result<RouteMonitor, LabError> {
        RouteMonitor::start(self)
    }

    /// Records every change of this namespace's devices, addresses, routes, neighbours and forwarding databases from now
    /// on.
    ///
    /// # Errors
    /// Those of starting `ip monitor`.
    pub fn monitor_kernel(&self) -> Result<KernelMonitor, LabError> {
        KernelMonitor::start(self)
    }

    /// Pings `to` every 10 ms from now on.
    ///
    /// # Errors
    /// Those of starting `ping`.
    pub fn pinger(&self, to: IpAddr) -> Result<Pinger, LabError> {
        Pinger::start(self, to, None)
    }

    /// Pings `to` every 10 ms from now on, with packets as those of [`crate::ping_whole`].
    ///
    /// # Errors
    /// Those of starting `ping`.
    pub fn pinger_whole(&self, to: IpAddr, bytes: u32) -> Result<Pinger, LabError> {
        Pinger::start(self, to, Some(bytes))
    }

    /// Does `work` on a thread that is in this namespace: a socket that it makes stays here, whoever uses it later.
    ///
    /// # Errors
    /// [`LabError::Io`] if the namespace cannot be entered.
    ///
    /// # Panics
    /// As `work` does.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, LabError> {
        let path = Path::new(sweep::NAMESPACES).join(self.name());
        let enter = || {
            let handle = File::open(&path)?;
            setns(handle, CloneFlags::CLONE_NEWNET)?;
            Ok(work())
        };
        std::thread::scope(|scope| scope.spawn(enter).join())
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            .map_err(|source| LabError::io("enter", &path, source))
    }

    /// Writes `input` to a program here and returns what it printed: `nft -f -`, `iptables-restore`.
    ///
    /// # Errors
    /// [`LabError::Program`] with what it wrote to standard error.
    pub fn feed(&self, program: &[&str], input: &str) -> Result<String, LabError> {
        succeed(self.command(program), input)
    }

    /// A command that runs `program` here under its own process id: `ip netns exec` becomes it.
    pub(crate) fn command(&self, program: &[&str]) -> std::process::Command {
        command("ip", [&["netns", "exec", self.name()], program].concat())
    }

    /// Writes `sysctls` (paths below `/proc/sys/net`, which may hold a `*`), runs `prologue`, then the lines of `batch` as one `ip -batch`:
    /// one fork for a whole host.
    pub(crate) fn set_up(
        &self,
        sysctls: &[(&str, &str)],
        prologue: &str,
        batch: &str,
    ) -> Result<(), LabError> {
        let mut script = String::from("cd /proc/sys/net\n");
        for (path, value) in sysctls {
            // A kernel without IPv6 has no such file; who wants IPv6 there fails at its first address.
            script += &format!("for f in {path}; do [ ! -e $f ] || echo {value} >$f; done\n");
        }
        script += prologue;
        script += "\nexec ip -batch -\n";
        succeed(self.command(&["sh", "-euc", &script]), batch).map(drop)
    }
}

impl AsRef<Namespace> for Namespace {
    fn as_ref(&self) -> &Namespace {
        self
    }
}
