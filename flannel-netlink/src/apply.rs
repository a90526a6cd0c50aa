//! Plans, carried out in their order.

use std::collections::{BTreeMap, BTreeSet};

use flannel_core::{Applied, DeviceName, KernelError, Neighbour, Object, ObjectId, Op, OpError, OpErrorKind};

use crate::device_change::Changer;
use crate::refusal::{self, refusal};
use crate::request::{devices, request};
use crate::socket::{REQUESTS_AT_ONCE, RequestSocket};
use crate::{Netlink, link, neighbour};

const DOING: &str = "change kernel objects";

/// Each exchange with the kernel has a deadline of its own, so that a plan may be of any length.
pub(crate) async fn apply(netlink: &Netlink, plan: &[Op]) -> Result<Applied, KernelError> {
    let mut failed = Vec::new();
    let mut first = 0;
    // What is on a device, or leads over it, is looked up once the device has been made.
    for run in plan.chunk_by(|one, next| !is_device(one) && !is_device(next)) {
        match run {
            [op] if is_device(op) => {
                let changed = change_device(netlink, op).await?;
                failed.extend(changed.err().map(|error| (first, error)));
            }
            run => change_objects(netlink, run, first, &mut failed).await?,
        }
        first += run.len();
    }
    failed.sort_by_key(|(place, _)| *place);
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
    failed: &mut Vec<(usize, OpError)>,
) -> Result<(), KernelError> {
    let indices = indices(netlink, run).await?;
    for (chunk, first) in run
        .chunks(REQUESTS_AT_ONCE)
        .zip((first..).step_by(REQUESTS_AT_ONCE))
    {
        let others = other_neighbours(netlink, chunk, &indices).await?;
        let (mut asked, mut requests) = (Vec::new(), Vec::new());
        for (place, op) in (first..).zip(chunk) {
            if others.contains(&op.id()) {
                let reason = "there is none with that MAC address any more";
                failed.push((place, refusal(op, OpErrorKind::Gone, reason)));
                continue;
            }
            match request(op, |name| indices.get(name).copied()) {
                Ok(request) => {
                    asked.push((place, op));
                    requests.push(request);
                }
                Err(error) => failed.push((place, error)),
            }
        }
        let refused = netlink.exchange(DOING, move |socket| socket.change(DOING, &requests));
        for (nth, failure) in refused.await? {
            if let Some((place, op)) = asked.get(nth) {
                failed.push((*place, refusal::error(op, &failure)));
            }
        }
    }
    Ok(())
}

/// Neighbours that are to be removed and are others by now. The kernel would remove whichever has the
/// address.
async fn other_neighbours(
    netlink: &Netlink,
    chunk: &[Op],
    indices: &BTreeMap<DeviceName, u32>,
) -> Result<BTreeSet<ObjectId>, KernelError> {
    let removed = chunk.iter().filter_map(|op| match op {
        Op::Remove(Object::Neighbour(neighbour)) => {
            let index = indices.get(&neighbour.id.device)?;
            Some((*neighbour, *index))
        }
        _ => None,
    });
    let removed: Vec<(Neighbour, u32)> = removed.collect();
    if removed.is_empty() {
        return Ok(BTreeSet::new());
    }
    let doing = "look at the neighbours that a plan removes";
    let look = move |socket: &mut RequestSocket| {
        let mut others = BTreeSet::new();
        for (neighbour, index) in removed {
            let question = neighbour::question_for(&neighbour.id, index);
            // Kernels before 5.0 do not answer, and those that do say if there is none when it is removed.
            let Ok(seen) = socket.ask(doing, question, neighbour::decode)? else {
                continue;
            };
            if seen.and_then(|seen| seen.named(neighbour.id.device)) != Some(neighbour) {
                others.insert(ObjectId::Neighbour(neighbour.id));
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
