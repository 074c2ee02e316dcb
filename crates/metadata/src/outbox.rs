//! The outbox as the relays of the events crate see it.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use berth_database::{DatabaseError, Engine, Row, TextList, args};
use berth_events::{Backlog, DeadLetter, Due, Failure, Outbox, OutboxError};
use berth_model::EventId;
use berth_proto::events::Event;
use berth_service::Timestamp;
use prost::Message as _;

use crate::{
    Metadata,
    store::{self, statements as sql},
};

/// Metadata's events on their way to subscribers.
#[derive(Clone, Debug)]
pub(crate) struct MetadataOutbox(pub(crate) Metadata);

fn failed(error: DatabaseError) -> OutboxError {
    OutboxError::new(error)
}

fn event(row: &Row) -> Result<(Event, u32), OutboxError> {
    let payload: Vec<u8> = row.get(0).map_err(failed)?;
    let event = Event::decode(payload.as_slice()).map_err(OutboxError::new)?;
    let attempts = u32::try_from(row.get::<i64>(1).map_err(failed)?).unwrap_or(u32::MAX);
    Ok((event, attempts))
}

#[async_trait]
impl Outbox for MetadataOutbox {
    async fn claim(&self, subscriber: &str, holder: &str, lease: Duration) -> Result<bool, OutboxError> {
        if self.0.database.engine() == Engine::Sqlite {
            // One process has the file.
            return Ok(true);
        }
        let input = Arc::new((subscriber.to_owned(), holder.to_owned()));
        self.0
            .database
            .write("claim_outbox", move |tx| {
                let input = Arc::clone(&input);
                Box::pin(async move {
                    let now = tx.now();
                    let args = args![input.0.as_str(), input.1.as_str(), now.plus(lease), now];
                    Ok(tx.execute(&sql::CLAIM_OUTBOX, args).await? == 1)
                })
            })
            .await
            .map_err(failed)
    }

    async fn due(&self, subscriber: &str, limit: u32) -> Result<Vec<Due>, OutboxError> {
        let now = store::read_clock(&self.0.database, &self.0.clock);
        let args = args![subscriber, now, i64::from(limit)];
        let rows = self.0.database.read_all(&sql::DUE_EVENTS, args).await.map_err(failed)?;
        rows.iter().map(|row| event(row).map(|(event, attempts)| Due { event, attempts })).collect()
    }

    async fn delivered(&self, subscriber: &str, ids: &[EventId]) -> Result<(), OutboxError> {
        if ids.is_empty() {
            return Ok(());
        }
        let mut ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
        ids.sort_unstable();
        let input = Arc::new((subscriber.to_owned(), ids));
        self.0
            .database
            .write("events_delivered", move |tx| {
                let input = Arc::clone(&input);
                Box::pin(async move {
                    let (subscriber, ids) = &*input;
                    // Two subscribers may finish with an event at once; the second one drops it.
                    tx.all(&sql::LOCK_EVENTS, args![TextList(ids.clone())]).await?;
                    tx.execute(&sql::DROP_DELIVERIES, args![subscriber, TextList(ids.clone())]).await?;
                    tx.execute(&sql::DROP_EVENTS, args![TextList(ids.clone())]).await?;
                    Ok(())
                })
            })
            .await
            .map_err(failed)
    }

    async fn failed(&self, subscriber: &str, id: EventId, failure: Failure) -> Result<(), OutboxError> {
        let input = Arc::new((subscriber.to_owned(), failure));
        self.0
            .database
            .write("event_failed", move |tx| {
                let input = Arc::clone(&input);
                Box::pin(async move {
                    let (subscriber, failure) = &*input;
                    let now = tx.now();
                    let (statement, at) = match failure.retry_after {
                        Some(wait) => (&sql::BACK_OFF, now.plus(wait)),
                        None => (&sql::BURY, now),
                    };
                    let args = args![subscriber, id.to_string(), at, failure.error.replace('\0', "")];
                    tx.execute(statement, args).await?;
                    Ok(())
                })
            })
            .await
            .map_err(failed)
    }

    async fn dead_letters(
        &self,
        subscriber: &str,
        after: Option<EventId>,
        limit: u32,
    ) -> Result<Vec<DeadLetter>, OutboxError> {
        let after = after.map(|id| id.to_string()).unwrap_or_default();
        let args = args![subscriber, after, i64::from(limit)];
        let rows = self.0.database.read_all(&sql::DEAD_LETTERS, args).await.map_err(failed)?;
        let letter = |row: &Row| {
            let (event, attempts) = event(row)?;
            let error = row.get::<Option<String>>(2).map_err(failed)?.unwrap_or_default();
            let failed_at = Timestamp(row.get(3).map_err(failed)?);
            Ok(DeadLetter { event, attempts, error, failed_at })
        };
        rows.iter().map(letter).collect()
    }

    async fn replay(&self, subscriber: &str, id: EventId) -> Result<bool, OutboxError> {
        let subscriber = subscriber.to_owned();
        let replayed = self
            .0
            .database
            .write("replay_event", move |tx| {
                let subscriber = subscriber.clone();
                Box::pin(async move {
                    Ok(tx.execute(&sql::REPLAY, args![subscriber, id.to_string()]).await? == 1)
                })
            })
            .await
            .map_err(failed)?;
        self.0.nudge.nudge();
        Ok(replayed)
    }

    async fn backlog(&self, subscriber: &str) -> Result<Backlog, OutboxError> {
        let now = self.0.clock.now();
        let row = self.0.database.read_optional(&sql::BACKLOG, args![subscriber]).await.map_err(failed)?;
        let Some(row) = row else { return Ok(Backlog::default()) };
        let oldest = row.get::<Option<i64>>(1).map_err(failed)?;
        Ok(Backlog {
            depth: row.get::<i64>(0).map_err(failed)?.unsigned_abs(),
            oldest_age: oldest.map(|at| now.since(Timestamp(at))).unwrap_or_default(),
            dead: row.get::<i64>(2).map_err(failed)?.unsigned_abs(),
        })
    }
}
