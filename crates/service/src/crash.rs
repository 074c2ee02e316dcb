//! Crash points: named places in what must survive a crash, where a test ends the process as `kill -9` would.
//!
//! They are in builds with debug assertions only; elsewhere [`point`] is nothing. `BERTH_CRASH_POINTS` says where to die:
//! `upload.started:3` at the third time that point is reached, `42:1000` by the seed 42 at one in a thousand of all.
//! `BERTH_CRASH_LOG` names a file that gets a line for each point when it is reached first, and one for the death.

/// Every crash point. A push, from the client's request down to the audit trail.
pub const POINTS: &[&str] = &[
    // The gateway: around what it asks of the others, and right before it answers.
    "upload.before_start",
    "upload.started",
    "append.opened",
    "append.checkpoint_synced",
    "append.checkpointed",
    "append.cut_synced",
    "append.cut_recorded",
    "append.synced",
    "append.recorded",
    "finish.verified",
    "finish.recorded",
    "finish.committed",
    "manifest.before_put",
    "manifest.stored",
    "delete.before",
    "delete.done",
    // The blob store: around each write and sync.
    "object.opened",
    "object.cut",
    "object.before_write",
    "object.written",
    "object.data_synced",
    "object.synced",
    // The same in object storage: parts, what is too short for one, and the object in the end.
    "object.multipart_begun",
    "object.before_part",
    "object.part_sent",
    "object.tail_written",
    "object.put",
    "object.before_complete",
    "object.completed",
    "object.before_unlink",
    "object.unlinked",
    "object.unlink_synced",
    // Metadata: within each unit of work, at its end, and between its commit and the answer.
    "start_upload.before_commit",
    "start_upload.committed",
    "begin_append.leased",
    "advance_upload.before_commit",
    "advance_upload.committed",
    "finish_upload.before_commit",
    "finish_upload.committed",
    "commit_upload.blob_kept",
    "commit_upload.before_commit",
    "commit_upload.committed",
    "cancel_upload.before_commit",
    "cancel_upload.committed",
    "mount_blob.before_commit",
    "mount_blob.committed",
    "delete_blob.before_commit",
    "delete_blob.committed",
    "put_manifest.added",
    "put_manifest.before_commit",
    "put_manifest.committed",
    "delete_tag.before_commit",
    "delete_tag.committed",
    "delete_manifest.before_commit",
    "delete_manifest.committed",
    // Metadata's collector: each review that deletes, and an expired upload.
    "collect_manifest.before_commit",
    "collect_manifest.committed",
    "collect_link.before_commit",
    "collect_link.committed",
    "collect_blob.before_commit",
    "collect_blob.committed",
    "collect_repository.before_commit",
    "collect_repository.committed",
    "removal.before_commit",
    "removal.committed",
    "collect_session.before_commit",
    "collect_session.committed",
    "forget_sessions.before_commit",
    "forget_sessions.committed",
    // Collection that was asked for, before it is said by when its reviews are due.
    "collect_run.hastened",
    // An object that nothing names, between its claim, its end and the end of its row.
    "collect_object.claimed",
    "collect_object.deleted",
    "collect_object.finished",
    // The database: around COMMIT itself, of any unit of any service.
    "database.before_commit",
    "database.committed",
    // Events on their way into the audit trail.
    "relay.before_delivery",
    "relay.delivered",
    "relay.marked",
    "audit.before_commit",
    "audit.committed",
];

/// The process may be ended here. `name` is one of [`POINTS`].
#[inline(always)]
pub fn point(name: &'static str) {
    #[cfg(debug_assertions)]
    armed::reach(name);
    #[cfg(not(debug_assertions))]
    let _ = name;
}

#[cfg(debug_assertions)]
mod armed {
    use std::{
        collections::HashMap,
        fs::File,
        io::Write as _,
        sync::{Mutex, OnceLock, PoisonError},
    };

    /// When to die.
    #[derive(PartialEq, Eq, Debug)]
    pub(super) enum When {
        Nth { name: String, nth: u64 },
        Seeded { seed: u64, one_in: u64 },
    }

    impl When {
        pub(super) fn parse(text: &str) -> Option<Self> {
            let (what, number) = text.rsplit_once(':')?;
            let number = number.parse().ok().filter(|number| *number > 0)?;
            match what.parse() {
                Ok(seed) => Some(Self::Seeded { seed, one_in: number }),
                Err(_) if super::POINTS.contains(&what) => {
                    Some(Self::Nth { name: what.to_owned(), nth: number })
                }
                Err(_) => None,
            }
        }

        /// Whether to die at `name`, reached now for the `times`th time, as the `total`th of all.
        pub(super) fn is_now(&self, name: &str, times: u64, total: u64) -> bool {
            match self {
                Self::Nth { name: victim, nth } => victim == name && *nth == times,
                Self::Seeded { seed, one_in } => mixed(seed.wrapping_add(total)).is_multiple_of(*one_in),
            }
        }
    }

