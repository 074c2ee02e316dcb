//! Who does something by hand, and that it is done once however often it is asked for.

use berth_database::{Once, Transaction};
use berth_model::InstanceId;
use berth_oci::ErrorCode;
use berth_proto::{events::Management, metadata as proto, optional, parse};

use crate::error::{Error, Result};

/// Who changes something.
#[derive(Clone, Default, Debug)]
pub(crate) struct Manager {
    pub(crate) principal: String,
    pub(crate) credential: String,
    pub(crate) address: String,
    pub(crate) request_id: String,
}

impl Manager {
    pub(crate) fn says(&self, subject: String, name: &str) -> Management {
        Management {
            subject,
            name: name.to_owned(),
            principal: self.principal.clone(),
            credential: self.credential.clone(),
            address: self.address.clone(),
            request_id: self.request_id.clone(),
        }
    }
}

/// A change, with who makes it and what was seen before.
#[derive(Clone, Debug)]
pub(crate) struct Order<T, I = InstanceId> {
    pub(crate) manager: Manager,
    pub(crate) instance: I,
    pub(crate) version: Option<i64>,
    /// The key under which it is done once.
    once: Option<Once>,
    pub(crate) change: T,
}

fn read(told: Option<proto::Manager>, place: &str) -> Result<(Manager, Option<Once>)> {
    let told = told.unwrap_or_default();
    let manager = if told.principal.is_empty() {
        Manager {
            principal: "system:admin".to_owned(),
            credential: "socket".to_owned(),
            ..Manager::default()
        }
    } else {
        Manager {
            principal: told.principal,
            credential: told.credential,
            address: told.address,
            request_id: told.request_id,
        }
    };
    let scope = format!("{} {place}", manager.principal);
    let once = Once::read(scope, told.idempotency_key, told.fingerprint.into())?;
    Ok((manager, once))
}

/// Reads who changes what of which instance; a version of 0 compares nothing.
pub(crate) fn order<T>(
    manager: Option<proto::Manager>,
    instance: &str,
    version: i64,
    change: T,
) -> Result<Order<T>> {
    let instance: InstanceId = parse("instance_id", instance)?;
    let (manager, once) = read(manager, &instance.to_string())?;
    Ok(Order { manager, instance, version: (version != 0).then_some(version), once, change })
}

/// Work on the whole deployment. The instance is the one whose audit says so; none: nobody's does.
pub(crate) type Errand<T> = Order<T, Option<InstanceId>>;

/// Reads who asks for what.
pub(crate) fn errand<T>(manager: Option<proto::Manager>, instance: &str, change: T) -> Result<Errand<T>> {
    let (manager, once) = read(manager, "deployment")?;
    Ok(Order { manager, instance: optional("instance_id", instance)?, version: None, once, change })
}

impl<T, I> Order<T, I> {
    /// The answer that this order had before. `None`: it is to have its effect, in this transaction, which ends with
    /// [`Order::record`].
    pub(crate) async fn replay<A: prost::Message + Default>(
        &self,
        tx: &mut Transaction,
    ) -> Result<Option<A>> {
        let Some(once) = &self.once else { return Ok(None) };
        let Some(response) = once.begin(tx).await? else { return Ok(None) };
        let answer = A::decode(response.as_slice())
            .map_err(|_| Error::new(ErrorCode::Internal, "a recorded answer can't be read"))?;
        Ok(Some(answer))
    }

    /// Keeps the answer for whoever asks again.
    pub(crate) async fn record<A: prost::Message>(&self, tx: &mut Transaction, answer: &A) -> Result<()> {
        if let Some(once) = &self.once {
            once.end(tx, answer.encode_to_vec()).await?;
        }
        Ok(())
    }

    /// Compares what was seen with what there is.
    pub(crate) fn check_version(&self, now: i64) -> Result<()> {
        match self.version {
            Some(seen) if seen != now => {
                Err(Error::new(ErrorCode::PreconditionFailed, "it was changed meanwhile; look at it again"))
            }
            _ => Ok(()),
        }
    }
}
