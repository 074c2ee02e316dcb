//! The catalogue of regions.

use std::collections::BTreeMap;

/// A region that instances may live in.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Region {
    /// Its id, which is part of host names.
    pub id: String,
    /// Where it is.
    pub city: String,
    /// Its name in Chinese.
    #[serde(default)]
    pub name_zh: String,
    /// What kind of cloud it belongs to: public, finance, government, local.
    pub cloud: String,
    /// Its zones, where they are known.
    #[serde(default)]
    pub zones: Vec<String>,
}

/// The regions of a deployment, by id.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Regions(BTreeMap<String, Region>);

/// Why regions could not be read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct RegionError(String);

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Data {
    regions: Vec<Region>,
}

fn is_id(id: &str) -> bool {
    let edge = |c: Option<u8>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    id.len() <= 40
        && id.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-')
        && edge(id.bytes().next())
        && edge(id.bytes().last())
}

impl Regions {
    /// The product's catalogue.
    pub fn built_in() -> Self {
        Self::read(include_str!("../data/regions.toml")).expect("the built-in regions are tested")
    }

    /// An operator's catalogue, in TOML: a list of tables named `regions`.
    pub fn read(text: &str) -> Result<Self, RegionError> {
        let data: Data = toml::from_str(text).map_err(|error| RegionError(error.to_string()))?;
        let mut regions = BTreeMap::new();
        for region in data.regions {
            if !is_id(&region.id) {
                return Err(RegionError(format!(
                    "{:?} is no region's id: up to 40 lower-case letters, digits, and hyphens inside",
                    region.id
                )));
            }
            if let Some(twice) = regions.insert(region.id.clone(), region) {
                return Err(RegionError(format!("the region {} is there twice", twice.id)));
            }
        }
        Ok(Self(regions))
    }

    /// A region by its id.
    pub fn get(&self, id: &str) -> Option<&Region> {
        self.0.get(id)
    }

    /// All of them, by id.
    pub fn all(&self) -> impl Iterator<Item = &Region> {
        self.0.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalogue_can_be_read_and_replaced() {
        let regions = Regions::built_in();
        assert_eq!(regions.all().count(), 29);
        assert_eq!(regions.get("cn-hangzhou").unwrap().zones.len(), 7);
        assert_eq!(regions.get("eu-central-1").unwrap().city, "Frankfurt");
        let own = "[[regions]]\nid = \"home\"\ncity = \"Here\"\ncloud = \"local\"\n";
        assert!(Regions::read(own).unwrap().get("home").is_some());
        assert!(Regions::read(&format!("{own}{own}")).unwrap_err().to_string().contains("twice"));
        assert!(Regions::read(&own.replace("home", "Ho me")).is_err());
        assert!(Regions::read(&own.replace("city", "town")).is_err());
    }
}