    /// The finaliser of SplitMix64.
    fn mixed(number: u64) -> u64 {
        let number = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let number = (number ^ (number >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let number = (number ^ (number >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        number ^ (number >> 31)
    }

    struct Plan {
        when: Option<When>,
        log: Option<File>,
        reached: Mutex<(HashMap<&'static str, u64>, u64)>,
    }

    impl Plan {
        fn of_environment() -> Option<Self> {
            let when = std::env::var("BERTH_CRASH_POINTS").ok();
            let log = std::env::var_os("BERTH_CRASH_LOG");
            if when.is_none() && log.is_none() {
                return None;
            }
            let log = log.map(|path| File::options().create(true).append(true).open(path));
            let plan = Self {
                when: when.as_deref().and_then(When::parse),
                log: log.and_then(Result::ok),
                reached: Mutex::default(),
            };
            if when.is_some() && plan.when.is_none() {
                plan.note("BERTH_CRASH_POINTS can't be read", "died");
                die();
            }
            Some(plan)
        }

        /// One write, so that the lines of several processes stay whole.
        fn note(&self, name: &str, what: &str) {
            if let Some(mut log) = self.log.as_ref() {
                let _nobody_to_tell = log.write_all(format!("{name} {what}\n").as_bytes());
            }
        }
    }

    pub(super) fn reach(name: &'static str) {
        static PLAN: OnceLock<Option<Plan>> = OnceLock::new();
        let Some(plan) = PLAN.get_or_init(Plan::of_environment) else { return };
        let mut reached = plan.reached.lock().unwrap_or_else(PoisonError::into_inner);
        reached.1 += 1;
        let total = reached.1;
        let times = reached.0.entry(name).or_default();
        *times += 1;
        if *times == 1 {
            plan.note(name, "reached");
        }
        if plan.when.as_ref().is_some_and(|when| when.is_now(name, *times, total)) {
            plan.note(name, "died");
            die();
        }
    }

    /// Nothing is flushed, closed or dropped.
    fn die() -> ! {
        let _ended = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        std::process::abort()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        path::{Path, PathBuf},
        process::Command,
    };

    use super::*;

    fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }

    #[test]
    fn every_point_of_the_list_is_used_and_every_point_used_is_in_the_list() {
        let mut files = Vec::new();
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join(".."), &mut files);
        let mut used = BTreeSet::new();
        for file in files.iter().filter(|file| !file.ends_with("service/src/crash.rs")) {
            let text = std::fs::read_to_string(file).unwrap();
            for call in text.split("crash::point(").skip(1) {
                let name = call.strip_prefix('"').and_then(|call| call.split('"').next());
                let name =
                    name.unwrap_or_else(|| panic!("{}: a point without a literal name", file.display()));
                used.insert(name.to_owned());
            }
        }
        let listed: BTreeSet<String> = POINTS.iter().map(|&name| name.to_owned()).collect();
        assert_eq!(listed.len(), POINTS.len(), "a name is in the list twice");
        assert_eq!(used, listed);
    }

    #[cfg(debug_assertions)]
    #[test]
    fn where_to_die_is_read_from_either_form() {
        use super::armed::When;
        let third = When::parse("upload.started:3").unwrap();
        assert!(third.is_now("upload.started", 3, 9));
        assert!(!third.is_now("upload.started", 2, 9) && !third.is_now("upload.before_start", 3, 9));
        let seeded = When::parse("42:10").unwrap();
        let deaths: Vec<u64> = (0..1000).filter(|total| seeded.is_now("any", 1, *total)).collect();
        assert!((50..200).contains(&deaths.len()), "{}", deaths.len());
        let again = When::parse("42:10").unwrap();
        assert!(deaths.iter().all(|total| again.is_now("other", 2, *total)));
        for wrong in ["", "upload.started", "upload.started:0", "upload.started:x", "unheard.of:1", "42:0"] {
            assert_eq!(When::parse(wrong), None, "{wrong}");
        }
    }

    /// Compiled as a release is, this file leaves neither a name nor a variable in the program.
    #[test]
    fn without_debug_assertions_a_point_is_nothing() {
        let folder = std::env::temp_dir().join(format!("berth-crash-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/crash.rs");
        let main =
            format!("#[path = {file:?}]\nmod crash;\nfn main() {{ crash::point(\"upload.started\"); }}\n");
        std::fs::write(folder.join("main.rs"), main).unwrap();
        let compiler = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let compiled = Command::new(compiler)
            .args(["--edition", "2024", "-O", "-C", "debug-assertions=off", "-o"])
            .args([folder.join("main"), folder.join("main.rs")])
            .env_remove("RUSTFLAGS")
            .output()
            .unwrap();
        assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
        // Put together here, so that this test doesn't hold them.
        let variable = ["BERTH", "CRASH", "POINTS"].join("_");
        let name = ["upload", "started"].join(".");
        let holds = |program: &Path, text: &str| {
            let program = std::fs::read(program).unwrap();
            program.windows(text.len()).any(|window| window == text.as_bytes())
        };
        let release = folder.join("main");
        assert!(!holds(&release, &variable) && !holds(&release, &name));
        std::fs::remove_dir_all(folder).unwrap();
        if cfg!(debug_assertions) {
            // Links it; this process arms nothing.
            point("upload.started");
            assert!(holds(&std::env::current_exe().unwrap(), &variable), "the search finds what is there");
        }
    }
}
