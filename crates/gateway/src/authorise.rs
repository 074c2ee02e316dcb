//! From a token to a right: every request is authorised here, once, before it acts.

use std::sync::Arc;

use berth_access::{AccessToken, Basis, Bound};
use berth_audit::Origin;
use berth_model::{Action, InstanceId, NamespaceId, RepositoryId, Scope};
use berth_oci::{ErrorCode, Problem};
use berth_proto::metadata::{Access, ResolveResponse, access};
use http::{HeaderMap, header::AUTHORIZATION};

use crate::{
    failure::{Failure, Result},
    names::Name,
    request::Request,
};

/// A verified token that opens one path for one action.
#[derive(Debug)]
pub(crate) struct Grant {
    token: Arc<AccessToken>,
    bound: Bound,
    basis: Basis,
    pushes: bool,
    overwrites: bool,
    deletes: bool,
    name: Name,
    action: Action,
    origin: Origin,
}

impl Grant {
    /// The token it rests on.
    pub(crate) fn token(&self) -> &AccessToken {
        &self.token
    }

    /// What a write hands to metadata, which compares it inside its transaction.
    pub(crate) fn access(&self) -> Access {
        let bound_to = match self.bound {
            Bound::Repository(id) => access::BoundTo::RepositoryId(id.to_string()),
            Bound::Namespace(id) => access::BoundTo::NamespaceId(id.to_string()),
            Bound::Instance(id) => access::BoundTo::BoundInstanceId(id.to_string()),
        };
        Access {
            instance_id: self.token.instance.to_string(),
            path: self.name.path.to_string(),
            bound_to: Some(bound_to),
            principal: self.token.principal.clone(),
            keeps_tags: !self.overwrites,
            credential: self.token.credential.clone(),
            address: self.origin.address_text(),
            request_id: self.origin.id.to_string(),
        }
    }

    /// The repository that the token names by its id, if the path led to one when it was issued.
    pub(crate) fn repository(&self) -> Option<RepositoryId> {
        match self.bound {
            Bound::Repository(id) => Some(id),
            Bound::Namespace(_) | Bound::Instance(_) => None,
        }
    }

    /// Who acts.
    pub(crate) fn principal(&self) -> &str {
        &self.token.principal
    }

    /// Whether the same token also allows `action` here.
    pub(crate) fn also(&self, action: Action) -> bool {
        match action {
            Action::Pull => true,
            Action::Push => self.pushes,
            Action::Overwrite => self.overwrites,
            Action::Delete => self.deletes,
        }
    }

    /// Whether what is at the path now is what the token was issued for, and open to it.
    pub(crate) fn fits(
        &self,
        instance: InstanceId,
        repository: Option<RepositoryId>,
        namespace: Option<NamespaceId>,
        public: bool,
    ) -> bool {
        let same = match self.bound {
            Bound::Repository(id) => repository == Some(id),
            Bound::Namespace(id) => namespace == Some(id),
            Bound::Instance(id) => instance == id,
        };
        same && (self.basis != Basis::Public || public)
    }

    /// Compares a read's answer with what the token was issued for: 401 when the path leads elsewhere by now, 404 when
    /// there is no such repository.
    pub(crate) fn check(&self, request: &Request, resolved: &ResolveResponse) -> Result<()> {
        let (repository, namespace) =
            (resolved.repository_id.parse().ok(), resolved.namespace_id.parse().ok());
        if !self.fits(self.token.instance, repository, namespace, resolved.public) {
            return Err(self.stale(request));
        }
        if resolved.repository_id.is_empty() {
            let message = format!("repository {} does not exist", self.name.asked);
            return Err(Failure::new(ErrorCode::NameUnknown, message));
        }
        Ok(())
    }

    /// 401 with a challenge for the same right again.
    fn stale(&self, request: &Request) -> Box<Failure> {
        let problem = Problem::new(
            ErrorCode::Unauthorized,
            "the token does not fit this repository any more; log in again",
        );
        Failure::challenge(
            problem,
            &challenge(request, Some(&scope(&self.name, self.action)), Some("invalid_token")),
        )
        .of(&self.token)
    }

    /// A refusal by metadata: when it says that the token is stale, the client gets a challenge.
    pub(crate) fn refused(&self, request: &Request, status: tonic::Status) -> Box<Failure> {
        let failure: Box<Failure> = status.into();
        if failure.problem.code == ErrorCode::Unauthorized {
            self.stale(request)
        } else {
            failure.of(&self.token)
        }
    }
}

/// The challenge of a 401 (RFC 6750, and distribution's token documentation).
fn challenge(request: &Request, scope: Option<&Scope>, error: Option<&str>) -> String {
    crate::challenge::bearer(&request.base_url(), &request.instance.name, scope, error)
}

/// The scope that a challenge names: pushing clients read as well.
fn scope(name: &Name, action: Action) -> Scope {
    let actions: &[_] = match action {
        Action::Pull => &[Action::Pull],
        Action::Push | Action::Overwrite => &[Action::Pull, Action::Push],
        Action::Delete => &[Action::Delete],
    };
    Scope::Repository { name: name.asked.clone(), actions: actions.iter().copied().collect() }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// The verified token of a request.
fn token(request: &Request, scope: impl Fn() -> Option<Scope>) -> Result<Arc<AccessToken>> {
    let Some(text) = bearer(&request.head.headers) else {
        let problem = Problem::new(ErrorCode::Unauthorized, "authentication required; log in first");
        return Err(Failure::challenge(problem, &challenge(request, scope().as_ref(), None)));
    };
    match request.parts.settings.verifier.verify(text, request.instance.id) {
        Ok(token) => Ok(token),
        Err(error) => {
            tracing::debug!(%error, "token refused");
            let problem =
                Problem::new(ErrorCode::Unauthorized, "the token is not valid (any more); log in again");
            Err(Failure::challenge(problem, &challenge(request, scope().as_ref(), Some("invalid_token"))))
        }
    }
}

/// Any valid token: for `/v2/`.
pub(crate) fn authenticated(request: &Request) -> Result<Arc<AccessToken>> {
    token(request, || None)
}

/// A token that may list repositories.
pub(crate) fn catalog(request: &Request) -> Result<Arc<AccessToken>> {
    let token = token(request, || Some(Scope::Catalog))?;
    if token.catalog {
        return Ok(token);
    }
    let problem = Problem::new(ErrorCode::Denied, "listing repositories needs the scope registry:catalog:*");
    let text = challenge(request, Some(&Scope::Catalog), Some("insufficient_scope"));
    Err(Failure::challenge(problem, &text).of(&token))
}

/// A token that opens `name` for `action`.
pub(crate) fn authorise(request: &Request, name: &Name, action: Action) -> Result<Grant> {
    let token = token(request, || Some(scope(name, action)))?;
    match token.entry(&name.path) {
        Some(entry) if entry.actions.contains(&action) => {
            let (bound, basis) = (entry.bound, entry.basis);
            let may = |action| entry.actions.contains(&action);
            let (pushes, overwrites, deletes) =
                (may(Action::Push), may(Action::Overwrite), may(Action::Delete));
            let (name, origin) = (name.clone(), request.origin);
            Ok(Grant { token, bound, basis, pushes, overwrites, deletes, name, action, origin })
        }
        _ => {
            let message = format!("{action} on {} is not allowed with this token", name.asked);
            let text = challenge(request, Some(&scope(name, action)), Some("insufficient_scope"));
            Err(Failure::challenge(Problem::new(ErrorCode::Denied, message), &text).of(&token))
        }
    }
}
