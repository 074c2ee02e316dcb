//! Random steps of a trial. A step speaks of the pool by numbers, so that it means something wherever it stands in a
//! sequence: what fails can be made shorter by leaving steps out.

use berth_testkit::Content;

use crate::pool::{BLOBS, MANIFESTS, REPOSITORIES, TAGS, UNTYPED};

pub(crate) const SLOTS: usize = 3;

/// What a client does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Starts an upload of a blob, and remembers it in a slot.
    Start {
        slot: usize,
        repository: usize,
        blob: usize,
        algorithm: Option<bool>,
    },
    /// POST of a whole blob. `wrong`: under another's digest.
    Whole {
        repository: usize,
        blob: usize,
        sha512: bool,
        wrong: bool,
    },
    Mount {
        slot: usize,
        repository: usize,
        blob: usize,
        from: Option<usize>,
    },
    Ask {
        slot: usize,
        elsewhere: bool,
    },
    /// The next bytes: so many hundredths of the blob. `shift`: the chunk says that it begins so far off.
    Append {
        slot: usize,
        percent: usize,
        ranged: bool,
        shift: i64,
        lie: bool,
    },
    /// The rest of the blob, or only what it has so far, and its digest or another's.
    Finish {
        slot: usize,
        rest: bool,
        ranged: bool,
        sha512: bool,
        wrong: bool,
    },
    Cancel {
        slot: usize,
    },
    Put {
        repository: usize,
        manifest: usize,
        by: Reference,
        tags: Vec<usize>,
        wrong_type: bool,
    },
    /// A whole push: blobs, children, then the manifest.
    Push {
        repository: usize,
        manifest: usize,
        tag: Option<usize>,
    },
    Manifest {
        repository: usize,
        manifest: usize,
        by: Reference,
        head: bool,
    },
    DeleteManifest {
        repository: usize,
        manifest: usize,
        by: Reference,
    },
    Blob {
        repository: usize,
        blob: usize,
        sha512: bool,
        head: bool,
        range: Option<(Option<u64>, Option<u64>)>,
    },
    DeleteBlob {
        repository: usize,
        blob: usize,
        sha512: bool,
    },
    Tags {
        repository: usize,
        n: Option<usize>,
        last: Option<usize>,
    },
    Referrers {
        repository: usize,
        manifest: usize,
        kind: Option<usize>,
        n: Option<usize>,
    },
    Catalog {
        n: Option<usize>,
        last: Option<usize>,
    },
    /// Nothing, for so many milliseconds.
    Wait(u64),
}

/// What a manifest is asked for or pushed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reference {
    Tag(usize),
    Sha256,
    Sha512,
    /// Another one's digest.
    Wrong,
}

/// What goes wrong meanwhile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A process is killed before the step.
    Before { victim: usize },
    /// It is killed so many microseconds after a request was sent.
    During { victim: usize, micros: u64, repeat: bool },
    /// It is killed when so many hundredths of a body were sent.
    Amid { victim: usize, percent: usize, repeat: bool },
    /// The client goes away after so many hundredths of the body.
    Cut { percent: usize, repeat: bool },
}

/// An action, and what goes wrong at one of its requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) action: Action,
    /// Whether its numbers stand for what is there.
    pub(crate) is_likely: bool,
    pub(crate) fault: Option<Fault>,
}

/// How often things go wrong, in thousandths.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rates {
    pub(crate) kills: u64,
    pub(crate) cuts: u64,
    /// Whether there is something to wait for.
    pub(crate) waits: u64,
}

/// Where random numbers come from.
pub(crate) struct Dice<'a>(pub(crate) &'a mut Content);

