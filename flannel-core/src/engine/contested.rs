//! Objects that somebody else changes as often as they are put right. No I/O.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;
use tracing::info;

// A fight is over, and is told of, as one over the packet filter's rules.
use super::rules::{FIGHT_WITHIN as CALM_AFTER, TELL_EVERY};
use crate::{DeviceName, ObjectId};

/// So many repairs of one object within so long a time are a fight: it is not as it ought to be in between.
const FIGHT: usize = 5;
const FIGHT_WITHIN: Duration = Duration::from_secs(10);

/// Objects whose repairs are counted at a time.
const COUNTED: usize = 1024;

/// What had to be put right of late.
#[derive(Debug, Default)]
pub(super) struct Contested {
    repaired: BTreeMap<ObjectId, Repaired>,
    /// Changes that had no line since the last sum.
    unsaid: u64,
    told: Option<Told>,
}

#[derive(Debug, Default)]
struct Repaired {
    /// The last repairs.
    recent: VecDeque<Instant>,
    /// Whether it is fought for.
    fought: bool,
    /// How often it was put right since the last sum.
    times: u64,
}

/// What was last said.
#[derive(Debug)]
struct Told {
    at: Instant,
    text: String,
}

impl Repaired {
    /// When it is forgotten unless it has to be put right again.
    fn ends(&self) -> Option<Instant> {
        let last = self.recent.back()?;
        Some(*last + if self.fought { CALM_AFTER } else { FIGHT_WITHIN })
    }
}

impl Contested {
    /// An object was put right. Says whether that is worth a line: of a fight, the first repairs are.
    pub(super) fn repaired(&mut self, id: ObjectId, now: Instant) -> bool {
        let known = self.repaired.contains_key(&id);
        if !known && self.repaired.len() >= COUNTED {
            let fight = self.fought().next().is_some();
            self.unsaid += u64::from(fight);
            return !fight;
        }
        let object = self.repaired.entry(id).or_default();
        object.times += 1;
        object.recent.push_back(now);
        if object.recent.len() > FIGHT {
            object.recent.pop_front();
        }
        if object.fought {
            self.unsaid += 1;
            return false;
        }
        let first = object.recent.front().filter(|_| object.recent.len() == FIGHT);
        object.fought = first.is_some_and(|first| now < *first + FIGHT_WITHIN);
        true
    }

    /// Something changed along with a device that is fought for.
    pub(super) const fn followed(&mut self) {
        self.unsaid += 1;
    }

    /// The devices that are fought for.
    pub(super) fn devices(&self) -> Vec<DeviceName> {
        self.fought().filter_map(|(id, _)| id.as_device()).collect()
    }

    /// Forgets what is calm.
    pub(super) fn forget(&mut self, now: Instant) {
        self.repaired
            .retain(|_, object| object.ends().is_some_and(|at| now < at));
    }

    /// What is fought for, in words that stay the same between two sums; says the sum when it is due.
    pub(super) fn judge(&mut self, now: Instant) -> Option<String> {
        self.forget(now);
        // The first of those that were put right most often.
        let worst = self.fought().rev().max_by_key(|(_, object)| object.times);
        let Some((worst, Repaired { times, .. })) = worst else {
            self.told = None;
            self.unsaid = 0;
            return None;
        };
        let due = |told: &Told| now >= told.at + TELL_EVERY && self.unsaid > 0;
        if self.told.as_ref().is_none_or(due) {
            let (objects, changes) = (self.fought().count(), self.unsaid);
            if self.told.is_some() {
                info!(object = %worst, times, objects, changes, "put right again and again");
            }
            let text = words(worst, objects - 1);
            self.told = Some(Told { at: now, text });
            self.unsaid = 0;
            self.repaired.values_mut().for_each(|object| object.times = 0);
        }
        self.told.as_ref().map(|told| told.text.clone())
    }

    /// When all fights are over unless one goes on.
    pub(super) fn calm_at(&self) -> Option<Instant> {
        self.fought().filter_map(|(_, object)| object.ends()).max()
    }

    fn fought(&self) -> impl DoubleEndedIterator<Item = (ObjectId, &Repaired)> {
        let fought = self.repaired.iter().filter(|(_, object)| object.fought);
        fought.map(|(id, object)| (*id, object))
    }
}

fn words(worst: ObjectId, others: usize) -> String {
    let others = match others {
        0 => String::new(),
        1 => ", as was one other object of ours".to_owned(),
        others => format!(", as were {others} other objects of ours"),
    };
    format!(
        "{worst} was put right {FIGHT} times and more within {} s{others}, and is not as it ought to be in \
         between: somebody else changes it, such as udev, NetworkManager or systemd-networkd, or another flanneld \
         of this host with a --state-dir of its own; `ip monitor` shows the changes",
        FIGHT_WITHIN.as_secs()
    )
}

#[cfg(test)]
#[path = "contested_tests.rs"]
mod tests;
