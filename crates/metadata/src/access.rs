//! On what a token's access to a path rests, compared with what is at the path inside the transaction that acts.

use berth_model::{InstanceId, NamespaceId, RepositoryId};
use berth_oci::{ErrorCode, Problem, RepositoryName};
use berth_proto::{metadata as proto, parse, require};

use crate::{
    error::{Error, Result},
    manager::Order,
};

/// Who acts where, by which right.
#[derive(Clone, Debug)]
pub(crate) struct Access {
    pub(crate) instance: InstanceId,
    pub(crate) path: RepositoryName,
    pub(crate) bound_to: Binding,
    pub(crate) principal: String,
    /// It may make tags, and not move those that are there.
    pub(crate) keeps_tags: bool,
    pub(crate) origin: Origin,
}

/// By what kind of credential, from where and in which request something is done, for the audit.
#[derive(Clone, Default, Debug)]
pub(crate) struct Origin {
    pub(crate) credential: String,
    pub(crate) address: String,
    pub(crate) request_id: String,
}

/// What was at the path when the token was issued.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Binding {
    /// The repository.
    Repository(RepositoryId),
    /// Its namespace; the repository was absent.
    Namespace(NamespaceId),
    /// Only the instance.
    Instance(InstanceId),
    /// No token: somebody acts by hand on what is there, which is this repository if it is known which.
    Hand(Option<RepositoryId>),
}

impl Access {
    /// Reads the message.
    pub(crate) fn read(access: Option<proto::Access>) -> std::result::Result<Self, Problem> {
        use proto::access::BoundTo;
        let access = require("access", access)?;
        let bound_to = match require("access.bound_to", access.bound_to)? {
            BoundTo::RepositoryId(id) => Binding::Repository(parse("access.repository_id", &id)?),
            BoundTo::NamespaceId(id) => Binding::Namespace(parse("access.namespace_id", &id)?),
            BoundTo::BoundInstanceId(id) => Binding::Instance(parse("access.bound_instance_id", &id)?),
        };
        let path: RepositoryName = access
            .path
            .parse()
            .map_err(|error: berth_oci::NameError| Problem::new(ErrorCode::NameInvalid, error.to_string()))?;
        Ok(Self {
            instance: parse("access.instance_id", &access.instance_id)?,
            path,
            bound_to,
            principal: access.principal,
            keeps_tags: access.keeps_tags,
            origin: Origin {
                credential: access.credential,
                address: access.address,
                request_id: access.request_id,
            },
        })
    }

    /// The access of somebody who acts by hand, on a repository if it is known which.
    pub(crate) fn by_hand<T>(
        order: &Order<T>,
        path: RepositoryName,
        repository: Option<RepositoryId>,
    ) -> Self {
        let manager = order.manager.clone();
        Self {
            instance: order.instance,
            path,
            bound_to: Binding::Hand(repository),
            principal: manager.principal,
            keeps_tags: false,
            origin: Origin {
                credential: manager.credential,
                address: manager.address,
                request_id: manager.request_id,
            },
        }
    }

    /// Whether the right covers a repository that is at the path now.
    pub(crate) fn check_repository(&self, id: &str, namespace: &str) -> Result<()> {
        let fits = match self.bound_to {
            Binding::Hand(Some(meant)) if meant.to_string() != id => {
                let message = format!("there is another repository {} by now", self.path);
                return Err(Error::new(ErrorCode::NameUnknown, message));
            }
            Binding::Hand(_) => true,
            Binding::Repository(bound) => bound.to_string() == id,
            Binding::Namespace(bound) => bound.to_string() == namespace,
            Binding::Instance(bound) => bound == self.instance,
        };
        if fits { Ok(()) } else { Err(reissued()) }
    }

    /// Whether the right covers making a repository in `namespace`, which is none if that has to be made too.
    pub(crate) fn check_making(&self, namespace: Option<&str>) -> Result<()> {
        let fits = match self.bound_to {
            Binding::Repository(_) | Binding::Hand(_) => false,
            Binding::Namespace(bound) => namespace.is_some_and(|namespace| bound.to_string() == namespace),
            Binding::Instance(bound) => bound == self.instance,
        };
        if fits { Ok(()) } else { Err(reissued()) }
    }

    /// Whether the right may speak of a path at which there is no repository.
    pub(crate) fn check_absent(&self) -> Result<()> {
        match self.bound_to {
            Binding::Repository(_) => Err(reissued()),
            Binding::Namespace(_) | Binding::Instance(_) | Binding::Hand(_) => Ok(()),
        }
    }
}

fn reissued() -> Error {
    Error::new(
        ErrorCode::Unauthorized,
        "the token was issued for another repository of this name; log in again",
    )
}
