//! Pages of lists in memory, by the repository that they are of: a change in it drops all of its pages.

use std::{collections::HashMap, hash::Hash, sync::Arc};

use berth_model::RepositoryId;
use prost::Message;
use quick_cache::{Weighter, sync::Cache};

/// What is kept in all, in bytes, roughly.
const MAX_BYTES: u64 = 32 << 20;
/// The most pages of one repository; with more it begins anew, since pages are what a client asks for.
const MAX_PAGES: usize = 64;
/// What a page takes beside its texts.
const OVERHEAD: u64 = 512;

/// Pages of one kind.
#[derive(Debug)]
pub(crate) struct Lists<K, V>(Cache<RepositoryId, Arc<Pages<K, V>>, Bytewise>);

#[derive(Clone, Debug)]
struct Pages<K, V> {
    pages: HashMap<K, Arc<V>>,
    bytes: u64,
}

#[derive(Clone, Debug)]
struct Bytewise;

impl<K, V> Weighter<RepositoryId, Arc<Pages<K, V>>> for Bytewise {
    fn weight(&self, _: &RepositoryId, pages: &Arc<Pages<K, V>>) -> u64 {
        pages.bytes
    }
}

impl<K: Clone + Eq + Hash, V: Message + Clone> Lists<K, V> {
    pub(crate) fn new() -> Self {
        Self(Cache::with_weighter(4096, MAX_BYTES, Bytewise))
    }

    pub(crate) fn get(&self, repository: RepositoryId, page: &K) -> Option<Arc<V>> {
        self.0.get(&repository)?.pages.get(page).cloned()
    }

    /// Whoever calls sees to it that nobody else changes anything.
    pub(crate) fn keep(&self, repository: RepositoryId, page: K, listed: Arc<V>) {
        let known = self.0.peek(&repository).filter(|known| known.pages.len() < MAX_PAGES);
        let mut pages =
            known.map_or_else(|| Pages { pages: HashMap::new(), bytes: 0 }, |known| (*known).clone());
        // A text in memory is its bytes and as much again for where they are.
        pages.bytes += 2 * listed.encoded_len() as u64 + OVERHEAD;
        pages.pages.insert(page, listed);
        self.0.insert(repository, Arc::new(pages));
    }

    pub(crate) fn forget(&self, repository: RepositoryId) {
        self.0.remove(&repository);
    }

    pub(crate) fn clear(&self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use berth_proto::metadata::ListTagsResponse;

    use super::*;

    fn page(size: usize) -> Arc<ListTagsResponse> {
        Arc::new(ListTagsResponse { tags: vec!["t".repeat(size)], more: false })
    }

    #[test]
    fn a_repository_has_so_many_pages_and_all_have_so_many_bytes() {
        let ids: Vec<RepositoryId> =
            (1..=100_u128).map(|number| RepositoryId::new(ulid::Ulid::from(number))).collect();
        let lists = Lists::<u32, _>::new();
        for number in 0..1000 {
            lists.keep(ids[0], number, page(10));
        }
        assert_eq!(lists.get(ids[0], &999), Some(page(10)));
        let kept = (0..1000).filter(|number| lists.get(ids[0], number).is_some()).count();
        assert!(kept <= MAX_PAGES, "{kept}");
        for id in &ids {
            lists.keep(*id, 0, page(1 << 20));
        }
        assert!(lists.0.weight() <= MAX_BYTES, "{}", lists.0.weight());
    }
}
