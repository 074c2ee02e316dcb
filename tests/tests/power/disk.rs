//! A disk as a power cut sees it: what is certainly on it, and what was asked for since. It replays a recorder's log.
//!
//! Certain is no more than POSIX promises: a file's bytes and length after a sync of that file, a name after a sync of
//! its folder. That a sync of a new file also keeps its name, as some filesystems do, is not counted on.

use std::{
    collections::{BTreeMap, HashMap},
    os::unix::{
        fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
        net::UnixListener,
    },
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use berth_testkit::Content;

/// What a disk moves at once.
const SECTOR: usize = 512;
const KIND: u32 = 0o170_000;
const FOLDER: u32 = 0o040_000;
const SOCKET: u32 = 0o140_000;

/// A line of the log: see `berth-recorder`.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) kind: u8,
    file: u64,
    number: u64,
    first: Vec<u8>,
    second: Vec<u8>,
    /// The length of the log with this line.
    pub(crate) end: u64,
}

/// All lines of a log.
pub(crate) fn read(log: &Path) -> Vec<Record> {
    let bytes = std::fs::read(log).unwrap();
    let (mut records, mut rest) = (Vec::new(), bytes.as_slice());
    let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
    let half = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap()) as usize;
    // The last line of a program that was killed may be cut.
    while let Some((head, after)) = rest.split_at_checked(25) {
        if after.len() < half(&head[17..21]) + half(&head[21..25]) {
            break;
        }
        let (first, after) = after.split_at(half(&head[17..21]));
        let (second, after) = after.split_at(half(&head[21..25]));
        let end = (bytes.len() - after.len()) as u64;
        let (first, second) = (first.to_vec(), second.to_vec());
        records.push(Record {
            kind: head[0],
            file: word(&head[1..9]),
            number: word(&head[9..17]),
            first,
            second,
            end,
        });
        rest = after;
    }
    records
}

impl Record {
    /// Whether something may be certain after it that was not before.
    pub(crate) fn is_sync(&self) -> bool {
        matches!(self.kind, b's' | b'f')
    }

    /// Whether this writes to the file that the one before has written to.
    pub(crate) fn goes_on(&self, before: &Self) -> bool {
        self.kind == b'w' && before.kind == b'w' && self.file == before.file
    }
}

type Node = usize;

/// Something that was asked for.
#[derive(Clone, Debug)]
enum Change {
    Write { offset: usize, bytes: Arc<[u8]> },
    Truncate(usize),
    Attribute(String, Arc<[u8]>),
    Enter(String, Node),
    Remove(String),
    Rename { from: String, to: String, node: Node },
}

#[derive(Clone, Default, Debug)]
struct State {
    bytes: Vec<u8>,
    attributes: BTreeMap<String, Arc<[u8]>>,
    names: BTreeMap<String, Node>,
}

#[derive(Clone, Debug)]
struct Inode {
    mode: u32,
    /// As it was made.
    name: String,
    certain: State,
    /// In order.
    asked: Vec<Change>,
    /// A folder's names with everything that was asked for.
    names: BTreeMap<String, Node>,
}

/// How much of a change a power cut leaves.
#[derive(Clone, Copy, Debug)]
enum Left {
    All,
    Nothing,
    Sectors(usize),
}

/// What happens to that which was asked for and never synced.
pub(crate) enum Fate<'a> {
    /// All is lost.
    Dropped,
    /// Nothing is lost, as when only the program dies.
    Kept,
    /// Each change is kept, lost, or, a write, cut after some of its sectors.
    Random(&'a mut Content),
}

impl Fate<'_> {
    fn of(&mut self, change: &Change) -> Left {
        let random = match self {
            Fate::Dropped => return Left::Nothing,
            Fate::Kept => return Left::All,
            Fate::Random(random) => random,
        };
        match (random.below(if matches!(change, Change::Write { .. }) { 3 } else { 2 }), change) {
            (0, _) => Left::Nothing,
            (1, _) => Left::All,
            (_, Change::Write { bytes, .. }) => {
                Left::Sectors(random.below(bytes.len().div_ceil(SECTOR) as u64 + 1) as usize)
            }
            _ => unreachable!("only a write can be torn"),
        }
    }
}

impl State {
    fn apply(&mut self, change: &Change, left: Left) {
        if matches!(left, Left::Nothing) {
            return;
        }
        match change {
            Change::Write { offset, bytes } => {
                let length = match left {
                    // Sectors of the disk, not of the write.
                    Left::Sectors(count) => (count * SECTOR).saturating_sub(offset % SECTOR).min(bytes.len()),
                    _ => bytes.len(),
                };
                if length > 0 {
                    self.bytes.resize(self.bytes.len().max(offset + length), 0);
                    self.bytes[*offset..offset + length].copy_from_slice(&bytes[..length]);
                }
            }
            Change::Truncate(length) => self.bytes.resize(*length, 0),
            Change::Attribute(name, value) => {
                self.attributes.insert(name.clone(), Arc::clone(value));
            }
            Change::Enter(..) | Change::Remove(_) | Change::Rename { .. } => rename(&mut self.names, change),
        }
    }
}

