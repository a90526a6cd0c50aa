//! What an operator, or another program, does to a kernel.

use super::kernel::{is_default, refused};
use super::nic::Nic;
use super::table::How;
use super::{FakeKernel, device};
use crate::{
    Changed, Device, NeighbourId, Object, ObjectId, OpError, OpErrorKind, PROTOCOL_KERNEL, Route, Scope,
};

/// What an operator does by hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operator {
    /// `ip route add`.
    Add(Route),
    /// `ip route replace`.
    Replace(Route),
    /// `ip route append`.
    Append(Route),
    /// `ip route del`, with every field given.
    Delete(Route),
}

impl FakeKernel {
    /// Does what an operator does by hand, by the kernel's rules.
    ///
    /// # Errors
    ///
    /// [`OpError`], as the kernel would refuse it.
    pub fn operator(&self, action: Operator) -> Result<(), OpError> {
        self.change(|kernel| match action {
            Operator::Add(route) => kernel.put_route(&route, How::Exclusive),
            Operator::Replace(route) => kernel.put_route(&route, How::Replace),
            Operator::Append(route) => kernel.put_route(&route, How::Append),
            Operator::Delete(route) => kernel.remove_route(&route),
        })
    }

    /// Puts a route behind what is there, without asking whether its gateway is on the link: what
    /// another process left, before the addresses changed.
    pub fn stray(&self, route: Route) {
        self.change(|kernel| {
            if let Ok(Some(appeared)) = kernel.table.put(&route, How::Append) {
                kernel.announce(appeared);
            }
        });
    }

    /// Removes every route but the kernel's own and the default ones. For a flush that nobody
    /// hears of, [`FakeKernel::mute`] first.
    pub fn flush(&self) {
        let spared = |route: &Route| route.protocol == PROTOCOL_KERNEL || is_default(route);
        self.change(|kernel| {
            for route in kernel.table.flush(|route| !spared(route)) {
                kernel.announce(Changed::Vanished(route.into()));
            }
        });
    }

    /// Makes an object, or puts it in the place of the one that is there: `ip link add` and `set`,
    /// `ip address replace`, `bridge fdb replace`, `ip neigh replace`, `ip route replace`.
    ///
    /// # Errors
    ///
    /// [`OpError`], as the kernel would refuse it.
    pub fn put(&self, object: impl Into<Object>) -> Result<(), OpError> {
        let object = object.into();
        self.change(|kernel| kernel.replace(&object))
    }

    /// Removes what is in this place, whatever else it says.
    ///
    /// # Errors
    ///
    /// [`OpError`] of kind [`OpErrorKind::Gone`] when there is nothing.
    pub fn delete(&self, id: ObjectId) -> Result<(), OpError> {
        self.change(|kernel| match kernel.object(id) {
            Some(object) => kernel.remove(&object),
            None => Err(refused(OpErrorKind::Gone, &id)),
        })
    }

    /// Changes anything about a VXLAN device that can be changed in place: its MAC address, its MTU,
    /// whether it is up.
    pub fn change_device(&self, name: &str, edit: impl FnOnce(&mut Device)) {
        let mut changed = self.device(name).expect("there is such a device");
        edit(&mut changed);
        self.put(changed).expect("a change that can be made");
    }

    /// Has a neighbour age from now on, as `ip neigh replace ... nud stale` does.
    pub fn age(&self, neighbour: NeighbourId) {
        let aged = self.change(|kernel| kernel.age_neighbour(neighbour));
        assert!(aged, "there is no {neighbour}");
    }

    /// Has a program listen on a UDP port: no VXLAN device with that port comes up.
    pub fn take_port(&self, port: u16, holder: &str) {
        self.change(|kernel| drop(kernel.ports.insert(port, holder.to_owned())));
    }

    /// Ends what [`FakeKernel::take_port`] began. Nothing announces it.
    pub fn free_port(&self, port: u16) {
        self.change(|kernel| drop(kernel.ports.remove(&port)));
    }

    /// Likewise, for all ports.
    pub fn free_ports(&self) {
        self.change(|kernel| kernel.ports.clear());
    }

    /// The device of this name as it stands.
    #[must_use]
    pub fn device(&self, name: &str) -> Option<Device> {
        self.kernel().nic(device(name)).map(Nic::device)
    }

    /// Everything in scope, without asking: not counted, not delayed, no fault.
    #[must_use]
    pub fn objects(&self, scope: &Scope) -> Vec<Object> {
        self.kernel().objects(scope).collect()
    }
}
