//! Choices that mean something in a given state: blind ones would mostly be about what is not there.

use crate::{
    client::Memory,
    pool::{BLOBS, MANIFESTS, TAGS},
    registry::{Registry, Repository},
    step::{Action, Reference},
};

/// The candidate that a number stands for; the number itself when there is none.
fn pick(number: usize, candidates: impl Iterator<Item = usize>) -> usize {
    let candidates: Vec<_> = candidates.collect();
    if candidates.is_empty() { number } else { candidates[number % candidates.len()] }
}

impl Memory {
    /// The same action on something that it can be done with, if there is such a thing.
    pub(crate) fn likely(&self, action: &Action, registry: &Registry) -> Action {
        let nothing = Repository::default();
        let repository = |number: usize| -> &Repository {
            registry.repositories.get(&self.pool.repositories[number]).unwrap_or(&nothing)
        };
        let has_manifest = |there: &Repository, number: usize, sha512: bool| {
            there.manifests.contains_key(&self.pool.manifest_digest(number, sha512))
        };
        let has_blob = |there: &Repository, number: usize, sha512: bool| {
            there.links.contains_key(&self.pool.blob_digest(number, sha512))
        };
        let mut action = action.clone();
        match &mut action {
            Action::Manifest { repository: name, manifest, by, .. }
            | Action::DeleteManifest { repository: name, manifest, by } => {
                let there = repository(*name);
                match by {
                    Reference::Tag(tag) => {
                        *tag = pick(*tag, (0..TAGS.len()).filter(|tag| there.tags.contains_key(TAGS[*tag])));
                    }
                    by => {
                        let sha512 = *by == Reference::Sha512;
                        let known = (0..MANIFESTS).filter(|number| has_manifest(there, *number, sha512));
                        *manifest = pick(*manifest, known);
                    }
                }
            }
            Action::Blob { repository: name, blob, sha512, .. }
            | Action::DeleteBlob { repository: name, blob, sha512 } => {
                let there = repository(*name);
                *blob = pick(*blob, (0..BLOBS).filter(|number| has_blob(there, *number, *sha512)));
            }
            Action::Mount { blob, .. } => {
                let known =
                    |number: &usize| registry.find_link(&self.pool.blob_digest(*number, false)).is_some();
                *blob = pick(*blob, (0..BLOBS).filter(known));
            }
            Action::Put { repository: name, manifest, .. } => {
                let there = repository(*name);
                let possible = (0..MANIFESTS - 1).filter(|number| {
                    self.pool.blobs_of(*number).iter().all(|blob| has_blob(there, *blob, false))
                        && self
                            .pool
                            .children_of(*number)
                            .iter()
                            .all(|child| has_manifest(there, *child, false))
                });
                *manifest = pick(*manifest, possible);
            }
            Action::Referrers { repository: name, manifest, .. } => {
                let there = repository(*name);
                let subjects = (0..MANIFESTS).filter(|number| {
                    let digest = self.pool.manifest_digest(*number, false);
                    there.manifests.values().any(|manifest| manifest.subject == Some(digest))
                });
                *manifest = pick(*manifest, subjects);
            }
            Action::Ask { slot, .. }
            | Action::Append { slot, .. }
            | Action::Finish { slot, .. }
            | Action::Cancel { slot } => *slot = pick(*slot, self.open_slots(registry)),
            _ => {}
        }
        action
    }

    fn open_slots(&self, registry: &Registry) -> impl Iterator<Item = usize> {
        let slots = self.slots.iter().enumerate().filter_map(|(number, slot)| Some((number, slot.as_ref()?)));
        slots.filter(|(_, slot)| registry.is_open(&slot.session)).map(|(number, _)| number)
    }
}
