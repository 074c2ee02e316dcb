//! Callers of the management API on the wire.

use berth_oci::Problem;
use berth_proto::{
    instance_manager::{
        AuthenticateRequest, Caller, CloseSessionRequest, CloseSessionResponse, InstancePassword,
        OpenSessionRequest, OpenSessionResponse, authenticate_request::Credential,
        sessions_server::Sessions as SessionsService,
    },
    parse, require, to_status,
};
use secrecy::{ExposeSecret, SecretString};
use tonic::{Request, Response, Status};

use super::status;
use crate::{
    Error, login,
    sessions::{self, Sessions, Shown},
};

/// The service behind [`SessionsServer`](berth_proto::instance_manager::sessions_server::SessionsServer).
#[derive(Clone, Debug)]
pub struct SessionsApi {
    pub(crate) sessions: Sessions,
}

type Answer<T> = Result<Response<T>, Status>;

fn shown(password: InstancePassword) -> Result<Shown, Problem> {
    Ok(Shown {
        instance: parse("instance_id", &password.instance_id)?,
        name: password.name,
        secret: SecretString::from(password.secret),
    })
}

fn caller(caller: sessions::Caller) -> Caller {
    Caller {
        instance_id: caller.instance.to_string(),
        principal: caller.principal.to_string(),
        name: caller.name,
        credential: caller.credential.to_owned(),
        expires_at: caller.until.map_or(0, |until| until.0),
        robot_secret_id: caller.secret.map(|id| id.to_string()).unwrap_or_default(),
        provider_id: caller.provider.map(|id| id.to_string()).unwrap_or_default(),
    }
}

impl SessionsApi {
    /// A refusal says who was meant, for the audit.
    async fn refused(&self, shown: &Shown, error: Error) -> Status {
        let mut refused = status(error);
        let (meant, kind) = shown.meant(&self.sessions.store).await;
        login::note(&mut refused, &meant, kind);
        refused
    }
}

#[tonic::async_trait]
impl SessionsService for SessionsApi {
    async fn authenticate(&self, request: Request<AuthenticateRequest>) -> Answer<Caller> {
        let request = request.into_inner();
        let found = match require("credential", request.credential).map_err(to_status)? {
            Credential::Token(token) => {
                self.sessions.by_token(SecretString::from(token)).await.map_err(status)?
            }
            Credential::Password(password) => {
                let shown = shown(password).map_err(to_status)?;
                match self.sessions.by_password(&shown, &request.client_address).await {
                    Ok(found) => found,
                    Err(error) => return Err(self.refused(&shown, error).await),
                }
            }
        };
        Ok(Response::new(caller(found)))
    }

    async fn open_session(&self, request: Request<OpenSessionRequest>) -> Answer<OpenSessionResponse> {
        let request = request.into_inner();
        let shown = shown(require("password", request.password).map_err(to_status)?).map_err(to_status)?;
        match self.sessions.open(&shown, request.client_address, request.request_id).await {
            Ok((found, token, expires_at)) => Ok(Response::new(OpenSessionResponse {
                caller: Some(caller(found)),
                token: token.expose_secret().to_owned(),
                expires_at: expires_at.0,
            })),
            Err(error) => Err(self.refused(&shown, error).await),
        }
    }

    async fn close_session(&self, request: Request<CloseSessionRequest>) -> Answer<CloseSessionResponse> {
        let token = SecretString::from(request.into_inner().token);
        self.sessions.close(&token).await.map_err(status)?;
        Ok(Response::new(CloseSessionResponse {}))
    }
}