fn rename(names: &mut BTreeMap<String, Node>, change: &Change) {
    match change {
        Change::Enter(name, node) => {
            names.insert(name.clone(), *node);
        }
        Change::Remove(name) => {
            names.remove(name);
        }
        Change::Rename { from, to, node } => {
            // The name may be another's by now, if what gave it to this one is lost.
            if names.get(from) == Some(node) {
                names.remove(from);
            }
            names.insert(to.clone(), *node);
        }
        Change::Write { .. } | Change::Truncate(_) | Change::Attribute(..) => {}
    }
}

/// The folder that is watched, and all in it.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    root: String,
    inodes: Vec<Inode>,
    /// By the numbers of the log, which are used again when a file is gone.
    numbers: HashMap<u64, Node>,
    /// Whether a sync of a file or folder of this name is only pretended.
    broken: fn(&str) -> bool,
}

impl Disk {
    /// An empty folder, which is certainly there.
    pub(crate) fn new(root: &Path) -> Self {
        let number = std::fs::metadata(root).unwrap().ino();
        let mut disk = Self {
            root: root.display().to_string(),
            inodes: Vec::new(),
            numbers: HashMap::new(),
            broken: |_| false,
        };
        disk.add(number, FOLDER | 0o700, "");
        disk
    }

    /// The same, where syncs of what has such a name do nothing.
    pub(crate) fn with_broken_syncs(mut self, broken: fn(&str) -> bool) -> Self {
        self.broken = broken;
        self
    }

    fn add(&mut self, number: u64, mode: u32, name: &str) -> Node {
        let name = name.to_owned();
        let inode =
            Inode { mode, name, certain: State::default(), asked: Vec::new(), names: BTreeMap::new() };
        self.inodes.push(inode);
        self.numbers.insert(number, self.inodes.len() - 1);
        self.inodes.len() - 1
    }

    /// The folder of a path, as it is asked to be, and the last name.
    fn place(&self, path: &[u8]) -> (Node, String) {
        let path = std::str::from_utf8(path).unwrap();
        let inside = path.strip_prefix(&self.root).and_then(|path| path.strip_prefix('/'));
        let inside = inside.unwrap_or_else(|| panic!("{path} is outside of what is watched"));
        assert!(!inside.split('/').any(|name| matches!(name, "" | "." | "..")), "{path} is not plain");
        let (folders, name) = inside.rsplit_once('/').unwrap_or(("", inside));
        let folder = folders.split('/').filter(|name| !name.is_empty()).fold(0, |folder, name| {
            *self.inodes[folder].names.get(name).unwrap_or_else(|| panic!("{path}: nobody made its folder"))
        });
        (folder, name.to_owned())
    }

    fn named(&self, (folder, name): &(Node, String)) -> Node {
        *self.inodes[*folder].names.get(name).unwrap_or_else(|| panic!("nobody made {name}"))
    }

    fn ask(&mut self, node: Node, change: Change) {
        let inode = &mut self.inodes[node];
        rename(&mut inode.names, &change);
        inode.asked.push(change);
    }

    /// Goes on by one line of the log. True when something is certain now that was not before.
    pub(crate) fn apply(&mut self, record: &Record) -> bool {
        let number = usize::try_from(record.number).unwrap();
        let node = || *self.numbers.get(&record.file).expect("a file that was not seen when it was made");
        match record.kind {
            b'c' | b'd' => {
                let (folder, name) = self.place(&record.first);
                let node = self.add(record.file, u32::try_from(record.number).unwrap(), &name);
                self.ask(folder, Change::Enter(name, node));
            }
            b'l' => {
                let node = self.named(&self.place(&record.first));
                let (folder, name) = self.place(&record.second);
                self.ask(folder, Change::Enter(name, node));
            }
            b'r' => {
                let (from, to) = (self.place(&record.first), self.place(&record.second));
                assert_eq!(from.0, to.0, "a name that moves to another folder needs two syncs: not modelled");
                let node = self.named(&from);
                self.ask(from.0, Change::Rename { from: from.1, to: to.1, node });
            }
            b'u' => {
                let place = self.place(&record.first);
                let _was_there = self.named(&place);
                self.ask(place.0, Change::Remove(place.1));
            }
            b'w' => self.ask(node(), Change::Write { offset: number, bytes: record.first.as_slice().into() }),
            b't' => self.ask(node(), Change::Truncate(number)),
            b'a' => {
                let name = String::from_utf8(record.first.clone()).unwrap();
                self.ask(node(), Change::Attribute(name, record.second.as_slice().into()));
            }
            b's' | b'f' => return self.sync(node(), record.kind == b's'),
            _ => panic!("{} can't be replayed", String::from_utf8_lossy(&record.first)),
        }
        false
    }

    fn sync(&mut self, node: Node, whole: bool) -> bool {
        let inode = &mut self.inodes[node];
        if (self.broken)(&inode.name) {
            return false;
        }
        // fdatasync says nothing of attributes.
        let later = |change: &Change| !whole && matches!(change, Change::Attribute(..));
        let (later, now): (Vec<_>, Vec<_>) = std::mem::take(&mut inode.asked).into_iter().partition(later);
        inode.asked = later;
        for change in &now {
            inode.certain.apply(change, Left::All);
        }
        !now.is_empty()
    }

