//! Plans, carried out in their order.

use std::collections::{BTreeMap, BTreeSet};

use flannel_core::{Applied, DeviceName, KernelError, Object, ObjectId, Op, OpError, OpErrorKind};
use nix::errno::Errno;

use crate::device_change::Changer;
use crate::refusal::{self, refusal};
use crate::reply::Failure;
use crate::request::{devices, requests as requests_for, requests_by_a_step};
use crate::socket::{REQUESTS_AT_ONCE, RequestSocket};
use crate::{Netlink, forwarding, link, neighbour};

const DOING: &str = "change kernel objects";

/// Each exchange with the kernel has a deadline of its own, so that a plan may be of any length.
pub(crate) async fn apply(netlink: &Netlink, plan: &[Op]) -> Result<Applied, KernelError> {
    let mut failed = Vec::new();
    let mut first = 0;
    // Not to be met by what was to be on a device of ours: under its name there may be somebody else's.
    let mut not_made = Vec::new();
    // What is on a device, or leads over it, is looked up once the device has been made.
    for run in plan.chunk_by(|one, next| !is_device(one) && !is_device(next)) {
        match run {
            [op] if is_device(op) => {
                if let Err(error) = change_device(netlink, op).await? {
                    not_made.extend(op.id().device().filter(|_| matches!(op, Op::Add(_))));
                    failed.push((first, error));
                }
            }
            run => change_objects(netlink, run, first, &not_made, &mut failed).await?,
        }
        first += run.len();
    }
    failed.sort_by_key(|(place, _)| *place);
    failed.dedup_by_key(|(place, _)| *place);
    Ok(Applied { failed })
}

const fn is_device(op: &Op) -> bool {
    matches!(op.object(), Object::Device(_))
}

async fn change_device(netlink: &Netlink, op: &Op) -> Result<Result<(), OpError>, KernelError> {
    let (op, shared) = (op.clone(), netlink.shared());
    let change = netlink.exchange(DOING, move |socket| {
        let mut changer = Changer {
            socket,
            namespace: &shared.namespace,
            ethtool: &shared.ethtool,
        };
        changer.carry_out(&op)
    });
    change.await
}

/// Makes changes of which none is about a device, in chunks.
async fn change_objects(
    netlink: &Netlink,
    run: &[Op],
    first: usize,
    not_made: &[DeviceName],
    failed: &mut Vec<(usize, OpError)>,
) -> Result<(), KernelError> {
    let mut indices = indices(netlink, run).await?;
    indices.retain(|device, _| !not_made.contains(device));
    for (chunk, first) in run
        .chunks(REQUESTS_AT_ONCE)
        .zip((first..).step_by(REQUESTS_AT_ONCE))
    {
        let others = others(netlink, chunk, &indices).await?;
        let (mut asked, mut requests) = (Vec::new(), Vec::new());
        for (place, op) in (first..).zip(chunk) {
            if others.contains(&op.id()) {
                let reason = "there is another by now";
                failed.push((place, refusal(op, OpErrorKind::Gone, reason)));
                continue;
            }
            match requests_for(op, |name| indices.get(name).copied()) {
                Ok(some) => {
                    asked.extend(some.iter().map(|_| (place, op)));
                    requests.extend(some);
                }
                Err(error) => failed.push((place, error)),
            }
        }
        let refused = netlink.exchange(DOING, move |socket| socket.change(DOING, &requests));
        for (nth, failure) in refused.await? {
            let Some((place, op)) = asked.get(nth) else {
                continue;
            };
            let failure = match by_a_step(netlink, op, &failure, &indices).await? {
                Some(Ok(())) => continue,
                Some(Err(failure)) => failure,
                None => failure,
            };
            failed.push((*place, refusal::error(op, &failure)));
        }
    }
    Ok(())
}

/// Tries a refused change in another way, where there is one.
async fn by_a_step(
    netlink: &Netlink,
    op: &Op,
    failure: &Failure,
    indices: &BTreeMap<DeviceName, u32>,
) -> Result<Option<Result<(), Failure>>, KernelError> {
    if failure.errno != Errno::EINVAL {
        return Ok(None);
    }
    let Some(requests) = requests_by_a_step(op, |name| indices.get(name).copied()) else {
        return Ok(None);
    };
    let refused = netlink.exchange(DOING, move |socket| socket.change(DOING, &requests));
    // That there is such a step already, or not any more, is no harm.
    let of_op = refused.await?.into_iter().find(|(nth, _)| *nth == 1);
    Ok(Some(of_op.map_or(Ok(()), |(_, failure)| Err(failure))))
}

/// Neighbours and forwarding entries that are to be removed and are others by now. The kernel would remove
/// whichever neighbour has the address, and keeps silent about an entry that has another host.
async fn others(
    netlink: &Netlink,
    chunk: &[Op],
    indices: &BTreeMap<DeviceName, u32>,
) -> Result<BTreeSet<ObjectId>, KernelError> {
    let removed = chunk.iter().filter_map(|op| {
        let Op::Remove(object) = op else { return None };
        let device = object.id().device()?;
        let index = *indices.get(&device)?;
        let question = match object {
            Object::Neighbour(neighbour) => neighbour::question_for(&neighbour.id, index),
            Object::Forwarding(entry) => forwarding::question_for(entry, index)?,
            _ => return None,
        };
        Some((object.clone(), device, question))
    });
    let removed: Vec<_> = removed.collect();
    if removed.is_empty() {
        return Ok(BTreeSet::new());
    }
    let doing = "look at what a plan removes";
    let look = move |socket: &mut RequestSocket| {
        let mut others = BTreeSet::new();
        for (object, device, question) in removed {
            let seen = socket.ask(doing, question, |payload| {
                Ok(match object {
                    Object::Neighbour(_) => neighbour::decode(payload)?
                        .and_then(|seen| seen.named(device))
                        .map(Object::from),
                    _ => forwarding::decode(payload)?.map(|seen| seen.named(device).into()),
                })
            })?;
            // Kernels before 5.0 do not answer; and where there is none, the removal tells.
            if seen.is_ok_and(|seen| seen.as_ref() != Some(&object)) {
                others.insert(object.id());
            }
        }
        Ok(others)
    };
    netlink.exchange(doing, look).await
}

/// The indices of the devices of a run, as far as they exist.
async fn indices(netlink: &Netlink, run: &[Op]) -> Result<BTreeMap<DeviceName, u32>, KernelError> {
    let doing = "look up the devices of a plan";
    let mut named = run.iter().flat_map(devices).collect::<Vec<_>>();
    named.sort_unstable();
    named.dedup();
    if named.is_empty() {
        return Ok(BTreeMap::new());
    }
    let index = move |socket: &mut RequestSocket| {
        let mut indices = BTreeMap::new();
        for name in named {
            let link = socket.ask(doing, link::question(Some(&name)), link::decode)?;
            // A device also answers to its alternative names, which no dump shows.
            let link = link.ok().flatten().filter(|link| link.name == name);
            indices.extend(link.map(|link| (name, link.index)));
        }
        Ok(indices)
    };
    netlink.exchange(doing, index).await
}
