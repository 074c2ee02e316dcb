//! One sequence of steps on the service and on the reference beside it. Where an answer was lost the reference holds every
//! registry that may have come of it, and each answer after that leaves those that it fits; none left is a failure.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use berth_testkit::Reply;
use tokio::sync::oneshot;

use crate::{
    answer::Seen,
    client::Memory,
    pool::Pool,
    registry::{Moment, Registry},
    request::Request,
    stage::Stage,
    step::{Action, Fault, Step},
    wire::Wire,
};

/// More possibilities than this are a fault of the trial.
const MOST_WORLDS: usize = 300;
/// From this many on it is time to look.
const CROWDED: usize = 16;

/// How much happened.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) requests: usize,
    /// Answers that were lost.
    pub(crate) lost: usize,
    /// Lost requests after which there were several possibilities.
    pub(crate) forked: usize,
    /// Answers that showed that something was collected.
    pub(crate) collected: usize,
    /// Answers that left one of several possibilities.
    pub(crate) resolved: usize,
}

/// Whether an answer says no more than that something was away. 409: a lease ended with the process that gave it, and the
/// client asks where its upload stands.
fn may_be_from_a_crash(request: &Request, reply: &Reply) -> bool {
    let has_lease = matches!(request, Request::Append { .. } | Request::Finish { .. });
    [500, 503].contains(&reply.status) || (has_lease && reply.status == 409)
}

pub(crate) struct Trial<'a> {
    stage: &'a Stage,
    wire: Wire,
    memory: Memory,
    worlds: Vec<Registry>,
    clock: Instant,
    pub(crate) counts: Counts,
    pub(crate) history: Vec<String>,
    /// How often which request had which status, without the last look.
    pub(crate) statuses: BTreeMap<String, usize>,
    is_last_look: bool,
}

impl<'a> Trial<'a> {
    /// In a namespace of its own.
    pub(crate) async fn new(stage: &'a Stage, pool: Pool) -> anyhow::Result<Self> {
        let others = if pool.is_shared { pool.by_digest() } else { BTreeMap::new() };
        Ok(Self {
            stage,
            wire: stage.wire(&pool.repositories).await?,
            memory: Memory::new(pool),
            worlds: vec![Registry { floor: stage.floor, others, ..Registry::default() }],
            clock: Instant::now(),
            counts: Counts::default(),
            history: Vec::new(),
            statuses: BTreeMap::new(),
            is_last_look: false,
        })
    }

    /// All steps, then everything that can be seen.
    pub(crate) async fn run(&mut self, steps: &[Step]) -> anyhow::Result<()> {
        for (number, step) in steps.iter().enumerate() {
            if self.worlds.len() > CROWDED {
                self.look_at_everything().await.context("a look in between")?;
            }
            self.history.push(format!("{number}: {step:?}"));
            self.step(step).await.with_context(|| format!("step {number}, {step:?}"))?;
        }
        self.history.push("everything that can be seen".to_owned());
        self.is_last_look = true;
        self.look_at_everything().await.context("after the last step")
    }

    /// Compares everything that a client can see.
    async fn look_at_everything(&mut self) -> anyhow::Result<()> {
        for request in self.memory.everything() {
            // One that a crash cut off is asked again.
            while self.plain(&request).await?.is_none() {}
        }
        Ok(())
    }

    async fn step(&mut self, step: &Step) -> anyhow::Result<()> {
        if let Action::Wait(milliseconds) = step.action {
            tokio::time::sleep(Duration::from_millis(milliseconds)).await;
        }
        if let Some(Fault::Before { victim }) = step.fault {
            self.stage.crash(victim, None).await?;
            self.wire = self.stage.recovered(&self.wire).await;
        }
        let mut action = match step.is_likely {
            true => self.memory.likely(&step.action, &self.worlds[0]),
            false => step.action.clone(),
        };
        if let Some(upload) = self.memory.continued(&action)
            && !self.is_settled(&upload.session)
        {
            // A client that doesn't know where its upload stands asks, and says where it goes on: what was cut may be
            // recorded after the answer.
            let ask = self.memory.ask(&upload);
            while self.plain(&ask).await?.is_none() {}
            if let Action::Append { ranged, .. } | Action::Finish { ranged, .. } = &mut action {
                *ranged = true;
            }
        }
        let requests = self.memory.requests(&action);
        let disturbed = match &step.fault {
            None | Some(Fault::Before { .. }) => None,
            Some(Fault::During { victim, .. } | Fault::Amid { victim, .. }) => Some(*victim),
            Some(Fault::Cut { percent, .. }) => Some(*percent),
        };
        let disturbed = disturbed.map(|number| number % requests.len().max(1));
        for (number, request) in requests.iter().enumerate() {
            let reply = match &step.fault {
                Some(fault) if disturbed == Some(number) => self.disturbed(request, fault).await?,
                _ => self.plain(request).await?,
            };
            self.memory.remember(&action, request, reply.as_ref());
        }
        Ok(())
    }

