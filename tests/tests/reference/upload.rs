//! Upload sessions of the reference. What a cut request left is a range: between what was acknowledged, which is durable,
//! and what was sent; the service's next word about it is believed if it lies within.

use berth_oci::{Algorithm, Digest};
use bytes::{Bytes, BytesMut};

use crate::{
    answer::{Answer, Seen},
    registry::{Moment, Registry, created},
};

/// A session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Session {
    pub(crate) repository: String,
    /// The algorithm that it was started for.
    algorithm: Option<Algorithm>,
    /// All that was sent.
    sent: Bytes,
    /// Bytes of it that are durable for certain.
    durable: usize,
    pub(crate) state: State,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum State {
    Open,
    Committed(Digest),
    Cancelled,
}

impl Session {
    fn location(&self, id: &str) -> String {
        format!("/v2/{}/blobs/uploads/{id}", self.repository)
    }

    /// Takes the service's word about the bytes that it has, if it can be true.
    fn believe(&mut self, offset: Option<u64>) {
        if let Some(offset) = offset.and_then(|offset| usize::try_from(offset).ok())
            && (self.durable..=self.sent.len()).contains(&offset)
        {
            self.durable = offset;
        }
    }

    /// `Range` for so many bytes.
    fn range(bytes: usize) -> String {
        format!("0-{}", bytes.saturating_sub(1))
    }

    /// The state, as an answer with this status.
    fn told(&self, id: &str, answer: Answer) -> Answer {
        answer.with("location", self.location(id)).with("range", Self::range(self.durable))
    }

    /// From now on it has `kept` bytes of what was sent, then `bytes`; at least `durable` of both.
    fn rewrite(&mut self, kept: usize, bytes: &[u8], durable: usize) {
        let mut sent = BytesMut::from(&self.sent[..kept]);
        sent.extend_from_slice(bytes);
        (self.sent, self.durable) = (sent.freeze(), durable);
    }

    /// Whether it is known where it stands.
    pub(crate) fn is_settled(&self) -> bool {
        self.state != State::Open || self.durable == self.sent.len()
    }

    /// Whether it may stand at `offset`.
    fn may_be_at(&self, offset: usize) -> bool {
        (self.durable..=self.sent.len()).contains(&offset)
    }
}

fn unknown() -> Answer {
    Answer::error(404, "BLOB_UPLOAD_UNKNOWN")
}

impl Registry {
    fn session(&mut self, repository: &str, id: &str) -> Option<&mut Session> {
        self.sessions.get_mut(id).filter(|session| session.repository == repository)
    }

    fn open(&mut self, repository: &str, id: &str) -> Option<&mut Session> {
        self.session(repository, id).filter(|session| session.state == State::Open)
    }

    /// Whether somebody may go on with a session.
    pub(crate) fn is_open(&self, id: &str) -> bool {
        self.sessions.get(id).is_some_and(|session| session.state == State::Open)
    }

    pub(crate) fn start(
        &mut self,
        repository: &str,
        algorithm: Option<Algorithm>,
        seen: &Seen,
        at: Moment,
    ) -> Answer {
        self.make(repository, at);
        let id = seen.session.clone().filter(|id| !self.sessions.contains_key(id));
        let id = id.unwrap_or_else(|| "<a new session>".to_owned());
        let session = Session {
            repository: repository.to_owned(),
            algorithm,
            sent: Bytes::new(),
            durable: 0,
            state: State::Open,
        };
        let answer = session.told(&id, Answer::new(202)).with("docker-upload-uuid", &id);
        self.sessions.insert(id, session);
        answer
    }

    pub(crate) fn ask(&mut self, repository: &str, id: &str, seen: &Seen) -> Answer {
        let Some(session) = self.open(repository, id) else { return unknown() };
        session.believe(seen.offset);
        session.told(id, Answer::new(204)).with("docker-upload-uuid", id)
    }

