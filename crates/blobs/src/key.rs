//! The names of objects. A name says nothing about the content, and can't lead out of its store.

use std::{fmt, str::FromStr, sync::Arc};

use berth_model::InstanceId;
use ulid::Ulid;

/// Not an object's key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("an object's key has the form i/<instance>/<ulid>")]
pub struct KeyError;

/// The key of an object: `i/<instance>/<ulid>`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey(Arc<str>);

/// Characters of a ULID.
const ULID_LENGTH: usize = 26;
/// `i/`
const PREFIX: &str = "i/";

impl ObjectKey {
    /// A new key of an instance, from a ULID drawn by the injected id source.
    pub fn new(instance: InstanceId, object: Ulid) -> Self {
        Self(format!("{PREFIX}{instance}/{object}").into())
    }

    /// The whole key.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The instance's part: 26 characters.
    pub fn instance(&self) -> &str {
        &self.0[PREFIX.len()..PREFIX.len() + ULID_LENGTH]
    }

    /// The object's part: 26 characters, the last ones random.
    pub fn object(&self) -> &str {
        &self.0[PREFIX.len() + ULID_LENGTH + 1..]
    }
}

fn is_ulid(text: &str) -> bool {
    text.len() == ULID_LENGTH && Ulid::from_string(text).is_ok_and(|ulid| ulid.to_string() == text)
}

impl FromStr for ObjectKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let (instance, object) =
            text.strip_prefix(PREFIX).and_then(|rest| rest.split_once('/')).ok_or(KeyError)?;
        if is_ulid(instance) && is_ulid(object) { Ok(Self(text.into())) } else { Err(KeyError) }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_one_spelling_and_leads_nowhere_else() {
        let instance = "01ARZ3NDEKTSV4RRFFQ69G5FAV";
        let object = "01BX5ZZKBKACTAV9WEVGEMMVRZ";
        let key: ObjectKey = format!("i/{instance}/{object}").parse().unwrap();
        assert_eq!((key.instance(), key.object()), (instance, object));
        assert_eq!(ObjectKey::new(instance.parse().unwrap(), Ulid::from_string(object).unwrap()), key);
        let lower = object.to_lowercase();
        for wrong in [
            String::new(),
            "i/../..".to_owned(),
            format!("i/{instance}/../{object}"),
            format!("i/{instance}//{object}"),
            format!("i/{instance}/{object}/"),
            format!("/i/{instance}/{object}"),
            format!("j/{instance}/{object}"),
            format!("i/{instance}/{lower}"),
            format!("i/{instance}"),
            format!("i/{instance}/{object}\0"),
        ] {
            assert_eq!(wrong.parse::<ObjectKey>(), Err(KeyError), "{wrong:?}");
        }
    }
}