    /// What a power cut leaves now.
    pub(crate) fn after_cut(&self, mut fate: Fate<'_>) -> Tree {
        let mut tree = Tree(Vec::new());
        self.collect(0, "", &mut fate, &mut tree);
        tree
    }

    /// The same disk under another folder, to which all of it was written: a program goes on after the one before was
    /// killed, and nothing is more certain than before.
    pub(crate) fn moved(&self, root: &Path) -> Self {
        let mut disk = self.clone();
        disk.root = root.display().to_string();
        disk.numbers.clear();
        disk.number(0, root);
        disk
    }

    fn number(&mut self, node: Node, path: &Path) {
        self.numbers.insert(std::fs::symlink_metadata(path).unwrap().ino(), node);
        for (name, child) in self.inodes[node].names.clone() {
            if !name.ends_with("-shm") {
                self.number(child, &path.join(name));
            }
        }
    }

    fn state_of(&self, node: Node, fate: &mut Fate<'_>) -> State {
        let inode = &self.inodes[node];
        let mut state = inode.certain.clone();
        for change in &inode.asked {
            state.apply(change, fate.of(change));
        }
        state
    }

    fn collect(&self, folder: Node, path: &str, fate: &mut Fate<'_>, tree: &mut Tree) {
        // What is in SQLite's `-shm` files is never used after a crash.
        let names = self.state_of(folder, fate).names.into_iter().filter(|(name, _)| !name.ends_with("-shm"));
        for (name, node) in names {
            let (path, mode) = (format!("{path}/{name}"), self.inodes[node].mode);
            let is_folder = mode & KIND == FOLDER;
            let State { bytes, attributes, .. } =
                if is_folder { State::default() } else { self.state_of(node, fate) };
            tree.0.push(Entry { path: path.clone(), mode, bytes, attributes });
            if is_folder {
                self.collect(node, &path, fate, tree);
            }
        }
    }
}

#[derive(PartialEq, Eq, Debug)]
struct Entry {
    path: String,
    mode: u32,
    bytes: Vec<u8>,
    attributes: BTreeMap<String, Arc<[u8]>>,
}

/// Files and folders, a folder before what is in it.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Tree(Vec<Entry>);

impl Tree {
    /// Puts everything into a folder.
    pub(crate) fn write(&self, folder: &Path) {
        for entry in &self.0 {
            let path = folder.join(&entry.path[1..]);
            match entry.mode & KIND {
                FOLDER => std::fs::DirBuilder::new().mode(entry.mode & 0o7777).create(&path).unwrap(),
                SOCKET => drop(UnixListener::bind(&path).unwrap()),
                _ => {
                    let mode = entry.mode & 0o7777;
                    let mut file =
                        std::fs::File::options().write(true).create_new(true).mode(mode).open(&path).unwrap();
                    std::io::Write::write_all(&mut file, &entry.bytes).unwrap();
                    // Long ago, so that what no row names counts as left behind and not as on its way.
                    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1)).unwrap();
                    for (name, value) in &entry.attributes {
                        rustix::fs::fsetxattr(&file, name, value, rustix::fs::XattrFlags::empty()).unwrap();
                    }
                }
            }
        }
    }

    /// Compares with a real folder: names, modes and bytes. Every difference is something that the recorder did not see.
    pub(crate) fn differences(&self, folder: &Path) -> Vec<String> {
        let mut real = BTreeMap::new();
        walk(folder, "", &mut real);
        let mut wrong = Vec::new();
        for entry in self.0.iter().filter(|entry| entry.mode & KIND != SOCKET) {
            match real.remove(&entry.path) {
                None => wrong.push(format!("{} is not there", entry.path)),
                Some((mode, _)) if mode != entry.mode => {
                    wrong.push(format!("{} has mode {mode:o}, not {:o}", entry.path, entry.mode));
                }
                Some((_, bytes)) if bytes != entry.bytes => {
                    wrong.push(format!(
                        "{}: {} bytes, recorded {}",
                        entry.path,
                        bytes.len(),
                        entry.bytes.len()
                    ));
                }
                Some(_) => {}
            }
        }
        wrong.extend(real.keys().map(|path| format!("{path} was not recorded")));
        wrong
    }
}

fn walk(folder: &Path, inside: &str, found: &mut BTreeMap<String, (u32, Vec<u8>)>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let (path, mode) = (entry.path(), entry.metadata().unwrap().mode());
        let name = format!("{inside}/{}", entry.file_name().to_str().unwrap());
        match mode & KIND {
            FOLDER => {
                walk(&path, &name, found);
                found.insert(name, (mode, Vec::new()));
            }
            SOCKET => {}
            _ if name.ends_with("-shm") => {}
            _ => {
                found.insert(name, (mode, std::fs::read(&path).unwrap()));
            }
        }
    }
}
