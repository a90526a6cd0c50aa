//! All kinds of objects alike.

use super::kernel::Kernel;
use super::table::How;
use crate::{Address, Object, ObjectId, OpError, RouteId, Scope};

impl Kernel {
    /// Everything in scope.
    pub(super) fn objects(&self, scope: &Scope) -> impl Iterator<Item = Object> {
        let nics = || self.nics.values().filter(|nic| scope.has(&nic.link.name));
        let devices = nics().map(|nic| nic.device().into());
        let addresses = nics().flat_map(|nic| {
            let device = nic.link.name;
            nic.link.addresses.iter().map(move |own| {
                Object::from(Address {
                    permanent: own.permanent,
                    ..Address::permanent(device, own.net)
                })
            })
        });
        let forwarding = self.link_layer.forwarding().map(Object::from);
        let neighbours = self.link_layer.neighbours().map(Object::from);
        let routes = self.table.routes().map(Object::from);
        let others = forwarding.chain(neighbours).chain(routes);
        devices
            .chain(addresses)
            .chain(others.filter(|object| scope.includes(&object.id())))
    }

    /// What is in this place.
    pub(super) fn object(&self, id: ObjectId) -> Option<Object> {
        let scope = Scope {
            networks: match id {
                ObjectId::Route(RouteId { destination, .. }) => vec![destination],
                _ => Vec::new(),
            },
            devices: id.device().into_iter().collect(),
            underlay: false,
        };
        self.objects(&scope).find(|object| object.id() == id)
    }

    /// Makes an object, if the kernel would, where there is none; but for neighbours and forwarding
    /// entries, which take the place of what is there.
    pub(super) fn add(&mut self, object: &Object) -> Result<(), OpError> {
        match object {
            Object::Device(device) => self.make_device(device),
            Object::Address(address) => self.put_address(address, false),
            Object::Forwarding(entry) => self.put_forwarding(entry),
            Object::Neighbour(neighbour) => self.put_neighbour(neighbour),
            Object::Route(route) => self.put_route(route, How::Exclusive),
        }
    }

    /// Makes an object, or puts it in the place of the one that is there.
    pub(super) fn replace(&mut self, object: &Object) -> Result<(), OpError> {
        match object {
            Object::Device(device) => self.change_device(device),
            Object::Address(address) => self.put_address(address, true),
            Object::Forwarding(entry) => self.put_forwarding(entry),
            Object::Neighbour(neighbour) => self.put_neighbour(neighbour),
            Object::Route(route) => self.put_route(route, How::Replace),
        }
    }

    /// Removes an object, if it is there in every field, or the device that it was.
    pub(super) fn remove(&mut self, object: &Object) -> Result<(), OpError> {
        match object {
            Object::Device(device) => self.remove_device(device),
            Object::Address(address) => self.remove_address(address),
            Object::Forwarding(entry) => self.remove_forwarding(entry),
            Object::Neighbour(neighbour) => self.remove_neighbour(neighbour),
            Object::Route(route) => self.remove_route(route),
        }
    }
}
