//! What goes on on a connection, noted by its streams, requests and bodies, and judged from time to time: a peer that
//! holds a connection without doing anything, or takes nothing of what it asked for, does not hold it for ever.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use crate::limits::{Cut, Limits};

/// A time that is none.
const NEVER: u64 = u64::MAX;
/// The shortest pause between two judgements.
const SHORTEST: u64 = 20;
/// After how long without a request a connection rests.
const REST: u64 = 500;

/// Times are milliseconds since the connection began, plus one; zero is none.
#[derive(Debug)]
pub(crate) struct Activity {
    began: Instant,
    pub(crate) floods_end: bool,
    head: u64,
    idle: u64,
    stall: u64,
    /// Whether it is known what the peer speaks.
    known: AtomicU8,
    requests: AtomicUsize,
    /// Since when there is no request.
    quiet: AtomicU64,
    /// Since when there is a part of a head.
    in_head: AtomicU64,
    /// Whether all bytes that have come are of whole requests of HTTP/1.
    between: AtomicBool,
    /// Bodies of which the peer has not asked for more.
    untaken: AtomicUsize,
    /// When a body was last asked for more.
    taken: AtomicU64,
    /// Since when the socket takes nothing.
    blocked: AtomicU64,
    /// Why a stream ended the connection.
    noted: AtomicU8,
}

impl Activity {
    pub(crate) fn begin(limits: &Limits) -> Arc<Self> {
        let bound = |limit: Duration| match limit.as_millis() {
            0 => NEVER,
            some => u64::try_from(some).unwrap_or(NEVER),
        };
        Arc::new(Self {
            began: Instant::now(),
            floods_end: limits.floods_end,
            head: bound(limits.head_timeout),
            idle: bound(limits.idle_timeout),
            stall: bound(limits.stall_timeout),
            known: AtomicU8::new(0),
            requests: AtomicUsize::new(0),
            quiet: AtomicU64::new(1),
            in_head: AtomicU64::new(0),
            between: AtomicBool::new(false),
            untaken: AtomicUsize::new(0),
            taken: AtomicU64::new(0),
            blocked: AtomicU64::new(0),
            noted: AtomicU8::new(0),
        })
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).map_or(NEVER, |since| since + 1)
    }

    /// The protocol is known from here on.
    pub(crate) fn knows_protocol(&self) {
        self.quiet.store(self.now(), Relaxed);
        self.known.store(1, Relaxed);
    }

    /// Whether the bytes that have come end inside the head of a request.
    pub(crate) fn inside_head(&self, inside: bool) {
        let before = self.in_head.load(Relaxed);
        if inside != (before != 0) {
            self.in_head.store(if inside { self.now() } else { 0 }, Relaxed);
        }
    }

    /// Whether the bytes that have come are whole requests.
    pub(crate) fn between_requests(&self, between: bool) {
        self.between.store(between, Relaxed);
    }

    /// Whether nothing at all goes on, and has not for a while: every request was answered, and every answer taken.
    pub(crate) fn rests(&self) -> bool {
        self.between.load(Relaxed)
            && !self.has_request()
            && self.blocked.load(Relaxed) == 0
            && self.untaken.load(Relaxed) == 0
            && self.now().saturating_sub(self.quiet.load(Relaxed)) >= REST
    }

    pub(crate) fn has_request(&self) -> bool {
        self.requests.load(Relaxed) > 0
    }

    /// The socket took bytes, or did not.
    pub(crate) fn wrote(&self, some: bool) {
        let before = self.blocked.load(Relaxed);
        if some == (before != 0) {
            self.blocked.store(if some { 0 } else { self.now() }, Relaxed);
        }
    }

    /// A stream ends the connection for a reason of its own.
    pub(crate) fn note(&self, cut: Cut) {
        self.noted.store(cut as u8, Relaxed);
    }

    pub(crate) fn noted(&self) -> Option<Cut> {
        Cut::from_number(self.noted.load(Relaxed))
    }

    /// Whether the connection has to end now; else when to look again.
    pub(crate) fn judge(&self) -> Result<Instant, Cut> {
        let now = self.now();
        let mut next = now + self.head.min(self.idle).min(self.stall).min(60_000) / 2;
        let mut due = |since: u64, limit: u64, cut: Cut| {
            let at = since.saturating_add(limit);
            next = next.min(at);
            if at <= now { Err(cut) } else { Ok(()) }
        };
        let blocked = self.blocked.load(Relaxed);
        if blocked != 0 {
            due(blocked, self.stall, Cut::Stalled)?;
        }
        if self.untaken.load(Relaxed) > 0 {
            due(self.taken.load(Relaxed), self.stall, Cut::Stalled)?;
        }
        let (quiet, in_head) = (self.quiet.load(Relaxed), self.in_head.load(Relaxed));
        if self.known.load(Relaxed) == 0 {
            due(quiet, self.head, Cut::Silent)?;
        } else if self.has_request() {
        } else if in_head != 0 {
            due(in_head.max(quiet), self.head, Cut::Head)?;
        } else {
            due(quiet, self.idle, Cut::Idle)?;
        }
        Ok(self.began + Duration::from_millis(next.max(now + SHORTEST)))
    }
}

