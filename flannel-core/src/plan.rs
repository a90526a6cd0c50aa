//! From what there is to what ought to be.

use crate::{Object, ObjectId, State};

/// One change of the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Make an object where there is none. Never replaces one, but a neighbour or a forwarding entry on a
    /// device of ours, where the kernel may have put one of its own.
    Add(Object),
    /// Turn an object that a dump showed to be ours into another, in one step.
    Replace {
        /// What was seen.
        from: Object,
        /// What it becomes.
        to: Object,
    },
    /// Remove exactly this object; one that differs in any field is left alone.
    Remove(Object),
}

impl Op {
    /// Which object it is about.
    #[must_use]
    pub const fn id(&self) -> ObjectId {
        match self {
            Self::Add(object) | Self::Replace { to: object, .. } | Self::Remove(object) => object.id(),
        }
    }

    /// The object that it makes or removes.
    #[must_use]
    pub const fn object(&self) -> &Object {
        match self {
            Self::Add(object) | Self::Replace { to: object, .. } | Self::Remove(object) => object,
        }
    }

    /// Whether another object is gone, too, once it has succeeded, as everything is on a device that was
    /// removed or had to be made anew. One that is changed in place keeps what is on it.
    #[must_use]
    pub fn takes_along(&self, other: &Object) -> bool {
        match self {
            Self::Remove(Object::Device(device)) => other.rests_on(&device.name),
            Self::Replace {
                from: Object::Device(from),
                to: Object::Device(to),
            } => from.is_remade_for(to).is_some() && other.rests_on(&to.name),
            _ => false,
        }
    }

    /// What stands in the object's place once it has succeeded.
    #[must_use]
    pub const fn result(&self) -> Option<&Object> {
        match self {
            Self::Add(object) | Self::Replace { to: object, .. } => Some(object),
            Self::Remove(_) => None,
        }
    }
}

/// Changes in the order in which they are to be made.
pub type Plan = Vec<Op>;

/// The changes that turn `have` into `want`: additions and replacements first, in the order of
/// creation, then removals in the reverse order. What a wanted object leaves open is not changed.
///
/// ```
/// use flannel_core::{Hop, Op, Route, State, diff};
///
/// let hop = Hop::via("192.0.2.7".parse().unwrap(), "eth0".parse().unwrap());
/// let route = Route::unicast("10.5.7.0/24".parse().unwrap(), hop, 70).into();
/// let want = State::from([(flannel_core::Object::id(&route), route.clone())]);
/// assert_eq!(diff(&State::new(), &want), [Op::Add(route)]);
/// assert_eq!(diff(&want, &want), []);
/// ```
#[must_use]
pub fn diff(have: &State, want: &State) -> Plan {
    let mut gone = have
        .keys()
        .filter(|id| !want.contains_key(id))
        .copied()
        .collect::<Vec<_>>();
    gone.reverse();
    diff_of(have, want, want.keys().copied().chain(gone))
}

/// As [`diff`], over these objects alone and in the order in which they come.
pub(crate) fn diff_of(have: &State, want: &State, ids: impl Iterator<Item = ObjectId>) -> Plan {
    ids.filter_map(|id| match (have.get(&id), want.get(&id)) {
        (None, Some(to)) => Some(Op::Add(to.clone())),
        (Some(from), Some(to)) if !from.satisfies(to) => Some(Op::Replace {
            from: from.clone(),
            to: to.clone(),
        }),
        (Some(from), None) => Some(Op::Remove(from.clone())),
        _ => None,
    })
    .collect()
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