    // --- requests ----------------------------------------------------------------------------------------------------

    fn now(&self) -> u64 {
        u64::try_from(self.clock.elapsed().as_millis()).unwrap()
    }

    fn is_settled(&self, session: &str) -> bool {
        let mut sessions = self.worlds.iter().filter_map(|world| world.sessions.get(session));
        sessions.all(crate::upload::Session::is_settled)
    }

    /// Sends a request and compares the answer. None: it was lost in a crash that another caused, or just before.
    async fn plain(&mut self, request: &Request) -> anyhow::Result<Option<Reply>> {
        let mut outcome = None;
        let sent = self.now();
        for _ in 0..2 {
            self.counts.requests += 1;
            let answered = self.wire.send(request).await;
            let is_refused = answered.as_ref().is_ok_and(|reply| reply.status == 401);
            outcome = Some(answered);
            if !is_refused {
                break;
            }
            // The path leads to another repository by now, or the token is too old: nothing was done.
            self.wire = self.stage.wire(&self.memory.pool.repositories).await?;
        }
        let at = Moment { sent, received: self.now() };
        let outcome = outcome.context("not sent")?;
        let is_failure = match &outcome {
            Ok(reply) => {
                may_be_from_a_crash(request, reply) && (reply.status != 500 || self.stage.is_armed())
            }
            Err(_) => true,
        };
        // Where nobody else causes crashes, whatever was restarted is ready.
        let is_lost = is_failure
            && (self.stage.revive().await? || (self.memory.pool.is_shared && self.stage.is_disturbed()));
        if !is_lost {
            let reply = outcome.with_context(|| format!("no answer to {request:?}"))?;
            self.compare(request, &reply, at)?;
            self.memory.remember(&Action::Wait(0), request, Some(&reply));
            return Ok(Some(reply));
        }
        self.fork(request, request.body().map_or(0, bytes::Bytes::len), true, at)?;
        self.note(request, "lost");
        self.wire = self.stage.recovered(&self.wire).await;
        Ok(None)
    }

    fn note(&mut self, request: &Request, outcome: &str) {
        let session = match request {
            Request::Append { first, bytes, .. } | Request::Finish { first, bytes, .. } => {
                format!(" {} bytes from {first:?}", bytes.len())
            }
            _ => String::new(),
        };
        let line = format!("    {} {}{session}: {outcome}", request.method(), request.target());
        self.history.push(format!("{line} ({} possible)", self.worlds.len()));
    }

    /// Leaves the worlds that an answer fits.
    fn compare(&mut self, request: &Request, reply: &Reply, at: Moment) -> anyhow::Result<()> {
        if !self.is_last_look {
            *self.statuses.entry(format!("{} {}", request.kind(), reply.status)).or_default() += 1;
        }
        let seen = Seen::of(reply);
        let mut fitting: Vec<Registry> = Vec::new();
        let mut differences = Vec::new();
        for world in &self.worlds {
            let serve = |world: &Registry| {
                let mut after = world.clone();
                let answer = after.serve(request, &seen, at);
                match answer.difference(reply, request.is_head()) {
                    None => Ok(after),
                    Some(difference) => Err(difference),
                }
            };
            let mut found = match serve(world) {
                Ok(after) => vec![after],
                Err(difference) => {
                    differences.push(difference);
                    let found = world.after_collection(request, at, &|world| serve(world).ok());
                    self.counts.collected += usize::from(!found.is_empty());
                    found
                }
            };
            found.retain(|world| !fitting.contains(world));
            fitting.append(&mut found);
        }
        self.note(request, &format!("{} {:?}", reply.status, reply.error_code().unwrap_or_default()));
        if fitting.is_empty() {
            differences.dedup();
            bail!("{} {}: {}", request.method(), request.target(), differences.join("\n  or "));
        }
        self.counts.resolved += usize::from(fitting.len() < self.worlds.len());
        self.worlds = Registry::merged(fitting);
        Ok(())
    }