impl Dice<'_> {
    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.0.below(bound as u64)).unwrap()
    }

    fn one_in(&mut self, bound: usize) -> bool {
        self.below(bound) == 0
    }

    fn some(&mut self, one_in: usize, bound: usize) -> Option<usize> {
        self.one_in(one_in).then(|| self.below(bound))
    }

    /// The first repository more often than the others.
    fn repository(&mut self) -> usize {
        if !self.one_in(3) { 0 } else { self.below(REPOSITORIES) }
    }

    fn reference(&mut self, wrong: bool) -> Reference {
        match self.below(12) {
            0 if wrong => Reference::Wrong,
            0 => Reference::Sha512,
            1..6 => Reference::Sha256,
            _ => Reference::Tag(self.below(TAGS.len())),
        }
    }

    /// Beginnings and ends on both sides of what blobs have.
    fn range(&mut self) -> Option<(Option<u64>, Option<u64>)> {
        let edges = [0, 1, 599, 600, 601, 4_999, 69_999, 262_144, 299_999, 300_000];
        let mut edge = || edges[self.below(edges.len())];
        let (one, other) = (edge(), edge());
        match self.below(6) {
            0 => Some((Some(one), None)),
            1 => Some((None, Some(one))),
            2 => Some((Some(one.min(other)), Some(one.max(other)))),
            _ => None,
        }
    }

    fn blob(&mut self) -> usize {
        self.below(BLOBS)
    }

    fn upload(&mut self) -> Action {
        let slot = self.below(SLOTS);
        match self.below(20) {
            0..4 => {
                let algorithm = self.one_in(3).then(|| self.one_in(2));
                Action::Start { slot, repository: self.repository(), blob: self.blob(), algorithm }
            }
            4..6 => {
                let from = self.one_in(2).then(|| self.repository());
                Action::Mount { slot, repository: self.repository(), blob: self.blob(), from }
            }
            6 => Action::Ask { slot, elsewhere: self.one_in(5) },
            7..14 => {
                let shift = [-600, -1, 1, 100_000][self.below(4)];
                let shift = if self.one_in(6) { shift } else { 0 };
                let percent = [0, 10, 50, 100][self.below(4)];
                Action::Append { slot, percent, ranged: !self.one_in(3), shift, lie: self.one_in(20) }
            }
            14..19 => Action::Finish {
                slot,
                rest: !self.one_in(5),
                ranged: self.one_in(2),
                sha512: self.one_in(4),
                wrong: self.one_in(8),
            },
            _ => Action::Cancel { slot },
        }
    }

    fn write(&mut self) -> Action {
        let repository = self.repository();
        match self.below(12) {
            0..2 => Action::Whole {
                repository,
                blob: self.blob(),
                sha512: self.one_in(8),
                wrong: self.one_in(10),
            },
            2..5 => {
                let tags = (0..self.below(3)).map(|_| self.below(TAGS.len())).collect();
                let (manifest, by) = (self.below(MANIFESTS), self.reference(true));
                let wrong_type = self.one_in(if manifest == UNTYPED { 2 } else { 12 });
                Action::Put { repository, manifest, by, tags, wrong_type }
            }
            5..9 => {
                let tag = self.one_in(2).then(|| self.below(TAGS.len()));
                Action::Push { repository, manifest: self.below(MANIFESTS - 1), tag }
            }
            9..11 => {
                let (manifest, by) = (self.below(MANIFESTS), self.reference(false));
                Action::DeleteManifest { repository, manifest, by }
            }
            _ => Action::DeleteBlob { repository, blob: self.blob(), sha512: self.one_in(8) },
        }
    }

    fn read(&mut self) -> Action {
        let repository = self.repository();
        match self.below(12) {
            0..4 => {
                let (manifest, by) = (self.below(MANIFESTS), self.reference(false));
                Action::Manifest { repository, manifest, by, head: self.one_in(2) }
            }
            4..8 => Action::Blob {
                repository,
                blob: self.blob(),
                sha512: self.one_in(16),
                head: self.one_in(2),
                range: self.range(),
            },
            8 => Action::Tags { repository, n: self.some(2, 4), last: self.some(3, TAGS.len()) },
            9..11 => {
                let manifest = self.below(MANIFESTS);
                Action::Referrers { repository, manifest, kind: self.some(3, 3), n: self.some(3, 3) }
            }
            _ => Action::Catalog { n: self.some(2, 3), last: self.some(2, REPOSITORIES) },
        }
    }

    fn fault(&mut self, rates: Rates) -> Option<Fault> {
        let (victim, percent, repeat) = (self.below(12), self.below(101), self.one_in(2));
        let roll = self.0.below(1000);
        if roll < rates.cuts {
            return Some(Fault::Cut { percent, repeat });
        }
        if roll >= rates.cuts + rates.kills {
            return None;
        }
        Some(match self.below(5) {
            0 => Fault::Before { victim },
            1 | 2 => Fault::Amid { victim, percent, repeat },
            _ => {
                let most = [2_000, 6_000, 20_000][self.below(3)];
                Fault::During { victim, micros: self.0.below(most), repeat }
            }
        })
    }

    /// One more step.
    pub(crate) fn step(&mut self, rates: Rates) -> Step {
        let is_likely = !self.one_in(4);
        let (action, is_read) = match self.below(12) {
            _ if self.0.below(1000) < rates.waits => (Action::Wait(self.0.below(3_000)), true),
            0..5 => (self.upload(), false),
            5..10 => (self.write(), false),
            _ => (self.read(), true),
        };
        // A fault changes nothing about a read, and seldom what comes after it.
        let fault = if is_read && !self.one_in(8) { None } else { self.fault(rates) };
        Step { action, is_likely, fault }
    }
}
