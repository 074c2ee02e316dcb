//! What collection may take from the reference: whatever nothing holds and nobody took care of within the floor. It may, it
//! need not: the reference stays as it is until an answer shows that something went.

use std::collections::BTreeMap;

use berth_oci::Digest;

use crate::{
    registry::{Moment, Registry, Repository},
    upload::State,
};

/// More possibilities than this are not looked at.
const MOST: usize = 4000;

impl Repository {
    /// Whether something keeps a manifest, when `gone` are no more.
    fn is_kept(&self, digest: &Digest, subject: Option<Digest>, gone: &BTreeMap<Digest, u64>) -> bool {
        let is_there = |other: &Digest| !gone.contains_key(other);
        let mut indexes = self.manifests.iter().filter(|(_, index)| index.children.contains(digest));
        self.tags.values().any(|target| target == digest)
            || indexes.any(|(index, _)| is_there(index))
            || subject.is_some_and(|subject| self.manifests.contains_key(&subject) && is_there(&subject))
    }

    /// Manifests that may be gone when an answer comes, each the first of what goes, and since when they were not kept.
    fn loose_manifests(&self, floor: u64, at: Moment) -> BTreeMap<Digest, u64> {
        let nothing = BTreeMap::new();
        let released = self.manifests.iter().filter(|(digest, manifest)| {
            manifest.is_doubtful || !self.is_kept(digest, manifest.subject, &nothing)
        });
        let released = released.filter_map(|(digest, manifest)| Some((*digest, manifest.released?)));
        released.filter(|(_, since)| at.received >= since + floor).collect()
    }

    /// Remembers which manifests may be gone, before a push may keep them again. Its answer says nothing about them: what
    /// was collected before stays gone.
    pub(crate) fn doubt(&mut self, floor: u64, at: Moment) {
        let mut gone = self.loose_manifests(floor, at);
        loop {
            let mut more = BTreeMap::new();
            for (digest, manifest) in self.manifests.iter().filter(|(digest, _)| !gone.contains_key(digest)) {
                let holders = gone.iter().filter(|(holder, _)| {
                    manifest.subject == Some(**holder) || self.manifests[*holder].children.contains(digest)
                });
                let Some(since) = holders.map(|(_, since)| since + floor).max() else { continue };
                if at.received >= since + floor && !self.is_kept(digest, manifest.subject, &gone) {
                    more.insert(*digest, since);
                }
            }
            if more.is_empty() {
                break;
            }
            gone.append(&mut more);
        }
        for (digest, since) in gone {
            if let Some(manifest) = self.manifests.get_mut(&digest) {
                (manifest.is_doubtful, manifest.released) = (true, Some(since));
            }
        }
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