    /// Holds whatever may have come of a request whose answer was lost.
    fn fork(&mut self, request: &Request, sent: usize, whole: bool, at: Moment) -> anyhow::Result<()> {
        self.counts.lost += 1;
        let before = self.worlds.len();
        let possible = self.worlds.iter().flat_map(|world| world.possible(request, sent, whole, at));
        self.worlds = Registry::merged(possible.collect());
        self.counts.forked += usize::from(self.worlds.len() > before);
        if self.worlds.len() > MOST_WORLDS {
            bail!("{} possible registries", self.worlds.len());
        }
        Ok(())
    }

    // --- faults ------------------------------------------------------------------------------------------------------

    /// Sends a request with a fault meanwhile.
    async fn disturbed(&mut self, request: &Request, fault: &Fault) -> anyhow::Result<Option<Reply>> {
        let length = request.body().map_or(0, bytes::Bytes::len);
        let (victim, pause, percent, repeat) = match *fault {
            Fault::Before { .. } => return Ok(None),
            Fault::During { victim, micros, repeat } => {
                (Some(victim), Duration::from_micros(micros), None, repeat)
            }
            Fault::Amid { victim, percent, repeat } if length == 0 => {
                (Some(victim), Duration::from_micros(percent as u64 * 50), None, repeat)
            }
            Fault::Amid { victim, percent, repeat } => {
                (Some(victim), Duration::from_millis(15), Some(percent), repeat)
            }
            Fault::Cut { percent, repeat } if length > 0 => (None, Duration::ZERO, Some(percent), repeat),
            Fault::Cut { .. } => return self.plain(request).await,
        };
        let sent = self.now();
        self.counts.requests += 1;
        let (go_on, waiting) = oneshot::channel::<()>();
        let part = percent.map(|percent| length * percent / 100);
        let wire = self.wire.clone();
        let call = async {
            match part {
                None => wire.send(request).await,
                Some(part) => {
                    let then = async {
                        let _sent_or_dropped = waiting.await;
                    };
                    wire.send_part(request, part, then).await
                }
            }
        };
        let stage = self.stage;
        let crash = async {
            tokio::time::sleep(pause).await;
            match victim {
                Some(victim) => stage.crash(victim, Some(go_on)).await,
                None => {
                    drop(go_on);
                    Ok(())
                }
            }
        };
        let (outcome, crashed) = tokio::join!(call, crash);
        crashed?;
        if victim.is_some() {
            self.wire = self.stage.recovered(&self.wire).await;
        }
        // Whoever was about to write down what came of it has done so.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let at = Moment { sent, received: self.now() };
        match outcome {
            Ok(reply) if part.is_none() && reply.status != 401 && !may_be_from_a_crash(request, &reply) => {
                self.compare(request, &reply, at)?;
                return Ok(Some(reply));
            }
            Ok(reply) => {
                self.fork(request, part.unwrap_or(length), part.is_none(), at)?;
                self.note(request, &format!("lost with {}", reply.status));
                let may_fail = reply.status != 500 || self.stage.is_armed();
                anyhow::ensure!(may_fail, "500 {}", String::from_utf8_lossy(&reply.body));
            }
            Err(error) => {
                self.fork(request, part.unwrap_or(length), part.is_none(), at)?;
                self.note(request, &format!("lost: {error}"));
            }
        }
        // An append without a position is repeated only by who knows that nothing of it came.
        let is_repeatable = match request {
            Request::Append { session, first, .. } | Request::Finish { session, first, .. } => {
                first.is_some() || self.is_settled(session)
            }
            _ => true,
        };
        if repeat && is_repeatable { self.plain(request).await } else { Ok(None) }
    }
}
