//! The names of objects. A name says nothing about the content, and can't lead out of its store.
//!
//! A store that can't append gives every try a name of its own below the session's: see [`ObjectKey::at`].

use std::{fmt, str::FromStr, sync::Arc};

use berth_model::InstanceId;
use ulid::Ulid;

/// Not an object's key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("an object's key has the form i/<instance>/<ulid>, and may end in .<epoch> or .<epoch>.t<number>")]
pub struct KeyError;

/// The key of an object: `i/<instance>/<ulid>`, maybe with `.<epoch>` or `.<epoch>.t<number>` behind it. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey(Arc<str>);

/// Characters of a ULID.
const ULID_LENGTH: usize = 26;
/// `i/`
const PREFIX: &str = "i/";
/// `i/<instance>/<ulid>`
const SESSION_LENGTH: usize = PREFIX.len() + 2 * ULID_LENGTH + 1;

impl ObjectKey {
    /// A new key of an instance, from a ULID drawn by the injected id source.
    pub fn new(instance: InstanceId, object: Ulid) -> Self {
        Self(format!("{PREFIX}{instance}/{object}").into())
    }

    /// The name of what `epoch` makes of the object. For the key of a session.
    pub fn at(&self, epoch: i64) -> Self {
        Self(format!("{}.{epoch}", self.session()).into())
    }

    /// The name of the bytes that `epoch` put aside as its tail number `number`. For the key of a session.
    pub fn tail(&self, epoch: i64, number: u32) -> Self {
        Self(format!("{}.{epoch}.t{number}", self.session()).into())
    }

    /// The key of the session that this is a name of: the key without what comes behind its ULID.
    pub fn session(&self) -> &str {
        &self.0[..SESSION_LENGTH]
    }

    /// The whole key.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The instance's part: 26 characters.
    pub fn instance(&self) -> &str {
        &self.0[PREFIX.len()..PREFIX.len() + ULID_LENGTH]
    }

    /// The object's part: 26 characters, the last ones random, and what comes behind them.
    pub fn object(&self) -> &str {
        &self.0[PREFIX.len() + ULID_LENGTH + 1..]
    }
}

fn is_ulid(text: &str) -> bool {
    text.len() == ULID_LENGTH && Ulid::from_string(text).is_ok_and(|ulid| ulid.to_string() == text)
}

/// A number as it is printed.
fn is_number<T: FromStr + fmt::Display>(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
        && text.parse::<T>().is_ok_and(|number| number.to_string() == text)
}

/// `<epoch>` or `<epoch>.t<number>`.
fn is_suffix(text: &str) -> bool {
    match text.split_once(".t") {
        None => is_number::<i64>(text),
        Some((epoch, number)) => is_number::<i64>(epoch) && is_number::<u32>(number),
    }
}

impl FromStr for ObjectKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let (instance, object) =
            text.strip_prefix(PREFIX).and_then(|rest| rest.split_once('/')).ok_or(KeyError)?;
        let (object, suffix) = object.split_once('.').map_or((object, None), |(o, rest)| (o, Some(rest)));
        let known = is_ulid(instance) && is_ulid(object) && suffix.is_none_or(is_suffix);
        if known { Ok(Self(text.into())) } else { Err(KeyError) }
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
            format!("i/{instance}/{object}."),
            format!("i/{instance}/{object}.-1"),
            format!("i/{instance}/{object}.01"),
            format!("i/{instance}/{object}.+1"),
            format!("i/{instance}/{object}.1.t"),
            format!("i/{instance}/{object}.1.t1.t1"),
            format!("i/{instance}/{object}.1/../2"),
        ] {
            assert_eq!(wrong.parse::<ObjectKey>(), Err(KeyError), "{wrong:?}");
        }
    }

    #[test]
    fn a_name_of_an_epoch_leads_back_to_its_session() {
        let session: ObjectKey = "i/01ARZ3NDEKTSV4RRFFQ69G5FAV/01BX5ZZKBKACTAV9WEVGEMMVRZ".parse().unwrap();
        for name in
            [session.at(1), session.at(i64::MAX), session.tail(12, 0), session.at(7).tail(2, u32::MAX)]
        {
            assert_eq!(name.to_string().parse::<ObjectKey>().unwrap(), name);
            assert_eq!(name.session(), session.as_str());
        }
        assert_eq!(session.tail(3, 4).to_string(), format!("{session}.3.t4"));
    }
}
