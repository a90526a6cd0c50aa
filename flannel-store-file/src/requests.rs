//! What a claim, a renewal and a release do while nobody else writes.

use std::ffi::{OsStr, OsString};
use std::io;
use std::time::Duration;

use flannel_core::{Lease, LeaseAttrs, SubnetKey, Token};

use crate::directory::{Directory, FileError, Over, Reading};
use crate::entry::{Clock, Entry};

/// `None`: the subnet is taken. So is one whose file cannot be read, since it would be overwritten.
pub(crate) fn claim(
    directory: &Directory,
    subnet: SubnetKey,
    seen: Option<Token>,
    attrs: LeaseAttrs,
    ttl: Duration,
) -> Result<Option<Lease>, FileError> {
    let standing = read(directory, subnet);
    let clock = Clock::now();
    let expires = Some(clock.after(ttl));
    let (entry, over) = match (seen, standing) {
        (None, Reading::Absent) => (
            Entry {
                attrs,
                created: clock.created(),
                expires,
            },
            Over::Nothing,
        ),
        (None, Reading::Lease(_, old)) if old.has_expired(&clock) => (
            Entry {
                attrs,
                created: clock.created(),
                expires,
            },
            Over::WhatIsThere,
        ),
        (Some(seen), Reading::Lease(_, old)) if !old.has_expired(&clock) && old.token() == seen => {
            (renewed(&old, attrs, &clock, ttl), Over::WhatIsThere)
        }
        _ => return Ok(None),
    };
    if seen.is_none() && is_overlapped(directory, subnet, &clock)? {
        return Ok(None);
    }
    let written = directory.write(subnet, &entry.to_text(), over)?;
    Ok(written.then(|| entry.lease(subnet, &clock)))
}

/// `None`: the lease is lost.
pub(crate) fn keep(
    directory: &Directory,
    own: &Lease,
    attrs: LeaseAttrs,
    ttl: Duration,
) -> Result<Option<Lease>, FileError> {
    let standing = read(directory, own.subnet);
    let clock = Clock::now();
    // While it lasts by the clock that does not jump, a wall clock that was set does not end it.
    let over = own.expires.is_some_and(|expires| expires <= clock.instant);
    let (old, must_write) = match standing {
        Reading::Lease(_, old) if is_still(&old, own) && !(over && old.has_expired(&clock)) => (old, false),
        // Everybody goes by what it said before, so it is mended.
        Reading::Garbled { .. } if !over => (
            Entry {
                attrs: own.attrs.clone(),
                created: own.created,
                expires: own.expires.map(|_| clock.wall),
            },
            true,
        ),
        Reading::Unreadable(reason) => {
            return Err(FileError {
                doing: "read",
                path: directory.subnets.join(own.subnet.to_key()).display().to_string(),
                source: io::Error::other(reason),
            });
        }
        _ => return Ok(None),
    };
    let new = renewed(&old, attrs, &clock, ttl);
    if must_write || new != old {
        directory.write(own.subnet, &new.to_text(), Over::WhatIsThere)?;
    }
    Ok(Some(new.lease(own.subnet, &clock)))
}

/// Another version stays.
pub(crate) fn release(directory: &Directory, own: &Lease) -> Result<(), FileError> {
    match read(directory, own.subnet) {
        Reading::Lease(_, entry) if entry.token() == own.token => directory.remove(own.subnet),
        _ => Ok(()),
    }
}

/// Removes those of the named leases that have expired.
pub(crate) fn remove_expired(directory: &Directory, names: &[OsString]) -> Result<(), FileError> {
    for name in names {
        match directory.read(name) {
            Reading::Lease(subnet, entry) if entry.has_expired(&Clock::now()) => directory.remove(subnet)?,
            _ => {}
        }
    }
    Ok(())
}

fn read(directory: &Directory, subnet: SubnetKey) -> Reading {
    directory.read(OsStr::new(&subnet.to_key()))
}

/// The same lease with a new value. What has no expiry gets none.
fn renewed(old: &Entry, attrs: LeaseAttrs, clock: &Clock, ttl: Duration) -> Entry {
    Entry {
        attrs,
        created: old.created,
        expires: old.expires.map(|_| clock.after(ttl)),
    }
}

/// Whether a lease is ours as we last saw it, or was edited since in what does not say whose it is.
/// A twin, with our node id and another address, is not us.
fn is_still(entry: &Entry, own: &Lease) -> bool {
    let ours = &own.attrs;
    let signed = entry.attrs.node.is_some() && entry.attrs.node == ours.node;
    entry.token() == own.token || (signed && entry.attrs.public == ours.public)
}

/// Whether another lease has a part of the subnet: daemons may disagree about the subnet length.
/// A file that cannot be read is no lease here, or one bad name could close the whole network.
fn is_overlapped(directory: &Directory, subnet: SubnetKey, clock: &Clock) -> Result<bool, FileError> {
    let overlaps = |name: &OsString| {
        let other = name.to_str().and_then(|name| SubnetKey::from_key(name).ok());
        other.is_some_and(|other| other != subnet && other.overlaps(&subnet))
    };
    let lasts = |name: &OsString| matches!(directory.read(name), Reading::Lease(_, entry) if !entry.has_expired(clock));
    Ok(directory
        .names()?
        .iter()
        .any(|name| overlaps(name) && lasts(name)))
}