    /// Where a request goes on: at `first`, or where the session stands. None: elsewhere, and then 416 says where.
    fn admit(session: &mut Session, first: Option<u64>, length: usize, seen: &Seen) -> Option<usize> {
        let first = first.map(|first| usize::try_from(first).unwrap());
        if seen.status == 416 && first.is_none_or(|first| seen.offset != Some(first as u64)) {
            session.believe(seen.offset);
        }
        let settled = session.durable == session.sent.len();
        match first {
            // Wherever it stood, if that can be.
            None => {
                let told =
                    seen.offset.filter(|_| seen.status == 202).and_then(|end| end.checked_sub(length as u64));
                session.believe(told);
                Some(session.durable)
            }
            Some(first) if settled || seen.status == 416 => (first == session.durable).then_some(first),
            Some(first) => session.may_be_at(first).then_some(first),
        }
    }

    pub(crate) fn append(
        &mut self,
        repository: &str,
        id: &str,
        first: Option<u64>,
        bytes: &Bytes,
        seen: &Seen,
    ) -> Answer {
        let Some(session) = self.open(repository, id) else { return unknown() };
        let Some(kept) = Self::admit(session, first, bytes.len(), seen) else {
            return session.told(id, Answer::error(416, "BLOB_UPLOAD_INVALID"));
        };
        session.rewrite(kept, bytes, kept + bytes.len());
        session.told(id, Answer::new(202)).with("docker-upload-uuid", id)
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one request")]
    pub(crate) fn finish(
        &mut self,
        repository: &str,
        id: &str,
        first: Option<u64>,
        bytes: &Bytes,
        digest: Digest,
        seen: &Seen,
        at: Moment,
    ) -> Answer {
        let Some(session) = self.session(repository, id) else { return unknown() };
        match session.state {
            State::Open => {}
            // A repeated PUT has its answer as long as the repository has the blob.
            State::Committed(committed) if committed == digest => {
                let linked =
                    self.repositories.get(repository).is_some_and(|found| found.links.contains_key(&digest));
                return if linked { created(repository, digest) } else { unknown() };
            }
            _ => return unknown(),
        }
        if session.algorithm.is_some_and(|algorithm| algorithm != digest.algorithm()) {
            return Answer::error(400, "DIGEST_INVALID");
        }
        let Some(kept) = Self::admit(session, first, bytes.len(), seen) else {
            return session.told(id, Answer::error(416, "BLOB_UPLOAD_INVALID"));
        };
        // Without a position it goes on wherever the session stands, of which the answer says nothing.
        let is_settled = session.is_settled();
        let everything = [&session.sent[..], bytes].concat();
        let kept = if first.is_none() && !is_settled && Digest::of(digest.algorithm(), &everything) == digest
        {
            session.sent.len()
        } else {
            kept
        };
        let content = Bytes::from([&session.sent[..kept], bytes].concat());
        let fits = Digest::of(digest.algorithm(), &content) == digest;
        if first.is_none() && !is_settled && (!fits || seen.status == 400) {
            return Answer::error(400, "DIGEST_INVALID");
        }
        // Whoever held the session before can't record anything any more.
        session.rewrite(kept, b"", kept);
        if !fits {
            return Answer::error(400, "DIGEST_INVALID");
        }
        session.state = State::Committed(digest);
        self.make(repository, at).link(digest, content, at);
        created(repository, digest)
    }

    pub(crate) fn cancel(&mut self, repository: &str, id: &str) -> Answer {
        let Some(session) = self.open(repository, id) else { return unknown() };
        session.state = State::Cancelled;
        Answer::new(204)
    }

    /// After an append whose answer was lost: it was not admitted, or any part of it is durable.
    pub(crate) fn perhaps_appended(
        &self,
        repository: &str,
        id: &str,
        first: Option<u64>,
        bytes: &[u8],
    ) -> Vec<Self> {
        let mut worlds = vec![self.clone()];
        let mut after = self.clone();
        let Some(session) = after.open(repository, id) else { return worlds };
        let first = first.map_or(session.durable, |first| usize::try_from(first).unwrap());
        if session.may_be_at(first) {
            session.rewrite(first, bytes, first);
            worlds.push(after);
        }
        worlds
    }
}
