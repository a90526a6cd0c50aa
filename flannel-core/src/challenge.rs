//! Whether the host lives that holds a lease with our address. Pure: how the question stands in the lease.
//!
//! Two hosts must not publish one address, and a host that was installed anew, and so has another node
//! id, must have its lease back at once. The store cannot tell the one from the other, since a living
//! holder writes nothing for hours. So it is asked: who finds its own address in another's lease signs
//! that lease, by compare-and-swap, with its own id, and names there the id that it wrote over. All
//! else stays as it was, so that no peer sees a difference. A living holder signs the lease with its
//! own id again at once, and the challenger waits from then on; where nobody does within five seconds,
//! the lease is the challenger's.
//!
//! Deliberately absent: an answer of flannel's. A lease without an id is taken over by its address at
//! once, as flannel does, so that a host can be moved from it. And whoever first takes a subnet in the
//! same instant as another of its address cannot know of it: then each refuses the other's lease.

use serde_json::value::RawValue;

use crate::json::Members;
use crate::{Lease, LeaseAttrs, NodeId};

/// The member of a challenged lease that names the holder who is asked. flannel ignores it.
const FORMER: &str = "FormerNodeID";

/// Whose id a challenge was written over; `None` for a lease that is not challenged.
pub(crate) fn challenged(attrs: &LeaseAttrs) -> Option<NodeId> {
    let (_, value) = attrs.unknown.iter().find(|(name, _)| is_former(name))?;
    serde_json::from_str::<String>(value.get()).ok()?.parse().ok()
}

/// What to write over a lease to ask its holder whether it lives. Whoever has asked before does not
/// hold it: the question stays the same, and only the holder may answer.
pub(crate) fn challenge(lease: &Lease, by: NodeId) -> LeaseAttrs {
    let mut unknown = settled(&lease.attrs);
    let holder = challenged(&lease.attrs).or(lease.attrs.node);
    let former = holder.and_then(|holder| RawValue::from_string(format!("\"{holder}\"")).ok());
    unknown.extend(former.map(|former| (FORMER.to_owned(), former)));
    LeaseAttrs {
        node: Some(by),
        unknown,
        ..lease.attrs.clone()
    }
}

/// The members that are nobody's here, without the question.
pub(crate) fn settled(attrs: &LeaseAttrs) -> Vec<(String, Box<RawValue>)> {
    let mut members = Members::from(attrs.unknown.clone());
    members.take(FORMER);
    members.rest()
}

fn is_former(name: &str) -> bool {
    name.eq_ignore_ascii_case(FORMER)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOLDER: NodeId = NodeId(7);
    const CHALLENGER: NodeId = NodeId(8);

    fn lease(value: &str) -> Lease {
        Lease::new(
            "10.5.1.0/24".parse().unwrap(),
            LeaseAttrs::from_json(value).unwrap(),
        )
    }

    #[test]
    fn a_challenge_changes_nothing_but_who_signs_and_is_taken_back_to_the_byte() {
        let held = r#"{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VtepMAC":"0a:00"},"NodeID":"00000000000000000000000000000007","Rack":7.50}"#;
        let asked = challenge(&lease(held), CHALLENGER);
        let expected = held.replace("0007\"", "0008\"").replace(
            "7.50",
            r#"7.50,"FormerNodeID":"00000000000000000000000000000007""#,
        );
        assert_eq!(asked.to_json(), expected);
        assert_eq!(challenged(&asked), Some(HOLDER));
        let back = LeaseAttrs {
            node: Some(HOLDER),
            unknown: settled(&asked),
            ..asked
        };
        assert_eq!(back.to_json(), held);
        assert_eq!(challenged(&back), None);
    }

    #[test]
    fn a_challenge_of_a_challenge_still_names_the_holder() {
        let held = lease(r#"{"PublicIP":"192.0.2.1","NodeID":"00000000000000000000000000000007"}"#);
        let first = Lease::new(held.subnet, challenge(&held, CHALLENGER));
        let second = challenge(&first, NodeId(9));
        assert_eq!(
            (second.node, challenged(&second)),
            (Some(NodeId(9)), Some(HOLDER))
        );
        assert_eq!(second.unknown.len(), 1);
    }

    #[test]
    fn a_member_of_the_name_that_is_no_id_is_no_challenge() {
        for former in ["7", "\"x\"", "null", "\"07\""] {
            let value = format!(r#"{{"PublicIP":"192.0.2.1","FormerNodeID":{former}}}"#);
            assert_eq!(challenged(&lease(&value).attrs), None, "{former}");
        }
    }
}
