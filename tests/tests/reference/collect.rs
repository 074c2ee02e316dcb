//! What collection may take from the reference: whatever nothing holds and nobody took care of within the floor. It may, it
//! need not: the reference stays as it is until an answer shows that something went.

use berth_oci::Digest;

use crate::{
    registry::{Moment, Registry, Repository},
    upload::State,
};

/// More possibilities than this are not looked at.
const MOST: usize = 4000;

impl Repository {
    /// Manifests that may be gone when an answer comes.
    fn loose_manifests(&self, floor: u64, at: Moment) -> Vec<(Digest, u64)> {
        let manifests = self
            .manifests
            .iter()
            .filter_map(|(digest, manifest)| Some((digest, manifest, manifest.released?)));
        manifests
            .filter(|(digest, _, released)| {
                at.received >= released + floor
                    && !self.tags.values().any(|target| target == *digest)
                    && !self.is_in_index(digest)
            })
            .filter(|(_, manifest, _)| {
                manifest.subject.is_none_or(|subject| !self.manifests.contains_key(&subject))
            })
            .map(|(digest, _, released)| (*digest, released))
            .collect()
    }

    fn loose_links(&self, floor: u64, at: Moment) -> Vec<Digest> {
        let old = self.links.iter().filter(|(_, link)| at.received >= link.touched + floor);
        old.filter(|(digest, _)| !self.holds_blob(digest)).map(|(digest, _)| *digest).collect()
    }
}

impl Registry {
    /// The registries that this may be after one more thing was collected.
    fn collected(&self, floor: u64, at: Moment) -> Vec<Self> {
        let mut after = Vec::new();
        for (name, repository) in &self.repositories {
            let mut without = |change: &dyn Fn(&mut Repository)| {
                let mut world = self.clone();
                change(world.repositories.get_mut(name).unwrap());
                after.push(world);
            };
            for (digest, released) in repository.loose_manifests(floor, at) {
                without(&|repository| repository.remove(&digest, released + floor));
            }
            for digest in repository.loose_links(floor, at) {
                without(&|repository| drop(repository.links.remove(&digest)));
            }
            let used = repository.listed || !repository.links.is_empty() || !repository.manifests.is_empty();
            let in_use = |world: &Self| {
                world
                    .sessions
                    .values()
                    .any(|session| session.repository == *name && session.state == State::Open)
            };
            if !used && !in_use(self) && at.received >= repository.made + floor {
                let mut world = self.clone();
                world.repositories.remove(name);
                after.push(world);
            }
        }
        after
    }

    /// The registries nearest to this one that collection may have made of it and for which `fits` holds.
    pub(crate) fn after_collection(&self, at: Moment, fits: &dyn Fn(&Self) -> Option<Self>) -> Vec<Self> {
        let Some(floor) = self.floor else { return Vec::new() };
        let mut known = vec![self.clone()];
        let mut level = known.clone();
        while !level.is_empty() && known.len() < MOST {
            let mut next = Vec::new();
            for world in level.iter().flat_map(|world| world.collected(floor, at)) {
                if !known.contains(&world) {
                    known.push(world.clone());
                    next.push(world);
                }
            }
            let mut fitting: Vec<Self> = Vec::new();
            for served in next.iter().filter_map(fits) {
                if !fitting.contains(&served) {
                    fitting.push(served);
                }
            }
            if !fitting.is_empty() {
                return fitting;
            }
            level = next;
        }
        Vec::new()
    }
}