/// A request, until its response was handed over or nobody waits for it any more.
#[derive(Debug)]
pub(crate) struct Running(Arc<Activity>);

impl Running {
    pub(crate) fn new(activity: &Arc<Activity>) -> Self {
        activity.requests.fetch_add(1, Relaxed);
        Self(Arc::clone(activity))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.quiet.store(self.0.now(), Relaxed);
        self.0.requests.fetch_sub(1, Relaxed);
    }
}

/// The body of a response, which notes whether it is asked for more.
pub(crate) struct Watched<B> {
    body: B,
    running: Running,
    /// A step was handed over, and no other asked for.
    untaken: bool,
}

impl<B> Watched<B> {
    pub(crate) fn new(body: B, running: Running) -> Self {
        Self { body, running, untaken: false }
    }

    fn set_untaken(&mut self, untaken: bool) {
        if std::mem::replace(&mut self.untaken, untaken) == untaken {
            return;
        }
        let activity = &self.running.0;
        activity.taken.store(activity.now(), Relaxed);
        if untaken {
            activity.untaken.fetch_add(1, Relaxed);
        } else {
            activity.untaken.fetch_sub(1, Relaxed);
        }
    }
}

impl<B: Body + Unpin> Body for Watched<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.set_untaken(false);
        let step = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(_))) = &step {
            self.set_untaken(true);
        }
        step
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B> Drop for Watched<B> {
    fn drop(&mut self) {
        self.set_untaken(false);
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, StreamBody};

    use super::*;

    fn limits() -> Limits {
        let seconds = Duration::from_secs;
        Limits {
            head_timeout: seconds(10),
            idle_timeout: seconds(40),
            stall_timeout: seconds(20),
            ..Limits::default()
        }
    }

    /// Judges as the connection does until it has to end.
    async fn ends(activity: &Activity) -> (Cut, u64) {
        loop {
            match activity.judge() {
                Ok(next) => tokio::time::sleep_until(next).await,
                Err(cut) => return (cut, activity.began.elapsed().as_secs()),
            }
        }
    }

    async fn pass(seconds: u64) {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn each_kind_of_silence_has_its_limit() {
        let activity = Activity::begin(&limits());
        assert_eq!(ends(&activity).await, (Cut::Silent, 10));
        let activity = Activity::begin(&limits());
        pass(5).await;
        activity.knows_protocol();
        assert_eq!(ends(&activity).await, (Cut::Idle, 45));
        let activity = Activity::begin(&limits());
        activity.knows_protocol();
        pass(30).await;
        for _ in 0..3 {
            activity.inside_head(true);
        }
        assert_eq!(ends(&activity).await, (Cut::Head, 40));
        let activity = Activity::begin(&limits());
        activity.knows_protocol();
        drop(Running::new(&activity));
        let running = Running::new(&activity);
        pass(1000).await;
        assert!(activity.judge().is_ok(), "a request may take its time");
        drop(running);
        assert_eq!(ends(&activity).await, (Cut::Idle, 1040));
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_nothing_is_told_from_a_body_that_has_nothing() {
        let activity = Activity::begin(&limits());
        activity.knows_protocol();
        let steps =
            futures::stream::iter([Ok::<_, std::io::Error>(Frame::data(bytes::Bytes::from_static(b"x")))]);
        let steps = futures::StreamExt::chain(steps, futures::stream::pending());
        let mut body = Watched::new(StreamBody::new(steps), Running::new(&activity));
        body.frame().await.unwrap().unwrap();
        pass(19).await;
        assert!(activity.judge().is_ok());
        assert!(tokio::time::timeout(Duration::from_secs(1), body.frame()).await.is_err());
        pass(1000).await;
        assert!(activity.judge().is_ok(), "it was asked for more");
        drop(body);
        assert!(activity.judge().is_ok());

        let activity = Activity::begin(&limits());
        activity.knows_protocol();
        let _running = Running::new(&activity);
        activity.wrote(false);
        pass(19).await;
        activity.wrote(true);
        activity.wrote(false);
        activity.wrote(false);
        assert_eq!(ends(&activity).await, (Cut::Stalled, 39));

        let activity = Activity::begin(&limits());
        activity.knows_protocol();
        let steps = || {
            futures::stream::repeat_with(|| {
                Ok::<_, std::io::Error>(Frame::data(bytes::Bytes::from_static(b"x")))
            })
        };
        let mut bodies = [0, 1].map(|_| Watched::new(StreamBody::new(steps()), Running::new(&activity)));
        bodies[0].frame().await.unwrap().unwrap();
        bodies[1].frame().await.unwrap().unwrap();
        pass(15).await;
        bodies[1].frame().await.unwrap().unwrap();
        assert_eq!(ends(&activity).await, (Cut::Stalled, 35), "none of them for the whole time");
    }
}
