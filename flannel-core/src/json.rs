//! JSON objects as Go's `encoding/json` reads them: names match whatever their case, the last
//! duplicate wins, unknown members are no error. The bytes of a member that is not ours are kept.

use std::fmt;

use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use thiserror::Error;

/// The members of a JSON object in the order in which they stand, each value as it was written. Read as
/// Go's `encoding/json` does: names match whatever their case, the last of several with one name counts,
/// and unknown ones are no error.
///
/// ```
/// use flannel_core::Members;
///
/// let mut members: Members = serde_json::from_str(r#"{"Type": "vxlan", "vni": 7}"#).unwrap();
/// assert_eq!(members.read("VNI", "a number"), Ok(Some(7)));
/// assert_eq!(members.read::<u16>("Port", "a port"), Ok(None));
/// ```
#[derive(Debug, Default)]
pub struct Members(Vec<(String, Box<RawValue>)>);

impl Members {
    /// Takes out the member `name`: the last one, as Go does.
    pub fn take(&mut self, name: &str) -> Option<Box<RawValue>> {
        let mut found = None;
        self.0.retain_mut(|(key, value)| {
            let ours = key.eq_ignore_ascii_case(name);
            if ours {
                found = Some(std::mem::take(value));
            }
            !ours
        });
        found
    }

    /// Reads the member `name`, and takes it out; one that is missing or `null` leaves its default in place,
    /// as in Go.
    ///
    /// # Errors
    ///
    /// [`MemberError`], when its value is not what `expected` describes.
    pub fn read<T: DeserializeOwned>(
        &mut self,
        name: &'static str,
        expected: &'static str,
    ) -> Result<Option<T>, MemberError> {
        let value = self.take(name).filter(|value| !is_null(value));
        let read = |value: Box<RawValue>| {
            serde_json::from_str(value.get()).map_err(|_| MemberError::new(name, value.get(), expected))
        };
        value.map(read).transpose()
    }

    /// What nobody took.
    #[must_use]
    pub fn rest(self) -> Vec<(String, Box<RawValue>)> {
        self.0
    }
}

impl From<Vec<(String, Box<RawValue>)>> for Members {
    fn from(members: Vec<(String, Box<RawValue>)>) -> Self {
        Self(members)
    }
}

/// A member of a JSON object has a value that it cannot have.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{member} is {value}, which is not {expected}")]
pub struct MemberError {
    /// The member's name.
    pub member: &'static str,
    /// Its value as it stands, cut off after 100 characters.
    pub value: String,
    /// What ought to stand there.
    pub expected: &'static str,
}

impl MemberError {
    /// A value as it stands; of a long one as much as a message shows.
    #[must_use]
    pub fn new(member: &'static str, value: &str, expected: &'static str) -> Self {
        Self {
            member,
            value: cut(value),
            expected,
        }
    }
}

/// As much of a value as a message shows.
pub(crate) fn cut(value: &str) -> String {
    value.chars().take(100).collect()
}

/// `null` leaves a Go variable as it was.
pub(crate) fn is_null(value: &RawValue) -> bool {
    value.get() == "null"
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }

            fn visit_unit<E>(self) -> Result<Members, E> {
                Ok(Members::default())
            }
        }
        deserializer.deserialize_any(Read)
    }
}
