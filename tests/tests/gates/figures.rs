//! The figures of an operation, and the meter that takes them from a running process.

use std::{fmt, io::Read as _, path::PathBuf};

use anyhow::Context;
use berth_testkit::Berth;
use tempfile::NamedTempFile;

/// What one operation costs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Figures {
    /// Statements of all databases.
    pub(crate) statements: u64,
    /// Calls of `fsync` and `fdatasync`.
    pub(crate) syncs: u64,
    /// How often memory was asked for.
    pub(crate) allocations: u64,
    /// Bytes of it.
    pub(crate) allocated_bytes: u64,
    /// Bytes copied between kernel and process, both ways.
    pub(crate) copied_bytes: u64,
}

impl Figures {
    /// By the names of the baseline.
    pub(crate) fn named(&self) -> [(&'static str, u64); 5] {
        [
            ("statements", self.statements),
            ("syncs", self.syncs),
            ("allocations", self.allocations),
            ("allocated_bytes", self.allocated_bytes),
            ("copied_bytes", self.copied_bytes),
        ]
    }

    fn map(self, other: Self, combine: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            statements: combine(self.statements, other.statements),
            syncs: combine(self.syncs, other.syncs),
            allocations: combine(self.allocations, other.allocations),
            allocated_bytes: combine(self.allocated_bytes, other.allocated_bytes),
            copied_bytes: combine(self.copied_bytes, other.copied_bytes),
        }
    }

    /// The lower quartile of each figure.
    pub(crate) fn lower_quartile(all: &[Self]) -> Self {
        let quartile = |figure: fn(&Self) -> u64| {
            let mut figures: Vec<u64> = all.iter().map(figure).collect();
            figures.sort_unstable();
            figures[figures.len() / 4]
        };
        Self {
            statements: quartile(|of| of.statements),
            syncs: quartile(|of| of.syncs),
            allocations: quartile(|of| of.allocations),
            allocated_bytes: quartile(|of| of.allocated_bytes),
            copied_bytes: quartile(|of| of.copied_bytes),
        }
    }

    /// The share of one of so many operations, rounded.
    pub(crate) fn each(self, operations: usize) -> Self {
        let operations = operations as u64;
        self.map(self, |figure, _| (figure + operations / 2) / operations)
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.named().iter().try_for_each(|(name, figure)| write!(f, "{name} {figure:<8} "))
    }
}

/// Reads what a process has counted so far.
pub(crate) struct Meter<'a> {
    counts: NamedTempFile,
    process: &'a Berth,
    /// What looking twice costs.
    looking: Option<Figures>,
}

impl<'a> Meter<'a> {
    /// The library that counts what passes the kernel, built beside this test.
    pub(crate) fn library() -> PathBuf {
        let beside = std::env::current_exe().unwrap().with_file_name("libberth_recorder.so");
        assert!(beside.is_file(), "{} is built with this test", beside.display());
        beside
    }

    /// The file of its three numbers.
    pub(crate) fn new_file() -> NamedTempFile {
        let file = NamedTempFile::new().unwrap();
        file.as_file().set_len(24).unwrap();
        file
    }

    pub(crate) fn new(counts: NamedTempFile, process: &'a Berth) -> Self {
        Self { counts, process, looking: None }
    }

    /// Learns what looking costs, which grows with what there is to show.
    pub(crate) async fn learn(&mut self) -> anyhow::Result<()> {
        let mut costs = Vec::new();
        for _ in 0..20 {
            let before = self.look(true).await?;
            costs.push(self.look(false).await?.map(before, u64::saturating_sub));
        }
        self.looking = Some(Figures::lower_quartile(&costs));
        Ok(())
    }

    /// Looks for the first time.
    pub(crate) async fn begin(&self) -> anyhow::Result<Figures> {
        self.look(true).await
    }

    /// Looks again: what was spent since, without looking.
    pub(crate) async fn end(&self, before: &Figures) -> anyhow::Result<Figures> {
        let looking = self.looking.context("what looking costs is not known yet")?;
        Ok(self.look(false).await?.map(*before, u64::saturating_sub).map(looking, u64::saturating_sub))
    }

    /// What is counted in the process is read through its own listener, which passes the kernel: outside of what is
    /// counted there.
    async fn look(&self, first: bool) -> anyhow::Result<Figures> {
        let text = if first { Some(self.process.metrics().await?) } else { None };
        let mut numbers = [0; 24];
        self.counts.reopen()?.read_exact(&mut numbers)?;
        let text = match text {
            Some(text) => text,
            None => self.process.metrics().await?,
        };
        let sum = |series: &str| -> u64 {
            let values = text.lines().filter(|line| line.starts_with(series));
            values.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum()
        };
        let number = |index: usize| -> anyhow::Result<u64> {
            Ok(u64::from_ne_bytes(numbers[index * 8..(index + 1) * 8].try_into()?))
        };
        let allocations = sum("berth_allocations_total");
        anyhow::ensure!(allocations > 0, "the binary counts no allocations: it has no debug assertions");
        Ok(Figures {
            statements: sum("berth_database_statements_total{"),
            syncs: number(0)?,
            allocations,
            allocated_bytes: sum("berth_allocated_bytes_total"),
            copied_bytes: number(1)? + number(2)?,
        })
    }
}
