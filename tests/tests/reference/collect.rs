//! What collection may take from the reference: whatever nothing holds and nobody took care of within the floor. It may, it
//! need not: the reference stays as it is until an answer shows that something went.

use std::collections::{BTreeMap, BTreeSet};

use berth_oci::Digest;

use crate::{
    manifest::Manifest,
    registry::{Moment, Registry, Repository},
    request::Request,
    upload::{Session, State},
};

/// More possibilities than this are not looked at.
const MOST: usize = 2000;

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

/// Content of one repository that an answer may depend on.
#[derive(Clone, Default, Debug)]
struct Concern {
    links: BTreeSet<Digest>,
    manifests: BTreeSet<Digest>,
}

impl Concern {
    /// Adds what has to go before any of this can go.
    fn close(&mut self, repository: &Repository) {
        loop {
            let holders = repository.manifests.iter().filter(|(digest, holder)| {
                let subject_of = |other: &Digest| {
                    repository
                        .manifests
                        .get(other)
                        .is_some_and(|other| other.subject.as_ref() == Some(*digest))
                };
                !holder.blobs.is_disjoint(&self.links)
                    || !holder.children.is_disjoint(&self.manifests)
                    || self.manifests.iter().any(subject_of)
            });
            let before = self.manifests.len();
            let holders: Vec<Digest> = holders.map(|(digest, _)| *digest).collect();
            self.manifests.extend(holders);
            if self.manifests.len() == before {
                return;
            }
        }
    }
}

/// Something that was collected: a manifest, a link, or a repository.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Gone {
    Manifest(String, Digest),
    Link(String, Digest),
    Repository(String),
}

impl Registry {
    /// What the answer to a request depends on.
    fn concerns(&self, request: &Request) -> BTreeMap<String, Concern> {
        let mut concerns = BTreeMap::new();
        for (name, repository) in &self.repositories {
            let mut concern = Concern::default();
            let is_there = request.repository() == Some(name);
            match request {
                Request::Mount { digest, .. } => drop(concern.links.insert(*digest)),
                _ if !is_there => continue,
                Request::Blob { digest, .. }
                | Request::DeleteBlob { digest, .. }
                | Request::Finish { digest, .. } => drop(concern.links.insert(*digest)),
                Request::Manifest { by, .. } | Request::DeleteManifest { by, .. } => {
                    concern.manifests.extend(repository.find(by));
                }
                Request::PutManifest { bytes, media_type, .. } => {
                    if let Some(manifest) = Manifest::read(bytes, media_type) {
                        concern.links.extend(manifest.blobs);
                        concern.manifests.extend(manifest.children);
                    }
                }
                Request::Referrers { subject, .. } => {
                    let all = repository.manifests.iter();
                    let referrers = all.filter(|(_, manifest)| manifest.subject == Some(*subject));
                    concern.manifests.extend(referrers.map(|(digest, _)| *digest));
                }
                _ => {}
            }
            concern.close(repository);
            concerns.insert(name.clone(), concern);
        }
        concerns
    }

    /// The registries that this may be after one more thing was collected.
    fn collected(&self, floor: u64, at: Moment, concerns: &BTreeMap<String, Concern>) -> Vec<(Gone, Self)> {
        let mut after = Vec::new();
        for (name, concern) in concerns {
            let Some(repository) = self.repositories.get(name) else { continue };
            for (digest, since) in repository.loose_manifests(floor, at) {
                if concern.manifests.contains(&digest) {
                    let mut world = self.clone();
                    world
                        .repositories
                        .entry(name.clone())
                        .and_modify(|there| there.remove(&digest, since + floor));
                    after.push((Gone::Manifest(name.clone(), digest), world));
                }
            }
            let loose = repository.loose_links(floor, at);
            for digest in loose.iter().filter(|digest| concern.links.contains(digest)) {
                let mut world = self.clone();
                world.repositories.entry(name.clone()).and_modify(|there| drop(there.links.remove(digest)));
                after.push((Gone::Link(name.clone(), *digest), world));
            }
            let is_open = |session: &Session| session.repository == *name && session.state == State::Open;
            let is_empty = repository.links.len() == loose.len() && repository.manifests.is_empty();
            let is_used = repository.listed || self.sessions.values().any(is_open);
            if is_empty && !is_used && at.received >= repository.made + floor {
                let mut world = self.clone();
                world.repositories.remove(name);
                after.push((Gone::Repository(name.clone()), world));
            }
        }
        after
    }

    /// The registries nearest to this one that collection may have made of it and for which `fits` holds.
    pub(crate) fn after_collection(
        &self,
        request: &Request,
        at: Moment,
        fits: &dyn Fn(&Self) -> Option<Self>,
    ) -> Vec<Self> {
        let Some(floor) = self.floor else { return Vec::new() };
        let concerns = self.concerns(request);
        let mut known = BTreeSet::new();
        let mut level = vec![(BTreeSet::new(), self.clone())];
        while !level.is_empty() && known.len() < MOST {
            let mut next = Vec::new();
            for (gone, world) in &level {
                for (more, after) in world.collected(floor, at, &concerns) {
                    let mut gone: BTreeSet<Gone> = gone.clone();
                    gone.insert(more);
                    if known.insert(gone.clone()) {
                        next.push((gone, after));
                    }
                }
            }
            let mut fitting: Vec<Self> = Vec::new();
            for served in next.iter().filter_map(|(_, world)| fits(world)) {
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

    /// Whether another shows the same to clients.
    fn looks_like(&self, other: &Self) -> bool {
        let alike = |(one, other): ((&String, &Repository), (&String, &Repository))| {
            one.0 == other.0
                && one.1.listed == other.1.listed
                && one.1.tags == other.1.tags
                && one.1.links.keys().eq(other.1.links.keys())
                && one.1.manifests.len() == other.1.manifests.len()
                && one
                    .1
                    .manifests
                    .iter()
                    .zip(&other.1.manifests)
                    .all(|(one, other)| one.0 == other.0 && one.1.media_type == other.1.media_type)
        };
        self.sessions == other.sessions
            && self.repositories.len() == other.repositories.len()
            && self.repositories.iter().zip(&other.repositories).all(alike)
    }

    /// Makes one of registries that differ only in when who took care of what: whatever may be gone in any of them may be
    /// gone in that one.
    pub(crate) fn merged(worlds: Vec<Self>) -> Vec<Self> {
        let mut different: Vec<Self> = Vec::new();
        for world in worlds {
            match different.iter_mut().find(|known| known.looks_like(&world)) {
                Some(known) => known.doubt_as(&world),
                None => different.push(world),
            }
        }
        different
    }

    fn doubt_as(&mut self, other: &Self) {
        for (here, there) in self.repositories.values_mut().zip(other.repositories.values()) {
            here.made = here.made.min(there.made);
            for (here, there) in here.links.values_mut().zip(there.links.values()) {
                here.touched = here.touched.min(there.touched);
            }
            for (here, there) in here.manifests.values_mut().zip(there.manifests.values()) {
                here.is_doubtful |= there.is_doubtful;
                here.released = match (here.released, there.released) {
                    (Some(one), Some(other)) => Some(one.min(other)),
                    (one, other) => one.or(other),
                };
            }
        }
    }
}
